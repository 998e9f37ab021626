//! What samples cost.

use std::ops::AddAssign;

use forebay_types::StageTimes;

/// The cost of making samples.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    /// CPU time of the workers.
    pub(super) stages: StageTimes,
    /// Number of images decoded: fewer than samples where repeats of a record share a decode.
    pub(super) decoded: u64,
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.stages += other.stages;
        self.decoded += other.decoded;
    }
}
