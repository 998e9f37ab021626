//! Reads the records of a dataset that has been indexed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use forebay_types::Digest;

use super::error::DatasetError;
use super::index::{Index, Record};
use super::layouts::{Layout, Source, index_path};
use super::stuck::StuckReads;
use super::summary::Summary;
use crate::decode::{self, Header};
use crate::geometry::Size;
use crate::store::{ByteRange, ShardKey, Store};

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
    store: Store,
    damaged_entry_points: AtomicU64,
    stuck: Arc<StuckReads>,
    /// See [`most`](Self::most).
    most: OnceLock<(usize, Size)>,
}

impl Dataset {
    /// Opens a dataset by the path that it was indexed by, and validates its index.
    ///
    /// # Errors
    /// [`DatasetError::NoIndex`] if the dataset has not been indexed, [`DatasetError::Index`] if the
    /// index is damaged or of another version, [`DatasetError::ShardsChanged`] or
    /// [`DatasetError::Store`] if the shards are not those that were indexed or cannot be opened, and
    /// [`DatasetError::AllBad`] if no record is good.
    pub fn open(path: &Path, index_dir: Option<&Path>) -> Result<Self, DatasetError> {
        let source = Source::find(path)?;
        let file = index_path(path, index_dir);
        if !file.exists() {
            return Err(DatasetError::NoIndex { path: path.into(), index: file });
        }
        let index = Index::open(&file)?;
        check_records(&index, path)?;
        let store = open_store(source, &index, file)?;
        let (damaged_entry_points, stuck) = (AtomicU64::new(0), Arc::default());
        Ok(Self { index, store, damaged_entry_points, stuck, most: OnceLock::new() })
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
        match self.index.layout {
            Layout::ImageFolder => id,
            Layout::WebDataset => self.record(id).shard.into(),
        }
    }

    /// Reads the bytes of a record into a buffer and verifies their checksum.
    ///
    /// # Errors
    /// [`DatasetError::Record`] if the record cannot be read, or changed since it was indexed.
    ///
    /// # Panics
    /// When `id` is not below [`len`](Self::len).
    pub fn read<'a>(&self, id: u64, buffer: &'a mut Vec<u8>) -> Result<&'a [u8], DatasetError> {
        let record = self.record(id);
        let range = self.range(&record);
        self.store.read_verified(range, record.checksum, buffer).map_err(|error| {
            DatasetError::Record { record: id, name: self.index.name(&record).to_owned(), error }
        })
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

    /// The most memory that reading and decoding a record takes: its file, and what the decoder needs.
    ///
    /// # Panics
    /// When `id` is not below [`len`](Self::len).
    pub(crate) fn decode_bytes(&self, id: u64) -> usize {
        let Record { size, length, format, color, progressive, .. } = self.record(id);
        let (Some(format), Some(color)) = (format, color) else { return length as usize };
        let header = Header { format, size, color, progressive };
        let id = usize::try_from(id).expect("a record id");
        length as usize + decode::scratch_bytes(&header, !self.index.has_entry_points(id))
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

    /// Counts, sizes, formats, classes and bad records.
    pub fn summary(&self) -> Summary {
        Summary::of(&self.index)
    }

    /// The bytes of a record in the store.
    fn range(&self, record: &Record) -> ByteRange<'_> {
        let shard = match self.index.layout {
            Layout::ImageFolder => ShardKey::File(self.index.name(record)),
            Layout::WebDataset => ShardKey::Number(record.shard),
        };
        ByteRange { shard, offset: record.offset, length: record.length }
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
    let Source { layout, root, shards } = source;
    if layout != index.layout {
        let what = "it was made when the dataset was stored in another layout".to_owned();
        return Err(DatasetError::Index { path: file, what });
    }
    if !index.shards.iter().map(|(name, _)| name).eq(&shards) {
        let (found, indexed) = (shards.len(), index.shards.len());
        return Err(DatasetError::ShardsChanged { path: root, found, indexed });
    }
    Ok(Store::open(root, &index.shards)?)
}
