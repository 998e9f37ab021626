//! Makes one microbatch: a buffer, its samples each in its slot, mixing, digest.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::repeats::Work;
use super::shared::{Job, Shared, Step};
use super::timings::{Laps, Stages, Timings};
use super::{Microbatch, Request, lock};
use crate::augment;
use crate::batch::Ring;
use crate::dataset::Dataset;
use crate::decode::Decoder;
use crate::error::Error;
use crate::mix::{self, Normalise};
use crate::order::Sequence;
use crate::plan::{self, MicrobatchName, MixPlan};
use crate::recipe::Recipe;
use crate::resize::Resizer;
use crate::sample::Size;

/// A pool of threads, the scratch memory of each, and what they make early.
pub(super) struct Workers {
    pub(super) pool: rayon::ThreadPool,
    pub(super) shared: Shared,
    /// Locked by one thread alone, so never waited for.
    scratch: Vec<Mutex<Scratch>>,
}

/// What one worker needs beside the slots, kept from sample to sample.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) bytes: Vec<u8>,
    pub(super) decoder: Decoder,
    pub(super) resizer: Resizer,
    pub(super) augment: augment::Scratch,
    row: Vec<u8>,
}

impl Workers {
    pub(super) fn new(threads: NonZeroUsize, share_bytes: usize) -> std::io::Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.get())
            .thread_name(|number| format!("worker-{number}"))
            .build()
            .map_err(std::io::Error::other)?;
        let scratch = (0..threads.get()).map(|_| Mutex::default()).collect();
        Ok(Self { pool, shared: Shared::new(share_bytes), scratch })
    }

    pub(super) fn with_scratch<T>(&self, work: impl FnOnce(&mut Scratch) -> T) -> T {
        let thread = rayon::current_thread_index().expect("a thread of the pool");
        work(&mut lock(&self.scratch[thread]))
    }
}

/// The samples of a microbatch, before any work: positions and records, slot by slot.
pub(super) struct Samples {
    pub(super) positions: Vec<u64>,
    /// Records at the positions, bad ones replaced.
    pub(super) records: Vec<u64>,
    sequence: Sequence,
}

impl Samples {
    /// # Errors
    /// [`Error::OutOfRange`] for a step or microbatch past the end.
    pub(super) fn of(
        dataset: &Dataset,
        recipe: &Recipe,
        name: MicrobatchName,
    ) -> Result<Self, Error> {
        let sequence = Sequence::new(dataset.len(), recipe, name.seed)?;
        let steps = sequence.steps_per_epoch();
        if name.step >= steps {
            return Err(Error::OutOfRange { what: "step", got: name.step, limit: steps });
        }
        let microbatches = u64::from(sequence.microbatches(name.step));
        if u64::from(name.index) >= microbatches {
            let got = u64::from(name.index);
            return Err(Error::OutOfRange { what: "microbatch", got, limit: microbatches });
        }
        let epoch = sequence.epoch(name.epoch);
        let positions: Vec<u64> = sequence.positions(name.step, name.index).collect();
        let records = positions.iter().map(|&p| dataset.good(epoch.record(p))).collect();
        Ok(Self { positions, records, sequence })
    }
}

pub(super) fn make(
    request: &Request,
    wanted: &AtomicBool,
    workers: &Workers,
    ring: &Ring,
    queued: Instant,
) -> Result<Microbatch, Error> {
    let Request { dataset, recipe, name, output } = request;
    let Samples { positions, records, sequence } = Samples::of(dataset, recipe, *name)?;
    let n = records.len();
    let size = Size::square(recipe.image_size);
    let payload_bytes = n * size.rgb_bytes() * output.dtype.bytes();
    // Pixels that do not stay as they are lie behind the payload until they are converted.
    let working_bytes = if output.in_place() { 0 } else { n * size.rgb_bytes() };
    let mut slab = ring.take(payload_bytes + working_bytes)?;
    let queue = queued.elapsed();
    let job = Job { dataset: dataset.digest(), recipe: recipe.digest(), seed: name.seed };
    let step = Step { job, epoch: name.epoch, number: name.step };
    workers.shared.visit(step, sequence.step(name.step));

    let (payload, working) = slab.split_at_mut(payload_bytes);
    let plan = plan::mix(recipe, *name, n);
    let mut stages = workers.pool.install(|| -> Result<Stages, Error> {
        let pixels = if output.in_place() { &mut *payload } else { &mut *working };
        let work = Work { request, wanted, workers, size, step };
        let mut stages = work.fill(&sequence, pixels, &positions, &records)?;
        if output.mixed && recipe.mix.enabled() {
            stages += mix_all(workers, pixels, &plan, size);
        }
        if !output.in_place() {
            stages += convert_all(request, working, payload, size);
        }
        Ok(stages)
    })?;
    let mut laps = Laps::start();
    let xxh3 = xxh3_64(payload);
    stages.digest = laps.lap();
    slab.truncate(payload_bytes);

    let label_a: Vec<u32> = records.iter().map(|&record| dataset.record(record).label).collect();
    let mixes = plan.samples.iter().zip(label_a.iter().zip(label_a.iter().rev()));
    let label_b = mixes
        .map(|(sample, (own, partner))| match sample.kind {
            plan::MixKind::None => *own,
            plan::MixKind::Mixup | plan::MixKind::Cutmix(_) => *partner,
        })
        .collect();
    Ok(Microbatch {
        name: *name,
        payload: slab,
        output: *output,
        shape: output.shape(u32::try_from(n).expect("at most a batch"), size),
        records,
        label_a,
        label_b,
        lambda: plan.samples.iter().map(plan::MixSample::label_weight).collect(),
        plan,
        xxh3,
        timings: Timings { queue, stages, ..Timings::default() },
    })
}

/// Mixes every sample with its partner, in place.
fn mix_all(workers: &Workers, pixels: &mut [u8], plan: &MixPlan, size: Size) -> Stages {
    let (n, bytes) = (plan.samples.len(), size.rgb_bytes());
    let (front, back) = pixels.split_at_mut(n / 2 * bytes);
    let pairs = front.par_chunks_exact_mut(bytes).zip(back.par_rchunks_exact_mut(bytes));
    let mix = pairs
        .enumerate()
        .map(|(i, (a, b))| {
            let mut laps = Laps::start();
            let samples = [plan.samples[i], plan.samples[n - 1 - i]];
            workers.with_scratch(|Scratch { row, .. }| {
                row.resize(size.width as usize * 3, 0);
                mix::cpu::mix_pair(a, b, size, samples, row);
            });
            laps.lap()
        })
        .sum();
    Stages { mix, ..Stages::default() }
}

/// Writes every sample in the dtype and layout asked for.
fn convert_all(request: &Request, pixels: &[u8], payload: &mut [u8], size: Size) -> Stages {
    let Request { recipe, output, .. } = request;
    let normalise = Normalise::new(recipe);
    let bytes = size.rgb_bytes();
    let mix = payload
        .par_chunks_exact_mut(bytes * output.dtype.bytes())
        .zip(pixels.par_chunks_exact(bytes))
        .map(|(to, pixels)| {
            let mut laps = Laps::start();
            mix::convert(pixels, *output, &normalise, to);
            laps.lap()
        })
        .sum();
    Stages { mix, ..Stages::default() }
}
