//! Measured times of the stages of mixing on a GPU.

use std::time::{Duration, Instant};

use super::lane::MixLane;
use super::parts::parts;
use crate::gpu::{DeviceError, Kernel, Pinned};
use crate::mix::job::MixJob;

/// Number of rounds, of which the fastest counts: the GPU's clock is low during the first ones.
pub(super) const ROUNDS: usize = 10;

/// Measures upload, kernel and download of a job's first part, and scales them to the whole.
pub(super) fn measure_stages(
    lane: &mut MixLane,
    kernel: &Kernel,
    buffer: &mut Pinned,
    job: &MixJob<'_>,
) -> Result<[Duration; 3], DeviceError> {
    let n = job.plan.samples.len();
    let part = parts(n, lane.max_samples(job)?).next().expect("a batch is not empty");
    let scale = n as f64 / part.len() as f64;
    lane.upload_parameters(job, &part)?;
    let upload = fastest(scale, || {
        lane.upload_pixels(buffer, job, &part)?;
        lane.wait()
    })?;
    let mut out = 0;
    let kernel = fastest(scale, || {
        out = lane.launch(kernel, job, part.len())?;
        lane.wait()
    })?;
    let download = fastest(scale, || {
        lane.download_payload(out, buffer, job, &part)?;
        lane.wait()
    })?;
    Ok([upload, kernel, download])
}

/// The time of the fastest of several rounds, times a factor.
fn fastest(
    scale: f64,
    mut round: impl FnMut() -> Result<(), DeviceError>,
) -> Result<Duration, DeviceError> {
    let mut fastest = Duration::MAX;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        round()?;
        fastest = fastest.min(started.elapsed());
    }
    Ok(fastest.mul_f64(scale))
}
