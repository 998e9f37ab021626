//! Runs training steps and takes their time.

use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use forebay_types::MicrobatchName;
use forebay_types::process::cpu_time;

use super::report::{Measured, Quartiles};
use crate::backend::{Backend, MicroStep};
use crate::batch::{Batch, Pixels};
use crate::training_loop::TrainConfig;

/// Number of microbatches that take turns.
const MICROBATCHES: u32 = 3;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steps {
    /// Samples of a step.
    pub(crate) batch: usize,
    /// Height and width of the images.
    pub(crate) side: usize,
    pub(crate) classes: usize,
    /// Steps before the first one that counts, at least one.
    pub(crate) warm_up: u64,
    /// Steps that count, at least one.
    pub(crate) measured: u64,
}

/// Measures steps by the clock of the host.
pub(super) fn host_steps(backend: &mut dyn Backend, steps: &Steps) -> anyhow::Result<Measured> {
    let (ends, host) = run(backend, steps, |_| Ok(Instant::now()))?;
    Ok(measured(steps, ends.windows(2).map(|ends| ends[1] - ends[0]).collect(), &host))
}

/// Measures steps by the clock of the GPU: from the end of one step's work to the end of the next.
#[cfg(feature = "cuda")]
pub(crate) fn gpu_steps(
    gpu: &mut crate::backend::cuda::CudaBackend,
    steps: &Steps,
) -> anyhow::Result<Measured> {
    let (ends, host) = run(gpu, steps, |gpu| {
        let event = gpu.device().timing_event()?;
        gpu.lane().record(&event)?;
        Ok(event)
    })?;
    let times = ends.windows(2).map(|ends| ends[1].since(&ends[0]));
    Ok(measured(steps, times.collect::<Result<_, _>>()?, &host))
}

/// What a step takes of the host.
struct HostTimes {
    /// CPU time of the process.
    busy: Duration,
    /// Wall time until all work of the step was queued, which is all of the step on the CPU.
    queued: Duration,
}

/// Runs steps. `end` is called where the work of one has been queued. Returns the ends, that of the last warm-up step first, and
/// the host's times of the steps after it.
fn run<B: Backend + ?Sized, E>(
    backend: &mut B,
    steps: &Steps,
    mut end: impl FnMut(&B) -> anyhow::Result<E>,
) -> anyhow::Result<(Vec<E>, Vec<HostTimes>)> {
    let config = TrainConfig::preset("a3", 0.0, 1, 1)?;
    let micro = MicroStep { drop_path: None, loss: &config.loss, weight: 1.0, last: true };
    let images = (0..MICROBATCHES).map(|seed| generated_batch(steps, seed));
    let images = images.collect::<anyhow::Result<Vec<_>>>()?;
    let (mut ends, mut host) = (Vec::new(), Vec::new());
    for (step, batch) in (1..=steps.warm_up + steps.measured).zip(images.iter().cycle()) {
        let (start, busy) = (Instant::now(), cpu_time());
        backend.forward(batch, &micro)?;
        backend.backward(batch, &micro)?;
        backend.update(&config.optimizer, None, 1e-3, None)?;
        let (ended, queued) = (end(backend)?, start.elapsed());
        check(backend.poll_report(false)?)?;
        if step >= steps.warm_up {
            ends.push(ended);
        }
        if step > steps.warm_up {
            host.push(HostTimes { busy: cpu_time().saturating_sub(busy), queued });
        }
    }
    while let Some(report) = backend.poll_report(true)? {
        check(Some(report))?;
    }
    Ok((ends, host))
}

/// Steps that do not train are no measurement.
fn check(report: Option<crate::backend::UpdateReport>) -> anyhow::Result<()> {
    let losses = report.map(|report| report.losses).unwrap_or_default();
    ensure!(losses.iter().all(|loss| loss.is_finite()), "a step has the loss {losses:?}");
    Ok(())
}

fn measured(steps: &Steps, times: Vec<Duration>, host: &[HostTimes]) -> Measured {
    let step_ms = Quartiles::of(times);
    Measured {
        steps: steps.measured,
        step_ms,
        images_per_s: steps.batch as f64 / (step_ms.median / 1e3),
        cpu_ms: Quartiles::of(host.iter().map(|host| host.busy).collect()).median,
        queued_ms: Quartiles::of(host.iter().map(|host| host.queued).collect()).median,
    }
}

/// A microbatch of noise, another one for each seed.
fn generated_batch(steps: &Steps, seed: u32) -> anyhow::Result<Batch> {
    let values = u32::try_from(steps.batch * steps.side * steps.side * 3)?;
    let noise = |i: u32| i.wrapping_add(seed << 24).wrapping_mul(0x9E37_79B1).to_le_bytes()[3];
    let pixels: Vec<u8> = (0..values).map(noise).collect();
    let classes = u32::try_from(steps.classes)?;
    let labels: Vec<u32> = (0..u32::try_from(steps.batch)?).map(|i| (i + seed) % classes).collect();
    Ok(Batch {
        name: MicrobatchName { seed: 0, epoch: 0, step: 0, index: 0 },
        size: (steps.side, steps.side),
        pixels: Pixels::Bytes(Bytes::from(pixels)),
        label_a: labels.clone(),
        label_b: labels,
        lambda: vec![1.0; steps.batch],
    })
}
