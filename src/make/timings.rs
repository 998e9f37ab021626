//! The timings of a microbatch.

use std::ops::AddAssign;
use std::time::Duration;

/// CPU time by stage, summed over samples and workers. Samples that were precomputed for other
/// microbatches count where they were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// Locating the record, planning, reading and verifying its bytes.
    pub read: Duration,
    /// From bytes to pixels.
    pub decode: Duration,
    /// From pixels into the slot.
    pub resize: Duration,
    /// Augmentation operations on the slot.
    pub augment: Duration,
    /// MixUp, CutMix, normalization, dtype and layout.
    pub mix: Duration,
    /// Digest of the payload.
    pub digest: Duration,
    /// Number of images decoded: fewer than samples where repeats of a record share a decode.
    pub decoded: u64,
}

impl Stages {
    /// Each stage's name and time, in pipeline order.
    pub const fn named(&self) -> [(&'static str, Duration); 6] {
        [
            ("read", self.read),
            ("decode", self.decode),
            ("resize", self.resize),
            ("augment", self.augment),
            ("mix", self.mix),
            ("digest", self.digest),
        ]
    }

    /// The sum over all stages.
    pub fn sum(&self) -> Duration {
        self.named().iter().map(|(_, time)| *time).sum()
    }
}

impl AddAssign for Stages {
    fn add_assign(&mut self, other: Self) {
        self.read += other.read;
        self.decode += other.decode;
        self.resize += other.resize;
        self.augment += other.augment;
        self.mix += other.mix;
        self.digest += other.digest;
        self.decoded += other.decoded;
    }
}

/// The timings of a microbatch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Wall time from the request until the work began: waiting for a turn and for a buffer.
    pub queue: Duration,
    /// Wall time from the request until the microbatch was finished.
    pub total: Duration,
    /// CPU time of the workers.
    pub stages: Stages,
}

impl Timings {
    /// The timings of a requester that joined another: it waited, and no work was done for it.
    pub(crate) fn joined(waited: Duration) -> Self {
        Self { queue: waited, total: waited, stages: Stages::default() }
    }
}

impl AddAssign for Timings {
    fn add_assign(&mut self, other: Self) {
        self.queue += other.queue;
        self.total += other.total;
        self.stages += other.stages;
    }
}
