//! What reading from buckets has cost.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Totals of all reads from buckets since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StorageTotals {
    /// Bytes of records that were in the cache.
    pub cache_bytes: u64,
    /// Bytes of records that came from a bucket.
    pub remote_bytes: u64,
    /// Reads that a worker had to wait for, because their bytes were not fetched before.
    pub late_reads: u64,
    /// Records whose bytes in the cache or in memory were wrong, and were fetched again.
    pub damaged: u64,
    /// Microbatches that wait for their bytes.
    pub waiting: usize,
    /// Time that microbatches waited for their bytes.
    pub waited: Duration,
    /// Bytes on their way, or in memory until they are read.
    pub held_bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) cache_bytes: AtomicU64,
    pub(super) remote_bytes: AtomicU64,
    pub(super) late_reads: AtomicU64,
    pub(super) damaged: AtomicU64,
    pub(super) waiting: AtomicUsize,
    pub(super) waited_nanos: AtomicU64,
}

impl Counters {
    pub(super) fn totals(&self, held_bytes: u64) -> StorageTotals {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StorageTotals {
            cache_bytes: count(&self.cache_bytes),
            remote_bytes: count(&self.remote_bytes),
            late_reads: count(&self.late_reads),
            damaged: count(&self.damaged),
            waiting: self.waiting.load(Ordering::Relaxed),
            waited: Duration::from_nanos(count(&self.waited_nanos)),
            held_bytes,
        }
    }
}
