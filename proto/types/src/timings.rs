//! The time that a server spends on a microbatch.

use std::ops::AddAssign;
use std::time::Duration;

/// CPU time by stage, summed over samples and workers. Samples that were precomputed for other
/// microbatches count where they were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimes {
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
}

impl StageTimes {
    /// The names of the stages, in pipeline order.
    pub const NAMES: [&str; 6] = ["read", "decode", "resize", "augment", "mix", "digest"];

    /// The times in the order of [`NAMES`](Self::NAMES).
    pub const fn times(&self) -> [Duration; Self::NAMES.len()] {
        let Self { read, decode, resize, augment, mix, digest } = *self;
        [read, decode, resize, augment, mix, digest]
    }

    /// Each stage's name and time, in pipeline order.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, Duration)> {
        Self::NAMES.into_iter().zip(self.times())
    }

    /// The sum over all stages.
    pub fn sum(&self) -> Duration {
        self.times().into_iter().fold(Duration::ZERO, Duration::saturating_add)
    }
}

/// Saturates, because the times that a client adds up are whatever its servers claim.
impl AddAssign for StageTimes {
    fn add_assign(&mut self, other: Self) {
        let Self { read, decode, resize, augment, mix, digest } = self;
        let own = [read, decode, resize, augment, mix, digest];
        for (sum, time) in own.into_iter().zip(other.times()) {
            *sum = sum.saturating_add(time);
        }
    }
}

/// The time that a server spent on a microbatch, or on several if added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Wall time from the request until the work began: waiting for a turn and for a buffer.
    pub queue: Duration,
    /// Wall time of the work: from then until the microbatch was finished.
    pub make: Duration,
    /// CPU time of the workers.
    pub stages: StageTimes,
}

impl Timings {
    /// Each figure's name and time: `queue` and `make`, which are wall time, then the stages.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, Duration)> {
        [("queue", self.queue), ("make", self.make)].into_iter().chain(self.stages.named())
    }
}

impl AddAssign for Timings {
    fn add_assign(&mut self, other: Self) {
        self.queue = self.queue.saturating_add(other.queue);
        self.make = self.make.saturating_add(other.make);
        self.stages += other.stages;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times that differ from each other, so that an exchanged field shows.
    fn times(unit: u64) -> Timings {
        let at = |place| Duration::from_micros(place * unit);
        let stages = StageTimes {
            read: at(3),
            decode: at(4),
            resize: at(5),
            augment: at(6),
            mix: at(7),
            digest: at(8),
        };
        Timings { queue: at(1), make: at(2), stages }
    }

    #[test]
    fn every_figure_is_added_and_named() {
        let mut sum = times(1);
        sum += times(10);
        assert_eq!(sum, times(11));
        let (names, micros): (Vec<_>, Vec<_>) =
            sum.named().map(|(name, time)| (name, time.as_micros())).unzip();
        assert_eq!(
            names,
            ["queue", "make", "read", "decode", "resize", "augment", "mix", "digest"]
        );
        assert_eq!(micros, [11, 22, 33, 44, 55, 66, 77, 88]);
        assert_eq!(sum.stages.sum(), Duration::from_micros(33 * 11));
    }

    #[test]
    fn absurd_times_do_not_overflow() {
        let mut sum = Timings { queue: Duration::MAX, ..times(1) };
        sum.stages.mix = Duration::MAX;
        sum += sum;
        assert_eq!([sum.queue, sum.stages.mix, sum.stages.sum()], [Duration::MAX; 3]);
    }
}
