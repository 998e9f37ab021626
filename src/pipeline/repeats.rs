//! From records to slots: each record's repeats are read and decoded once, whether they lie in
//! neighbouring slots of a microbatch or in other microbatches of the step.
//!
//! The decoder gives the same pixels for any box that holds the crop, so what is decoded together is
//! what would be decoded alone.

use std::ops::Range;

use rayon::prelude::*;

use super::Request;
use super::make::{Scratch, Workers};
use super::shared::{Claim, Step};
use super::timings::{Laps, Stages};
use super::works::Wishes;
use crate::error::Error;
use crate::geometry::{Rect, Size};
use crate::order::Sampler;
use crate::plan::{self, SamplePlan};
use crate::resize::Resample;

/// What every sample of a microbatch shares.
pub(super) struct Work<'a> {
    pub(super) request: &'a Request,
    pub(super) wishes: &'a Wishes,
    pub(super) workers: &'a Workers,
    pub(super) size: Size,
    pub(super) step: Step,
}

/// Neighbouring slots that show the same record.
struct Repeats<'p> {
    record: u64,
    /// Positions of the slots.
    own: Vec<u64>,
    /// Positions of the step that show the record.
    all: Range<u64>,
    slots: Vec<&'p mut [u8]>,
}

/// What was done, and what is left because another worker was doing it.
type Pass<'p> = (Stages, Vec<Repeats<'p>>);

impl Work<'_> {
    /// Reads, decodes, resizes and augments every sample into its slot.
    pub(super) fn fill(
        &self,
        sampler: &Sampler,
        pixels: &mut [u8],
        positions: &[u64],
        records: &[u64],
    ) -> Result<Stages, Error> {
        let step = sampler.step(self.step.number);
        let mut groups: Vec<Repeats<'_>> = Vec::new();
        let slots = pixels.chunks_exact_mut(self.size.rgb_bytes());
        for (slot, (&position, &record)) in slots.zip(positions.iter().zip(records)) {
            match groups.last_mut() {
                Some(last) if last.all.contains(&position) => {
                    last.own.push(position);
                    last.slots.push(slot);
                }
                _ => {
                    let all = sampler.repeats(&step, position);
                    groups.push(Repeats { record, own: vec![position], all, slots: vec![slot] });
                }
            }
        }
        let (mut stages, left) = self.pass(groups, false)?;
        // Whoever was making them has finished by now, or is about to.
        stages += self.pass(left, true)?.0;
        Ok(stages)
    }

    fn pass<'p>(&self, groups: Vec<Repeats<'p>>, wait: bool) -> Result<Pass<'p>, Error> {
        let one = |group| {
            if !self.wishes.any() {
                return Err(Error::Cancelled);
            }
            self.workers.with_scratch(|scratch| self.repeats(group, wait, scratch))
        };
        groups.into_par_iter().map(one).try_reduce(Pass::default, |mut sum, (stages, left)| {
            sum.0 += stages;
            sum.1.extend(left);
            Ok(sum)
        })
    }

    /// Fills the slots of a record, and what is made early with them.
    fn repeats<'p>(
        &self,
        mut group: Repeats<'p>,
        wait: bool,
        scratch: &mut Scratch,
    ) -> Result<Pass<'p>, Error> {
        let mut laps = Laps::start();
        let Repeats { record, own, all, slots } = &mut group;
        let plans: Vec<SamplePlan> = all.clone().map(|p| self.plan(*record, p)).collect();
        // Boxes in different corners are better decoded one by one.
        let union = union(&plans).area() <= plans.iter().map(|plan| plan.source.area()).sum();
        let others: Vec<u64> = all.clone().filter(|p| union && !own.contains(p)).collect();
        let claim = if others.is_empty() {
            None
        } else {
            let bytes = self.size.rgb_bytes();
            let Some(claim) = self.workers.shared.claim(self.step, own, &others, bytes, wait)
            else {
                return Ok((Stages::default(), vec![group]));
            };
            Some(claim)
        };
        let plan_of = |position: u64| {
            let at = usize::try_from(position - all.start).expect("a repeat of the record");
            &plans[at]
        };
        let mut make: Vec<(&SamplePlan, &mut [u8])> = Vec::new();
        let (ready, mut reserved) =
            claim.map_or((Vec::new(), None), |Claim { ready, reserved }| (ready, Some(reserved)));
        for (at, slot) in slots.iter_mut().enumerate() {
            match ready.get(at) {
                Some(Some(pixels)) => slot.copy_from_slice(pixels),
                _ => make.push((plan_of(own[at]), &mut **slot)),
            }
        }
        let early = reserved.iter_mut().flat_map(|reserved| &mut reserved.samples);
        make.extend(early.map(|(position, slab)| (plan_of(*position), &mut **slab)));
        let mut stages = Stages { read: laps.lap(), ..Stages::default() };
        if !make.is_empty() {
            stages += self.make(*record, make, union, scratch)?;
        }
        if let Some(reserved) = reserved {
            reserved.publish();
        }
        Ok((stages, Vec::new()))
    }

    fn plan(&self, record: u64, position: u64) -> SamplePlan {
        let Request { dataset, recipe, name, .. } = self.request;
        let image = dataset.record(record).size;
        plan::sample(recipe, name.seed, name.epoch, position, image)
    }

    /// Makes samples of one record, by one decode of the union of their boxes or by one each.
    fn make(
        &self,
        record: u64,
        mut samples: Vec<(&SamplePlan, &mut [u8])>,
        union: bool,
        scratch: &mut Scratch,
    ) -> Result<Stages, Error> {
        let Request { dataset, recipe, .. } = self.request;
        let Scratch { bytes, decoder, resizer, augmenter, .. } = scratch;
        let mut stages = Stages::default();
        let mut laps = Laps::start();
        let (bytes, entries) = (dataset.read(record, bytes)?, dataset.entry_points(record)?);
        stages.read = laps.lap();
        let together = if union { samples.len() } else { 1 };
        for samples in samples.chunks_mut(together) {
            let boxes = samples.iter().map(|(plan, _)| plan.source);
            let region = boxes.reduce(Rect::union).expect("chunks are not empty");
            let region = decoder.decode(bytes, region, entries).map_err(|source| {
                Error::Record { record, name: dataset.name(record).to_owned(), source }
            })?;
            stages.decode += laps.lap();
            stages.decoded += 1;
            for (plan, slot) in samples {
                let SamplePlan { source, resized, window, filter, flip, .. } = **plan;
                let to = Resample { resized, window, filter, flip };
                resizer.resize(region.crop(source), &to, slot);
                stages.resize += laps.lap();
                augmenter.apply(&plan.ops, slot, self.size, recipe.fill());
                stages.augment += laps.lap();
            }
        }
        Ok(stages)
    }
}

/// The smallest box that holds those of all plans.
fn union(plans: &[SamplePlan]) -> Rect {
    plans.iter().map(|plan| plan.source).reduce(Rect::union).expect("a position of its own")
}
