//! The index: for each record its range of a shard, its label, its header and its verdict.
//!
//! Everything but the entry points is validated when the index is opened, and those when they are
//! read. So no field of a damaged or hostile index can lead out of bounds, or out of the dataset's
//! folder.
//!
//! Damage has the mildest consequence that keeps every pixel and label right. A section that decides
//! them is refused. One that only saves time, or is only shown to people, is done without; the table
//! in `docs/operations.md` lists all of them.

mod format;
mod record;
#[cfg(test)]
mod tests;
mod write;

use std::ops::Range;
use std::path::{Component, Path};

use forebay_types::Digest;
use memmap2::Mmap;
use zerocopy::FromBytes as _;

use self::format::{Section, kind, numbers, points_checksum, sections, strings};
use self::record::{StoredPacked, StoredRecord};
use super::error::DatasetError;
use super::layouts::{About, Layout, Skipped};
use super::unpack::{MAX_PAGE, Packed};
use crate::store::{MAX_RECORD, RegularFile, StoreError};

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
    /// The compressed ranges by record. Empty if the index has none.
    packed: Range<usize>,
    points_damaged: bool,
    pub(super) digest: Digest,
    pub(super) layout: Layout,
    pub(super) classes: Vec<String>,
    /// Name and size of each shard.
    pub(super) shards: Vec<(String, u64)>,
    /// Tag of each shard; empty unless they are objects of a bucket.
    pub(super) tags: Vec<String>,
    /// Number and reason of each bad record, ascending.
    pub(super) bad: Vec<(u64, String)>,
    /// Ranges of consecutive bad records, ascending.
    pub(super) bad_runs: Vec<Range<u64>>,
    pub(super) skipped: Vec<Skipped>,
    pub(super) about: About,
    /// The damaged parts that the index does without, each with the consequence.
    pub(super) damage: Vec<&'static str>,
}

/// The reason of a bad record where the reasons are damaged.
const UNKNOWN_REASON: &str = "unknown, because the index is damaged where the reason is stored";

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
        let mut sections = Sections { map: &map, table: sections(&map)?, damage: Vec::new() };
        let (&[digest @ .., layout], _) = sections
            .bytes(kind::META)?
            .split_first_chunk::<33>()
            .ok_or("its first section is truncated")?;
        let layout = Layout::from_code(layout)
            .ok_or_else(|| format!("its layout {layout} needs a newer forebay"))?;
        let shards = sections.shards()?;
        let tags = sections.tags(shards.len())?;
        let records = sections.needed(kind::RECORDS)?;
        let stored = <[StoredRecord]>::ref_from_bytes(&map[records.clone()])
            .map_err(|_error| "its records are truncated")?;
        let bad = sections.bad(stored)?;
        let slower = "every image is decoded from its start, which takes longer";
        let points = sections.spare(kind::POINTS, slower).unwrap_or_default();
        if !points.is_empty() && points.len() / size_of::<StoredPoints>() != stored.len() {
            return Err("its entry points are malformed".into());
        }
        let packed = sections.optional(kind::PACKED)?.unwrap_or_default();
        if !packed.is_empty() && packed.len() != stored.len() * size_of::<StoredPacked>() {
            return Err("its compressed ranges are malformed".into());
        }
        let classes = strings(sections.bytes(kind::CLASSES)?)?;
        let (skipped, about) = (sections.skipped()?, sections.about(classes.len())?);
        let index = Self {
            names: sections.needed(kind::NAMES)?,
            points,
            packed,
            points_damaged: sections.find(kind::POINTS).is_some_and(|section| section.damaged),
            entries: sections.find(kind::ENTRIES).map(range).unwrap_or_default(),
            digest: Digest(digest),
            layout,
            classes,
            about,
            shards,
            tags,
            bad_runs: runs(&bad.iter().map(|(id, _)| *id).collect::<Vec<_>>()),
            bad,
            skipped,
            damage: sections.damage,
            records,
            map,
        };
        index.check_records()?;
        Ok(index)
    }

    fn check_records(&self) -> Result<(), String> {
        let stored = <[StoredRecord]>::ref_from_bytes(&self.map[self.records.clone()])
            .expect("checked before");
        let names = str::from_utf8(&self.map[self.names.clone()])
            .map_err(|error| format!("its names are not UTF-8: {error}"))?;
        let mut bad = self.bad.iter().map(|&(id, _)| id).peekable();
        for (id, record) in (0_u64..).zip(stored.iter().map(Record::from)) {
            let judged = record.good == bad.next_if_eq(&id).is_none();
            let packed = self.stored_packed(usize::try_from(id).expect("mapped")).packed()?;
            if !judged || !self.is_valid(&record, packed, names) {
                return Err(format!("record {id} is malformed"));
            }
        }
        if bad.next().is_some() {
            return Err("its bad records are past the last record".into());
        }
        Ok(())
    }

    /// Whether the fields of a record are consistent with one another and with the other sections.
    fn is_valid(&self, record: &Record, packed: Option<Packed>, names: &str) -> bool {
        let NameRange { start, length } = record.name;
        let name = usize::try_from(start)
            .ok()
            .and_then(|start| names.get(start..start.checked_add(usize::from(length))?));
        let are_files = self.layout.records_are_files();
        // The name is opened as a file and must not lead out of the folder.
        let is_inside = |name: &str| {
            Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
        };
        let valid_name =
            name.is_some_and(|name| !name.is_empty() && (!are_files || is_inside(name)));
        let valid_range = if are_files {
            record.shard == 0 && record.offset == 0 && packed.is_none()
        } else {
            let stored = packed.map_or(record.length, |packed| packed.stored);
            let end = record.offset.checked_add(u64::from(stored));
            let shard = self.shards.get(record.shard as usize);
            shard.zip(end).is_some_and(|((_, size), end)| end <= *size)
        };
        let decodes = record.format.is_some()
            && record.color.is_some()
            && record.size.whole().fits(record.size);
        let valid_label = (record.label as usize) < self.classes.len();
        let unpacked = packed.map_or(0, |packed| packed.unpacked(record.length));
        let valid_length = record.length <= MAX_RECORD && unpacked <= MAX_PAGE;
        valid_name && valid_range && valid_length && valid_label && (decodes || !record.good)
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

    /// The compressed range that a record is in; `None` if it is stored as it is.
    pub(super) fn packed(&self, id: usize) -> Option<Packed> {
        self.stored_packed(id).packed().expect("checked when opened")
    }

    fn stored_packed(&self, id: usize) -> StoredPacked {
        let packed = <[StoredPacked]>::ref_from_bytes(&self.map[self.packed.clone()]);
        packed.ok().and_then(|packed| packed.get(id)).copied().unwrap_or_default()
    }

    /// Entry points of a record, empty if it has none; `None` if they are damaged.
    pub(super) fn entry_points(&self, id: usize) -> Option<&[u8]> {
        if self.points_damaged {
            return None;
        }
        let points = <[StoredPoints]>::ref_from_bytes(&self.map[self.points.clone()]).ok()?;
        let Some(point) = points.get(id) else { return Some(&[]) };
        let start = usize::try_from(point.offset.get()).ok()?;
        let end = start.checked_add(point.length.get() as usize)?;
        let entry_points = self.map[self.entries.clone()].get(start..end)?;
        (points_checksum(entry_points) == point.checksum.get()).then_some(entry_points)
    }

    /// Whether a record has entry points.
    pub(super) fn has_entry_points(&self, id: usize) -> bool {
        let points = <[StoredPoints]>::ref_from_bytes(&self.map[self.points.clone()]);
        points.is_ok_and(|points| points.get(id).is_some_and(|point| point.length.get() > 0))
    }

    pub(super) fn name(&self, record: &Record) -> &str {
        let start = usize::try_from(record.name.start).expect("checked when opened");
        let names = &self.map[self.names.clone()];
        let name = &names[start..start + usize::from(record.name.length)];
        str::from_utf8(name).expect("checked when opened")
    }
}

/// The sections of an index that is being opened.
struct Sections<'m> {
    map: &'m [u8],
    table: Vec<Section>,
    /// The consequences of those that are damaged and can be done without.
    damage: Vec<&'static str>,
}

impl<'m> Sections<'m> {
    fn find(&self, kind: u32) -> Option<&Section> {
        self.table.iter().find(|section| section.kind == kind)
    }

    /// A section that decides pixels or labels, if it is there.
    fn optional(&self, kind: u32) -> Result<Option<Range<usize>>, String> {
        match self.find(kind) {
            Some(section) if section.damaged => Err(format!("section {kind} is damaged")),
            section => Ok(section.map(range)),
        }
    }

    /// A section without which the right pixels or labels are not known.
    fn needed(&self, kind: u32) -> Result<Range<usize>, String> {
        self.optional(kind)?.ok_or_else(|| format!("section {kind} is missing"))
    }

    fn bytes(&self, kind: u32) -> Result<&'m [u8], String> {
        Ok(&self.map[self.needed(kind)?])
    }

    /// A section that can be done without.
    fn spare(&mut self, kind: u32, consequence: &'static str) -> Option<Range<usize>> {
        match self.find(kind) {
            Some(section) if section.damaged => {
                self.damage.push(consequence);
                None
            }
            section => section.map(range),
        }
    }

    fn spare_strings(
        &mut self,
        kind: u32,
        consequence: &'static str,
    ) -> Result<Option<Vec<String>>, String> {
        self.spare(kind, consequence).map(|range| strings(&self.map[range])).transpose()
    }

    /// Name and size of each shard.
    fn shards(&self) -> Result<Vec<(String, u64)>, String> {
        let sizes = numbers(self.bytes(kind::SHARD_SIZES)?)?;
        let names = strings(self.bytes(kind::SHARD_NAMES)?)?;
        if sizes.len() != names.len() {
            return Err("its shards are malformed".into());
        }
        Ok(names.into_iter().zip(sizes).collect())
    }

    fn tags(&self, shards: usize) -> Result<Vec<String>, String> {
        let tags = self.optional(kind::SHARD_TAGS)?.map(|range| strings(&self.map[range]));
        let tags = tags.transpose()?.unwrap_or_default();
        if !(tags.is_empty() || tags.len() == shards) {
            return Err("its shards are malformed".into());
        }
        Ok(tags)
    }

    /// Number and reason of each bad record.
    fn bad(&mut self, stored: &[StoredRecord]) -> Result<Vec<(u64, String)>, String> {
        let ids = match self.spare(kind::BAD, "the list of bad records was made again") {
            Some(range) => numbers(&self.map[range])?,
            None => bad_ids(stored),
        };
        let reasons =
            self.spare_strings(kind::REASONS, "the reasons of bad records are not known")?;
        let reasons = reasons.unwrap_or_else(|| vec![UNKNOWN_REASON.to_owned(); ids.len()]);
        if ids.len() != reasons.len() || !ids.is_sorted_by(|a, b| a < b) {
            return Err("its bad records are malformed".into());
        }
        Ok(ids.into_iter().zip(reasons).collect())
    }

    fn skipped(&mut self) -> Result<Vec<Skipped>, String> {
        let not_shown = "skipped samples are not shown";
        let Some(counts) = self.spare(kind::SKIPPED, not_shown) else { return Ok(Vec::new()) };
        match self.spare(kind::SKIPPED_REASONS, not_shown) {
            Some(reasons) => skipped(&self.map[counts], &self.map[reasons]),
            None => Ok(Vec::new()),
        }
    }

    fn about(&mut self, classes: usize) -> Result<About, String> {
        let not_shown = "words of classes and facts of the layout are not shown";
        let words = self.spare_strings(kind::WORDS, not_shown)?.unwrap_or_default();
        let facts = self.spare_strings(kind::FACTS, not_shown)?.unwrap_or_default();
        about(words, &facts, classes)
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

/// The numbers of the bad records, which are marked.
fn bad_ids(stored: &[StoredRecord]) -> Vec<u64> {
    let records = (0..).zip(stored.iter().map(Record::from));
    records.filter(|(_, record)| !record.good).map(|(id, _)| id).collect()
}

/// Joins ascending numbers into ranges of consecutive ones.
fn runs(numbers: &[u64]) -> Vec<Range<u64>> {
    let run = |run: &[u64]| run[0]..run[0].saturating_add(run.len() as u64);
    numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b)).map(run).collect()
}

fn about(words: Vec<String>, facts: &[String], classes: usize) -> Result<About, String> {
    let (facts, rest) = facts.as_chunks::<2>();
    if !rest.is_empty() || !(words.is_empty() || words.len() == classes) {
        return Err("its words of classes or facts of the layout are malformed".into());
    }
    let facts = facts.iter().map(|[name, value]| (name.clone(), value.clone())).collect();
    Ok(About { words, facts })
}

fn skipped(counts: &[u8], reasons: &[u8]) -> Result<Vec<Skipped>, String> {
    let (counts, reasons) = (numbers(counts)?, strings(reasons)?);
    let (reasons, rest) = reasons.as_chunks::<2>();
    if reasons.len() != counts.len() || !rest.is_empty() {
        return Err("its skipped samples are malformed".into());
    }
    let skipped = |(count, [reason, examples]): (u64, &[String; 2])| Skipped {
        count,
        reason: reason.clone(),
        examples: examples.split('\0').map(str::to_owned).collect(),
    };
    Ok(counts.into_iter().zip(reasons).map(skipped).collect())
}
