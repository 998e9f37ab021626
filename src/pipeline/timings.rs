//! Where the time of a microbatch goes.

use std::ops::AddAssign;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// CPU time by stage, summed over samples and workers. Repeats of a record that were made early for
/// other microbatches count where they were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// Finding the record, planning, reading and checking its bytes.
    pub read: Duration,
    /// From bytes to pixels.
    pub decode: Duration,
    /// Into the slot.
    pub resize: Duration,
    /// Operations.
    pub augment: Duration,
    /// MixUp, CutMix, normalisation, dtype and layout.
    pub mix: Duration,
    /// Digest of the payload.
    pub digest: Duration,
    /// Images decoded: fewer than samples where repeats of a record share a decode.
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

    /// All stages together.
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

/// Where the time of a microbatch went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Wall time from the request to the first worker's start: waiting for a maker and a buffer.
    pub queue: Duration,
    /// Wall time from the request to the finished microbatch.
    pub total: Duration,
    /// CPU time of the workers.
    pub stages: Stages,
}

impl Timings {
    /// Of one who got what was made for another.
    pub(super) fn waited(time: Duration) -> Self {
        Self { queue: time, total: time, stages: Stages::default() }
    }
}

impl AddAssign for Timings {
    fn add_assign(&mut self, other: Self) {
        self.queue += other.queue;
        self.total += other.total;
        self.stages += other.stages;
    }
}

/// A stopwatch of the calling thread's CPU time.
pub(super) struct Laps(Duration);

impl Laps {
    pub(super) fn start() -> Self {
        Self(thread_time())
    }

    /// CPU time since the start or the last lap.
    pub(super) fn lap(&mut self) -> Duration {
        let now = thread_time();
        now.saturating_sub(std::mem::replace(&mut self.0, now))
    }
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
