//! The members of a tar file: ustar, GNU long names and sizes, PAX `path` and `size`.
//!
//! Nothing is extracted: a member is a range of the file, whose bytes are served in place. The `tar`
//! crate is not used, because it reads members as streams and does not bound their names, and tars
//! may be hostile. Only headers and labels are read, never the images between them.

use std::ops::Range;
use std::path::Path;

use super::super::error::DatasetError;
use super::window::{Input, Window};
use crate::store::RegularFile;

const BLOCK: usize = 512;

/// Longest name of a member. Together with the shard's name, it fits into the index's 16 bits.
const MAX_NAME: u64 = 32 << 10;

const LONG_NAME: &str = "this member has a name longer than 32 KiB";

/// Largest PAX header. Besides a name it may have extended attributes and comments.
const MAX_PAX: u64 = 1 << 20;

/// A regular file in a tar.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: Vec<u8>,
    /// Offset of its header.
    pub(super) header: u64,
    /// Offset of its data.
    pub(super) offset: u64,
    pub(super) length: u64,
    /// Whether its data are only the parts that are not zero, so that they are not the file's bytes.
    pub(super) sparse: bool,
}

/// The extension headers before a member, which replace fields of its own header.
#[derive(Debug, Default)]
struct Extension {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

/// Walks the members of a tar.
#[derive(Debug)]
pub(super) struct Members<'a> {
    window: Window<'a>,
    /// The range of the tar in its input.
    range: Range<u64>,
    /// Offset of the next header.
    at: u64,
}

impl<'a> Members<'a> {
    pub(super) const fn new(file: &'a RegularFile) -> Self {
        Self::of(Input::File(file), 0..file.size())
    }

    /// The members of a tar that is a range of an input, such as a member of another tar. All offsets
    /// count from the start of the input.
    pub(super) const fn of(input: Input<'a>, range: Range<u64>) -> Self {
        Self { window: Window::new(input), at: range.start, range }
    }

    pub(super) fn path(&self) -> &'a Path {
        self.window.path()
    }

    /// The next regular file, or `None` at the end.
    ///
    /// # Errors
    /// When the tar is truncated or malformed, or cannot be read.
    pub(super) fn next_member(&mut self) -> Result<Option<Member>, DatasetError> {
        let mut extension = Extension::default();
        while let Some(header) = self.header()? {
            let kind = header[156];
            let is_file = matches!(kind, b'0' | b'7' | 0 | b'S');
            let size = match number(&header[124..136]) {
                // Folders and links have no data, whatever their size field says.
                _ if matches!(kind, b'1'..=b'6') => 0,
                Some(size) if is_file => extension.size.unwrap_or(size),
                Some(size) => size,
                None => return Err(self.error("the size of this member is malformed")),
            };
            let offset = self.data_offset(&header)?;
            let end = offset.checked_add(size).filter(|end| *end <= self.range.end);
            let end = end.ok_or_else(|| self.error("the file is truncated inside this member"))?;
            let header_offset = self.at;
            match kind {
                b'L' if size > MAX_NAME => return Err(self.error(LONG_NAME)),
                b'x' if size > MAX_PAX => {
                    return Err(self.error("this PAX header is larger than 1 MiB"));
                }
                b'L' => {
                    extension.name = Some(cut_at_zero(self.window.read(offset, size)?).to_vec());
                }
                b'x' => {
                    let data = self.window.read(offset, size)?.to_vec();
                    let parsed = pax(&data, &mut extension);
                    parsed.ok_or_else(|| self.error("this PAX header is malformed"))?;
                    if extension.name.as_ref().is_some_and(|name| name.len() as u64 > MAX_NAME) {
                        return Err(self.error(LONG_NAME));
                    }
                }
                _ if is_file => {
                    self.at = end.next_multiple_of(BLOCK as u64);
                    return Ok(Some(Member {
                        name: extension.name.unwrap_or_else(|| short_name(&header)),
                        header: header_offset,
                        offset,
                        length: size,
                        sparse: extension.sparse || kind == b'S',
                    }));
                }
                // PAX global headers and GNU long links do not change names or sizes.
                b'g' | b'K' => {}
                // An extension applies to the next entry only, of any kind.
                _ => extension = Extension::default(),
            }
            self.at = end.next_multiple_of(BLOCK as u64);
        }
        Ok(None)
    }

    /// The bytes of a member, if it has at most `limit` of them.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(super) fn data(
        &mut self,
        member: &Member,
        limit: u64,
    ) -> Result<Option<&[u8]>, DatasetError> {
        if member.length > limit {
            return Ok(None);
        }
        Ok(Some(self.window.read(member.offset, member.length)?))
    }

    /// The header at the current offset, or `None` at the end: a block of zeros, or simply the end of
    /// the file.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, DatasetError> {
        if self.at > self.range.start && self.at >= self.range.end {
            return Ok(None);
        }
        if self.range.end - self.at < BLOCK as u64 {
            return Err(self.error("the file is truncated inside a header"));
        }
        let header =
            *self.window.read(self.at, BLOCK as u64)?.first_chunk().expect("a block was read");
        if header.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        if !has_valid_checksum(&header) {
            return Err(self.error("expected a tar header, but its checksum is wrong"));
        }
        Ok(Some(header))
    }

    /// Offset of the data behind a header. The header of an old GNU sparse file continues in further
    /// blocks.
    fn data_offset(&mut self, header: &[u8; BLOCK]) -> Result<u64, DatasetError> {
        let mut offset = self.at + BLOCK as u64;
        let mut continues = header[156] == b'S' && header[482] != 0;
        while continues {
            if offset.saturating_add(BLOCK as u64) > self.range.end {
                return Err(self.error("the file is truncated inside a header"));
            }
            continues = self.window.read(offset, BLOCK as u64)?[504] != 0;
            offset += BLOCK as u64;
        }
        Ok(offset)
    }

    fn error(&self, what: &'static str) -> DatasetError {
        DatasetError::Tar { path: self.path().into(), offset: self.at, what }
    }
}

/// Parses the records of a PAX header, `LENGTH KEY=VALUE\n` each. `None` if it is malformed.
fn pax(mut data: &[u8], extension: &mut Extension) -> Option<()> {
    while !cut_at_zero(data).is_empty() {
        let space = data.iter().position(|&byte| byte == b' ')?;
        let length = usize::try_from(decimal(&data[..space])?).ok()?;
        let record = data.get(..length)?.get(space + 1..)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|&byte| byte == b'=')?;
        match (&record[..equals], &record[equals + 1..]) {
            (b"path", value) if !extension.sparse => extension.name = Some(value.to_vec()),
            (b"GNU.sparse.name", value) => extension.name = Some(value.to_vec()),
            (b"size", value) => extension.size = Some(decimal(value)?),
            _ => {}
        }
        extension.sparse |= record.starts_with(b"GNU.sparse.");
        data = &data[length..];
    }
    Some(())
}

fn has_valid_checksum(header: &[u8; BLOCK]) -> bool {
    let sum = |value: fn(u8) -> i64| -> i64 {
        let byte =
            |(i, &byte): (usize, &u8)| if (148..156).contains(&i) { 32 } else { value(byte) };
        header.iter().enumerate().map(byte).sum()
    };
    let stored = number(&header[148..156]).and_then(|sum| i64::try_from(sum).ok());
    // Some old writers sum signed bytes.
    stored == Some(sum(i64::from)) || stored == Some(sum(|byte| i64::from(byte.cast_signed())))
}

/// The name in a ustar header, with its prefix.
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

/// A number in octal digits, or in base 256 if the first bit is set.
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A ustar header of one member.
    fn header(name: &[u8], kind: u8, size: usize) -> [u8; BLOCK] {
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

    fn members(bytes: &[u8]) -> Result<Vec<Member>, DatasetError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.tar");
        std::fs::write(&path, bytes).unwrap();
        let file = RegularFile::open(&path).unwrap();
        let (mut walk, mut members) = (Members::new(&file), Vec::new());
        while let Some(member) = walk.next_member()? {
            members.push(member);
        }
        Ok(members)
    }

    /// Names and lengths of the members.
    fn names(bytes: &[u8]) -> Vec<(String, u64)> {
        let name = |member: Member| (String::from_utf8(member.name).unwrap(), member.length);
        members(bytes).unwrap().into_iter().map(name).collect()
    }

    #[test]
    fn gnu_and_pax_headers_give_long_names_and_sizes() {
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
        let name = String::from_utf8(long).unwrap();
        assert_eq!(names(&bytes), [(name, 4), ("a/b".into(), 3), ("plain".into(), 0)]);
        let offset = usize::try_from(members(&bytes).unwrap()[1].offset).unwrap();
        assert_eq!(&bytes[offset..offset + 3], b"abc");
    }

    #[test]
    fn a_pax_header_may_have_much_besides_the_name_and_a_name_may_not_be_longer_than_others() {
        let record = |key: &str, value: &str| {
            // The length counts its own digits.
            let rest = key.len() + value.len() + 3;
            let length = rest + (rest + 6).to_string().len();
            format!("{length} {key}={value}\n").into_bytes()
        };
        let attribute = record("SCHILY.xattr.user.note", &"n".repeat(100_000));
        let with =
            |pax: Vec<u8>| [entry(b"pax", b'x', &pax), entry(b"short", b'0', b"abc")].concat();
        let bytes = with([attribute, record("path", "a/b.jpg")].concat());
        assert_eq!(names(&bytes), [("a/b.jpg".into(), 3)]);
        let refused = |bytes: &[u8]| members(bytes).unwrap_err().to_string();
        let long = refused(&with(record("path", &"n".repeat(40_000))));
        assert!(long.contains("a name longer than 32 KiB"), "{long}");
        let large = refused(&with(record("comment", &"n".repeat(1 << 20))));
        assert!(large.contains("larger than 1 MiB"), "{large}");
    }

    #[test]
    fn sparse_members_are_marked_and_passed_over() {
        let mut old_gnu = header(b"old.jpg", b'S', 5);
        old_gnu[482] = 1;
        seal(&mut old_gnu);
        let mut continued = [7; BLOCK];
        continued[504] = 0;
        let mut data = b"parts".to_vec();
        data.resize(BLOCK, 0);
        let pax = b"22 GNU.sparse.major=1\n30 GNU.sparse.name=real/x.jpg\n";
        let bytes = [
            old_gnu.to_vec(),
            continued.to_vec(),
            data,
            entry(b"pax", b'x', pax),
            entry(b"GNUSparseFile.0/x.jpg", b'0', b"map and parts"),
            entry(b"plain", b'0', b"data"),
        ]
        .concat();
        let found = members(&bytes).unwrap();
        let sparse: Vec<_> = found.iter().map(|member| (&member.name[..], member.sparse)).collect();
        assert_eq!(sparse, [(&b"old.jpg"[..], true), (b"real/x.jpg", true), (b"plain", false)]);
        assert_eq!(found[0].offset, 2 * BLOCK as u64);
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
    fn the_error_of_a_truncated_tar_has_its_offset() {
        let bytes = [entry(b"a", b'0', &[1; 600]), entry(b"b", b'0', &[2; 600])].concat();
        assert_eq!(names(&bytes), [("a".into(), 600), ("b".into(), 600)]);
        for (length, expected) in [
            (2000, "t.tar: at byte 1536: the file is truncated inside a header"),
            (2100, "t.tar: at byte 1536: the file is truncated inside this member"),
            (0, "t.tar: at byte 0: the file is truncated inside a header"),
        ] {
            let error = members(&bytes[..length]).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    proptest! {
        #[test]
        fn members_of_hostile_tars_are_within_bounds(
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
            for member in members(&bytes).into_iter().flatten() {
                prop_assert!(member.offset + member.length <= bytes.len() as u64);
                prop_assert!(member.name.len() as u64 <= MAX_NAME);
            }
        }
    }
}
