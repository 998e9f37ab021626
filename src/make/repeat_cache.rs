//! The repeat cache: samples that were precomputed for other microbatches of a step.
//!
//! Repeated augmentation shows each record R times in a step, at neighboring positions, and timm's
//! interleaving puts neighbors into different microbatches. Decoding is two thirds of a sample's cost,
//! and one decode serves all R. So the worker that decodes a record for one microbatch makes the
//! samples of the others as well, and this cache keeps them until their microbatches are requested:
//!
//! ```text
//!   positions of a step     0 1 2 | 3 4 5 | 6 7 8 | ...      R = 3: each group is one record
//!   microbatch 0 of 4       *           *           *        makes 0, and precomputes 1 and 2
//!   microbatch 1 of 4         *           *           *      finds 1 here, precomputes 3 and 4, ...
//!
//!   claim(own, others) -> None   another worker is making one of `own`: return later, or wait
//!                      -> Claim  the samples of `own` that are ready, and buffers for those of `others`
//!                                that this worker is to precompute; then publish
//! ```
//!
//! **Why results cannot be wrong.** A sample is a pure function of the step's key and its position. A
//! cached one can be used or dropped; it never goes stale.
//!
//! **Memory.** Finished samples are kept instead of decoded regions: they are smaller, of one size, and
//! do not grow with the image. Their buffers come from a pool of their own. If it is full, nothing is
//! precomputed. Evicting would not help: microbatches are requested in a cycle, so the oldest sample
//! is the one that is needed next.
//!
//! **When a sample is dropped.** Several clients may request equal microbatches. `claims` counts how
//! often each position was requested; a sample is kept for as many uses as the claims of its record's
//! other positions exceed its own. After the last use its buffer returns. A step that was not
//! requested during the latest [`PATIENCE`] requests is over: what is left of it is dropped, and the
//! share that was used decides whether the job's next steps are precomputed (see `reuse.rs`).
//!
//! **Isolated requests**, such as a hedge that fetches a single microbatch because another server is
//! late, do not [`visit`](RepeatCache::visit) their step. They use samples
//! that are cached, and nothing is precomputed for a step that only they request.
//!
//! **Why waiting cannot deadlock.** A worker waits only for samples that another worker reserved. That
//! worker holds no lock, and between reserving and publishing it waits for nothing.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::reuse::{JobKey, ReuseHistory};
use crate::batch::{Buffer, BufferPool};
use crate::sync::lock;

/// A step is over after this many consecutive requests for other steps: eight steps of eight
/// microbatches, as in the paper's recipes.
const PATIENCE: u64 = 64;

/// Longer steps are not cached: each position of a step takes a byte for as long as it is remembered.
const MAX_STEP: u64 = 1 << 16;

/// One step of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StepKey {
    pub(super) job: JobKey,
    pub(super) epoch: u64,
    pub(super) step: u64,
}

/// Precomputed samples, bounded in bytes.
#[derive(Debug)]
pub(crate) struct RepeatCache {
    pool: BufferPool,
    state: Mutex<State>,
    /// Signaled when samples were published or given up.
    settled: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Logical time: the number of requests so far.
    clock: u64,
    steps: BTreeMap<StepKey, StepState>,
    reuse: ReuseHistory,
}

/// A step whose microbatches are being requested.
#[derive(Debug)]
struct StepState {
    /// Logical time of the latest request.
    last_request: u64,
    first_position: u64,
    /// The number of claims of each position.
    claims: Vec<u8>,
    samples: BTreeMap<u64, Precomputed>,
    /// Number of samples that were precomputed, and of their uses.
    precomputed: u64,
    used: u64,
}

/// A precomputed sample; without pixels, it is being made.
#[derive(Debug)]
struct Precomputed {
    uses_left: u8,
    pixels: Option<Arc<Buffer>>,
}

/// The samples of a group that a worker may take, and those that it has to make.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    /// The pixels of each of its own positions, if they are ready.
    pub(super) ready: Vec<Option<Arc<Buffer>>>,
    /// Samples of other microbatches that it is to precompute.
    pub(super) reserved: Option<Reserved<'a>>,
}

/// Samples that a worker precomputes. Dropping them without [`publish`](Self::publish), as when a
/// record cannot be read, gives them up: other workers make them.
#[derive(Debug)]
pub(super) struct Reserved<'a> {
    cache: &'a RepeatCache,
    step: StepKey,
    /// Positions, and the buffers for their pixels.
    pub(super) samples: Vec<(u64, Buffer)>,
}

/// The behavior of a claim while another worker is making one of its samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhenBusy {
    /// It gives up, so that the caller can do other work first.
    Defer,
    /// It waits until the other worker is done.
    Wait,
}

impl RepeatCache {
    /// A cache of at most `max_bytes`; with 0 it stays empty.
    pub(crate) fn new(max_bytes: usize) -> Self {
        let (state, settled) = (Mutex::default(), Condvar::new());
        Self { pool: BufferPool::new(max_bytes), state, settled }
    }

    /// Notes a request for a microbatch of a step, which has these positions, by a client that may
    /// need the step's other microbatches.
    pub(super) fn visit(&self, step: StepKey, positions: Range<u64>) {
        let mut state = lock(&self.state);
        state.clock += 1;
        state.end_stale_steps();
        let length = positions.end - positions.start;
        if length > MAX_STEP || self.pool.limit() == 0 {
            return;
        }
        let clock = state.clock;
        let visited = state.steps.entry(step).or_insert_with(|| StepState::new(positions));
        visited.last_request = clock;
    }

    /// Claims a worker's `own` positions of a group, and reserves those of the `others` that are worth
    /// precomputing, `bytes` each. If another worker is making one of `own`, waits for it or returns
    /// `None`, as `when_busy` says.
    pub(super) fn claim(
        &self,
        step: StepKey,
        own: &[u64],
        others: &[u64],
        bytes: usize,
        when_busy: WhenBusy,
    ) -> Option<Claim<'_>> {
        let mut guard = self.lock_settled(step, own, when_busy)?;
        let State { steps, reuse, .. } = &mut *guard;
        let Some(state) = steps.get_mut(&step) else {
            // The step is too long, or was over before this microbatch was finished.
            return Some(Claim { ready: vec![None; own.len()], reserved: None });
        };
        let ready: Vec<_> = own.iter().map(|&position| state.take(position)).collect();
        let group = own[0] / (own.len() + others.len()) as u64;
        // If all are ready, the record is not decoded, and its other samples would cost a decode.
        let decodes = ready.iter().any(Option::is_none);
        let samples = if decodes && reuse.should_precompute(step.job, group) {
            state.reserve(own, others, || self.pool.try_acquire(bytes))
        } else {
            Vec::new()
        };
        let reserved = (!samples.is_empty()).then(|| Reserved { cache: self, step, samples });
        Some(Claim { ready, reserved })
    }

    /// Locks the state once no other worker is making one of `own`.
    fn lock_settled(
        &self,
        step: StepKey,
        own: &[u64],
        when_busy: WhenBusy,
    ) -> Option<MutexGuard<'_, State>> {
        let mut state = lock(&self.state);
        while state.steps.get(&step).is_some_and(|step| step.is_making(own)) {
            if when_busy == WhenBusy::Defer {
                return None;
            }
            state = self.settled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Some(state)
    }
}

impl State {
    /// Drops the steps that are over, and records how many of their precomputed samples were used.
    fn end_stale_steps(&mut self) {
        let Self { clock, steps, reuse } = self;
        let is_over = |state: &StepState| *clock - state.last_request >= PATIENCE;
        for (step, state) in steps.extract_if(.., |_, state| is_over(state)) {
            reuse.observe(step.job, state.precomputed, state.used, *clock);
        }
        reuse.expire(*clock);
    }
}

impl StepState {
    /// # Panics
    /// When there are more than [`MAX_STEP`] positions.
    fn new(positions: Range<u64>) -> Self {
        let length = usize::try_from(positions.end - positions.start).expect("at most MAX_STEP");
        Self {
            last_request: 0,
            first_position: positions.start,
            claims: vec![0; length],
            samples: BTreeMap::new(),
            precomputed: 0,
            used: 0,
        }
    }

    fn claims_of(&mut self, position: u64) -> &mut u8 {
        let index =
            usize::try_from(position - self.first_position).expect("a position of the step");
        &mut self.claims[index]
    }

    fn is_making(&self, own: &[u64]) -> bool {
        let is_making = |sample: &Precomputed| sample.pixels.is_none();
        own.iter().any(|position| self.samples.get(position).is_some_and(is_making))
    }

    /// Claims a position; returns its pixels if they were precomputed.
    fn take(&mut self, position: u64) -> Option<Arc<Buffer>> {
        let claims = self.claims_of(position);
        *claims = claims.saturating_add(1);
        let Entry::Occupied(mut entry) = self.samples.entry(position) else { return None };
        self.used += 1;
        entry.get_mut().uses_left -= 1;
        if entry.get().uses_left == 0 { entry.remove().pixels } else { entry.get().pixels.clone() }
    }

    /// Reserves those of `others` that were claimed less often than `own`, as long as there are
    /// buffers. A sample that is there already is kept for as many uses instead.
    fn reserve(
        &mut self,
        own: &[u64],
        others: &[u64],
        mut acquire: impl FnMut() -> Option<Buffer>,
    ) -> Vec<(u64, Buffer)> {
        let claims = own.iter().map(|&position| *self.claims_of(position)).max().unwrap_or(0);
        let mut reserved = Vec::new();
        for &position in others {
            let uses = claims.saturating_sub(*self.claims_of(position));
            if let Some(sample) = self.samples.get_mut(&position) {
                sample.uses_left = sample.uses_left.max(uses);
            } else if uses > 0
                && let Some(buffer) = acquire()
            {
                self.samples.insert(position, Precomputed { uses_left: uses, pixels: None });
                self.precomputed += 1;
                reserved.push((position, buffer));
            }
        }
        reserved
    }
}

impl Reserved<'_> {
    /// Makes the samples, which are finished, available to other workers.
    pub(super) fn publish(mut self) {
        let mut state = lock(&self.cache.state);
        if let Some(step) = state.steps.get_mut(&self.step) {
            for (position, buffer) in self.samples.drain(..) {
                if let Some(sample) = step.samples.get_mut(&position) {
                    sample.pixels = Some(Arc::new(buffer));
                }
            }
        }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.samples.is_empty() {
            let mut state = lock(&self.cache.state);
            if let Some(step) = state.steps.get_mut(&self.step) {
                for (position, _) in &self.samples {
                    step.samples.remove(position);
                }
            }
        }
        self.cache.settled.notify_all();
    }
}
