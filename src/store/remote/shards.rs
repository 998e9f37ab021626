//! The shards of a dataset in a bucket, with the parts of them that are cached.

use std::ops::Range;
use std::sync::Arc;

use super::super::bucket::{self, Bucket, Object};
use super::super::cache::{BLOCK, Cache, CachedShard, Part};
use super::super::error::StoreError;
use super::plan::Run;

/// Number of files of a cache that a dataset keeps open.
const KEPT_OPEN: usize = 256;

/// The shards of a dataset.
#[derive(Debug)]
pub(super) struct Shards {
    pub(super) bucket: Arc<dyn Bucket>,
    pub(super) objects: Vec<Object>,
    cached: Vec<Option<CachedShard>>,
    cache: Option<Arc<Cache>>,
}

/// What becomes of the bytes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// They are whole blocks for which the cache has reserved this many bytes.
    Cached(u64),
    /// They stay in memory until they are read.
    Held,
}

impl Shards {
    /// # Errors
    /// When a file of the cache is not one of its own, or cannot be opened.
    pub(super) fn open(
        bucket: Arc<dyn Bucket>,
        objects: Vec<Object>,
        cache: Option<Arc<Cache>>,
    ) -> Result<Self, StoreError> {
        let open = |(number, object): (usize, &Object)| {
            let Some(cache) = &cache else { return Ok(None) };
            let url = bucket::url_of(&*bucket, &object.key);
            let mut shard = match cache.shard(&url, object.size, &object.tag) {
                // A cache that cannot be written does not keep a dataset from being served.
                Err(StoreError::Io { .. }) => {
                    cache.stop();
                    None
                }
                shard => shard?,
            };
            if let Some(shard) = shard.as_mut().filter(|_| number >= KEPT_OPEN) {
                shard.close();
            }
            Ok(shard)
        };
        let cached = objects.iter().enumerate().map(open).collect::<Result<_, StoreError>>()?;
        Ok(Self { bucket, objects, cached, cache })
    }

    fn cached(&self, shard: u32) -> Option<&CachedShard> {
        self.cached[shard as usize].as_ref()
    }

    /// The parts of a range, cached or not.
    pub(super) fn parts(&self, run: &Run) -> Vec<Part> {
        match self.cached(run.shard) {
            Some(cached) => cached.parts(run.range.clone()),
            None => vec![Part { range: run.range.clone(), is_cached: false }],
        }
    }

    /// Most bytes that are requested for a run.
    pub(super) fn most_bytes(&self, run: &Run) -> u64 {
        match (&self.cache, self.cached(run.shard)) {
            (Some(cache), Some(cached)) if cache.may_grow() => {
                let whole = cached.whole_blocks(&run.range);
                whole.end - whole.start
            }
            _ => run.bytes(),
        }
    }

    /// Extends a request to whole blocks if the cache has room for them. `may_extend` says whether a range may be
    /// requested instead.
    pub(super) fn admit(&self, run: Run, may_extend: impl Fn(&Run) -> bool) -> (Run, Fate) {
        let (Some(cache), Some(cached)) = (&self.cache, self.cached(run.shard)) else {
            return (run, Fate::Held);
        };
        let whole = Run { shard: run.shard, range: cached.whole_blocks(&run.range) };
        let bytes = self.missing(&whole);
        // What was given up could be written, and not read.
        if !cached.has_given_up(&whole.range) && may_extend(&whole) && cache.reserve(bytes) {
            (whole, Fate::Cached(bytes))
        } else {
            (run, Fate::Held)
        }
    }

    /// Bytes that the blocks of a run that are not cached would take.
    pub(super) fn missing(&self, run: &Run) -> u64 {
        self.cached(run.shard).map_or(0, |cached| cached.missing(&run.range) * BLOCK)
    }

    /// Adds the bytes of a request to the cache; false if the disk refused, so that they have to be held. What was
    /// reserved and is not needed is given back.
    pub(super) fn keep(&self, run: &Run, reserved: u64, bytes: &[u8]) -> bool {
        let (Some(cache), Some(cached)) = (&self.cache, self.cached(run.shard)) else {
            return false;
        };
        let written = cache.add(cached, run.range.start, bytes, reserved);
        if written.is_err() {
            cache.stop();
            cache.release(reserved);
        }
        written.is_ok()
    }

    /// Gives the reservation of a request that failed back.
    pub(super) fn release(&self, fate: Fate) {
        if let (Some(cache), Fate::Cached(bytes)) = (&self.cache, fate) {
            cache.release(bytes);
        }
    }

    /// Reads bytes that are in the cache. Returns how many of them were hits.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(super) fn read_cached(
        &self,
        shard: u32,
        start: u64,
        buffer: &mut [u8],
    ) -> std::io::Result<u64> {
        let cached = self.cached(shard).ok_or(std::io::ErrorKind::NotFound)?;
        cached.read(start, buffer)
    }

    /// The disk could not read the block of a byte that is in the cache. Returns whether it is to be written again.
    pub(super) fn fail(&self, shard: u32, at: u64) -> bool {
        match (&self.cache, self.cached(shard)) {
            (Some(cache), Some(cached)) => cache.fail(cached, at),
            _ => false,
        }
    }

    /// Removes what the cache has of a range, because it is wrong. Returns the blocks that it had: their place is
    /// still reserved, for whoever keeps them again or [releases](Self::release) it.
    pub(super) fn forget(&self, run: &Run) -> Vec<Range<u64>> {
        match (&self.cache, self.cached(run.shard)) {
            (Some(cache), Some(cached)) => cache.forget(cached, &run.range),
            _ => Vec::new(),
        }
    }
}
