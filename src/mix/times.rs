//! Measured times of mixing.

use std::time::{Duration, Instant};

use super::cpu;
use super::job::MixJob;

/// Times of mixing a batch, each the minimum of several rounds.
#[derive(Clone, Copy, Debug)]
pub struct MixTimes {
    /// Copying the unmixed pixels to the device.
    pub upload: Duration,
    /// Mixing and converting.
    pub kernel: Duration,
    /// Copying the payload from the device.
    pub download: Duration,
    /// All of it, overlapping, from a buffer to the same buffer.
    pub whole: Duration,
}

impl MixTimes {
    /// One round on the CPU, which copies nothing.
    pub(super) fn on_cpu(job: &MixJob<'_>) -> Self {
        let mut buffer = vec![0; job.payload_bytes()];
        let started = Instant::now();
        cpu::mix_and_convert(&mut buffer, job, usize::MAX);
        let kernel = started.elapsed();
        Self { upload: Duration::ZERO, kernel, download: Duration::ZERO, whole: kernel }
    }
}
