//! The index file's format: a header, a table of sections, and the sections.
//!
//! ```text
//! header    magic 8 bytes, version u32, sections u32, file length u64, XXH3 of the table u64
//! table     per section: kind u32, flags u32, offset u64, length u64, XXH3 u64 (0 if lazy)
//! sections  each at a multiple of 8
//! ```
//!
//! All numbers are little-endian. Readers skip sections of unknown kinds unless the flag `REQUIRED`
//! is set, so that sections can be added without a new version.

use xxhash_rust::xxh3::xxh3_64;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of the file.
pub(super) const MAGIC: [u8; 8] = *b"forebay\n";
/// Version of the format.
pub(super) const VERSION: u32 = 1;
/// Most sections that a reader accepts.
const MAX_SECTIONS: usize = 64;

/// Flag: a reader that does not know the section must refuse the file.
pub(super) const REQUIRED: u32 = 1;
/// Flag: the section is too large to be verified when the index is opened. Its parts have checksums of
/// their own, which are verified when they are read.
pub(super) const LAZY: u32 = 2;

/// Kinds of sections.
pub(super) mod kind {
    /// Digest of the dataset (32 bytes) and its layout (1 byte).
    pub(crate) const META: u32 = 1;
    /// Sizes of the shards (u64 each).
    pub(crate) const SHARD_SIZES: u32 = 2;
    /// Names of the shards (strings).
    pub(crate) const SHARD_NAMES: u32 = 3;
    /// Names of the classes (strings).
    pub(crate) const CLASSES: u32 = 4;
    /// Records ([`StoredRecord`](super::super::record::StoredRecord) each), in dataset order.
    pub(crate) const RECORDS: u32 = 5;
    /// Names of the records, concatenated.
    pub(crate) const NAMES: u32 = 6;
    /// Numbers of the bad records (u64 each, ascending).
    pub(crate) const BAD: u32 = 7;
    /// The reason why each of them is bad (strings).
    pub(crate) const REASONS: u32 = 8;
    /// The range of each record's entry points in the next section
    /// ([`StoredPoints`](super::StoredPoints) each). Optional, as is the next section.
    pub(crate) const POINTS: u32 = 9;
    /// Entry points of all records, concatenated.
    pub(crate) const ENTRIES: u32 = 10;
    /// Numbers of samples that were skipped (u64 each), one for each reason. Optional.
    pub(crate) const SKIPPED: u32 = 11;
    /// A reason and examples, with a NUL between them (two strings), for each number of the section before.
    pub(crate) const SKIPPED_REASONS: u32 = 12;
    /// What each class is in words (strings). Optional.
    pub(crate) const WORDS: u32 = 13;
    /// Decisions of the layout (two strings each: name and value). Optional.
    pub(crate) const FACTS: u32 = 14;
    /// The compressed range that each record is in ([`StoredPacked`](super::super::record::StoredPacked) each).
    /// Absent if all records are stored as they are.
    pub(crate) const PACKED: u32 = 15;
    /// Tags of the shards that are objects of a bucket (strings). Optional.
    pub(crate) const SHARD_TAGS: u32 = 32;
}

/// The header as stored.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct StoredHeader {
    pub(super) magic: [u8; 8],
    pub(super) version: U32,
    pub(super) sections: U32,
    pub(super) file_length: U64,
    pub(super) table_checksum: U64,
}

/// A row of the table as stored.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct StoredSection {
    pub(super) kind: U32,
    pub(super) flags: U32,
    pub(super) offset: U64,
    pub(super) length: U64,
    pub(super) checksum: U64,
}

/// The range of a record's entry points, as stored.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(in crate::dataset) struct StoredPoints {
    pub(super) offset: U64,
    pub(super) length: U32,
    pub(super) checksum: U32,
}

impl StoredPoints {
    /// For entry points that are stored at an offset of their section.
    pub(super) fn new(entry_points: &[u8], offset: u64) -> Self {
        let length = u32::try_from(entry_points.len()).expect("a small part of a record");
        let checksum = points_checksum(entry_points).into();
        Self { offset: offset.into(), length: length.into(), checksum }
    }
}

/// The low half of XXH3-64.
#[expect(clippy::cast_possible_truncation, reason = "the low half")]
pub(super) fn points_checksum(entry_points: &[u8]) -> u32 {
    xxh3_64(entry_points) as u32
}

/// A section of an index file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section {
    pub(super) kind: u32,
    pub(super) start: usize,
    pub(super) end: usize,
    /// Whether its bytes differ from those that were written.
    pub(super) damaged: bool,
}

/// Parses the table of sections, and checks that each section is within the file. Those that are
/// damaged are marked: what that means depends on their kind.
///
/// # Errors
/// A description of the fault, if the table is damaged or a section needs a newer reader.
pub(super) fn sections(file: &[u8]) -> Result<Vec<Section>, String> {
    let too_short = |_error| format!("it has only {} bytes", file.len());
    let (header, rest) = StoredHeader::ref_from_prefix(file).map_err(too_short)?;
    if header.magic != MAGIC {
        return Err("it is not an index of forebay".into());
    }
    let version = header.version.get();
    if version != VERSION {
        return Err(format!("it has version {version}, and this forebay reads version {VERSION}"));
    }
    let length = header.file_length.get();
    if length != file.len() as u64 {
        return Err(format!("it has {} bytes and should have {length}", file.len()));
    }
    let count = header.sections.get() as usize;
    if count > MAX_SECTIONS {
        return Err(format!("it has {count} sections, and the limit is {MAX_SECTIONS}"));
    }
    let malformed = |_error| "its section table is truncated".to_owned();
    let (table, _) =
        <[StoredSection]>::ref_from_prefix_with_elems(rest, count).map_err(malformed)?;
    if xxh3_64(table.as_bytes()) != header.table_checksum.get() {
        return Err("its section table is damaged".into());
    }
    let mut sections: Vec<Section> = Vec::with_capacity(count);
    for stored in table {
        let section = check_section(stored, file)?;
        if sections.iter().any(|earlier| earlier.kind == section.kind) {
            return Err(format!("section {} exists twice", section.kind));
        }
        sections.push(section);
    }
    Ok(sections)
}

fn check_section(stored: &StoredSection, file: &[u8]) -> Result<Section, String> {
    let (kind, flags) = (stored.kind.get(), stored.flags.get());
    let outside = || format!("section {kind} is outside of the file");
    let start = usize::try_from(stored.offset.get()).ok().ok_or_else(outside)?;
    let length = usize::try_from(stored.length.get()).ok().ok_or_else(outside)?;
    let end = start.checked_add(length).ok_or_else(outside)?;
    let bytes = file.get(start..end).ok_or_else(outside)?;
    let damaged = flags & LAZY == 0 && xxh3_64(bytes) != stored.checksum.get();
    let known = (kind::META..=kind::PACKED).contains(&kind) || kind == kind::SHARD_TAGS;
    if flags & REQUIRED != 0 && !known {
        return Err(format!("section {kind} needs a newer forebay"));
    }
    Ok(Section { kind, start, end, damaged })
}

/// Parses a list of 64-bit numbers.
pub(super) fn numbers(bytes: &[u8]) -> Result<Vec<u64>, String> {
    let (numbers, rest) = bytes.as_chunks::<8>();
    if rest.is_empty() {
        Ok(numbers.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect())
    } else {
        Err("a list of numbers is malformed".into())
    }
}

/// Parses a list of strings: their number, the end of each, and their text.
pub(super) fn strings(bytes: &[u8]) -> Result<Vec<String>, String> {
    let malformed = || "a list of names is malformed".to_owned();
    let (count, rest) = bytes.split_first_chunk::<8>().ok_or_else(malformed)?;
    let count = usize::try_from(u64::from_le_bytes(*count)).ok().and_then(|n| n.checked_mul(8));
    let (ends, text) = count.and_then(|n| rest.split_at_checked(n)).ok_or_else(malformed)?;
    let text = str::from_utf8(text).map_err(|error| error.to_string())?;
    let mut start = 0;
    let mut strings = Vec::with_capacity(ends.len() / 8);
    for end in numbers(ends)? {
        let end = usize::try_from(end).map_err(|error| error.to_string())?;
        strings.push(text.get(start..end).ok_or_else(malformed)?.to_owned());
        start = end;
    }
    if start == text.len() { Ok(strings) } else { Err(malformed()) }
}

/// Writes a list that [`strings`] parses.
pub(in crate::dataset) fn write_strings<'a>(
    strings: impl Iterator<Item = &'a str> + Clone,
) -> Vec<u8> {
    let mut bytes = (strings.clone().count() as u64).to_le_bytes().to_vec();
    let mut end = 0;
    for string in strings.clone() {
        end += string.len() as u64;
        bytes.extend(end.to_le_bytes());
    }
    strings.for_each(|string| bytes.extend(string.as_bytes()));
    bytes
}
