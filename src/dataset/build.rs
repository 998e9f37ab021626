//! Builds the index: lists the records, then reads, decodes and checksums each of them.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::digest;
use super::error::DatasetError;
use super::index::{
    self, Contents, EntryPointsFile, IndexedRecord, NameRange, Record, StoredPoints,
};
use super::layouts::{
    self, Frame, ListedRecord, Listing, Location, SkipCounter, Skipped, index_path, stray,
};
use super::options::IndexOptions;
use super::part::Part;
use super::summary::Summary;
use super::unpack::{Codec, Packed, PackedRecord, Unpacker};
use crate::decode::{self, Decoder};
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
    build_with(path, index_dir, threads, &IndexOptions::default(), progress)
}

/// [`build`] with options.
///
/// # Errors
/// As [`build`], and [`DatasetError::Selection`] or [`DatasetError::Columns`] if an option names what is
/// not there.
pub fn build_with(
    path: &Path,
    index_dir: Option<&Path>,
    threads: usize,
    options: &IndexOptions,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Summary, DatasetError> {
    let pool = pool(threads)?;
    let mut listing = pool.install(|| layouts::list(layouts::find(path)?, options))?;
    let is_usable = |Listing { records, skipped, .. }: &Listing| {
        check_skipped(path, records.len(), skipped, options)
    };
    is_usable(&listing)?;
    write_index(&mut listing, &index_path(path, index_dir), &pool, is_usable, progress)?;
    Ok(Part::open(path, index_dir)?.summary())
}

/// Refuses a dataset without records, or with too many samples that were skipped.
///
/// # Errors
/// [`DatasetError::Empty`] or [`DatasetError::TooManySkipped`].
pub(super) fn check_skipped(
    path: &Path,
    records: usize,
    counts: &SkipCounter,
    options: &IndexOptions,
) -> Result<(), DatasetError> {
    let max_skipped = options.max_skipped.unwrap_or(MAX_SKIPPED);
    let (records, skipped) = (records as u64, counts.total());
    let samples = records + skipped;
    let share = (samples as f64 * max_skipped).floor();
    let limit = if max_skipped > 0.0 { share.max(FEW) } else { 0.0 };
    let too_many = skipped as f64 > limit;
    if !too_many && records > 0 {
        return Ok(());
    }
    let reasons = counts.finish();
    let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
    let reasons = reasons.join("; ");
    let path = path.into();
    if too_many {
        return Err(DatasetError::TooManySkipped { path, skipped, samples, limit, reasons });
    }
    let skipped = if reasons.is_empty() { reasons } else { format!("; skipped: {reasons}") };
    Err(DatasetError::Empty { path, skipped })
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

/// Checks the records of a listing, and writes their index to a file unless `is_usable` refuses what is left of them.
///
/// # Errors
/// When a record cannot be read, or the index cannot be written.
pub(super) fn write_index(
    listing: &mut Listing,
    file: &Path,
    pool: &rayon::ThreadPool,
    is_usable: impl Fn(&Listing) -> Result<(), DatasetError>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<(), DatasetError> {
    let store = Store::open(listing.root.clone(), &listing.shards)?;
    let mut entry_points = EntryPointsFile::create(index::folder_of(file))?;
    let checked = pool.install(|| check_all(listing, &store, &mut entry_points, progress))?;
    is_usable(listing)?;
    let skipped = listing.skipped.finish();
    index::write(file, &contents(listing, &skipped, &checked).sections(), Some(entry_points))?;
    Ok(())
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
    Checked(Record, Result<Vec<u8>, String>),
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
    let planar = listing.layout.planar();
    let done = AtomicU64::new(0);
    let mut all = Vec::with_capacity(listing.records.len());
    let mut read = Vec::with_capacity(listing.records.len());
    for (number, chunk) in (0_u64..).zip(listing.records.chunks(CHUNK)) {
        let first = number * CHUNK as u64;
        let outcomes: Vec<Vec<Outcome>> = tasks(chunk)
            .into_par_iter()
            .map_init(Scratch::default, |scratch, range| {
                let checked = |index: usize| {
                    let id = first + index as u64;
                    let checked = check(&chunk[index], id, planar, (store, &mut *scratch))?;
                    progress(Progress { done: done.fetch_add(1, Ordering::Relaxed) + 1, total });
                    Ok(checked)
                };
                range.map(checked).collect::<Result<Vec<Outcome>, DatasetError>>()
            })
            .collect::<Result<_, DatasetError>>()?;
        for (listed, outcome) in chunk.iter().zip(outcomes.into_iter().flatten()) {
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
                Err(reason) => (Vec::new(), Some(reason)),
            };
            all.push(Checked { record, points: entry_points.push(&points)?, reason });
        }
    }
    let mut read = read.into_iter();
    listing.records.retain(|_| read.next().expect("one for each record"));
    Ok(all)
}

/// Records that a thread checks one after another: allocating its buffers costs as much as decoding a few images.
const TASK: usize = 32;

/// Splits records into ranges, each for one thread. Those of a compressed page share it: a range has as many of them as
/// make an eighth of the page, so that all threads together decompress it a few times at most.
fn tasks(records: &[ListedRecord]) -> Vec<Range<usize>> {
    let page = |record: &ListedRecord| match record.location {
        Location::Packed {
            number,
            offset,
            packed: Packed { codec: Codec::Gzip { page } | Codec::Zstd { page }, .. },
            ..
        } => Some((number, offset, u64::from(page))),
        _ => None,
    };
    let length = |record: &ListedRecord| match record.location {
        Location::Packed { length, .. } => u64::from(length),
        _ => 0,
    };
    let (mut tasks, mut start) = (Vec::new(), 0);
    while start < records.len() {
        let of = page(&records[start]);
        let (mut end, mut bytes) = (start, 0);
        let is_enough = |count: usize, bytes: u64| match of {
            Some((.., page)) => count >= TASK && bytes >= page / 8,
            None => count >= TASK,
        };
        while end < records.len() && page(&records[end]) == of && !is_enough(end - start, bytes) {
            bytes += length(&records[end]);
            end += 1;
        }
        tasks.push(start..end);
        start = end;
    }
    tasks
}

/// The memory of a thread.
#[derive(Default)]
struct Scratch {
    decoder: Decoder,
    unpacker: Unpacker,
    buffer: Vec<u8>,
}

/// Reads and decodes a record.
fn check(
    listed: &ListedRecord,
    id: u64,
    planar: Option<Size>,
    (store, Scratch { decoder, unpacker, buffer }): (&Store, &mut Scratch),
) -> Result<Outcome, DatasetError> {
    let ListedRecord { name, label, location } = listed;
    let range =
        |number, offset, length| ByteRange { shard: ShardKey::Number(number), offset, length };
    let read = match *location {
        Location::File => store.read_file(name, buffer),
        Location::Shard { number, offset, length } => {
            store.read(range(number, offset, length), buffer)
        }
        Location::Framed { number, frame, .. } => {
            store.read(range(number, frame.offset, frame.length), buffer)
        }
        Location::Packed { number, offset, length, packed } => {
            let record = PackedRecord { dataset: 0, shard: number, offset, length, packed };
            let range = range(number, offset, packed.stored);
            let read_range = |stored: &mut Vec<u8>, is_right: &mut dyn FnMut(&[u8]) -> bool| {
                store.read_checked(range, stored, is_right)
            };
            unpacker.read(record, buffer, read_range, |_record| true)
        }
    };
    if let Err(error) = read {
        let is_file = matches!(location, Location::File);
        return match stray::reason(&error) {
            Some(reason) if is_file => Ok(Outcome::Skipped(reason)),
            _ => Err(DatasetError::Record { record: id, name: name.clone(), error }),
        };
    }
    let (shard, offset, bytes, intact) = match *location {
        Location::File => (0, 0, buffer.as_slice(), true),
        Location::Shard { number, offset, .. } | Location::Packed { number, offset, .. } => {
            (number, offset, buffer.as_slice(), true)
        }
        Location::Framed { number, offset, length, frame } => {
            let (bytes, intact) = within(buffer, offset, length, frame);
            (number, offset, bytes, intact)
        }
    };
    let verdict = match planar {
        Some(size) => decode::verify_planar(bytes, size).map(|header| (header, Vec::new())),
        None => decode::verify(bytes, decoder),
    };
    let header = match (planar, &verdict) {
        (Some(_), Ok((header, _))) => Some(*header),
        _ => decode::probe(bytes).ok(),
    };
    let verdict = match verdict {
        _ if !intact => Err("the checksum (CRC-32C) of its TFRecord is wrong".to_owned()),
        Ok((_, points)) => Ok(points),
        Err(error) => Err(error.to_string()),
    };
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
    Ok(Outcome::Checked(record, verdict))
}

/// A range inside of a frame that was read, and whether the frame has its checksum.
fn within(bytes: &[u8], offset: u64, length: u32, frame: Frame) -> (&[u8], bool) {
    let start = usize::try_from(offset - frame.offset).expect("inside of the frame");
    (&bytes[start..start + length as usize], crc32c::crc32c(bytes) == frame.crc32c)
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
        packed: listed.location.packed(),
        reason: checked.reason.as_deref(),
    });
    Contents {
        digest,
        layout: listing.layout,
        shards: &listing.shards,
        tags: &[],
        classes: &listing.classes,
        skipped,
        about: &listing.about,
        records: records.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_a_compressed_page_are_checked_by_few_threads() {
        let record = |location| ListedRecord { name: String::new(), label: 0, location };
        let packed = |page: u32, offset| {
            let packed = Packed { codec: Codec::Zstd { page }, stored: 100, skip: 0 };
            record(Location::Packed { number: 0, offset, length: 1000, packed })
        };
        // A page of a gigabyte with many small images is decompressed once for those of a chunk.
        let large: Vec<_> = (0..CHUNK).map(|_| packed(1 << 30, 7)).collect();
        assert_eq!(tasks(&large).len(), 1);
        // Eight threads share a page of photos, and others have its neighbor.
        let pages: Vec<_> = (0..2000).map(|row| packed(1_000_000, row / 1000)).collect();
        let found = tasks(&pages);
        assert_eq!((found.len(), found[7].clone(), found[8].clone()), (16, 875..1000, 1000..1125));
        let files: Vec<_> = (0..70).map(|_| record(Location::File)).collect();
        assert_eq!(tasks(&files), [0..32, 32..64, 64..70]);
        assert!(tasks(&[]).is_empty());
    }
}
