//! Measured times of the stages of mixing on a GPU, by its own clock.
//!
//! Each round has another buffer of the host, and nothing of the one before in the cache: a server never mixes a batch twice.

use std::time::Duration;

use super::lane::MixLane;
use super::parts::parts;
use crate::gpu::{DeviceError, Gpu, HostBytes, Kernel};
use crate::mix::job::MixJob;

/// Number of rounds, of which the fastest counts: the GPU's clock is low during the first ones.
pub(super) const ROUNDS: usize = 10;

/// Number of buffers that take turns.
pub(super) const BUFFERS: usize = 3;

/// Measures upload, kernel and download of a job's first part, and scales them to the whole.
pub(super) fn measure_stages(
    device: &Gpu,
    lane: &mut MixLane,
    kernel: &Kernel,
    buffers: &mut [HostBytes],
    job: &MixJob<'_>,
) -> Result<[Duration; 3], DeviceError> {
    let n = job.plan.samples.len();
    let part = parts(n, lane.max_samples(job)?).next().expect("a batch is not empty");
    let scale = n as f64 / part.len() as f64;
    let scratch = device.scratch(0)?;
    let events = [device.timing_event()?, device.timing_event()?];
    let [mut upload, mut mix, mut download] = [Duration::MAX; 3];
    lane.upload_parameters(job, &part)?;
    for round in 0..ROUNDS {
        let buffer = buffers[round % BUFFERS].pinned().expect("a buffer of the mixer's memory");
        lane.record(&events[0])?;
        lane.upload_pixels(buffer, job, &part)?;
        lane.record(&events[1])?;
        upload = upload.min(events[1].since(&events[0])?);
        scratch.clear_cache(lane.lane())?;
        lane.record(&events[0])?;
        let out = lane.launch(kernel, job, part.len())?;
        lane.record(&events[1])?;
        mix = mix.min(events[1].since(&events[0])?);
        lane.record(&events[0])?;
        lane.download_payload(out, buffer, job, &part)?;
        lane.record(&events[1])?;
        download = download.min(events[1].since(&events[0])?);
    }
    Ok([upload, mix, download].map(|time| time.mul_f64(scale)))
}
