//! Zip archives of files that are stored without compression, which is what `torch.save` writes, and `torch.load` reads.
//!
//! ```text
//! local header, contents       of each file
//! central directory            name, size and place of each file
//! end of central directory     where it starts; with 64-bit numbers in a record before it, if it needs them
//! ```

/// Signatures of the records.
const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END64: u32 = 0x0606_4b50;
const LOCATOR64: u32 = 0x0706_4b50;

/// Lengths of the records without their variable fields.
const LOCAL_LEN: usize = 30;
const CENTRAL_LEN: usize = 46;
const END_LEN: usize = 22;
const LOCATOR64_LEN: usize = 20;

/// The files of an archive in the order of its directory: name and contents.
///
/// # Errors
/// Says what is wrong, if this is no zip archive, is truncated, or has a compressed file.
pub(super) fn read(archive: &[u8]) -> Result<Vec<(&str, &[u8])>, String> {
    let (mut at, count) = directory(archive)?;
    let mut files = Vec::new();
    for _ in 0..count {
        let record = field(archive, at, CENTRAL_LEN)?;
        if word(record, 0) != CENTRAL {
            return Err(format!("its directory is damaged at byte {at}"));
        }
        let [name_len, extra_len, comment_len] = [28, 30, 32].map(|at| half(record, at));
        let name = field(archive, at + CENTRAL_LEN, name_len)?;
        let name = str::from_utf8(name);
        let name = name.map_err(|error| format!("a name in its directory is no text ({error})"))?;
        let extra = field(archive, at + CENTRAL_LEN + name_len, extra_len)?;
        let sizes = [24, 20, 42].map(|at| u64::from(word(record, at)));
        let [size, stored, offset] = widened(sizes, extra)?;
        if half(record, 10) != 0 || size != stored {
            return Err(format!("its file {name} is compressed, which torch.save never does"));
        }
        let local = field(archive, index(offset)?, LOCAL_LEN)?;
        if word(local, 0) != LOCAL {
            return Err(format!("its file {name} does not start at byte {offset}"));
        }
        let start = index(offset)? + LOCAL_LEN + half(local, 26) + half(local, 28);
        files.push((name, field(archive, start, index(size)?)?));
        at += CENTRAL_LEN + name_len + extra_len + comment_len;
    }
    Ok(files)
}

/// Start of the central directory, and its number of files.
fn directory(archive: &[u8]) -> Result<(usize, u64), String> {
    // A comment of at most 64 KiB may follow the last record.
    let first = archive.len().saturating_sub(END_LEN + usize::from(u16::MAX));
    let ends = (first..(archive.len() + 1).saturating_sub(END_LEN)).rev();
    let mut ends = ends.filter(|at| word(&archive[*at..], 0) == END);
    let Some(end) = ends.next() else {
        return Err("it is not a zip archive, or its end is missing".to_owned());
    };
    let record = &archive[end..];
    let locator = end.checked_sub(LOCATOR64_LEN).map(|at| &archive[at..]);
    if let Some(locator) = locator.filter(|locator| word(locator, 0) == LOCATOR64) {
        let at = index(long(locator, 8))?;
        let record = field(archive, at, 56)?;
        if word(record, 0) != END64 {
            return Err(format!("its directory is not at byte {at}"));
        }
        return Ok((index(long(record, 48))?, long(record, 32)));
    }
    Ok((word(record, 16) as usize, half(record, 10) as u64))
}

/// The 64-bit numbers in an extra field that take the place of those whose 32 bits are all set.
fn widened(mut numbers: [u64; 3], mut extra: &[u8]) -> Result<[u64; 3], String> {
    while extra.len() >= 4 {
        let (kind, len) = (half(extra, 0), half(extra, 2));
        let content = field(extra, 4, len)?;
        if kind == 1 {
            let (longs, _) = content.as_chunks::<8>();
            let mut longs = longs.iter();
            for number in numbers.iter_mut().filter(|number| **number == u64::from(u32::MAX)) {
                let long = longs.next().ok_or("its directory lacks a 64-bit size")?;
                *number = u64::from_le_bytes(*long);
            }
        }
        extra = &extra[4 + len..];
    }
    Ok(numbers)
}

fn field(bytes: &[u8], start: usize, len: usize) -> Result<&[u8], String> {
    let end = start.checked_add(len);
    let field = end.and_then(|end| bytes.get(start..end));
    field.ok_or_else(|| format!("it is truncated: {len} bytes at {start} are missing"))
}

fn index(number: u64) -> Result<usize, String> {
    usize::try_from(number).map_err(|error| format!("it is too large: {error}"))
}

/// Little-endian numbers in a record that is long enough for them.
fn half(record: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([record[at], record[at + 1]]))
}

fn word(record: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| record[at + i]))
}

fn long(record: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| record[at + i]))
}

/// Alignment of the files in an archive that is written, as `torch.save` aligns them.
const ALIGN: usize = 64;

/// An archive of files by name.
///
/// # Errors
/// When it would be larger than 4 GiB.
pub(super) fn write(files: &[(String, Vec<u8>)]) -> Result<Vec<u8>, String> {
    let large = |error: std::num::TryFromIntError| format!("it is too large: {error}");
    let table = crc_table();
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, contents) in files {
        let offset = u32::try_from(archive.len()).map_err(large)?;
        let size = u32::try_from(contents.len()).map_err(large)?;
        let name_len = u16::try_from(name.len()).map_err(large)?;
        let unaligned = archive.len() + LOCAL_LEN + name.len() + 4;
        let padding = unaligned.next_multiple_of(ALIGN) - unaligned;
        let padding_len = u16::try_from(padding).map_err(large)?;
        // Version 2.0, names in UTF-8, no compression; the date is 1980-01-01, the first that there is.
        let mut common = Vec::new();
        for number in [20, 1 << 11, 0, 0, 0x21] {
            common.extend(u16::to_le_bytes(number));
        }
        for number in [crc32(&table, contents), size, size] {
            common.extend(number.to_le_bytes());
        }
        common.extend(name_len.to_le_bytes());
        archive.extend(LOCAL.to_le_bytes());
        archive.extend(&common);
        archive.extend((padding_len + 4).to_le_bytes());
        archive.extend(name.as_bytes());
        // An extra field that only fills up, as torch names it.
        archive.extend(b"FB");
        archive.extend(padding_len.to_le_bytes());
        archive.resize(archive.len() + padding, 0);
        archive.extend(contents);
        directory.extend(CENTRAL.to_le_bytes());
        directory.extend(20_u16.to_le_bytes());
        directory.extend(&common);
        // No extra field, comment or attributes, on the first disk.
        directory.extend([0; 12]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let count = u16::try_from(files.len()).map_err(large)?;
    let (start, len) = (archive.len(), directory.len());
    archive.extend(directory);
    archive.extend(END.to_le_bytes());
    archive.extend([0; 4]);
    archive.extend([count.to_le_bytes(); 2].concat());
    for number in [len, start] {
        archive.extend(u32::try_from(number).map_err(large)?.to_le_bytes());
    }
    archive.extend([0; 2]);
    Ok(archive)
}

/// The CRC-32 of each byte, with the reversed polynomial of zip.
fn crc_table() -> [u32; 256] {
    std::array::from_fn(|byte| {
        let byte = u32::try_from(byte).expect("256 bytes");
        (0..8).fold(byte, |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

fn crc32(table: &[u32; 256], bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(u32::MAX, |crc, byte| (crc >> 8) ^ table[usize::from(crc.to_le_bytes()[0] ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_aligned() {
        let files: Vec<(String, Vec<u8>)> = [("archive/a", 0), ("archive/data/17", 100), ("b", 1)]
            .map(|(name, len)| (name.to_owned(), vec![7; len]))
            .to_vec();
        let archive = write(&files).unwrap();
        let read = read(&archive).unwrap();
        assert!(
            read.iter()
                .map(|(name, contents)| (*name, *contents))
                .eq(files.iter().map(|(name, contents)| (&**name, &**contents)))
        );
        let start = archive.as_ptr().addr();
        assert!(read.iter().all(|(_, contents)| (contents.as_ptr().addr() - start) % ALIGN == 0));
        // The check value of CRC-32.
        assert_eq!(crc32(&crc_table(), b"123456789"), 0xcbf4_3926);
    }
}
