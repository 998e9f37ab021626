//! The samples of one record: read, decode, resize, augment.

use super::request::Request;
use super::timings::Stages;
use super::worker::Scratch;
use crate::cpu_time::CpuTimer;
use crate::error::Error;
use crate::geometry::{Rect, Size};
use crate::plan::SamplePlan;
use crate::resize::Resample;

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
    scratch: &mut Scratch,
) -> Result<Stages, Error> {
    let Request { dataset, recipe, .. } = request;
    let Scratch { bytes, decoder, resizer, augmenter } = scratch;
    let size = Size::square(recipe.image_size);
    let mut stages = Stages::default();
    let mut timer = CpuTimer::start();
    let (bytes, entries) = (dataset.read(record, bytes)?, dataset.entry_points(record)?);
    stages.read = timer.lap();
    let per_decode = if shared_decode { samples.len() } else { 1 };
    for samples in samples.chunks_mut(per_decode) {
        let region = union(samples.iter().map(|(plan, _)| *plan));
        let region = decoder.decode(bytes, region, entries).map_err(|source| {
            let name = dataset.name(record).to_owned();
            Error::Record { record, name, source }
        })?;
        stages.decode += timer.lap();
        stages.decoded += 1;
        for (plan, slot) in samples {
            let SamplePlan { source, resized, window, filter, flip, .. } = **plan;
            let to = Resample { resized, window, filter, flip };
            resizer.resize(region.crop(source), &to, slot);
            stages.resize += timer.lap();
            augmenter.apply(&plan.ops, slot, size, recipe.fill());
            stages.augment += timer.lap();
        }
    }
    Ok(stages)
}

/// The smallest box that holds the boxes of all plans, of which there is at least one.
pub(super) fn union<'a>(plans: impl Iterator<Item = &'a SamplePlan>) -> Rect {
    plans.map(|plan| plan.source).reduce(Rect::union).expect("at least one plan")
}
