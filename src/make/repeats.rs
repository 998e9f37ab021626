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

use rayon::prelude::*;

use super::repeat_cache::{Claim, RepeatCache, StepKey, WhenBusy};
use super::request::{Request, Slots};
use super::sample::{Planned, make_samples, union};
use super::timings::Stages;
use super::worker::{Scratch, Workers};
use crate::cpu_time::CpuTimer;
use crate::error::Error;
use crate::geometry::Size;
use crate::order::Sampler;
use crate::plan::{self, SamplePlan};
use crate::schedule::Waiters;

/// A microbatch that is being filled.
pub(super) struct Fill<'a> {
    pub(super) request: &'a Request,
    pub(super) waiters: &'a Waiters,
    pub(super) workers: &'a Workers,
    pub(super) cache: &'a RepeatCache,
    pub(super) step: StepKey,
    pub(super) size: Size,
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

/// The work that was done, and the groups that were deferred.
type Pass<'p> = (Stages, Vec<Group<'p>>);

impl Fill<'_> {
    /// Reads, decodes, resizes and augments every sample into its slot. Must run on a thread of the
    /// pool.
    ///
    /// # Errors
    /// When a record cannot be read or decoded, or all waiters have cancelled.
    pub(super) fn fill(&self, slots: &Slots, pixels: &mut [u8]) -> Result<Stages, Error> {
        let step = slots.sampler.step(self.step.step);
        let pixels = pixels.chunks_exact_mut(self.size.rgb_bytes());
        let groups = groups(&slots.sampler, &step, slots, pixels);
        let (mut stages, deferred) = self.pass(groups, WhenBusy::Defer)?;
        stages += self.pass(deferred, WhenBusy::Wait)?.0;
        Ok(stages)
    }

    fn pass<'p>(&self, groups: Vec<Group<'p>>, when_busy: WhenBusy) -> Result<Pass<'p>, Error> {
        let fill = |group| {
            if self.waiters.all_cancelled() {
                return Err(Error::Cancelled);
            }
            self.workers.with_scratch(|scratch| self.fill_group(group, when_busy, scratch))
        };
        groups.into_par_iter().map(fill).try_reduce(Pass::default, |mut sum, (stages, deferred)| {
            sum.0 += stages;
            sum.1.extend(deferred);
            Ok(sum)
        })
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
        let total = plans.iter().map(|plan| plan.source.area()).sum();
        // Boxes that are far apart are cheaper to decode one by one than as their union.
        let shared_decode = union(plans.iter()).area() <= total;
        let Some(Claim { ready, mut reserved }) = self.claim(&group, shared_decode, when_busy)
        else {
            return Ok((Stages::default(), vec![group]));
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
        let mut stages = Stages { read: timer.lap(), ..Stages::default() };
        if !missing.is_empty() {
            let record = group.record;
            stages += make_samples(self.request, record, &mut missing, shared_decode, scratch)?;
        }
        if let Some(reserved) = reserved {
            reserved.publish();
        }
        Ok((stages, Vec::new()))
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
    pixels: impl Iterator<Item = &'p mut [u8]>,
) -> Vec<Group<'p>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for (slot, (&position, &record)) in pixels.zip(slots.positions.iter().zip(&slots.records)) {
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
