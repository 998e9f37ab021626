//! The members of a tar file: ustar, GNU long names, PAX `path` and `size`. Nothing is extracted:
//! members are places in the file, so that their bytes are served from where they lie.

use std::path::Path;

use super::DatasetError;

const BLOCK: usize = 512;

/// Longest member name that is taken for one; with the shard's it fits the index's 16 bits.
const MAX_NAME: u64 = 32 << 10;

/// A regular file in a tar.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    /// Of its header.
    pub(super) header: u64,
    /// Of its data.
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// Walks the members of a tar file.
#[derive(Debug)]
pub(super) struct Members<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Members<'a> {
    pub(super) const fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self { path, bytes, at: 0 }
    }

    fn error(&self, what: &'static str) -> DatasetError {
        DatasetError::Tar { path: self.path.into(), offset: self.at as u64, what }
    }

    /// The next regular file.
    fn member(&mut self) -> Result<Option<Member>, DatasetError> {
        let mut long_name = None;
        let mut long_size = None;
        while let Some(header) = self.header()? {
            let kind = header[156];
            let field = number(&header[124..136]).ok_or_else(|| self.error("size of a member"))?;
            let regular = matches!(kind, b'0' | b'7' | 0);
            let size = if regular { long_size.unwrap_or(field) } else { field };
            if kind == b'S' {
                return Err(self.error("a sparse file; make the tar without --sparse"));
            }
            let start = self.at + BLOCK;
            // Folders and links have no data, whatever their size field says.
            let size = if matches!(kind, b'1'..=b'6') { 0 } else { size };
            let data = usize::try_from(size).ok().and_then(|size| start.checked_add(size));
            let data = data.and_then(|end| self.bytes.get(start..end));
            let data =
                data.ok_or_else(|| self.error("the file is truncated inside this member"))?;
            match kind {
                b'L' | b'x' if size > MAX_NAME => {
                    return Err(self.error("a name longer than 32 KiB"));
                }
                b'L' => long_name = Some(cut_at_zero(data).to_vec()),
                b'x' => self.pax(data, &mut long_name, &mut long_size)?,
                _ if regular => {
                    let name = long_name.take().unwrap_or_else(|| short_name(header));
                    let name = String::from_utf8(name).map_err(|error| DatasetError::NotUtf8 {
                        path: self.path.join(error.to_string()),
                    })?;
                    let member =
                        Member { name, header: self.at as u64, offset: start as u64, length: size };
                    self.at = (start + data.len()).next_multiple_of(BLOCK);
                    return Ok(Some(member));
                }
                // A name or size belongs to the entry right behind it, whatever that is.
                b'g' | b'K' => {}
                _ => (long_name, long_size) = (None, None),
            }
            self.at = (start + data.len()).next_multiple_of(BLOCK);
        }
        Ok(None)
    }

    /// The header at hand, or `None` at the end: zeros, or simply the end of the file.
    fn header(&self) -> Result<Option<&'a [u8; BLOCK]>, DatasetError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if rest.is_empty() && self.at > 0 {
            return Ok(None);
        }
        let Some(header) = rest.first_chunk::<BLOCK>() else {
            return Err(self.error("the file is truncated inside a header"));
        };
        if header.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let sum = |spaced: fn(u8) -> i64| -> i64 {
            let byte =
                |(i, &byte): (usize, &u8)| if (148..156).contains(&i) { 32 } else { spaced(byte) };
            header.iter().enumerate().map(byte).sum()
        };
        // Some old writers summed signed bytes.
        let stored = number(&header[148..156]).and_then(|sum| i64::try_from(sum).ok());
        if stored != Some(sum(i64::from)) && stored != Some(sum(|b| i64::from(b.cast_signed()))) {
            return Err(self.error("not a tar header (its checksum is wrong)"));
        }
        Ok(Some(header))
    }

    /// Records of a PAX header: `LENGTH KEY=VALUE\n`.
    fn pax(
        &self,
        mut data: &[u8],
        name: &mut Option<Vec<u8>>,
        size: &mut Option<u64>,
    ) -> Result<(), DatasetError> {
        let malformed = || self.error("a malformed PAX header");
        while !cut_at_zero(data).is_empty() {
            let space = data.iter().position(|&byte| byte == b' ').ok_or_else(malformed)?;
            let length = decimal(&data[..space]).ok_or_else(malformed)?;
            let length = usize::try_from(length).ok().filter(|&l| l > space + 1);
            let record = length.and_then(|length| data.get(..length)).ok_or_else(malformed)?;
            let pair = record[space + 1..].strip_suffix(b"\n").ok_or_else(malformed)?;
            let equals = pair.iter().position(|&byte| byte == b'=').ok_or_else(malformed)?;
            match (&pair[..equals], &pair[equals + 1..]) {
                (b"path", value) => *name = Some(value.to_vec()),
                (b"size", value) => *size = Some(decimal(value).ok_or_else(malformed)?),
                _ => {}
            }
            data = &data[record.len()..];
        }
        Ok(())
    }
}

impl Iterator for Members<'_> {
    type Item = Result<Member, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.member().transpose();
        if matches!(next, Some(Err(_))) {
            // Nothing behind an error can be trusted.
            self.bytes = &[];
            self.at = 1;
        }
        next
    }
}

/// The name of a ustar header, with its prefix.
fn short_name(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = cut_at_zero(&header[..100]);
    let prefix = cut_at_zero(&header[345..500]);
    if &header[257..263] == b"ustar\0" && !prefix.is_empty() {
        return [prefix, name].join(&b'/');
    }
    name.to_vec()
}

fn cut_at_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// A number in octal digits, or in base 256 where the first bit is set.
fn number(field: &[u8]) -> Option<u64> {
    if let [0x80, rest @ ..] = field {
        return rest.iter().try_fold(0_u64, |number, &byte| {
            (number >> 56 == 0).then(|| number << 8 | u64::from(byte))
        });
    }
    let text = std::str::from_utf8(cut_at_zero(field)).ok()?.trim();
    if text.is_empty() {
        return Some(0);
    }
    text.bytes().all(|digit| digit.is_ascii_digit()).then_some(())?;
    u64::from_str_radix(text, 8).ok()
}

fn decimal(text: &[u8]) -> Option<u64> {
    text.iter().all(u8::is_ascii_digit).then_some(())?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A ustar header of one member.
    pub(crate) fn header(name: &[u8], kind: u8, size: usize) -> [u8; BLOCK] {
        let mut header = [0; BLOCK];
        header[..name.len()].copy_from_slice(name);
        header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        header[156] = kind;
        header[257..263].copy_from_slice(b"ustar\0");
        seal(&mut header);
        header
    }

    fn seal(header: &mut [u8; BLOCK]) {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }

    fn entry(name: &[u8], kind: u8, data: &[u8]) -> Vec<u8> {
        let mut bytes = header(name, kind, data.len()).to_vec();
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    fn names(bytes: &[u8]) -> Result<Vec<String>, DatasetError> {
        Members::new(Path::new("t.tar"), bytes).map(|member| member.map(|m| m.name)).collect()
    }

    #[test]
    fn long_names_and_sizes_come_from_gnu_and_pax_entries() {
        let long = vec![b'n'; 300];
        let pax = b"12 path=a/b\n11 size=03\n";
        let mut size_in_pax = entry(b"short", b'0', b"abc");
        size_in_pax[124..135].copy_from_slice(b"00000000000");
        seal(size_in_pax.first_chunk_mut().unwrap());
        let bytes = [
            entry(b"././@LongLink", b'L', &[&long[..], b"\0"].concat()),
            entry(b"nnn", b'0', b"data"),
            entry(b"pax", b'x', pax),
            size_in_pax,
            entry(b"folder/", b'5', b""),
            entry(b"plain", b'0', b""),
            vec![0; 2 * BLOCK],
        ]
        .concat();
        let members: Vec<Member> =
            Members::new(Path::new("t.tar"), &bytes).collect::<Result<_, _>>().unwrap();
        let found: Vec<_> = members.iter().map(|m| (m.name.as_str(), m.length)).collect();
        let long = String::from_utf8(long).unwrap();
        assert_eq!(found, [(long.as_str(), 4), ("a/b", 3), ("plain", 0)]);
        let place = usize::try_from(members[1].offset).unwrap();
        assert_eq!(&bytes[place..place + 3], b"abc");
    }

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"  644 \0\0"), Some(0o644));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]), Some(258));
        assert_eq!(number(&[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(number(b"-1\0"), None);
        assert_eq!(number(b"9\0"), None);
    }

    #[test]
    fn a_cut_file_says_where() {
        let bytes = [entry(b"a", b'0', &[1; 600]), entry(b"b", b'0', &[2; 600])].concat();
        assert_eq!(names(&bytes).unwrap(), ["a", "b"]);
        let error = names(&bytes[..2000]).unwrap_err().to_string();
        assert_eq!(error, "t.tar: at byte 1536: the file is truncated inside a header");
        let error = names(&bytes[..2100]).unwrap_err().to_string();
        assert_eq!(error, "t.tar: at byte 1536: the file is truncated inside this member");
        assert!(names(b"").unwrap_err().to_string().contains("truncated"));
    }

    proptest! {
        #[test]
        fn hostile_tars_are_refused_or_read_within_bounds(
            changes in prop::collection::vec((0_usize..4096, any::<u8>()), 0..12),
            sealed in any::<bool>(),
            cut in 0_usize..4096,
        ) {
            let mut bytes = [
                entry(b"././@LongLink", b'L', b"name.jpg"),
                entry(b"a", b'0', b"data"),
                entry(b"pax", b'x', b"12 path=a/b\n"),
                entry(b"b", b'0', b"data"),
            ].concat();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            if sealed {
                for at in (0..bytes.len()).step_by(2 * BLOCK) {
                    seal(bytes[at..].first_chunk_mut().unwrap());
                }
            }
            bytes.truncate(cut);
            for member in Members::new(Path::new("t.tar"), &bytes).map_while(Result::ok) {
                prop_assert!(member.offset + member.length <= bytes.len() as u64);
                prop_assert!(member.name.len() as u64 <= MAX_NAME);
            }
        }
    }
}
