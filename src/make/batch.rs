//! Makes one microbatch.

use forebay_types::{MicrobatchName, PixelFormat};
use xxhash_rust::xxh3::xxh3_64;

use super::repeat_cache::{RepeatCache, StepKey};
use super::repeats::Fill;
use super::request::{Request, RequestKey};
use super::reuse::JobKey;
use super::timings::Timings;
use super::worker::Workers;
use crate::batch::{BufferPool, Pixels};
use crate::cpu_time::CpuTimer;
use crate::error::Error;
use crate::geometry::Size;
use crate::mix::{MixJob, Mixer, NormalizeTable};
use crate::plan::{self, MixKind, MixPlan, MixSample};
use crate::schedule::Task;

/// A microbatch of n samples, ready for a trainer.
#[derive(Clone, Debug)]
pub struct Microbatch {
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
    task: &Task<RequestKey, Request>,
    context: &MakeContext,
    evict: impl Fn() -> bool,
) -> Result<Microbatch, Error> {
    let MakeContext { workers, repeats, buffers, mixer } = context;
    let Request { dataset, recipe, name, format } = &task.job;
    let slots = task.job.slots()?;
    let (n, size) = (slots.records.len(), Size::square(recipe.image_size));
    let plan = plan::mix(recipe, *name, n);
    let normalize = NormalizeTable::new(recipe);
    let mix = MixJob { size, plan: &plan, format: *format, normalize: &normalize };

    let mut buffer = buffers.acquire_evicting(mix.buffer_bytes(), evict)?;
    let queue = task.since.elapsed();
    let job = JobKey { dataset: dataset.digest(), recipe: recipe.digest(), seed: name.seed };
    let step = StepKey { job, epoch: name.epoch, step: name.step };
    if !task.isolated {
        repeats.visit(step, slots.sampler.step(name.step));
    }

    let fill =
        Fill { request: &task.job, waiters: &task.waiters, workers, cache: repeats, step, size };
    let fill = |pixels: &mut [u8]| fill.fill(&slots, pixels);
    let (mut stages, mix_time) = mixer.fill_and_mix(workers.pool(), buffer.host(), &mix, fill)?;
    stages.mix = mix_time;
    buffer.truncate(mix.payload_bytes());
    let mut timer = CpuTimer::start();
    let xxh3 = xxh3_64(&buffer);
    stages.digest = timer.lap();

    let label_a: Vec<u32> = slots.records.iter().map(|&id| dataset.record(id).label).collect();
    Ok(Microbatch {
        name: *name,
        payload: buffer.into(),
        format: *format,
        shape: format.layout.shape(slots.count(), size.height, size.width),
        records: slots.records,
        label_b: partner_labels(&plan, &label_a),
        label_a,
        lambda: plan.samples.iter().map(MixSample::label_weight).collect(),
        plan,
        xxh3,
        timings: Timings { queue, total: task.since.elapsed(), stages },
    })
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
