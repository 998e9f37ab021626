//! The index file: where each record lies, what it is, and whether it is good.
//!
//! ```text
//! header    magic 8, version u32, sections u32, file length u64, XXH3 of the section table u64
//! table     per section: kind u32, flags u32 (bit 0: cannot be done without; bit 1: too large
//!           to be read when opened, its parts have checks of their own), offset u64, length u64,
//!           XXH3 u64 (0 with bit 1)
//! sections  each at a multiple of 8
//! ```
//!
//! Little-endian throughout. A reader passes over kinds that it does not know unless bit 0 says
//! that it must not, so that sections can be added. All but the entry points is validated when the
//! index is opened, and those when they are used: nothing can be read out of bounds.

use std::ops::Range;
use std::path::{Component, Path};

use forebay_types::Digest;
use memmap2::Mmap;
use xxhash_rust::xxh3::xxh3_64;

use super::DatasetError;
use super::map::map;
use super::record::{POINTS, RECORD, Record, check, u32_at, u64_at};

pub(super) const MAGIC: [u8; 8] = *b"forebay\n";
pub(super) const VERSION: u32 = 1;
pub(super) const HEADER: usize = 32;
pub(super) const ENTRY: usize = 32;
pub(super) const REQUIRED: u32 = 1;
/// A section too large to be read when the index is opened: its parts are checked when they are used.
pub(super) const LAZY: u32 = 2;

const MAX_SECTIONS: usize = 64;

/// Kinds of sections.
pub(super) mod kind {
    /// Digest of the dataset (32 bytes), then one byte: 0 for a folder, 1 for tars.
    pub(crate) const META: u32 = 1;
    /// Sizes of the shards (u64 each).
    pub(crate) const SHARD_SIZES: u32 = 2;
    /// Names of the shards (strings).
    pub(crate) const SHARD_NAMES: u32 = 3;
    /// Names of the classes (strings).
    pub(crate) const CLASSES: u32 = 4;
    /// Records of a fixed width, in dataset order.
    pub(crate) const RECORDS: u32 = 5;
    /// Names of the records, one after another.
    pub(crate) const NAMES: u32 = 6;
    /// Numbers of the bad records (u64 each, ascending).
    pub(crate) const BAD: u32 = 7;
    /// Why each of them is bad (strings).
    pub(crate) const REASONS: u32 = 8;
    /// Where each record's entry points lie in the next section ([`super::super::record::Points`] each); an index
    /// may do without both.
    pub(crate) const POINTS: u32 = 9;
    /// Entry points, one record's after another's.
    pub(crate) const ENTRIES: u32 = 10;
}

/// A validated index, mapped into memory.
#[derive(Debug)]
pub(super) struct Index {
    map: Mmap,
    records: (usize, usize),
    names: (usize, usize),
    /// Places of the entry points, and the entry points; empty if there are none.
    points: (usize, usize),
    entries: (usize, usize),
    pub(super) digest: Digest,
    pub(super) is_tars: bool,
    pub(super) classes: Vec<String>,
    /// Name and size.
    pub(super) shards: Vec<(String, u64)>,
    /// Number and reason, by number.
    pub(super) bad: Vec<(u64, String)>,
    /// Neighbouring bad records.
    pub(super) bad_runs: Vec<Range<u64>>,
}

impl Index {
    pub(super) fn open(path: &Path) -> Result<Self, DatasetError> {
        let map = map(path)?;
        Self::parse(map).map_err(|what| DatasetError::Index { path: path.into(), what })
    }

    fn parse(map: Mmap) -> Result<Self, String> {
        let table = table(&map)?;
        let section = |kind| section(&table, kind);
        let bytes = |kind| section(kind).map(|(start, end)| &map[start..end]);
        let meta = bytes(kind::META)?;
        let (&[digest @ .., is_tars], true) =
            meta.first_chunk::<33>().map_or((&[0; 33], false), |m| (m, true))
        else {
            return Err("its head is malformed".into());
        };
        let sizes = numbers(bytes(kind::SHARD_SIZES)?)?;
        let names = strings(bytes(kind::SHARD_NAMES)?)?;
        if sizes.len() != names.len() {
            return Err("its shards are malformed".into());
        }
        let numbers_of_bad = numbers(bytes(kind::BAD)?)?;
        let reasons = strings(bytes(kind::REASONS)?)?;
        if numbers_of_bad.len() != reasons.len() || !numbers_of_bad.is_sorted_by(|a, b| a < b) {
            return Err("its bad records are malformed".into());
        }
        let records = section(kind::RECORDS)?;
        let points = section(kind::POINTS).unwrap_or_default();
        if points != (0, 0) && (points.1 - points.0) / POINTS != (records.1 - records.0) / RECORD {
            return Err("its entry points are malformed".into());
        }
        let index = Self {
            records,
            names: section(kind::NAMES)?,
            points,
            entries: section(kind::ENTRIES).unwrap_or_default(),
            digest: Digest(digest),
            is_tars: is_tars != 0,
            classes: strings(bytes(kind::CLASSES)?)?,
            shards: names.into_iter().zip(sizes).collect(),
            bad_runs: runs(&numbers_of_bad),
            bad: numbers_of_bad.into_iter().zip(reasons).collect(),
            map,
        };
        index.check_records()?;
        Ok(index)
    }

    fn check_records(&self) -> Result<(), String> {
        let (records, rest) = self.map[self.records.0..self.records.1].as_chunks::<RECORD>();
        let names = str::from_utf8(&self.map[self.names.0..self.names.1])
            .map_err(|error| format!("its names are malformed: {error}"))?;
        let mut bad = self.bad.iter().map(|&(id, _)| id).peekable();
        for (id, record) in (0_u64..).zip(records.iter().map(Record::from_bytes)) {
            let (start, length) = record.name;
            let name = usize::try_from(start)
                .ok()
                .and_then(|start| names.get(start..start.checked_add(usize::from(length))?));
            // Names of a folder are opened: they must not lead out of it.
            let inside = |name: &str| {
                let mut parts = Path::new(name).components();
                self.is_tars || parts.all(|part| matches!(part, Component::Normal(_)))
            };
            let named = name.is_some_and(|name| !name.is_empty() && inside(name));
            let placed = if self.is_tars {
                let end = record.offset.checked_add(u64::from(record.bytes));
                let shard = self.shards.get(record.shard as usize);
                shard.zip(end).is_some_and(|((_, size), end)| end <= *size)
            } else {
                record.shard == 0 && record.offset == 0
            };
            let known = !record.good
                || (record.format.is_some()
                    && record.color.is_some()
                    && record.size.whole().fits(record.size));
            let judged = record.good == bad.next_if_eq(&id).is_none();
            let labelled = (record.label as usize) < self.classes.len();
            if !named || !placed || !known || !judged || !labelled {
                return Err(format!("record {id} is malformed"));
            }
        }
        if !rest.is_empty() || bad.next().is_some() {
            return Err("its records are malformed".into());
        }
        Ok(())
    }

    pub(super) const fn len(&self) -> usize {
        (self.records.1 - self.records.0) / RECORD
    }

    /// # Panics
    /// When there is no such record.
    pub(super) fn record(&self, id: usize) -> Record {
        let records = self.map[self.records.0..self.records.1].as_chunks::<RECORD>().0;
        Record::from_bytes(&records[id])
    }

    /// A record's entry points; empty where there are none. `None` if they are damaged.
    pub(super) fn entries(&self, id: usize) -> Option<&[u8]> {
        let points = self.map[self.points.0..self.points.1].as_chunks::<POINTS>().0;
        let Some(point) = points.get(id) else { return Some(&[]) };
        let start = usize::try_from(u64_at(point, 0)).ok()?;
        let end = start.checked_add(u32_at(point, 8) as usize)?;
        let entries = self.map[self.entries.0..self.entries.1].get(start..end)?;
        (check(entries) == u32_at(point, 12)).then_some(entries)
    }

    pub(super) fn name(&self, record: &Record) -> &str {
        let start = self.names.0 + usize::try_from(record.name.0).expect("checked when opened");
        let name = &self.map[start..start + usize::from(record.name.1)];
        str::from_utf8(name).expect("checked when opened")
    }
}

/// One section of the table.
#[derive(Clone, Copy)]
struct Section {
    kind: u32,
    start: usize,
    end: usize,
}

/// Reads the section table, and checks that each section lies in the file and is whole.
fn table(map: &[u8]) -> Result<Vec<Section>, String> {
    let header = map.first_chunk::<HEADER>().ok_or("it is too short")?;
    if header[..8] != MAGIC {
        return Err("it is not an index of forebay".into());
    }
    let version = u32_at(header, 8);
    if version != VERSION {
        return Err(format!("it has version {version}, and this forebay reads version {VERSION}"));
    }
    if u64_at(header, 16) != map.len() as u64 {
        return Err(format!("it has {} bytes and should have {}", map.len(), u64_at(header, 16)));
    }
    let count = u32_at(header, 12) as usize;
    let entries =
        (count <= MAX_SECTIONS).then(|| map.get(HEADER..HEADER + count * ENTRY)).flatten();
    let entries = entries.ok_or("its section table is malformed")?;
    if xxh3_64(entries) != u64_at(header, 24) {
        return Err("its section table is damaged".into());
    }
    let mut table: Vec<Section> = Vec::with_capacity(count);
    for entry in entries.as_chunks::<ENTRY>().0 {
        let (kind, flags) = (u32_at(entry, 0), u32_at(entry, 4));
        let required = flags & REQUIRED != 0;
        let start = usize::try_from(u64_at(entry, 8)).map_err(|error| error.to_string())?;
        let length = usize::try_from(u64_at(entry, 16)).map_err(|error| error.to_string())?;
        let end = start.checked_add(length).ok_or("a section lies outside of it")?;
        let bytes = map.get(start..end).ok_or("a section lies outside of it")?;
        if flags & LAZY == 0 && xxh3_64(bytes) != u64_at(entry, 24) {
            return Err(format!("section {kind} is damaged"));
        }
        let known = (kind::META..=kind::ENTRIES).contains(&kind);
        if required && !known {
            return Err(format!("section {kind} is of a later forebay"));
        }
        if table.iter().any(|earlier| earlier.kind == kind) {
            return Err(format!("section {kind} comes twice"));
        }
        table.push(Section { kind, start, end });
    }
    Ok(table)
}

fn section(table: &[Section], kind: u32) -> Result<(usize, usize), String> {
    let found = table.iter().find(|section| section.kind == kind);
    found.map(|s| (s.start, s.end)).ok_or_else(|| format!("section {kind} is missing"))
}

/// Joins ascending numbers that follow one another.
fn runs(numbers: &[u64]) -> Vec<Range<u64>> {
    let run = |run: &[u64]| run[0]..run[0].saturating_add(run.len() as u64);
    numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b)).map(run).collect()
}

/// Numbers of 64 bits.
fn numbers(bytes: &[u8]) -> Result<Vec<u64>, String> {
    let (numbers, rest) = bytes.as_chunks::<8>();
    if rest.is_empty() {
        Ok(numbers.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect())
    } else {
        Err("a list is malformed".into())
    }
}

/// Strings: their number, where each ends, their text.
fn strings(bytes: &[u8]) -> Result<Vec<String>, String> {
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

/// The form that [`strings`] reads.
pub(super) fn write_strings<'a>(strings: impl Iterator<Item = &'a str> + Clone) -> Vec<u8> {
    let mut bytes = (strings.clone().count() as u64).to_le_bytes().to_vec();
    let mut end = 0;
    for string in strings.clone() {
        end += string.len() as u64;
        bytes.extend(end.to_le_bytes());
    }
    strings.for_each(|string| bytes.extend(string.as_bytes()));
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::build::write;
    use super::*;
    use crate::decode::{Color, Format};
    use crate::geometry::Size;

    fn sections() -> Vec<(u32, Vec<u8>)> {
        let record = |good, offset, name| Record {
            label: 1,
            size: Size { height: 5, width: 7 },
            bytes: 40,
            format: Some(Format::Jpeg),
            color: Some(Color::YCbCr),
            progressive: false,
            good,
            checksum: 3,
            shard: 0,
            offset,
            name,
        };
        let records = [record(true, 0, (0, 3)), record(false, 60, (3, 3))];
        vec![
            (kind::META, [&[9; 32][..], &[1]].concat()),
            (kind::SHARD_SIZES, 100_u64.to_le_bytes().to_vec()),
            (kind::SHARD_NAMES, write_strings(["s.tar"].into_iter())),
            (kind::CLASSES, write_strings(["x", "y"].into_iter())),
            (kind::RECORDS, records.iter().flat_map(|record| record.to_bytes()).collect()),
            (kind::NAMES, b"a/bc/d".to_vec()),
            (kind::BAD, 1_u64.to_le_bytes().to_vec()),
            (kind::REASONS, write_strings(["cut"].into_iter())),
        ]
    }

    fn open(sections: &[(u32, Vec<u8>)]) -> Result<Index, DatasetError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("i.forebay");
        write(&path, sections, None).unwrap();
        Index::open(&path)
    }

    #[test]
    fn what_is_written_is_read() {
        let index = open(&sections()).unwrap();
        assert_eq!(index.len(), 2);
        assert_eq!(index.classes, ["x", "y"]);
        assert_eq!(index.shards, [("s.tar".to_owned(), 100)]);
        assert_eq!(index.bad, [(1, "cut".to_owned())]);
        let record = index.record(1);
        assert_eq!((record.offset, record.bytes, record.good), (60, 40, false));
        assert_eq!(index.name(&record), "c/d");
    }

    #[test]
    fn records_out_of_bounds_are_refused() {
        for (at, byte) in [(8, 61), (16, 4), (24, 101), (28, 2), (40, 1), (46, 9), (47, 0)] {
            let mut sections = sections();
            sections[4].1[at] = byte;
            let error = open(&sections).unwrap_err().to_string();
            assert!(error.contains("record 0 is malformed"), "byte {at}: {error}");
        }
    }

    #[test]
    fn names_that_lead_out_of_the_folder_are_refused() {
        let of_folder = |name: &[u8; 6]| {
            let mut sections = sections();
            sections[0].1[32] = 0;
            sections[1].1.clear();
            sections[2].1 = write_strings(std::iter::empty());
            // The records' places in a shard.
            sections[4].1[8..16].fill(0);
            sections[4].1[RECORD + 8..RECORD + 16].fill(0);
            sections[5].1 = name.to_vec();
            open(&sections)
        };
        assert!(of_folder(b"a/bc/d").is_ok());
        for name in [b"../c/d", b"/bcc/d", b"a/b../", b"..a/.."] {
            let refused = of_folder(name).unwrap_err().to_string();
            assert!(refused.contains("is malformed"), "{refused}");
        }
    }

    #[test]
    fn any_flipped_byte_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("i.forebay");
        write(&path, &sections(), None).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let sections = table(&bytes).unwrap();
        let head = HEADER + sections.len() * ENTRY;
        // Sections are padded to multiples of 8.
        let matters = |at| at < head || sections.iter().any(|s| (s.start..s.end).contains(&at));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(Index::open(&path).is_err(), matters(at), "byte {at}");
        }
        for cut in 0..bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            assert!(Index::open(&path).is_err(), "cut to {cut} bytes");
        }
    }

    #[test]
    fn a_later_section_is_passed_over_unless_it_is_required() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("i.forebay");
        let later = [sections(), vec![(77, vec![1, 2, 3])]].concat();
        write(&path, &later, None).unwrap();
        let error = Index::open(&path).unwrap_err().to_string();
        assert!(error.contains("section 77 is of a later forebay"), "{error}");
        let mut bytes = std::fs::read(&path).unwrap();
        let entry = HEADER + 8 * ENTRY;
        bytes[entry + 4] = 0;
        let digest = xxh3_64(&bytes[HEADER..HEADER + 9 * ENTRY]);
        bytes[24..32].copy_from_slice(&digest.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(Index::open(&path).unwrap().len(), 2);
    }

    proptest! {
        #[test]
        fn hostile_sections_are_refused_or_read_within_bounds(
            changes in prop::collection::vec((0_usize..8, any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in prop::option::of((0_usize..8, any::<prop::sample::Index>())),
        ) {
            let mut sections = sections();
            for (section, at, byte) in changes {
                let bytes = &mut sections[section].1;
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some((section, at)) = cut {
                let bytes = &mut sections[section].1;
                bytes.truncate(at.index(bytes.len()));
            }
            if let Ok(index) = open(&sections) {
                for id in 0..index.len() {
                    let record = index.record(id);
                    prop_assert!(!index.name(&record).is_empty());
                    prop_assert!((record.label as usize) < index.classes.len());
                }
            }
        }
    }
}
