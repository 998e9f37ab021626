//! Fills the slots of a microbatch, record by record.
//!
//! Slots that show the same record form a group, which is read and decoded once. With the group's own
//! samples, a worker may precompute those of other microbatches (see `repeat_cache.rs`).
//!
//! ```text
//!   slots     0 1 2 3 4 5 ...
//!   groups    [0 1] [2] [3 4] ...
//!   pass 1    every group, in parallel; a group that another worker is precomputing is deferred
//!   pass 2    the deferred groups, which are finished by now, or about to be
//! ```

use std::ops::Range;
use std::panic::resume_unwind;
use std::thread;

use forebay_types::StageTimes;
use forebay_types::process::CpuTimer;
use rayon::prelude::*;

use super::cost::Cost;
use super::repeat_cache::{Claim, RepeatCache, StepKey, WhenBusy};
use super::request::{Request, Slots};
use super::sample::{Planned, make_samples, needed, union};
use super::scratch::{Large, Scratch, bytes_for};
use super::worker::Workers;
use crate::error::Error;
use crate::geometry::Size;
use crate::order::Sampler;
use crate::plan::{self, SamplePlan};
use crate::schedule::Cancellation;

/// A microbatch that is being filled.
pub(super) struct Fill<'a> {
    pub(super) request: &'a Request,
    pub(super) cancellation: &'a Cancellation,
    pub(super) workers: &'a Workers,
    pub(super) cache: &'a RepeatCache,
    pub(super) step: StepKey,
    pub(super) size: Size,
    /// Its large pictures, if there are any.
    pub(super) large: Option<Large>,
}

/// Slots of a microbatch that show the same record.
struct Group<'p> {
    record: u64,
    /// Positions of the slots.
    own: Vec<u64>,
    /// Positions of the step that show the record.
    all: Range<u64>,
    slots: Vec<&'p mut [u8]>,
}

/// The cost of the groups that were filled, and the groups that were deferred.
type Pass<'p> = (Cost, Vec<Group<'p>>);

impl Fill<'_> {
    /// Reads, decodes, resizes and augments every sample into its slot of `pixels`. Must run on a
    /// thread of the pool.
    ///
    /// # Errors
    /// When a record cannot be read or decoded, or all waiters have cancelled.
    pub(super) fn fill(&self, slots: &Slots, pixels: Vec<&mut [u8]>) -> Result<Cost, Error> {
        let step = slots.sampler.step(self.step.step);
        let mut groups = groups(&slots.sampler, &step, slots, pixels);
        groups.retain(|group| !self.is_made_apart(group));
        let (mut cost, deferred) = self.pass(groups, WhenBusy::Defer)?;
        cost += self.pass(deferred, WhenBusy::Wait)?.0;
        Ok(cost)
    }

    /// As [`fill`](Self::fill), for the large pictures that `fill` leaves out because workers do not make
    /// them. Must not run on a thread of the pool.
    pub(super) fn fill_apart(&self, slots: &Slots, pixels: Vec<&mut [u8]>) -> Result<Cost, Error> {
        let Some(threads) = self.large.and_then(|large| large.threads) else {
            return Ok(Cost::default());
        };
        let step = slots.sampler.step(self.step.step);
        let mut groups = groups(&slots.sampler, &step, slots, pixels);
        groups.retain(|group| self.is_made_apart(group));
        let mut shares: Vec<Vec<Group<'_>>> = (0..threads).map(|_| Vec::new()).collect();
        for (index, group) in groups.into_iter().enumerate() {
            shares[index % threads].push(group);
        }
        thread::scope(|scope| {
            let fill = |share| scope.spawn(|| self.fill_share(share));
            let running: Vec<_> = shares.into_iter().map(fill).collect();
            let mut cost = Cost::default();
            for thread in running {
                cost += thread.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            }
            Ok(cost)
        })
    }

    /// Fills groups one after the other, with scratch memory of their own.
    fn fill_share(&self, share: Vec<Group<'_>>) -> Result<Cost, Error> {
        let (mut cost, mut scratch) = (Cost::default(), Scratch::default());
        for group in share {
            self.check_cancelled()?;
            cost += self.fill_group(group, WhenBusy::Wait, &mut scratch)?.0;
            scratch.keep_at_most(0);
        }
        Ok(cost)
    }

    /// Whether a group is not for the workers.
    fn is_made_apart(&self, group: &Group<'_>) -> bool {
        self.large.is_some_and(|Large { above, threads, .. }| {
            let bytes = || bytes_for(&self.request.dataset, group.record, self.size);
            threads.is_some() && bytes() > above
        })
    }

    fn pass<'p>(&self, groups: Vec<Group<'p>>, when_busy: WhenBusy) -> Result<Pass<'p>, Error> {
        let fill = |group| {
            self.check_cancelled()?;
            self.workers.with_scratch(|scratch| self.fill_group(group, when_busy, scratch))
        };
        groups.into_par_iter().map(fill).try_reduce(Pass::default, |mut sum, (cost, deferred)| {
            sum.0 += cost;
            sum.1.extend(deferred);
            Ok(sum)
        })
    }

    fn check_cancelled(&self) -> Result<(), Error> {
        if self.cancellation.is_total() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Fills the slots of a group, and precomputes samples of other microbatches with them.
    fn fill_group<'p>(
        &self,
        mut group: Group<'p>,
        when_busy: WhenBusy,
        scratch: &mut Scratch,
    ) -> Result<Pass<'p>, Error> {
        let mut timer = CpuTimer::start();
        let plans = self.plans(&group);
        let total = plans.iter().map(|plan| needed(plan).area()).sum();
        // Boxes that are far apart are cheaper to decode one by one than as their union.
        let shared_decode = union(plans.iter()).area() <= total;
        let Some(Claim { ready, mut reserved }) = self.claim(&group, shared_decode, when_busy)
        else {
            return Ok((Cost::default(), vec![group]));
        };
        let plan_of = |position: u64| {
            let index = position - group.all.start;
            &plans[usize::try_from(index).expect("a repeat of the record")]
        };
        let mut missing: Vec<Planned<'_>> = Vec::new();
        for ((slot, &position), ready) in group.slots.iter_mut().zip(&group.own).zip(&ready) {
            match ready {
                Some(pixels) => slot.copy_from_slice(pixels),
                None => missing.push((plan_of(position), &mut **slot)),
            }
        }
        let precomputed = reserved.iter_mut().flat_map(|reserved| &mut reserved.samples);
        missing.extend(precomputed.map(|(position, pixels)| (plan_of(*position), &mut **pixels)));
        let stages = StageTimes { read: timer.lap(), ..StageTimes::default() };
        let mut cost = Cost { stages, decoded: 0 };
        if !missing.is_empty() {
            let record = group.record;
            let with = (scratch, self.workers.read_timeout);
            cost += make_samples(self.request, record, &mut missing, shared_decode, with)?;
        }
        if let Some(reserved) = reserved {
            reserved.publish();
        }
        Ok((cost, Vec::new()))
    }

    /// The plans of all repeats of a group's record.
    fn plans(&self, group: &Group<'_>) -> Vec<SamplePlan> {
        let Request { dataset, recipe, name, .. } = self.request;
        let image = dataset.record(group.record).size;
        let plan = |position| plan::sample(recipe, name.seed, name.epoch, position, image);
        group.all.clone().map(plan).collect()
    }

    /// Claims a group from the repeat cache, if a shared decode can serve other microbatches.
    fn claim(
        &self,
        group: &Group<'_>,
        shared_decode: bool,
        when_busy: WhenBusy,
    ) -> Option<Claim<'_>> {
        let Group { own, all, .. } = group;
        if !shared_decode || all.end - all.start == own.len() as u64 {
            return Some(Claim { ready: vec![None; own.len()], reserved: None });
        }
        let others: Vec<u64> = all.clone().filter(|position| !own.contains(position)).collect();
        self.cache.claim(self.step, own, &others, self.size.rgb_bytes(), when_busy)
    }
}

/// Groups neighboring slots that show the same record.
fn groups<'p>(
    sampler: &Sampler,
    step: &Range<u64>,
    slots: &Slots,
    pixels: Vec<&'p mut [u8]>,
) -> Vec<Group<'p>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for (slot, (&position, &record)) in
        pixels.into_iter().zip(slots.positions.iter().zip(&slots.records))
    {
        match groups.last_mut() {
            Some(last) if last.all.contains(&position) => {
                last.own.push(position);
                last.slots.push(slot);
            }
            _ => {
                let all = sampler.repeats(step, position);
                groups.push(Group { record, own: vec![position], all, slots: vec![slot] });
            }
        }
    }
    groups
}
