//! Sums over what trainers received.

use std::time::Duration;

use forebay_client::{Microbatch, Timings};

use crate::check::digest;

/// The sums of one or several trainers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    pub(crate) microbatches: u64,
    /// Microbatches that were not made for this request.
    pub(crate) reused: u64,
    pub(crate) images: u64,
    pub(crate) bytes: u64,
    /// Longest time that a trainer waited for its first microbatch.
    pub(crate) first: Duration,
    /// Wrapping sum of the digests, which does not depend on the order.
    pub(crate) checksum: u64,
    /// Sum of the servers' timings.
    pub(crate) server: Timings,
}

impl Received {
    pub(crate) fn record(&mut self, microbatch: &Microbatch) {
        self.microbatches += 1;
        self.reused += u64::from(microbatch.timings.make.is_zero());
        self.images += microbatch.records.len() as u64;
        self.bytes += microbatch.pixels.len() as u64;
        self.checksum = self.checksum.wrapping_add(digest(microbatch));
        self.server += microbatch.timings;
    }

    /// Adds what another trainer received.
    pub(crate) fn add(&mut self, other: &Self) {
        self.microbatches += other.microbatches;
        self.reused += other.reused;
        self.images += other.images;
        self.bytes += other.bytes;
        self.first = self.first.max(other.first);
        self.checksum = self.checksum.wrapping_add(other.checksum);
        self.server += other.server;
    }
}
