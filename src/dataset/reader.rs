//! Reads the records of a dataset: of one that has been indexed, or of several that are mixed.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use forebay_types::Digest;

use super::error::DatasetError;
use super::index::Record;
use super::mix::{self, Joined};
use super::part::Part;
use super::stuck::StuckReads;
use super::summary::Summary;
use super::unpack::Unpacker;
use crate::classes::ClassTable;
use crate::geometry::Size;
use crate::store::{OnReady, Storage, StoreError, StoreRuns, Traffic, Want};

/// A dataset that has been indexed, or several that are [mixed](Self::mix).
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
    parts: Vec<PartOf>,
    len: u64,
    digest: Digest,
    classes: Vec<String>,
    stuck: Arc<StuckReads>,
    /// See [`by_class`](Self::by_class).
    by_class: OnceLock<Arc<ClassTable>>,
}

/// A part of a dataset, whose records have the numbers from `first` on.
#[derive(Debug)]
struct PartOf {
    part: Part,
    first: u64,
    /// Number of the files of the parts before it.
    first_file: u64,
    weight: f64,
    /// The dataset's label of each of its own; `None` if they are the same.
    labels: Option<Vec<u32>>,
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
        Ok(Self::of(Part::open(path, index_dir)?))
    }

    pub(super) fn of(part: Part) -> Self {
        let (digest, classes) = (part.digest(), part.classes().to_vec());
        Self::with_parts(vec![(part, 1.0)], Joined { digest, classes, labels: vec![None] })
    }

    /// Mixes datasets. Of one with the weight `w`, an epoch has `w` times as many samples as it has records, rounded
    /// down: with 0.5 each record comes once in two epochs, with 2 twice in each. In sequential order, as in
    /// evaluation, every record comes once whatever the weights.
    ///
    /// Classes of the same name are one class. Labels are those of the first dataset, followed by the classes that it
    /// does not have.
    ///
    /// # Errors
    /// [`DatasetError::Mix`] if a weight is not above 0 and finite or leaves no record of a dataset, if an epoch has more
    /// than 2^40 samples, if the classes of some datasets have names and those of others only numbers, or if those in
    /// buckets do not share their [`Storage`].
    pub fn mix(datasets: Vec<(Self, f64)>) -> Result<Self, DatasetError> {
        if let [(_, 1.0)] = datasets[..] {
            return Ok(datasets.into_iter().map(|(dataset, _)| dataset).next().expect("one"));
        }
        let weigh = |(dataset, weight): (Self, f64)| {
            let parts = dataset.parts.into_iter();
            parts.map(move |of| (of.part, of.weight * weight))
        };
        let parts: Vec<(Part, f64)> = datasets.into_iter().flat_map(weigh).collect();
        let joined = mix::join(&parts)?;
        Ok(Self::with_parts(parts, joined))
    }

    fn with_parts(parts: Vec<(Part, f64)>, joined: Joined) -> Self {
        let Joined { digest, classes, labels } = joined;
        let (mut len, mut files) = (0, 0);
        let part = |((part, weight), labels): ((Part, f64), Option<Vec<u32>>)| {
            let (first, first_file) = (len, files);
            len += part.len();
            files += part.files();
            PartOf { part, first, first_file, weight, labels }
        };
        let parts = parts.into_iter().zip(labels).map(part).collect();
        let (stuck, by_class) = (Arc::default(), OnceLock::new());
        Self { parts, len, digest, classes, stuck, by_class }
    }

    /// The datasets that it is mixed of; itself if it is not.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = &Part> {
        self.parts.iter().map(|of| &of.part)
    }

    /// Number of records of each part, and of draws in an epoch.
    pub(crate) fn draws(&self) -> impl Iterator<Item = (u64, u64)> + Clone {
        self.parts.iter().map(|of| (of.part.len(), mix::draws(of.part.len(), of.weight)))
    }

    /// The part that has a record, and the number of the record in it.
    ///
    /// # Panics
    /// When `id` is not below [`len`](Self::len).
    fn find(&self, id: u64) -> (&PartOf, u64) {
        assert!(id < self.len, "record {id} is past the end");
        let after = self.parts.partition_point(|of| of.first <= id);
        // The first part begins at 0.
        let of = &self.parts[after - 1];
        (of, id - of.first)
    }

    /// Number of records, including bad ones.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Always false: a dataset without records is refused.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// BLAKE3 of the classes and of each record's name, label, length, checksum and verdict; of those of its parts and
    /// their weights if it is mixed. Equal copies have equal digests, wherever they are stored.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// Names of the classes, by label.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Number of bad records.
    pub fn bad_count(&self) -> u64 {
        self.parts().map(|part| part.bad().len() as u64).sum()
    }

    /// Bad records in ascending order, each with the reason.
    pub fn bad(&self) -> impl Iterator<Item = (u64, &str)> {
        self.parts.iter().flat_map(|PartOf { part, first, .. }| {
            part.bad().map(move |(id, reason)| (first + id, reason))
        })
    }

    /// The fields of a record in the index.
    ///
    /// # Panics
    /// When `id` is not below [`len`](Self::len).
    pub fn record(&self, id: u64) -> Record {
        let (PartOf { part, labels, .. }, id) = self.find(id);
        let record = part.record(id);
        let label = labels.as_ref().map_or(record.label, |labels| labels[record.label as usize]);
        Record { label, ..record }
    }

    /// Name of a record: its path relative to the folder, or shard and name of the member.
    ///
    /// # Panics
    /// When `id` is not below [`len`](Self::len).
    pub fn name(&self, id: u64) -> &str {
        let (of, id) = self.find(id);
        of.part.name(id)
    }

    /// Name of a record in errors, with the part if there are several.
    ///
    /// # Panics
    /// When `id` is not below [`len`](Self::len).
    pub(crate) fn name_in_mix(&self, id: u64) -> String {
        let name = self.name(id);
        match &self.parts[..] {
            [_] => name.to_owned(),
            _ => format!("{name} of {}", self.find(id).0.part.path().display()),
        }
    }

    /// The record itself if it is good, or else the next good record of its part in dataset order. The first record
    /// of the part follows the last.
    pub fn good_or_next(&self, id: u64) -> u64 {
        let (of, id) = self.find(id);
        of.first + of.part.good_or_next(id)
    }

    /// The number of the file that has a record's bytes: a shard's, or the record's own. `None` in a bucket, where each
    /// read is a request of its own.
    pub(crate) fn file_of(&self, id: u64) -> Option<u64> {
        let (of, id) = self.find(id);
        Some(of.first_file + of.part.file_of(id)?)
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
        let (of, number) = self.find(id);
        of.part.read(number, unpacker, buffer).map_err(|error| DatasetError::Record {
            record: id,
            name: self.name_in_mix(id),
            error,
        })
    }

    /// What fetches the records, if some are in a bucket.
    pub fn storage(&self) -> Option<&Arc<Storage>> {
        self.parts().find_map(Part::storage)
    }

    /// What its buckets have received, if some records are in one.
    pub fn traffic(&self) -> Option<Traffic> {
        self.parts().filter_map(Part::traffic).reduce(|sum, traffic| sum + traffic)
    }

    /// Begins to fetch records for a client, if some are in a bucket. `records` is called on another thread, and
    /// `on_ready` when they can be read without waiting, or not at all.
    pub(crate) fn want(
        self: &Arc<Self>,
        client: Arc<str>,
        records: impl FnOnce() -> Vec<u64> + Send + 'static,
        on_ready: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) -> Option<Want> {
        let on_ready: OnReady = Box::new(on_ready);
        Some(self.storage()?.want(client, self.runs(records), on_ready))
    }

    /// Begins to fetch records that will be wanted, if some are in a bucket.
    pub(crate) fn want_ahead(
        self: &Arc<Self>,
        records: impl FnOnce() -> Vec<u64> + Send + 'static,
    ) -> Option<Want> {
        Some(self.storage()?.want_ahead(self.runs(records)))
    }

    /// The ranges of the records that are in buckets.
    fn runs(
        self: &Arc<Self>,
        records: impl FnOnce() -> Vec<u64> + Send + 'static,
    ) -> impl FnOnce() -> Vec<StoreRuns> + Send + 'static {
        let dataset = Arc::clone(self);
        move || {
            let records = records();
            let runs = |PartOf { part, first, .. }: &PartOf| {
                let own = |id: &u64| id.checked_sub(*first).filter(|id| *id < part.len());
                part.runs(records.iter().filter_map(own))
            };
            dataset.parts.iter().filter_map(runs).collect()
        }
    }

    /// Bytes that are fetched for a record on average.
    pub(crate) fn mean_bytes(&self) -> u64 {
        self.parts().map(Part::stored_bytes).sum::<u64>() / self.len.max(1)
    }

    /// Entry points of a record for the decoder; empty if it has none, or if the index is damaged where
    /// they are stored. They only save time: without them the decoder starts at the beginning.
    ///
    /// # Panics
    /// When `id` is not below [`len`](Self::len).
    pub fn entry_points(&self, id: u64) -> &[u8] {
        let (of, id) = self.find(id);
        of.part.entry_points(id)
    }

    /// How often the entry points of a record were damaged when they were needed.
    pub fn damaged_entry_points(&self) -> u64 {
        self.parts().map(Part::damaged_entry_points).sum()
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
    pub fn index_damage(&self) -> Vec<&'static str> {
        self.parts().flat_map(Part::index_damage).copied().collect()
    }

    /// The most memory that reading and decoding a record takes: its file, the compressed range and the page
    /// that it is in, and what the decoder needs.
    ///
    /// # Panics
    /// When `id` is not below [`len`](Self::len).
    pub(crate) fn decode_bytes(&self, id: u64) -> usize {
        let (of, id) = self.find(id);
        of.part.decode_bytes(id)
    }

    /// The most memory that reading and decoding any good record takes, and the largest height and
    /// width. The first call looks at all of them.
    pub(crate) fn most(&self) -> (usize, Size) {
        let none = (0, Size { height: 0, width: 0 });
        self.parts().map(Part::most).fold(none, |(bytes, most), (of_part, size)| {
            let (height, width) = (most.height.max(size.height), most.width.max(size.width));
            (bytes.max(of_part), Size { height, width })
        })
    }

    /// The good records of each class: four bytes for each record, kept from the first call on, which looks at all of
    /// them. `None` if there are more than 2^32.
    pub(crate) fn by_class(&self) -> Option<&Arc<ClassTable>> {
        let len = u32::try_from(self.len).ok()?;
        Some(self.by_class.get_or_init(|| {
            let good = || {
                let records = (0..len).map(|id| (id, self.record(id.into())));
                records.filter(|(_, record)| record.good).map(|(id, record)| (id, record.label))
            };
            Arc::new(ClassTable::new(self.classes.len(), good))
        }))
    }

    /// Counts, sizes, formats, classes and bad records of its first part, which is all of it if it is not mixed.
    pub fn summary(&self) -> Summary {
        self.parts[0].part.summary()
    }

    /// What may be a mistake about the splits of a path: images that this one, which was opened by `path`, has in common
    /// with others whose indexes lie beside its own.
    pub fn common_with_other_splits(&self, path: &Path, index_dir: Option<&Path>) -> Vec<String> {
        self.parts[0].part.common_with_other_splits(path, index_dir)
    }
}
