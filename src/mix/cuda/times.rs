//! What mixing takes on a GPU, measured: copies, kernel, and all of it as a server does it.

use std::time::{Duration, Instant};

use super::{Cuda, State, Work, parts};
use crate::gpu::DeviceError;
use crate::mix::Times;

/// Rounds, of which the quickest counts: the first ones find the GPU's clock low.
const ROUNDS: usize = 10;

impl Cuda {
    /// Measures some work. What is between the copies is taken of one part, and counted for all.
    ///
    /// # Errors
    /// When the GPU fails.
    pub(in crate::mix) fn times(&self, work: &Work<'_>) -> Result<Times, DeviceError> {
        let mut buffer = self.memory().allocate(work.buffer_bytes())?;
        let mut whole = Duration::MAX;
        for _ in 0..ROUNDS {
            let started = Instant::now();
            self.mix(&mut buffer, work)?;
            buffer.wait()?;
            whole = whole.min(started.elapsed());
        }
        let buffer = buffer.pinned().expect("a buffer of the mixer's memory");
        self.on_its_thread(|State { kernels, sides, .. }| {
            let n = work.plan.samples.len();
            let side = &mut sides[0];
            let kernel = kernels.mix(work.output.dtype, work.output.layout);
            let most = side.most_samples(work)?;
            let part = parts::parts(n, most).next().expect("a batch is not empty");
            let all = n as f64 / part.len() as f64;
            side.tell(work, &part)?;
            let sample = work.size.rgb_bytes();
            let out = sample * work.output.dtype.bytes();
            let upload = least(all, || {
                for (into, run) in part.runs(work.clean_at(), sample) {
                    side.upload_pixels(buffer, run, into)?;
                }
                side.lane.wait()
            })?;
            let mut at = 0;
            let kernel = least(all, || {
                at = side.launch(kernel, work, part.len())?;
                side.lane.wait()
            })?;
            let download = least(all, || {
                for (into, run) in part.runs(0, out) {
                    side.lane.download(at + into, buffer, run)?;
                }
                side.lane.wait()
            })?;
            Ok(Times { upload, kernel, download, whole })
        })
    }
}

/// The least time of several rounds, times a factor.
fn least(
    factor: f64,
    mut round: impl FnMut() -> Result<(), DeviceError>,
) -> Result<Duration, DeviceError> {
    let mut least = Duration::MAX;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        round()?;
        least = least.min(started.elapsed());
    }
    Ok(least.mul_f64(factor))
}
