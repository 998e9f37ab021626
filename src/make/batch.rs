//! Makes one microbatch.

use forebay_types::process::CpuTimer;
use forebay_types::{MicrobatchName, PixelFormat, Timings};
use xxhash_rust::xxh3::xxh3_64;

use super::cost::Cost;
use super::repeat_cache::{RepeatCache, StepKey};
use super::repeats::Fill;
use super::request::{Job, Request, RequestKey};
use super::reuse::JobKey;
use super::scratch::{Large, bytes_for};
use super::worker::Workers;
use crate::batch::{BufferPool, Pixels};
use crate::error::Error;
use crate::geometry::Size;
use crate::mix::{MixJob, Mixer, NormalizeTable};
use crate::plan::{self, MixKind, MixPlan, MixSample};
use crate::schedule::Task;

/// A microbatch of n samples, ready for a trainer.
#[derive(Clone, Debug)]
pub struct MadeMicrobatch {
    /// The microbatch's name within dataset and recipe.
    pub name: MicrobatchName,
    /// The pixels, in the requested format.
    pub payload: Pixels,
    /// Type and layout of the pixels, mixed or not.
    pub format: PixelFormat,
    /// The four dimensions, in the order of the layout.
    pub shape: [u32; 4],
    /// Record numbers of the samples, after substitution of bad records.
    pub records: Vec<u64>,
    /// Labels of the samples.
    pub label_a: Vec<u32>,
    /// Labels of their partners; a sample that is not mixed has its own label here.
    pub label_b: Vec<u32>,
    /// Weights of `label_a`.
    pub lambda: Vec<f32>,
    /// The mixing that was applied, or that the trainer is to apply.
    pub plan: MixPlan,
    /// XXH3-64 of the payload.
    pub xxh3: u64,
    /// Time spent waiting, and in each stage.
    pub timings: Timings,
    /// Number of images decoded: fewer than samples where repeats of a record share a decode.
    pub decoded: u64,
}

/// The resources that all microbatches of a pipeline share.
pub(crate) struct MakeContext {
    pub(crate) workers: Workers,
    pub(crate) repeats: RepeatCache,
    pub(crate) buffers: BufferPool,
    pub(crate) mixer: Mixer,
}

/// Makes the microbatch of a task. While the buffer pool is exhausted, `evict` is called to free a
/// cached buffer.
///
/// # Errors
/// When the name is out of range, a record cannot be read or decoded, memory or the GPU fails, or all
/// waiters have cancelled.
pub(crate) fn make(
    task: &Task<RequestKey, Job>,
    context: &MakeContext,
    evict: impl Fn() -> bool,
) -> Result<MadeMicrobatch, Error> {
    let MakeContext { workers, repeats, buffers, mixer } = context;
    let request = &*task.job.request.in_epoch();
    let Request { dataset, recipe, name, format } = request;
    let slots = request.slots()?;
    let (n, size) = (slots.records.len(), Size::square(recipe.image_size));
    let plan = plan::mix(recipe, *name, n);
    let normalize = NormalizeTable::new(recipe);
    let mix = MixJob { size, plan: &plan, format: *format, normalize: &normalize };

    let most = slots.records.iter().map(|&record| bytes_for(dataset, record, size)).max();
    let bytes = microbatch_bytes(n as u64, mix.payload_bytes() as u64);
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let room = buffers.limit().saturating_sub(bytes);
    let large = Large::new(most.unwrap_or(0), workers.kept(), workers.count(), room);
    let apart = bytes - mix.payload_bytes();
    let lent = apart.saturating_add(large.map_or(0, |large| large.loan));
    let (mut buffer, mut loan) = buffers.acquire_with_loan(mix.payload_bytes(), lent, evict)?;
    let apart = loan.split(apart);
    let queue = task.since.elapsed();
    let digest = task.job.request.recipe.digest();
    let job = JobKey { dataset: dataset.digest(), recipe: digest, seed: name.seed };
    let step = StepKey { job, epoch: name.epoch, step: name.step };
    if !task.isolated {
        repeats.visit(step, slots.sampler.step(name.step));
    }

    let cancellation = &task.cancellation;
    let fill = Fill { request, cancellation, workers, cache: repeats, step, size, large };
    let mut cost = fill.fill_apart(&slots, mix.unmixed_slots(buffer.host()).collect())?;
    let fill = |pixels: Vec<&mut [u8]>| fill.fill(&slots, pixels);
    // Copies of large samples are made by as few workers.
    let mixing = large.and_then(|large| large.threads).unwrap_or(usize::MAX);
    let (filled, mix_time) =
        mixer.fill_and_mix(workers.pool(), buffer.host(), (&mix, mixing), fill)?;
    drop(loan);
    cost += filled;
    let Cost { mut stages, decoded } = cost;
    stages.mix = mix_time;
    let mut timer = CpuTimer::start();
    let xxh3 = xxh3_64(&buffer);
    stages.digest = timer.lap();

    let label_a: Vec<u32> = slots.records.iter().map(|&id| dataset.record(id).label).collect();
    Ok(MadeMicrobatch {
        name: *name,
        payload: Pixels::with_loan(buffer, apart),
        format: *format,
        shape: format.layout.shape(slots.count(), size.height, size.width),
        records: slots.records,
        label_b: partner_labels(&plan, &label_a),
        label_a,
        lambda: plan.samples.iter().map(MixSample::label_weight).collect(),
        plan,
        xxh3,
        timings: Timings { queue, make: task.since.elapsed().saturating_sub(queue), stages },
        decoded,
    })
}

/// Bytes that a sample has besides its pixels: record, labels, weights, plan, and its part of the header as a
/// message and as bytes.
const SAMPLE_BYTES: u64 = 128;

/// Part of a payload that what a microbatch has besides it may take without being counted: it is within what the
/// process has in addition to its buffers.
const UNCOUNTED: u64 = 16;

/// Bytes that are counted for a microbatch: its payload and, if pictures are so small that it matters, what its
/// samples have besides their pixels.
pub const fn microbatch_bytes(samples: u64, payload: u64) -> u64 {
    let apart = samples.saturating_mul(SAMPLE_BYTES).saturating_sub(payload / UNCOUNTED);
    payload.saturating_add(apart)
}

/// The label of each sample's partner, which is its mirror in the microbatch.
fn partner_labels(plan: &MixPlan, labels: &[u32]) -> Vec<u32> {
    let pairs = plan.samples.iter().zip(labels.iter().zip(labels.iter().rev()));
    let label = |(sample, (own, partner)): (&MixSample, (&u32, &u32))| match sample.kind {
        MixKind::None => *own,
        MixKind::Mixup | MixKind::Cutmix(_) => *partner,
    };
    pairs.map(label).collect()
}
