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
use super::layouts::{ListedRecord, Listing, Location, Skipped, Source, index_path};
use super::reader::Dataset;
use super::summary::Summary;
use crate::decode::{self, DecodeError, Decoder};
use crate::geometry::Size;
use crate::store::{ByteRange, ShardKey, Store};

/// Records that are decoded before their entry points are written out. Those of a whole dataset do not
/// fit into memory.
const CHUNK: usize = 2048;

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
/// A record that does not decode becomes a bad record, which is replaced when it is served.
///
/// # Errors
/// [`DatasetError::Missing`], [`DatasetError::NotADataset`] and the errors of each layout if the path
/// is not a dataset, [`DatasetError::Empty`] if it has no records, [`DatasetError::Store`] if a file
/// cannot be read or the index cannot be written, and [`DatasetError::Threads`] if the operating system
/// refuses the threads.
pub fn build(
    path: &Path,
    index_dir: Option<&Path>,
    threads: usize,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Summary, DatasetError> {
    let pool = pool(threads)?;
    let listing = pool.install(|| Source::find(path)?.list())?;
    if listing.records.is_empty() {
        let skipped = describe(&listing.skipped);
        return Err(DatasetError::Empty { path: path.into(), skipped });
    }
    write_index(&listing, &index_path(path, index_dir), &pool, progress)?;
    Ok(Dataset::open(path, index_dir)?.summary())
}

/// The threads that check records.
///
/// # Errors
/// [`DatasetError::Threads`] if the operating system refuses them.
pub(super) fn pool(threads: usize) -> Result<rayon::ThreadPool, DatasetError> {
    let threads = threads.max(1);
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|number| format!("index-{number}"))
        .build()
        .map_err(|error| DatasetError::Threads { threads, error: error.to_string() })
}

/// Checks the records of a listing, and writes their index to a file.
///
/// # Errors
/// When a record cannot be read, or the index cannot be written.
pub(super) fn write_index(
    listing: &Listing,
    file: &Path,
    pool: &rayon::ThreadPool,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<(), DatasetError> {
    let store = Store::open(listing.root.clone(), &listing.shards)?;
    let mut entry_points = EntryPointsFile::create(index::folder_of(file))?;
    let checked = pool.install(|| check_all(listing, &store, &mut entry_points, progress))?;
    index::write(file, &contents(listing, &checked).sections(), Some(entry_points))?;
    Ok(())
}

/// A record that was read and decoded.
struct Checked {
    record: Record,
    points: StoredPoints,
    /// The reason why it is bad, if it is.
    reason: Option<String>,
}

fn check_all(
    listing: &Listing,
    store: &Store,
    entry_points: &mut EntryPointsFile,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Vec<Checked>, DatasetError> {
    let total = listing.records.len() as u64;
    let done = AtomicU64::new(0);
    let mut all = Vec::with_capacity(listing.records.len());
    for (number, chunk) in (0_u64..).zip(listing.records.chunks(CHUNK)) {
        let first = number * CHUNK as u64;
        let verdicts: Vec<(Record, Result<Vec<u8>, DecodeError>)> = chunk
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
        for (record, verdict) in verdicts {
            let (points, reason) = match verdict {
                Ok(points) => (points, None),
                Err(error) => (Vec::new(), Some(error.to_string())),
            };
            all.push(Checked { record, points: entry_points.push(&points)?, reason });
        }
    }
    Ok(all)
}

/// Reads and decodes a record. Returns it with its entry points, or with the reason why it is bad.
fn check(
    listed: &ListedRecord,
    id: u64,
    store: &Store,
    decoder: &mut Decoder,
    buffer: &mut Vec<u8>,
) -> Result<(Record, Result<Vec<u8>, DecodeError>), DatasetError> {
    let ListedRecord { name, label, location } = listed;
    let (shard, offset, read) = match *location {
        Location::File => (0, 0, store.read_file(name, buffer)),
        Location::Shard { number, offset, length } => {
            let range = ByteRange { shard: ShardKey::Number(number), offset, length };
            (number, offset, store.read(range, buffer))
        }
    };
    read.map_err(|error| DatasetError::Record { record: id, name: name.clone(), error })?;
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
    Ok((record, verdict.map(|(_, points)| points)))
}

fn contents<'a>(listing: &'a Listing, checked: &'a [Checked]) -> Contents<'a> {
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
        tags: &[],
        classes: &listing.classes,
        skipped: &listing.skipped,
        records: records.collect(),
    }
}

/// The skipped samples, as the end of a sentence.
pub(super) fn describe(skipped: &[Skipped]) -> String {
    let part = |Skipped { count, reason, example }: &Skipped| {
        format!("; {count} samples were skipped because they have {reason}, such as {example}")
    };
    skipped.iter().map(part).collect()
}
