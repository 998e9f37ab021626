//! Reads the records of one dataset that has been indexed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use forebay_types::Digest;
use xxhash_rust::xxh3::xxh3_64;

use super::error::DatasetError;
use super::index::{Index, Record};
use super::layouts::{self, Source, index_path};
use super::summary::Summary;
use super::suspicions;
use super::unpack::{Packed, PackedRecord, Unpacker};
use crate::decode::{self, Header};
use crate::geometry::Size;
use crate::store::{
    ByteRange, Location, RemoteStore, ShardKey, Storage, Store, StoreError, StoreRuns, Traffic,
};

/// A dataset as it was indexed: one of those that a [`Dataset`](super::Dataset) is mixed of.
#[derive(Debug)]
pub struct Part {
    /// Path or address that it was opened by.
    path: PathBuf,
    index: Index,
    /// A number that no other opened part of the process has.
    number: u64,
    store: Bytes,
    damaged_entry_points: AtomicU64,
    /// See [`most`](Self::most).
    most: OnceLock<(usize, Size)>,
    /// See [`stored_bytes`](Self::stored_bytes).
    stored_bytes: OnceLock<u64>,
}

/// Where the bytes of the records are.
#[derive(Debug)]
enum Bytes {
    Local(Store),
    Remote(RemoteStore),
}

/// Number of parts that were opened.
static OPENED: AtomicU64 = AtomicU64::new(0);

impl Part {
    /// Opens a dataset by the path that it was indexed by, and validates its index.
    ///
    /// # Errors
    /// As [`Dataset::open`](super::Dataset::open).
    pub(super) fn open(path: &Path, index_dir: Option<&Path>) -> Result<Self, DatasetError> {
        let source = layouts::find(path)?;
        let file = index_path(path, index_dir);
        if !file.exists() {
            return Err(DatasetError::NoIndex { path: path.into(), index: file });
        }
        let index = Index::open(&file)?;
        check_records(&index, path)?;
        let store = open_store(source, &index, file)?;
        Ok(Self::new(path, index, Bytes::Local(store)))
    }

    /// A dataset whose shards are in a bucket. `path` is its address.
    pub(super) fn in_bucket(
        index: Index,
        store: RemoteStore,
        path: &Path,
    ) -> Result<Self, DatasetError> {
        check_records(&index, path)?;
        Ok(Self::new(path, index, Bytes::Remote(store)))
    }

    fn new(path: &Path, index: Index, store: Bytes) -> Self {
        Self {
            path: path.into(),
            index,
            store,
            number: OPENED.fetch_add(1, Ordering::Relaxed),
            damaged_entry_points: AtomicU64::new(0),
            most: OnceLock::new(),
            stored_bytes: OnceLock::new(),
        }
    }

    /// Path or address that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of records, including bad ones.
    pub(super) const fn len(&self) -> u64 {
        self.index.len() as u64
    }

    /// BLAKE3 of the classes and of each record's name, label, length, checksum and verdict. Equal
    /// copies have equal digests, wherever they are stored.
    pub(super) const fn digest(&self) -> Digest {
        self.index.digest
    }

    /// Names of the classes, by label.
    pub(super) fn classes(&self) -> &[String] {
        &self.index.classes
    }

    /// Bad records in ascending order, each with the reason.
    pub(super) fn bad(&self) -> impl ExactSizeIterator<Item = (u64, &str)> {
        self.index.bad.iter().map(|(id, reason)| (*id, reason.as_str()))
    }

    /// The fields of a record in the index.
    ///
    /// # Panics
    /// When `id` is not below [`len`](Self::len).
    pub(super) fn record(&self, id: u64) -> Record {
        self.index.record(usize::try_from(id).expect("a record id"))
    }

    /// Name of a record: its path relative to the folder, or shard and name of the member.
    ///
    /// # Panics
    /// When `id` is not below [`len`](Self::len).
    pub(super) fn name(&self, id: u64) -> &str {
        self.index.name(&self.record(id))
    }

    /// The record itself if it is good, or else the next good record in dataset order. The first record
    /// follows the last.
    pub(super) fn good_or_next(&self, id: u64) -> u64 {
        let runs = &self.index.bad_runs;
        let past_run = |id: u64| {
            let next = runs.partition_point(|run| run.start <= id);
            let run = next.checked_sub(1).map(|index| &runs[index]);
            run.filter(|run| run.contains(&id)).map_or(id, |run| run.end)
        };
        match past_run(id) {
            next if next < self.len() => next,
            // Some record is good, so a run at the start ends before the last record.
            _ => past_run(0),
        }
    }

    /// Whether its classes are folders, which have names also where these are numbers.
    pub(super) const fn has_class_folders(&self) -> bool {
        use super::layouts::Layout::{Ilsvrc, ImageFolder, Kaggle};
        matches!(self.index.layout, ImageFolder | Kaggle | Ilsvrc)
    }

    /// Number of files: of shards, or one for each record.
    pub(super) const fn files(&self) -> u64 {
        if self.index.layout.records_are_files() {
            self.len()
        } else {
            self.index.shards.len() as u64
        }
    }

    /// The number of the file that has a record's bytes: a shard's, or the record's own. `None` in a bucket.
    pub(super) fn file_of(&self, id: u64) -> Option<u64> {
        match &self.store {
            Bytes::Remote(_) => None,
            Bytes::Local(_) if self.index.layout.records_are_files() => Some(id),
            Bytes::Local(_) => Some(self.record(id).shard.into()),
        }
    }

    /// Reads the bytes of a record into a buffer and verifies their checksum.
    ///
    /// # Errors
    /// When the record cannot be read, or changed since it was indexed.
    pub(super) fn read(
        &self,
        id: u64,
        unpacker: &mut Unpacker,
        buffer: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let record = self.record(id);
        let packed = self.packed(id);
        let is_right = |bytes: &[u8]| xxh3_64(bytes) == record.checksum;
        match packed {
            None => self.read_range(&record, packed, buffer, is_right),
            Some(packed) => {
                let Record { shard, offset, length, .. } = record;
                let in_range = PackedRecord { dataset: self.number, shard, offset, length, packed };
                let read_range = |stored: &mut Vec<u8>, check: &mut dyn FnMut(&[u8]) -> bool| {
                    self.read_range(&record, Some(packed), stored, check)
                };
                unpacker.read(in_range, buffer, read_range, is_right)
            }
        }
    }

    /// Reads the bytes of the store that a record is in, and checks them.
    fn read_range(
        &self,
        record: &Record,
        packed: Option<Packed>,
        buffer: &mut Vec<u8>,
        is_right: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), StoreError> {
        match &self.store {
            Bytes::Local(store) => store.read_checked(self.range(record, packed), buffer, is_right),
            Bytes::Remote(store) => {
                store.read_checked(self.location(record, packed), buffer, is_right)
            }
        }
    }

    /// What fetches the records, if they are in a bucket.
    pub(super) const fn storage(&self) -> Option<&Arc<Storage>> {
        match &self.store {
            Bytes::Local(_) => None,
            Bytes::Remote(store) => Some(store.storage()),
        }
    }

    /// What its bucket has received, if it is in one.
    pub(super) fn traffic(&self) -> Option<Traffic> {
        match &self.store {
            Bytes::Local(_) => None,
            Bytes::Remote(store) => Some(store.traffic()),
        }
    }

    /// The ranges of records, each once, if they are in a bucket.
    pub(super) fn runs(&self, records: impl Iterator<Item = u64>) -> Option<StoreRuns> {
        let Bytes::Remote(store) = &self.store else { return None };
        let mut records: Vec<u64> = records.collect();
        records.sort_unstable();
        records.dedup();
        let location = |id| self.location(&self.record(id), self.packed(id));
        Some(store.runs(records.into_iter().map(location)))
    }

    /// Bytes that are read for all records together. The first call looks at all of them.
    pub(super) fn stored_bytes(&self) -> u64 {
        *self.stored_bytes.get_or_init(|| {
            let stored = |id| {
                let (_, _, length) = self.location(&self.record(id), self.packed(id));
                u64::from(length)
            };
            (0..self.len()).map(stored).sum()
        })
    }

    fn packed(&self, id: u64) -> Option<Packed> {
        self.index.packed(usize::try_from(id).expect("a record id"))
    }

    /// Entry points of a record for the decoder; empty if it has none, or if the index is damaged where
    /// they are stored. They only save time: without them the decoder starts at the beginning.
    ///
    /// # Panics
    /// When `id` is not below [`len`](Self::len).
    pub(super) fn entry_points(&self, id: u64) -> &[u8] {
        let points = self.index.entry_points(usize::try_from(id).expect("a record id"));
        points.unwrap_or_else(|| {
            self.damaged_entry_points.fetch_add(1, Ordering::Relaxed);
            &[]
        })
    }

    /// How often the entry points of a record were damaged when they were needed.
    pub(super) fn damaged_entry_points(&self) -> u64 {
        self.damaged_entry_points.load(Ordering::Relaxed)
    }

    /// The parts of the index that were damaged when it was opened and that it does without, each with
    /// the consequence.
    pub(super) fn index_damage(&self) -> &[&'static str] {
        &self.index.damage
    }

    /// The most memory that reading and decoding a record takes: its file, the compressed range and the page
    /// that it is in, and what the decoder needs.
    ///
    /// # Panics
    /// When `id` is not below [`len`](Self::len).
    pub(super) fn decode_bytes(&self, id: u64) -> usize {
        let Record { size, length, format, color, progressive, .. } = self.record(id);
        let unpacking = self.packed(id).map_or(0, |packed| packed.memory(length));
        let file = length as usize + unpacking;
        let (Some(format), Some(color)) = (format, color) else { return file };
        let header = Header { format, size, color, progressive };
        let id = usize::try_from(id).expect("a record id");
        file + decode::scratch_bytes(&header, !self.index.has_entry_points(id))
    }

    /// The most memory that reading and decoding any good record takes, and the largest height and
    /// width. The first call looks at all of them.
    pub(super) fn most(&self) -> (usize, Size) {
        *self.most.get_or_init(|| {
            let good = (0..self.len()).filter(|id| self.record(*id).good);
            good.fold((0, Size { height: 0, width: 0 }), |(bytes, most), id| {
                let size = self.record(id).size;
                let (height, width) = (most.height.max(size.height), most.width.max(size.width));
                (bytes.max(self.decode_bytes(id)), Size { height, width })
            })
        })
    }

    /// Counts, sizes, formats, classes and bad records.
    pub fn summary(&self) -> Summary {
        Summary::of(&self.index)
    }

    /// As [`Dataset::common_with_other_splits`](super::Dataset::common_with_other_splits).
    pub(super) fn common_with_other_splits(
        &self,
        path: &Path,
        index_dir: Option<&Path>,
    ) -> Vec<String> {
        suspicions::across_splits(&self.index, path, index_dir)
    }

    /// The bytes of the store that are read for a record: its own, or the compressed range that it is in.
    fn range(&self, record: &Record, packed: Option<Packed>) -> ByteRange<'_> {
        let shard = if self.index.layout.records_are_files() {
            ShardKey::File(self.index.name(record))
        } else {
            ShardKey::Number(record.shard)
        };
        let length = packed.map_or(record.length, |packed| packed.stored);
        ByteRange { shard, offset: record.offset, length }
    }

    /// The same in the shards of a bucket.
    fn location(&self, record: &Record, packed: Option<Packed>) -> Location {
        let ByteRange { offset, length, .. } = self.range(record, packed);
        (record.shard, offset, length)
    }
}

/// Refuses an index without a good record.
fn check_records(index: &Index, path: &Path) -> Result<(), DatasetError> {
    if index.len() == 0 {
        return Err(DatasetError::Empty { path: path.into(), skipped: String::new() });
    }
    match index.bad.first() {
        Some((_, reason)) if index.bad.len() == index.len() => Err(DatasetError::AllBad {
            records: index.len() as u64,
            name: index.name(&index.record(0)).to_owned(),
            reason: reason.clone(),
        }),
        _ => Ok(()),
    }
}

/// Opens the store of a source, which must be the one that was indexed.
fn open_store(source: Source, index: &Index, file: PathBuf) -> Result<Store, DatasetError> {
    let Source { layout, root, shards, .. } = source.with_layout(index.layout);
    if layout != index.layout {
        let (was, is) = (index.layout.name(), layout.name());
        let what = format!("it was made when the dataset was stored as {was}, and it is {is} now");
        return Err(DatasetError::Index { path: file, what });
    }
    if !index.shards.iter().map(|(name, _)| name).eq(&shards) {
        let (found, indexed) = (shards.len(), index.shards.len());
        return Err(DatasetError::ShardsChanged { path: root, found, indexed });
    }
    Ok(Store::open(root, &index.shards)?)
}
