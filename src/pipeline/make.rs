//! Makes one microbatch: a buffer, its samples each in its slot, mixing, digest.
//!
//! On a GPU mixing is handed over when all samples are there; the next microbatch is being decoded
//! meanwhile, by another maker.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::time::Duration;

use forebay_types::MicrobatchName;
use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::repeats::Work;
use super::shared::{Job, Shared, Step};
use super::timings::{Laps, Stages, Timings};
use super::works::{Order, Works};
use super::{Microbatch, Request, lock};
use crate::augment::Augmenter;
use crate::batch::Ring;
use crate::dataset::Dataset;
use crate::decode::Decoder;
use crate::error::Error;
use crate::geometry::Size;
use crate::mix::{self, Mixer, Normalise, Work as Mixing};
use crate::order::Sampler;
use crate::plan;
use crate::recipe::Recipe;
use crate::resize::Resizer;

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
    pub(super) augmenter: Augmenter,
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
    sampler: Sampler,
}

impl Samples {
    /// # Errors
    /// [`Error::OutOfRange`] for a step or microbatch past the end.
    pub(super) fn of(
        dataset: &Dataset,
        recipe: &Recipe,
        name: MicrobatchName,
    ) -> Result<Self, Error> {
        let sampler = Sampler::new(dataset.len(), recipe, name.seed)?;
        let steps = sampler.steps_per_epoch();
        if name.step >= steps {
            return Err(Error::OutOfRange { what: "step", got: name.step, limit: steps });
        }
        let microbatches = u64::from(sampler.microbatches(name.step));
        if u64::from(name.index) >= microbatches {
            let got = u64::from(name.index);
            return Err(Error::OutOfRange { what: "microbatch", got, limit: microbatches });
        }
        let epoch = sampler.epoch(name.epoch);
        let positions: Vec<u64> = sampler.positions(name.step, name.index).collect();
        let records = positions.iter().map(|&p| dataset.good_or_next(epoch.record(p))).collect();
        Ok(Self { positions, records, sampler })
    }
}

/// What makers work with.
pub(super) struct Place<'a> {
    pub(super) works: &'a Works,
    pub(super) workers: &'a Workers,
    pub(super) ring: &'a Ring,
    pub(super) mixer: &'a Mixer,
}

pub(super) fn make(order: &Order, place: &Place<'_>) -> Result<Microbatch, Error> {
    let Order { request, alone, wishes, since, .. } = order;
    let Place { works, workers, ring, mixer } = *place;
    let Request { dataset, recipe, name, output } = request;
    let Samples { positions, records, sampler } = Samples::of(dataset, recipe, *name)?;
    let n = records.len();
    let size = Size::square(recipe.image_size);
    let plan = plan::mix(recipe, *name, n);
    let normalise = Normalise::new(recipe);
    let mixing = Mixing { size, plan: &plan, output: *output, normalise: &normalise };
    let mut slab = ring.take_or(mixing.buffer_bytes(), || works.relieve())?;
    let queue = since.elapsed();
    let job = Job { dataset: dataset.digest(), recipe: recipe.digest(), seed: name.seed };
    let step = Step { job, epoch: name.epoch, number: name.step };
    if !alone {
        workers.shared.visit(step, sampler.step(name.step));
    }

    let (payload, clean) = slab.split_at_mut(mixing.clean_at());
    let mut stages = workers.pool.install(|| -> Result<Stages, Error> {
        let work = Work { request, wishes, workers, size, step };
        let mut stages = work.fill(&sampler, clean, &positions, &records)?;
        if matches!(mixer, Mixer::Cpu) {
            stages += mix_all(workers, payload, clean, &mixing);
        }
        Ok(stages)
    })?;
    if !matches!(mixer, Mixer::Cpu) {
        mixer.mix(slab.host(), &mixing)?;
        slab.host().wait()?;
    }
    slab.truncate(mixing.payload_bytes());
    let mut laps = Laps::start();
    let xxh3 = xxh3_64(&slab);
    stages.digest = laps.lap();

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
        payload: slab.into(),
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

/// Mixes every sample with its partner, in place, and writes it in the dtype and layout asked for.
fn mix_all(workers: &Workers, payload: &mut [u8], clean: &mut [u8], work: &Mixing<'_>) -> Stages {
    let Mixing { size, plan, output, normalise } = *work;
    let (n, bytes) = (plan.samples.len(), size.rgb_bytes());
    let clean = &mut clean[..n * bytes];
    let mut mix = Duration::ZERO;
    if work.mixes() {
        let (front, back) = clean.split_at_mut(n / 2 * bytes);
        let pairs = front.par_chunks_exact_mut(bytes).zip(back.par_rchunks_exact_mut(bytes));
        let mixed = pairs.enumerate().map(|(i, (a, b))| {
            let mut laps = Laps::start();
            let samples = [plan.samples[i], plan.samples[n - 1 - i]];
            workers.with_scratch(|Scratch { row, .. }| {
                row.resize(size.width as usize * 3, 0);
                mix::cpu::mix_pair(a, b, size, samples, row);
            });
            laps.lap()
        });
        mix += mixed.sum::<Duration>();
    }
    // Nothing lies before pixels that stay where they are.
    let converted = payload
        .par_chunks_exact_mut(bytes * output.dtype.bytes())
        .zip(clean.par_chunks_exact(bytes))
        .map(|(to, pixels)| {
            let mut laps = Laps::start();
            mix::convert(pixels, output, normalise, to);
            laps.lap()
        });
    mix += converted.sum::<Duration>();
    Stages { mix, ..Stages::default() }
}
