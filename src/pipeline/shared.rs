//! The repeats of a record are made together, though they belong to different microbatches: whoever
//! decodes the record for one makes the others early, and keeps their pixels until they are asked for.
//!
//! ```text
//!   claim(own, others) -> Busy: another worker is making one of them, come back later
//!                      -> Claim: which of its own are ready, and which others to make early
//! ```
//!
//! A sample is a pure function of the step's name and its position, so what is kept can only be used or
//! forgotten, never be wrong. Finished samples are kept, not decoded regions: they are smaller, all of
//! one size, and no larger for larger images.
//!
//! - **Bound.** Pixels lie in a ring of their own. When it is full, nothing is made early: to throw
//!   away what is about to be used would help nobody.
//! - **Uses.** A sample is kept for as many uses as its repeats had and it had not, which is one for
//!   each client that asks for the same; then its buffer goes back.
//! - **Habit.** Whoever asks for one rank's microbatches alone would have the others' samples made for
//!   nothing. So a step is judged once no microbatch of it was asked for during [`PATIENCE`] others:
//!   if less than half of what was made early was used, the job makes only one group in [`PROBE`]
//!   early, until a step whose probes were used turns it back. What was not used is dropped.
//!
//! - **Alone.** A microbatch that is fetched by itself, as when another server is late with it, is no
//!   visit to its step: it has samples made early only if the step is being asked for anyway.
//!
//! A wait for another worker cannot be a deadlock: that worker holds no lock and waits for nothing
//! until it has published or given up what it reserved.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use forebay_types::Digest;

use super::lock;
use crate::batch::{Ring, Slab};

/// Microbatches that may be asked for before a step that nobody asks for any more is judged and
/// forgotten: eight steps of the paper's eight microbatches.
const PATIENCE: u64 = 64;
/// One group in so many is made early to find out whether that helps.
const PROBE: u64 = 64;
/// Habits of jobs are forgotten after so many microbatches of others.
const MEMORY: u64 = 4096;
/// Longer steps are not shared: each position of a step takes a byte for as long as it is remembered.
const LONGEST_STEP: u64 = 1 << 16;

/// What decides on samples, short of the step: the same for all ranks and clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Job {
    pub(super) dataset: Digest,
    pub(super) recipe: Digest,
    pub(super) seed: u64,
}

/// One step of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Step {
    pub(super) job: Job,
    pub(super) epoch: u64,
    pub(super) number: u64,
}

/// Samples made early, bounded in bytes.
#[derive(Debug)]
pub(super) struct Shared {
    ring: Ring,
    state: Mutex<State>,
    /// A sample was published or given up.
    settled: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Microbatches asked for so far.
    clock: u64,
    steps: BTreeMap<Step, Visit>,
    habits: BTreeMap<Job, Habit>,
}

/// A step of which microbatches are being asked for.
#[derive(Debug)]
struct Visit {
    /// The clock when the last one was.
    last: u64,
    first: u64,
    /// How often each position was claimed.
    claims: Vec<u8>,
    early: BTreeMap<u64, Early>,
    made: u64,
    used: u64,
}

/// A sample made early, or being made.
#[derive(Debug)]
struct Early {
    uses: u8,
    pixels: Option<Arc<Slab>>,
}

/// What the last judged step of a job taught.
#[derive(Clone, Copy, Debug)]
struct Habit {
    shares: bool,
    last: u64,
}

/// What a worker may do with some positions of a group.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    /// For each of its own, the pixels if they were made early.
    pub(super) ready: Vec<Option<Arc<Slab>>>,
    /// Of the others, those to be made early.
    pub(super) reserved: Reserved<'a>,
}

/// Samples that a worker makes early. Dropped without [`Reserved::publish`], as when a record cannot be
/// read, others make them.
#[derive(Debug)]
pub(super) struct Reserved<'a> {
    shared: &'a Shared,
    step: Step,
    pub(super) samples: Vec<(u64, Slab)>,
}

impl Shared {
    /// Keeps at most so many bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { ring: Ring::new(limit), state: Mutex::default(), settled: Condvar::new() }
    }

    /// A microbatch of a step, whose positions these are, is asked for by somebody who may want its others.
    pub(super) fn visit(&self, step: Step, positions: Range<u64>) {
        let mut state = lock(&self.state);
        state.clock += 1;
        let clock = state.clock;
        state.forget();
        let length = positions.end - positions.start;
        if length > LONGEST_STEP || self.ring.limit() == 0 {
            return;
        }
        let visit = state.steps.entry(step).or_insert_with(|| Visit {
            last: clock,
            first: positions.start,
            claims: vec![0; usize::try_from(length).expect("at most 2^16")],
            early: BTreeMap::new(),
            made: 0,
            used: 0,
        });
        visit.last = clock;
    }

    /// Claims positions of a step, and reserves those of `others` that are worth to be made early, each
    /// of so many bytes. `None` if another worker is making one of its own right now, unless `wait`.
    pub(super) fn claim(
        &self,
        step: Step,
        own: &[u64],
        others: &[u64],
        bytes: usize,
        wait: bool,
    ) -> Option<Claim<'_>> {
        let mut reserved = Reserved { shared: self, step, samples: Vec::new() };
        let mut guard = lock(&self.state);
        loop {
            let busy = guard.steps.get(&step).is_some_and(|visit| visit.busy(own));
            if !busy {
                break;
            }
            if !wait {
                return None;
            }
            guard = self.settled.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        let State { steps, habits, .. } = &mut *guard;
        let Some(visit) = steps.get_mut(&step) else {
            // Too long a step, or forgotten while this microbatch was in work.
            return Some(Claim { ready: vec![None; own.len()], reserved });
        };
        let ready: Vec<_> = own.iter().map(|&position| visit.take(position)).collect();
        let shares = habits.get(&step.job).is_none_or(|habit| habit.shares);
        let group = own[0] / (own.len() + others.len()) as u64;
        // What is all ready is not decoded, so nothing comes cheaper with it.
        if ready.iter().any(Option::is_none) && (shares || group.is_multiple_of(PROBE)) {
            let claims = own.iter().map(|&position| *visit.claims_of(position)).max().unwrap_or(0);
            for &position in others {
                if visit.reserve(position, claims)
                    && let Some(slab) = self.ring.take_now(bytes)
                {
                    let uses = claims - *visit.claims_of(position);
                    visit.early.insert(position, Early { uses, pixels: None });
                    visit.made += 1;
                    reserved.samples.push((position, slab));
                }
            }
        }
        Some(Claim { ready, reserved })
    }
}

impl State {
    /// Judges and forgets steps that nobody asks for any more.
    fn forget(&mut self) {
        let clock = self.clock;
        let stale = |visit: &Visit| clock - visit.last >= PATIENCE;
        for (step, visit) in self.steps.extract_if(.., |_, visit| stale(visit)) {
            if visit.made > 0 {
                let shares = visit.used * 2 >= visit.made;
                self.habits.insert(step.job, Habit { shares, last: clock });
            }
        }
        self.habits.retain(|_, habit| clock - habit.last < MEMORY);
    }
}

impl Visit {
    fn claims_of(&mut self, position: u64) -> &mut u8 {
        let at = usize::try_from(position - self.first).expect("a position of the step");
        &mut self.claims[at]
    }

    fn busy(&self, own: &[u64]) -> bool {
        let making = |early: &Early| early.pixels.is_none();
        own.iter().any(|position| self.early.get(position).is_some_and(making))
    }

    /// Claims a position: its pixels if they were made early.
    fn take(&mut self, position: u64) -> Option<Arc<Slab>> {
        let claims = self.claims_of(position);
        *claims = claims.saturating_add(1);
        let Entry::Occupied(mut entry) = self.early.entry(position) else { return None };
        self.used += 1;
        entry.get_mut().uses -= 1;
        if entry.get().uses == 0 { entry.remove().pixels } else { entry.get().pixels.clone() }
    }

    /// Whether a position must be made early, for a repeat of it was claimed more often and it is not
    /// there. If it is, it is kept for as many uses.
    fn reserve(&mut self, position: u64, claims: u8) -> bool {
        let uses = claims.saturating_sub(*self.claims_of(position));
        match self.early.get_mut(&position) {
            Some(early) => {
                early.uses = early.uses.max(uses);
                false
            }
            None => uses > 0,
        }
    }
}

impl Reserved<'_> {
    /// All samples are made: whoever wants them can have them.
    pub(super) fn publish(mut self) {
        let mut state = lock(&self.shared.state);
        if let Some(visit) = state.steps.get_mut(&self.step) {
            for (position, slab) in self.samples.drain(..) {
                if let Some(early) = visit.early.get_mut(&position) {
                    early.pixels = Some(Arc::new(slab));
                }
            }
        }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.samples.is_empty() {
            let mut state = lock(&self.shared.state);
            if let Some(visit) = state.steps.get_mut(&self.step) {
                for (position, _) in &self.samples {
                    visit.early.remove(position);
                }
            }
        }
        self.shared.settled.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 100;

    fn step(number: u64) -> Step {
        let digest = Digest([0; 32]);
        let job = Job { dataset: digest, recipe: digest, seed: 0 };
        Step { job, epoch: 0, number }
    }

    /// Visits a step of 12 positions.
    fn visited(limit: usize) -> Shared {
        let shared = Shared::new(limit);
        shared.visit(step(0), 0..12);
        shared
    }

    /// Claims a position of the first group; says whether it was ready, and how many were made early.
    fn ask(shared: &Shared, number: u64, own: u64) -> (bool, usize) {
        let first = number * 12;
        let others: Vec<u64> = (first..first + 3).filter(|p| *p != first + own).collect();
        let claim = shared.claim(step(number), &[first + own], &others, BYTES, false).unwrap();
        let mut reserved = claim.reserved;
        let made = reserved.samples.len();
        for (position, slab) in &mut reserved.samples {
            slab.fill(u8::try_from(*position % 256).unwrap());
        }
        reserved.publish();
        if let [Some(pixels)] = &claim.ready[..] {
            assert!(pixels.iter().all(|&byte| u64::from(byte) == (first + own) % 256));
        }
        (claim.ready[0].is_some(), made)
    }

    #[test]
    fn one_makes_what_the_others_take_in_any_order() {
        for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
            let shared = visited(10 * BYTES);
            let asked = order.map(|own| ask(&shared, 0, own));
            assert_eq!(asked, [(false, 2), (true, 0), (true, 0)]);
            assert_eq!(shared.ring.bytes_out(), 0, "dropped after the last use");
        }
    }

    #[test]
    fn a_second_client_uses_what_the_first_had_made() {
        let shared = visited(10 * BYTES);
        let asked = [0, 0, 1, 1, 2, 2].map(|own| ask(&shared, 0, own));
        let first = [(false, 2), (false, 0)];
        assert_eq!(asked, [first[0], first[1], (true, 0), (true, 0), (true, 0), (true, 0)]);
        assert_eq!(shared.ring.bytes_out(), 0);
    }

    #[test]
    fn a_full_ring_makes_only_what_has_room() {
        let shared = visited(BYTES);
        assert_eq!([0, 1, 2].map(|own| ask(&shared, 0, own)), [(false, 1), (true, 0), (false, 0)]);
        let off = visited(0);
        assert_eq!([0, 1, 2].map(|own| ask(&off, 0, own)), [(false, 0); 3]);
    }

    #[test]
    fn what_is_being_made_is_busy_until_it_is_published_or_given_up() {
        let shared = visited(10 * BYTES);
        let claim = shared.claim(step(0), &[0], &[1, 2], BYTES, false).unwrap();
        assert!(shared.claim(step(0), &[1], &[0, 2], BYTES, false).is_none());
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| shared.claim(step(0), &[1], &[0, 2], BYTES, true).unwrap());
            drop(claim);
            let claim = waiter.join().unwrap();
            assert!(claim.ready[0].is_none());
            assert_eq!(claim.reserved.samples.len(), 1, "position 2; 0 is with its claimant");
        });
        assert_eq!(shared.ring.bytes_out(), 0);
    }

    #[test]
    fn a_job_of_one_rank_stops_making_the_others_samples_and_learns_anew_when_they_come() {
        let shared = Shared::new(1000 * BYTES);
        let visit = |number: u64| shared.visit(step(number), number * 12..number * 12 + 12);
        let made = |steps: Range<u64>, ranks: &[u64]| -> usize {
            steps
                .map(|number| {
                    let asked = ranks.iter().map(|own| {
                        visit(number);
                        ask(&shared, number, *own).1
                    });
                    asked.sum::<usize>()
                })
                .sum()
        };
        assert_eq!(made(0..64, &[0]), 128, "at first nothing is known");
        // The first group of step n is group 4 n of the epoch: one step in 16 has a probe.
        assert_eq!(made(64..128, &[0]), 8);
        assert!(shared.ring.bytes_out() <= 130 * BYTES, "what nobody took is dropped");
        assert!(made(128..256, &[0, 1, 2]) > 128, "once all ranks come, most is made early again");
    }
}
