//! Reads the records of a dataset that has been indexed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use forebay_types::Digest;
use xxhash_rust::xxh3::xxh3_64;

use super::error::DatasetError;
use super::index::{Index, Record};
use super::layouts::{self, Source, index_path};
use super::stuck::StuckReads;
use super::summary::Summary;
use super::unpack::{Packed, PackedRecord, Unpacker};
use crate::classes::ClassTable;
use crate::decode::{self, Header};
use crate::geometry::Size;
use crate::store::{
    ByteRange, Location, OnReady, RemoteStore, ShardKey, Storage, Store, StoreError, Traffic, Want,
};

/// A dataset that has been indexed.
///
/// ```
/// use forebay::dataset::{self, Dataset};
/// use forebay::sample_data::{self, SampleData};
///
/// let folder = tempfile::tempdir()?;
/// let what = SampleData { classes: 2, per_class: 3, val_per_class: 0, seed: 0 };
/// sample_data::write(folder.path(), &what, |_done| ())?;
///
/// let train = folder.path().join("train");
/// dataset::build(&train, None, 1, &|_progress| ())?;
/// let dataset = Dataset::open(&train, None)?;
/// assert_eq!((dataset.len(), dataset.classes().len()), (6, 2));
///
/// let mut buffer = Vec::new();
/// let jpeg = dataset.read(5, &mut buffer)?;
/// assert_eq!(jpeg.len(), dataset.record(5).length as usize);
/// assert_eq!(dataset.record(5).label, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Dataset {
    index: Index,
    /// A number that no other opened dataset of the process has.
    number: u64,
    store: Bytes,
    damaged_entry_points: AtomicU64,
    stuck: Arc<StuckReads>,
    /// See [`most`](Self::most).
    most: OnceLock<(usize, Size)>,
    /// See [`mean_bytes`](Self::mean_bytes).
    mean: OnceLock<u64>,
    /// See [`by_class`](Self::by_class).
    by_class: OnceLock<Arc<ClassTable>>,
}

/// Where the bytes of the records are.
#[derive(Debug)]
enum Bytes {
    Local(Store),
    Remote(RemoteStore),
}

/// Number of datasets that were opened.
static OPENED: AtomicU64 = AtomicU64::new(0);

impl Dataset {
    /// Opens a dataset by the path that it was indexed by, and validates its index.
    ///
    /// # Errors
    /// [`DatasetError::NoIndex`] if the dataset has not been indexed, [`DatasetError::Index`] if the
    /// index is damaged or of another version, [`DatasetError::ShardsChanged`] or
    /// [`DatasetError::Store`] if the shards are not those that were indexed or cannot be opened, and
    /// [`DatasetError::AllBad`] if no record is good.
    pub fn open(path: &Path, index_dir: Option<&Path>) -> Result<Self, DatasetError> {
        let source = layouts::find(path)?;
        let file = index_path(path, index_dir);
        if !file.exists() {
            return Err(DatasetError::NoIndex { path: path.into(), index: file });
        }
        let index = Index::open(&file)?;
        check_records(&index, path)?;
        let store = open_store(source, &index, file)?;
        Ok(Self::new(index, Bytes::Local(store)))
    }

    /// A dataset whose shards are in a bucket. `path` is its address.
    pub(super) fn in_bucket(
        index: Index,
        store: RemoteStore,
        path: &Path,
    ) -> Result<Self, DatasetError> {
        check_records(&index, path)?;
        Ok(Self::new(index, Bytes::Remote(store)))
    }

    fn new(index: Index, store: Bytes) -> Self {
        let (damaged_entry_points, stuck) = (AtomicU64::new(0), Arc::default());
        Self {
            index,
            store,
            number: OPENED.fetch_add(1, Ordering::Relaxed),
            damaged_entry_points,
            stuck,
            most: OnceLock::new(),
            mean: OnceLock::new(),
            by_class: OnceLock::new(),
        }
    }

    /// Number of records, including bad ones.
    pub const fn len(&self) -> u64 {
        self.index.len() as u64
    }

    /// Always false: a dataset without records is refused.
    pub const fn is_empty(&self) -> bool {
        self.index.len() == 0
    }

    /// BLAKE3 of the classes and of each record's name, label, length, checksum and verdict. Equal
    /// copies have equal digests, wherever they are stored.
    pub const fn digest(&self) -> Digest {
        self.index.digest
    }

    /// Names of the classes, by label.
    pub fn classes(&self) -> &[String] {
        &self.index.classes
    }

    /// Bad records in ascending order, each with the reason.
    pub fn bad(&self) -> impl ExactSizeIterator<Item = (u64, &str)> {
        self.index.bad.iter().map(|(id, reason)| (*id, reason.as_str()))
    }

    /// The fields of a record in the index.
    ///
    /// # Panics
    /// When `id` is not below [`len`](Self::len).
    pub fn record(&self, id: u64) -> Record {
        self.index.record(usize::try_from(id).expect("a record id"))
    }

    /// Name of a record: its path relative to the folder, or shard and name of the member.
    ///
    /// # Panics
    /// When `id` is not below [`len`](Self::len).
    pub fn name(&self, id: u64) -> &str {
        self.index.name(&self.record(id))
    }

    /// The record itself if it is good, or else the next good record in dataset order. The first record
    /// follows the last.
    pub fn good_or_next(&self, id: u64) -> u64 {
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

    /// The number of the file that has a record's bytes: a shard's, or the record's own.
    pub(crate) fn file_of(&self, id: u64) -> u64 {
        if self.index.layout.records_are_files() { id } else { self.record(id).shard.into() }
    }

    /// Reads the bytes of a record into a buffer and verifies their checksum.
    ///
    /// # Errors
    /// [`DatasetError::Record`] if the record cannot be read, or changed since it was indexed.
    ///
    /// # Panics
    /// When `id` is not below [`len`](Self::len).
    pub fn read<'a>(&self, id: u64, buffer: &'a mut Vec<u8>) -> Result<&'a [u8], DatasetError> {
        self.read_unpacked(id, &mut Unpacker::default(), buffer)?;
        Ok(buffer)
    }

    /// Reads a record as [`read`](Self::read) does. The unpacker keeps memory, and the last page, from record
    /// to record.
    ///
    /// # Errors
    /// As those of [`read`](Self::read).
    pub(crate) fn read_unpacked(
        &self,
        id: u64,
        unpacker: &mut Unpacker,
        buffer: &mut Vec<u8>,
    ) -> Result<(), DatasetError> {
        let record = self.record(id);
        let packed = self.packed(id);
        let is_right = |bytes: &[u8]| xxh3_64(bytes) == record.checksum;
        let read = match packed {
            None => self.read_range(&record, packed, buffer, is_right),
            Some(packed) => {
                let Record { shard, offset, length, .. } = record;
                let in_range = PackedRecord { dataset: self.number, shard, offset, length, packed };
                let read_range = |stored: &mut Vec<u8>, check: &mut dyn FnMut(&[u8]) -> bool| {
                    self.read_range(&record, Some(packed), stored, check)
                };
                unpacker.read(in_range, buffer, read_range, is_right)
            }
        };
        read.map_err(|error| DatasetError::Record {
            record: id,
            name: self.index.name(&record).to_owned(),
            error,
        })
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
    pub const fn storage(&self) -> Option<&Arc<Storage>> {
        match &self.store {
            Bytes::Local(_) => None,
            Bytes::Remote(store) => Some(store.storage()),
        }
    }

    /// What its bucket has received, if it is in one.
    pub fn traffic(&self) -> Option<Traffic> {
        match &self.store {
            Bytes::Local(_) => None,
            Bytes::Remote(store) => Some(store.traffic()),
        }
    }

    /// Begins to fetch records for a client, if they are in a bucket. `records` is called on another thread, and
    /// `on_ready` when they can be read without waiting, or not at all.
    pub(crate) fn want(
        self: &Arc<Self>,
        client: Arc<str>,
        records: impl FnOnce() -> Vec<u64> + Send + 'static,
        on_ready: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) -> Option<Want> {
        let Bytes::Remote(store) = &self.store else { return None };
        let on_ready: OnReady = Box::new(on_ready);
        Some(store.want(client, self.locations(records), on_ready))
    }

    /// Begins to fetch records that will be wanted, if they are in a bucket.
    pub(crate) fn want_ahead(
        self: &Arc<Self>,
        records: impl FnOnce() -> Vec<u64> + Send + 'static,
    ) -> Option<Want> {
        let Bytes::Remote(store) = &self.store else { return None };
        Some(store.want_ahead(self.locations(records)))
    }

    /// The locations of records, each once.
    fn locations(
        self: &Arc<Self>,
        records: impl FnOnce() -> Vec<u64> + Send + 'static,
    ) -> impl FnOnce() -> Vec<Location> + Send + 'static {
        let dataset = Arc::clone(self);
        move || {
            let mut records = records();
            records.sort_unstable();
            records.dedup();
            let location = |id| dataset.location(&dataset.record(id), dataset.packed(id));
            records.into_iter().map(location).collect()
        }
    }

    /// Bytes that are fetched for a record on average.
    pub(crate) fn mean_bytes(&self) -> u64 {
        *self.mean.get_or_init(|| {
            let stored = |id| {
                let (_, _, length) = self.location(&self.record(id), self.packed(id));
                u64::from(length)
            };
            (0..self.len()).map(stored).sum::<u64>() / self.len().max(1)
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
    pub fn entry_points(&self, id: u64) -> &[u8] {
        let points = self.index.entry_points(usize::try_from(id).expect("a record id"));
        points.unwrap_or_else(|| {
            self.damaged_entry_points.fetch_add(1, Ordering::Relaxed);
            &[]
        })
    }

    /// How often the entry points of a record were damaged when they were needed.
    pub fn damaged_entry_points(&self) -> u64 {
        self.damaged_entry_points.load(Ordering::Relaxed)
    }

    /// Number of reads that took longer than a pipeline lets them and have not returned.
    pub fn stuck_reads(&self) -> usize {
        self.stuck.count()
    }

    pub(crate) const fn stuck(&self) -> &Arc<StuckReads> {
        &self.stuck
    }

    /// The parts of the index that were damaged when it was opened and that it does without, each with
    /// the consequence.
    pub fn index_damage(&self) -> &[&'static str] {
        &self.index.damage
    }

    /// The most memory that reading and decoding a record takes: its file, the compressed range and the page
    /// that it is in, and what the decoder needs.
    ///
    /// # Panics
    /// When `id` is not below [`len`](Self::len).
    pub(crate) fn decode_bytes(&self, id: u64) -> usize {
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
    pub(crate) fn most(&self) -> (usize, Size) {
        *self.most.get_or_init(|| {
            let good = (0..self.len()).filter(|id| self.record(*id).good);
            good.fold((0, Size { height: 0, width: 0 }), |(bytes, most), id| {
                let size = self.record(id).size;
                let (height, width) = (most.height.max(size.height), most.width.max(size.width));
                (bytes.max(self.decode_bytes(id)), Size { height, width })
            })
        })
    }

    /// The good records of each class: four bytes for each record, kept from the first call on, which looks at all of
    /// them. `None` if there are more than 2^32.
    pub(crate) fn by_class(&self) -> Option<&Arc<ClassTable>> {
        let len = u32::try_from(self.len()).ok()?;
        Some(self.by_class.get_or_init(|| {
            let good = || {
                let records = (0..len).map(|id| (id, self.record(id.into())));
                records.filter(|(_, record)| record.good).map(|(id, record)| (id, record.label))
            };
            Arc::new(ClassTable::new(self.classes().len(), good))
        }))
    }

    /// Counts, sizes, formats, classes and bad records.
    pub fn summary(&self) -> Summary {
        Summary::of(&self.index)
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
    let Source { layout, root, shards, .. } = source;
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
