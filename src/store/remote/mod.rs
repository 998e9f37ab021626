//! Reads records from buckets, through a cache on disk and a bounded amount of memory.
//!
//! ```text
//!   want(records of a microbatch) --> pool: requests in flight together --> cache on disk, or memory
//!   read(record) <-- memory, cache;  or else a request, for which the reader waits: a late read
//! ```
//!
//! A microbatch is made once its want is ready, so that no worker waits for a network. Only what a cache lost in
//! between, or what did not fit into the memory, is read late.

mod counters;
mod plan;
mod pool;
mod shards;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub use counters::StorageTotals;
pub(crate) use pool::{OnReady, StoreRuns, Want};

use self::counters::Counters;
use self::plan::Run;
use self::pool::{Pool, Urgency};
use self::shards::{Fate, Shards};
use super::bucket::{self, Bucket, Object, Traffic};
use super::cache::{BLOCK, Cache};
use super::error::StoreError;

/// What the datasets of a process that are in buckets share: memory, and the cache on disk.
#[derive(Debug)]
pub struct Storage {
    pool: Pool,
    cache: Option<Arc<Cache>>,
    counters: Arc<Counters>,
}

impl Storage {
    /// Storage that holds at most `bytes` in memory, on their way or until they are read.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn new(cache: Option<Cache>, bytes: u64) -> io::Result<Self> {
        let counters = Arc::<Counters>::default();
        let pool = Pool::new(bytes, Arc::clone(&counters))?;
        Ok(Self { pool, cache: cache.map(Arc::new), counters })
    }

    /// The cache on disk, if there is one.
    pub fn cache(&self) -> Option<&Cache> {
        self.cache.as_deref()
    }

    /// Most bytes in memory.
    pub fn limit(&self) -> u64 {
        self.pool.limit()
    }

    /// Totals since the start.
    pub fn totals(&self) -> StorageTotals {
        self.counters.totals(self.pool.bytes())
    }

    /// Begins to fetch ranges for a client, all at once. `ranges` is called on another thread.
    pub(crate) fn want(
        &self,
        client: Arc<str>,
        ranges: impl FnOnce() -> Vec<StoreRuns> + Send + 'static,
        on_ready: OnReady,
    ) -> Want {
        self.pool.want(Box::new(ranges), Urgency::Needed(client, on_ready))
    }

    /// Begins to fetch ranges that will be wanted.
    pub(crate) fn want_ahead(
        &self,
        ranges: impl FnOnce() -> Vec<StoreRuns> + Send + 'static,
    ) -> Want {
        self.pool.want(Box::new(ranges), Urgency::Ahead)
    }
}

/// A record in a shard, or the compressed range that it is in, by number, first byte and length.
pub(crate) type Location = (u32, u64, u32);

/// The shards of a dataset in a bucket.
#[derive(Debug)]
pub(crate) struct RemoteStore {
    number: u32,
    shards: Arc<Shards>,
    storage: Arc<Storage>,
}

impl RemoteStore {
    /// # Errors
    /// When a file of the cache is not one of its own.
    pub(crate) fn open(
        bucket: Arc<dyn Bucket>,
        objects: Vec<Object>,
        storage: Arc<Storage>,
    ) -> Result<Self, StoreError> {
        let shards = Arc::new(Shards::open(bucket, objects, storage.cache.clone())?);
        Ok(Self { number: storage.pool.store(), shards, storage })
    }

    pub(crate) const fn storage(&self) -> &Arc<Storage> {
        &self.storage
    }

    pub(crate) fn traffic(&self) -> Traffic {
        self.shards.bucket.traffic()
    }

    /// The ranges of records, for a want of the [`Storage`].
    pub(crate) fn runs(&self, records: impl IntoIterator<Item = Location>) -> StoreRuns {
        let runs = records.into_iter().map(run).collect();
        StoreRuns { store: self.number, shards: Arc::clone(&self.shards), runs }
    }

    /// Reads a record, or the compressed range that it is in, and asks `is_right` whether it is what was indexed. If
    /// not, what the cache has of it is replaced, once: a disk may be damaged, or the machine may have failed while the
    /// cache was written.
    ///
    /// # Errors
    /// When the bytes cannot be read or are not those that were indexed.
    pub(crate) fn read_checked(
        &self,
        location: Location,
        buffer: &mut Vec<u8>,
        mut is_right: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let run = run(location);
        buffer.resize(location.2 as usize, 0);
        self.read(&run, buffer)?;
        if !is_right(buffer) {
            self.counters().damaged.fetch_add(1, Ordering::Relaxed);
            self.replace(&run, buffer)?;
            if !is_right(buffer) {
                for wrong in self.shards.forget(&run) {
                    self.shards.release(reserved(&wrong));
                }
                return Err(StoreError::ChecksumMismatch);
            }
        }
        Ok(())
    }

    fn counters(&self) -> &Counters {
        &self.storage.counters
    }

    fn read(&self, run: &Run, buffer: &mut [u8]) -> Result<(), StoreError> {
        let (mut hits, mut at) = (0, run.range.start);
        while at < run.range.end {
            let left = Run { shard: run.shard, range: at..run.range.end };
            let into = &mut buffer[offset(run, at)..];
            let end = match self.storage.pool.held(self.number, run.shard, at) {
                Some((start, bytes)) => {
                    let from = &bytes[usize::try_from(at - start).expect("inside")..];
                    let length = from.len().min(into.len());
                    into[..length].copy_from_slice(&from[..length]);
                    at + length as u64
                }
                None => self.read_part(&left, into, &mut hits)?,
            };
            at = end;
        }
        self.counters().cache_bytes.fetch_add(hits, Ordering::Relaxed);
        self.counters().remote_bytes.fetch_add(run.bytes() - hits, Ordering::Relaxed);
        Ok(())
    }

    /// Reads the first part of a run that is not in memory, from the cache or, late, from the bucket. Returns where
    /// the part ends.
    fn read_part(&self, run: &Run, into: &mut [u8], hits: &mut u64) -> Result<u64, StoreError> {
        let parts = self.shards.parts(run);
        let part = &parts[0];
        let end = part.range.end;
        if !part.is_cached {
            let into = &mut into[..offset(run, end)];
            return self.read_late(run.shard, part.range.clone(), into).map(|()| end);
        }
        if let Ok(hit) =
            self.shards.read_cached(run.shard, run.range.start, &mut into[..offset(run, end)])
        {
            *hits += hit;
            return Ok(end);
        }
        // One of its blocks cannot be read. If it is the first one, it is written again, or fetched each time.
        let end = end.min((run.range.start / BLOCK + 1) * BLOCK);
        let first = Run { shard: run.shard, range: run.range.start..end };
        let into = &mut into[..offset(run, end)];
        if let Ok(hit) = self.shards.read_cached(run.shard, run.range.start, into) {
            *hits += hit;
        } else if self.shards.fail(run.shard, run.range.start) {
            self.counters().late_reads.fetch_add(1, Ordering::Relaxed);
            self.replace(&first, into)?;
        } else {
            self.read_late(run.shard, first.range, into)?;
        }
        Ok(end)
    }

    fn read_late(&self, shard: u32, range: Range<u64>, into: &mut [u8]) -> Result<(), StoreError> {
        self.counters().late_reads.fetch_add(1, Ordering::Relaxed);
        into.copy_from_slice(&self.fetch(shard, range)?);
        Ok(())
    }

    /// Reads a record from the bucket, and replaces what the cache has of it.
    fn replace(&self, run: &Run, buffer: &mut [u8]) -> Result<(), StoreError> {
        let wrong = self.shards.forget(run);
        let start = wrong.first().map_or(run.range.start, |first| first.start.min(run.range.start));
        let end = wrong.last().map_or(run.range.end, |last| last.end.max(run.range.end));
        let fetched = self.fetch(run.shard, start..end);
        if fetched.is_err() {
            for range in &wrong {
                self.shards.release(reserved(range));
            }
        }
        let bytes = fetched?;
        let part = |range: &Range<u64>| {
            let index = |at: u64| usize::try_from(at - start).expect("inside of the bytes");
            &bytes[index(range.start)..index(range.end)]
        };
        buffer.copy_from_slice(part(&run.range));
        for range in wrong {
            let blocks = Run { shard: run.shard, range };
            // If the disk refuses them, they are fetched each time.
            let Fate::Cached(reserved) = reserved(&blocks.range) else { continue };
            let _kept = self.shards.keep(&blocks, reserved, part(&blocks.range));
        }
        Ok(())
    }

    fn fetch(&self, shard: u32, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let Shards { bucket, objects, .. } = &*self.shards;
        bucket::read(&**bucket, &objects[shard as usize], range)
    }
}

fn run((shard, offset, length): Location) -> Run {
    Run { shard, range: offset..offset + u64::from(length) }
}

/// Index of a byte of a run in a buffer that has its bytes.
fn offset(run: &Run, at: u64) -> usize {
    usize::try_from(at - run.range.start).expect("inside of a record")
}

/// The place of whole blocks in the cache, as a reservation.
fn reserved(blocks: &Range<u64>) -> Fate {
    Fate::Cached((blocks.end - blocks.start).next_multiple_of(BLOCK))
}
