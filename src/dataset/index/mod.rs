//! The index: for each record its range of a shard, its label, its header and its verdict.
//!
//! Everything but the entry points is validated when the index is opened, and those when they are
//! read. So no field of a damaged or hostile index can lead out of bounds, or out of the dataset's
//! folder.

mod format;
mod record;
mod write;

use std::ops::Range;
use std::path::{Component, Path};

use forebay_types::Digest;
use memmap2::Mmap;
use zerocopy::FromBytes as _;

use self::format::{Section, kind, numbers, points_checksum, sections, strings};
use self::record::StoredRecord;
use super::error::DatasetError;
use super::layouts::{Layout, Skipped};
use crate::store::{RegularFile, StoreError};

pub(super) use format::StoredPoints;
pub(super) use record::NameRange;
pub use record::Record;
pub(super) use write::{Contents, EntryPointsFile, IndexedRecord, folder_of, write};

/// A validated index, mapped into memory.
#[derive(Debug)]
pub(super) struct Index {
    map: Mmap,
    records: Range<usize>,
    names: Range<usize>,
    /// The ranges of the entry points by record, and the entry points. Empty if the index has none.
    points: Range<usize>,
    entries: Range<usize>,
    pub(super) digest: Digest,
    pub(super) layout: Layout,
    pub(super) classes: Vec<String>,
    /// Name and size of each shard.
    pub(super) shards: Vec<(String, u64)>,
    /// Number and reason of each bad record, ascending.
    pub(super) bad: Vec<(u64, String)>,
    /// Ranges of consecutive bad records, ascending.
    pub(super) bad_runs: Vec<Range<u64>>,
    pub(super) skipped: Vec<Skipped>,
}

impl Index {
    /// Opens and validates an index file.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, or is of another version.
    pub(super) fn open(path: &Path) -> Result<Self, DatasetError> {
        let map = map(&RegularFile::open(path)?)?;
        Self::parse(map).map_err(|what| DatasetError::Index { path: path.into(), what })
    }

    fn parse(map: Mmap) -> Result<Self, String> {
        let table = sections(&map)?;
        let find = |kind| table.iter().find(|section| section.kind == kind).map(range);
        let section = |kind| find(kind).ok_or_else(|| format!("section {kind} is missing"));
        let bytes = |kind| section(kind).map(|range| &map[range]);
        let (&[digest @ .., layout], _) =
            bytes(kind::META)?.split_first_chunk::<33>().ok_or("its first section is truncated")?;
        let layout = Layout::from_code(layout)
            .ok_or_else(|| format!("its layout {layout} needs a newer forebay"))?;
        let shard_sizes = numbers(bytes(kind::SHARD_SIZES)?)?;
        let shard_names = strings(bytes(kind::SHARD_NAMES)?)?;
        if shard_sizes.len() != shard_names.len() {
            return Err("its shards are malformed".into());
        }
        let bad_records = numbers(bytes(kind::BAD)?)?;
        let reasons = strings(bytes(kind::REASONS)?)?;
        if bad_records.len() != reasons.len() || !bad_records.is_sorted_by(|a, b| a < b) {
            return Err("its bad records are malformed".into());
        }
        let records = section(kind::RECORDS)?;
        let points = find(kind::POINTS).unwrap_or_default();
        let count = |range: &Range<usize>, size| range.len() / size;
        let expected = count(&records, size_of::<StoredRecord>());
        if !points.is_empty() && count(&points, size_of::<StoredPoints>()) != expected {
            return Err("its entry points are malformed".into());
        }
        let skipped = match find(kind::SKIPPED) {
            Some(range) => skipped(&map[range], bytes(kind::SKIPPED_REASONS)?)?,
            None => Vec::new(),
        };
        let index = Self {
            records,
            names: section(kind::NAMES)?,
            points,
            entries: find(kind::ENTRIES).unwrap_or_default(),
            digest: Digest(digest),
            layout,
            classes: strings(bytes(kind::CLASSES)?)?,
            shards: shard_names.into_iter().zip(shard_sizes).collect(),
            bad_runs: runs(&bad_records),
            bad: bad_records.into_iter().zip(reasons).collect(),
            skipped,
            map,
        };
        index.check_records()?;
        Ok(index)
    }

    fn check_records(&self) -> Result<(), String> {
        let stored = <[StoredRecord]>::ref_from_bytes(&self.map[self.records.clone()])
            .map_err(|_error| "its records are truncated")?;
        let names = str::from_utf8(&self.map[self.names.clone()])
            .map_err(|error| format!("its names are not UTF-8: {error}"))?;
        let mut bad = self.bad.iter().map(|&(id, _)| id).peekable();
        for (id, record) in (0_u64..).zip(stored.iter().map(Record::from)) {
            let judged = record.good == bad.next_if_eq(&id).is_none();
            if !judged || !self.is_valid(&record, names) {
                return Err(format!("record {id} is malformed"));
            }
        }
        if bad.next().is_some() {
            return Err("its bad records are past the last record".into());
        }
        Ok(())
    }

    /// Whether the fields of a record are consistent with one another and with the other sections.
    fn is_valid(&self, record: &Record, names: &str) -> bool {
        let NameRange { start, length } = record.name;
        let name = usize::try_from(start)
            .ok()
            .and_then(|start| names.get(start..start.checked_add(usize::from(length))?));
        let valid_name = name.is_some_and(|name| match self.layout {
            // The name is opened as a file and must not lead out of the folder.
            Layout::ImageFolder => {
                let mut parts = Path::new(name).components();
                !name.is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
            }
            Layout::WebDataset => !name.is_empty(),
        });
        let valid_range = match self.layout {
            Layout::ImageFolder => record.shard == 0 && record.offset == 0,
            Layout::WebDataset => {
                let end = record.offset.checked_add(u64::from(record.length));
                let shard = self.shards.get(record.shard as usize);
                shard.zip(end).is_some_and(|((_, size), end)| end <= *size)
            }
        };
        let decodes = record.format.is_some()
            && record.color.is_some()
            && record.size.whole().fits(record.size);
        let valid_label = (record.label as usize) < self.classes.len();
        valid_name && valid_range && valid_label && (decodes || !record.good)
    }

    /// Number of records.
    pub(super) const fn len(&self) -> usize {
        (self.records.end - self.records.start) / size_of::<StoredRecord>()
    }

    /// # Panics
    /// When `id` is not below [`len`](Self::len).
    pub(super) fn record(&self, id: usize) -> Record {
        let records = <[StoredRecord]>::ref_from_bytes(&self.map[self.records.clone()]);
        Record::from(&records.expect("checked when opened")[id])
    }

    /// Entry points of a record, empty if it has none; `None` if they are damaged.
    pub(super) fn entry_points(&self, id: usize) -> Option<&[u8]> {
        let points = <[StoredPoints]>::ref_from_bytes(&self.map[self.points.clone()]).ok()?;
        let Some(point) = points.get(id) else { return Some(&[]) };
        let start = usize::try_from(point.offset.get()).ok()?;
        let end = start.checked_add(point.length.get() as usize)?;
        let entry_points = self.map[self.entries.clone()].get(start..end)?;
        (points_checksum(entry_points) == point.checksum.get()).then_some(entry_points)
    }

    pub(super) fn name(&self, record: &Record) -> &str {
        let start = usize::try_from(record.name.start).expect("checked when opened");
        let names = &self.map[self.names.clone()];
        let name = &names[start..start + usize::from(record.name.length)];
        str::from_utf8(name).expect("checked when opened")
    }
}

const fn range(section: &Section) -> Range<usize> {
    section.start..section.end
}

/// Maps an index file.
#[expect(unsafe_code, reason = "a memory map of a file")]
fn map(file: &RegularFile) -> Result<Mmap, StoreError> {
    // SAFETY: forebay replaces index files by a rename and never writes to one in place, so the mapped
    // bytes do not change. Writing to one by hand can end the process; the documentation
    // of `forebay index` says to replace it.
    let map = unsafe { Mmap::map(file.file()) };
    map.map_err(StoreError::io("map", file.path()))
}

/// Joins ascending numbers into ranges of consecutive ones.
fn runs(numbers: &[u64]) -> Vec<Range<u64>> {
    let run = |run: &[u64]| run[0]..run[0].saturating_add(run.len() as u64);
    numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b)).map(run).collect()
}

fn skipped(counts: &[u8], reasons: &[u8]) -> Result<Vec<Skipped>, String> {
    let (counts, reasons) = (numbers(counts)?, strings(reasons)?);
    let (reasons, rest) = reasons.as_chunks::<2>();
    if reasons.len() != counts.len() || !rest.is_empty() {
        return Err("its skipped samples are malformed".into());
    }
    let skipped = |(count, [reason, example]): (u64, &[String; 2])| Skipped {
        count,
        reason: reason.clone(),
        example: example.clone(),
    };
    Ok(counts.into_iter().zip(reasons).map(skipped).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use xxhash_rust::xxh3::xxh3_64;
    use zerocopy::IntoBytes as _;

    use super::format::{StoredHeader, StoredSection, write_strings};
    use super::*;
    use crate::decode::{Color, Format};
    use crate::geometry::Size;

    const HEADER: usize = size_of::<StoredHeader>();
    const ROW: usize = size_of::<StoredSection>();
    const RECORD: usize = size_of::<StoredRecord>();

    fn sections() -> Vec<(u32, Vec<u8>)> {
        let record = |good, offset, start| Record {
            label: 1,
            size: Size { height: 5, width: 7 },
            length: 40,
            format: Some(Format::Jpeg),
            color: Some(Color::YCbCr),
            progressive: false,
            good,
            checksum: 3,
            shard: 0,
            offset,
            name: NameRange { start, length: 3 },
        };
        let records = [record(true, 0, 0), record(false, 60, 3)].map(StoredRecord::from);
        vec![
            (kind::META, [&[9; 32][..], &[1]].concat()),
            (kind::SHARD_SIZES, 100_u64.to_le_bytes().to_vec()),
            (kind::SHARD_NAMES, write_strings(["s.tar"].into_iter())),
            (kind::CLASSES, write_strings(["x", "y"].into_iter())),
            (kind::RECORDS, records.as_bytes().to_vec()),
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
    fn an_index_is_read_as_it_was_written() {
        let index = open(&sections()).unwrap();
        assert_eq!(index.len(), 2);
        assert_eq!(index.classes, ["x", "y"]);
        assert_eq!(index.shards, [("s.tar".to_owned(), 100)]);
        assert_eq!(index.bad, [(1, "cut".to_owned())]);
        let record = index.record(1);
        assert_eq!((record.offset, record.length, record.good), (60, 40, false));
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
            // The offsets in a shard.
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
    fn any_flipped_byte_is_detected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("i.forebay");
        write(&path, &sections(), None).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let sections = super::sections(&bytes).unwrap();
        let head = HEADER + sections.len() * ROW;
        // The padding between sections is ignored.
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
    fn an_unknown_section_is_skipped_unless_it_is_required() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("i.forebay");
        let later = [sections(), vec![(77, vec![1, 2, 3])]].concat();
        write(&path, &later, None).unwrap();
        let error = Index::open(&path).unwrap_err().to_string();
        assert!(error.contains("section 77 needs a newer forebay"), "{error}");
        let mut bytes = std::fs::read(&path).unwrap();
        let row = HEADER + 8 * ROW;
        bytes[row + 4] = 0;
        let digest = xxh3_64(&bytes[HEADER..HEADER + 9 * ROW]);
        bytes[24..32].copy_from_slice(&digest.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(Index::open(&path).unwrap().len(), 2);
    }

    proptest! {
        #[test]
        fn records_of_hostile_indexes_are_within_bounds(
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
