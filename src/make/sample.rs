//! The samples of one record: read, decode, resize, augment.

use std::time::Duration;

use forebay_types::process::CpuTimer;

use super::cost::Cost;
use super::request::Request;
use super::scratch::Scratch;
use crate::error::Error;
use crate::geometry::{Rect, Size};
use crate::plan::SamplePlan;
use crate::resize::{Part, Resample};
use crate::scratch::fit;

/// A sample to make: its plan, and the slot that it is written to.
pub(super) type Planned<'a> = (&'a SamplePlan, &'a mut [u8]);

/// Makes samples of one record, each in its slot. With `shared_decode` the union of their boxes is
/// decoded once; the decoder returns the same pixels for any region that holds a box, so a shared
/// decode changes nothing but the cost.
///
/// # Errors
/// When the record cannot be read or decoded.
pub(super) fn make_samples(
    request: &Request,
    record: u64,
    samples: &mut [Planned<'_>],
    shared_decode: bool,
    (scratch, read_timeout): (&mut Scratch, Duration),
) -> Result<Cost, Error> {
    let Request { dataset, recipe, .. } = request;
    let Scratch { reader, record: memory, decoder, resizer, augmenter } = scratch;
    let size = Size::square(recipe.image_size);
    let mut cost = Cost::default();
    let mut timer = CpuTimer::start();
    let stored = dataset.record(record);
    fit(&mut memory.bytes, stored.length as usize, 0);
    let reading = reader.read(dataset, record, memory, read_timeout)?;
    let entries = dataset.entry_points(record);
    cost.stages.read = timer.lap() + reading;
    let per_decode = if shared_decode { samples.len() } else { 1 };
    for samples in samples.chunks_mut(per_decode) {
        let region = union(samples.iter().map(|(plan, _)| *plan));
        let decoded = decoder.decode_stored(&memory.bytes, stored.planar(), region, entries);
        let region = decoded.map_err(|source| {
            let name = dataset.name(record).to_owned();
            Error::Record { record, name, source }
        })?;
        cost.stages.decode += timer.lap();
        cost.decoded += 1;
        for (plan, slot) in samples {
            let (rect, whole) = (needed(plan), plan.source.size());
            let Rect { top, left, .. } = rect;
            let (top, left) = (top - plan.source.top, left - plan.source.left);
            let part = Part { pixels: region.crop(rect), rect: Rect { top, left, ..rect }, whole };
            resizer.resize_part(part, &resample(plan), slot);
            cost.stages.resize += timer.lap();
            augmenter.apply(&plan.ops, slot, size, recipe.fill());
            if let Some(mixture) = &plan.mixture {
                augmenter.mix(mixture, slot, size, recipe.fill());
            }
            augmenter.apply_color(&plan.color, slot, size);
            cost.stages.augment += timer.lap();
        }
    }
    Ok(cost)
}

/// The smallest box that holds what all plans need, of which there is at least one.
pub(super) fn union<'a>(plans: impl Iterator<Item = &'a SamplePlan>) -> Rect {
    plans.map(needed).reduce(Rect::union).expect("at least one plan")
}

/// The box of the stored image that a sample depends on.
pub(super) fn needed(plan: &SamplePlan) -> Rect {
    let rect = resample(plan).needs(plan.source.size());
    Rect { top: plan.source.top + rect.top, left: plan.source.left + rect.left, ..rect }
}

fn resample(plan: &SamplePlan) -> Resample {
    let SamplePlan { resized, window, filter, padding, flip, vflip, .. } = *plan;
    Resample { resized, window, filter, flip, vflip, padding }
}
