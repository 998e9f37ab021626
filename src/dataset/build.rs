//! Builds the index: lists the records, then reads, decodes and checksums each of them.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::digest;
use super::error::DatasetError;
use super::index::{
    self, Contents, EntryPointsFile, IndexedRecord, NameRange, Record, StoredPoints,
};
use super::layouts::{ListedRecord, Listing, Location, Skipped, Source, index_path, stray};
use super::reader::Dataset;
use super::summary::Summary;
use crate::decode::{self, DecodeError, Decoder};
use crate::geometry::Size;
use crate::store::{ByteRange, ShardKey, Store};

/// Records that are decoded before their entry points are written out. Those of a whole dataset do not
/// fit into memory.
const CHUNK: usize = 2048;

/// The share of samples that are skipped without a question.
pub const MAX_SKIPPED: f64 = 0.01;

/// So many samples may always be skipped unless none may, because one is a large share of a small dataset.
const FEW: f64 = 10.0;

/// The progress of indexing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Number of records that were checked.
    pub done: u64,
    /// Number of records of the dataset.
    pub total: u64,
}

/// Indexes the dataset at a path on `threads` threads, and writes the index beside the dataset or into
/// `index_dir`.
///
/// The index appears whole, by a rename, or not at all: a run that is killed leaves the previous index.
/// A record that does not decode becomes a bad record, which is replaced when it is served. Samples that
/// cannot be used are skipped, up to [`MAX_SKIPPED`] of all.
///
/// # Errors
/// [`DatasetError::Missing`], [`DatasetError::NotADataset`] and the errors of each layout if the path
/// is not a dataset, [`DatasetError::Empty`] if it has no records, [`DatasetError::TooManySkipped`] if it
/// has too many others, [`DatasetError::Store`] if a file cannot be read or the index cannot be written,
/// and [`DatasetError::Threads`] if the operating system refuses the threads.
pub fn build(
    path: &Path,
    index_dir: Option<&Path>,
    threads: usize,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Summary, DatasetError> {
    build_skipping(MAX_SKIPPED, path, index_dir, threads, progress)
}

/// As [`build`], with another share of samples that may be skipped; 0 allows none.
///
/// # Errors
/// Those of [`build`].
pub fn build_skipping(
    max_skipped: f64,
    path: &Path,
    index_dir: Option<&Path>,
    threads: usize,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Summary, DatasetError> {
    let threads = threads.max(1);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|number| format!("index-{number}"))
        .build()
        .map_err(|error| DatasetError::Threads { threads, error: error.to_string() })?;
    let mut listing = pool.install(|| Source::find(path)?.list())?;
    check_skipped(path, &listing, max_skipped)?;
    let store = Store::open(listing.root.clone(), &listing.shards)?;
    let file = index_path(path, index_dir);
    let mut entry_points = EntryPointsFile::create(index::folder_of(&file))?;
    let checked = pool.install(|| check_all(&mut listing, &store, &mut entry_points, progress))?;
    check_skipped(path, &listing, max_skipped)?;
    let skipped = listing.skipped.finish();
    index::write(&file, &contents(&listing, &skipped, &checked).sections(), Some(entry_points))?;
    Ok(Dataset::open(path, index_dir)?.summary())
}

/// Refuses a dataset without records, or with too many samples that were skipped.
fn check_skipped(path: &Path, listing: &Listing, max_skipped: f64) -> Result<(), DatasetError> {
    let (records, skipped) = (listing.records.len() as u64, listing.skipped.total());
    let samples = records + skipped;
    let share = (samples as f64 * max_skipped).floor();
    let limit = if max_skipped > 0.0 { share.max(FEW) } else { 0.0 };
    let too_many = skipped as f64 > limit;
    if !too_many && records > 0 {
        return Ok(());
    }
    let reasons = listing.skipped.finish();
    let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
    let reasons = reasons.join("; ");
    let path = path.into();
    if too_many {
        return Err(DatasetError::TooManySkipped { path, skipped, samples, limit, reasons });
    }
    let skipped = if reasons.is_empty() { reasons } else { format!("; skipped: {reasons}") };
    Err(DatasetError::Empty { path, skipped })
}

/// A record that was read and decoded.
struct Checked {
    record: Record,
    points: StoredPoints,
    /// The reason why it is bad, if it is.
    reason: Option<String>,
}

/// What became of a listed record.
enum Outcome {
    /// It was read and decoded: with its entry points, or with the reason why it is bad.
    Checked(Record, Result<Vec<u8>, DecodeError>),
    /// It cannot be read, for this reason.
    Skipped(&'static str),
}

/// Reads and decodes all records. Those that cannot be read leave the listing.
fn check_all(
    listing: &mut Listing,
    store: &Store,
    entry_points: &mut EntryPointsFile,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Vec<Checked>, DatasetError> {
    let total = listing.records.len() as u64;
    let done = AtomicU64::new(0);
    let mut all = Vec::with_capacity(listing.records.len());
    let mut read = Vec::with_capacity(listing.records.len());
    for (number, chunk) in (0_u64..).zip(listing.records.chunks(CHUNK)) {
        let first = number * CHUNK as u64;
        let outcomes: Vec<Outcome> = chunk
            .par_iter()
            .enumerate()
            // Allocating a worker's buffers costs as much as decoding a few images.
            .with_min_len(32)
            .map_init(<(Decoder, Vec<u8>)>::default, |(decoder, buffer), (index, listed)| {
                let id = first + index as u64;
                let checked = check(listed, id, store, decoder, buffer)?;
                progress(Progress { done: done.fetch_add(1, Ordering::Relaxed) + 1, total });
                Ok(checked)
            })
            .collect::<Result<_, DatasetError>>()?;
        for (listed, outcome) in chunk.iter().zip(outcomes) {
            read.push(matches!(outcome, Outcome::Checked(..)));
            let (record, verdict) = match outcome {
                Outcome::Checked(record, verdict) => (record, verdict),
                Outcome::Skipped(reason) => {
                    listing.skipped.add(reason, || listed.name.clone());
                    continue;
                }
            };
            let (points, reason) = match verdict {
                Ok(points) => (points, None),
                Err(error) => (Vec::new(), Some(error.to_string())),
            };
            all.push(Checked { record, points: entry_points.push(&points)?, reason });
        }
    }
    let mut read = read.into_iter();
    listing.records.retain(|_| read.next().expect("one for each record"));
    Ok(all)
}

/// Reads and decodes a record.
fn check(
    listed: &ListedRecord,
    id: u64,
    store: &Store,
    decoder: &mut Decoder,
    buffer: &mut Vec<u8>,
) -> Result<Outcome, DatasetError> {
    let ListedRecord { name, label, location } = listed;
    let (shard, offset, read) = match *location {
        Location::File => (0, 0, store.read_file(name, buffer)),
        Location::Shard { number, offset, length } => {
            let range = ByteRange { shard: ShardKey::Number(number), offset, length };
            (number, offset, store.read(range, buffer))
        }
    };
    if let Err(error) = read {
        let is_file = matches!(location, Location::File);
        return match stray::reason(&error) {
            Some(reason) if is_file => Ok(Outcome::Skipped(reason)),
            _ => Err(DatasetError::Record { record: id, name: name.clone(), error }),
        };
    }
    let bytes = buffer.as_slice();
    let verdict = decode::verify(bytes, decoder);
    let header = decode::probe(bytes).ok();
    let record = Record {
        label: *label,
        size: header.map_or(Size { height: 0, width: 0 }, |header| header.size),
        length: u32::try_from(bytes.len()).expect("the store bounds records"),
        format: header.map(|header| header.format),
        color: header.map(|header| header.color),
        progressive: header.is_some_and(|header| header.progressive),
        good: verdict.is_ok(),
        checksum: xxh3_64(bytes),
        shard,
        offset,
        name: NameRange::default(),
    };
    Ok(Outcome::Checked(record, verdict.map(|(_, points)| points)))
}

fn contents<'a>(
    listing: &'a Listing,
    skipped: &'a [Skipped],
    checked: &'a [Checked],
) -> Contents<'a> {
    let pairs = || listing.records.iter().zip(checked);
    let digest = digest::of(
        &listing.classes,
        pairs().map(|(listed, checked)| (listed.name.as_str(), &checked.record)),
    );
    let records = pairs().map(|(listed, checked)| IndexedRecord {
        name: &listed.name,
        record: checked.record,
        points: checked.points,
        reason: checked.reason.as_deref(),
    });
    Contents {
        digest,
        layout: listing.layout,
        shards: &listing.shards,
        classes: &listing.classes,
        skipped,
        records: records.collect(),
    }
}
