//! Requests for microbatches, and the samples that each consists of.

use std::sync::Arc;

use forebay_types::{Digest, MicrobatchName, PixelFormat};

use crate::dataset::Dataset;
use crate::error::Error;
use crate::order::Sampler;
use crate::recipe::Recipe;

/// A request for a microbatch: its name and the form of its pixels.
#[derive(Clone, Debug)]
pub struct Request {
    /// The dataset that the records are read from.
    pub dataset: Arc<Dataset>,
    /// The recipe by which they are processed.
    pub recipe: Arc<Recipe>,
    /// The microbatch's name within dataset and recipe.
    pub name: MicrobatchName,
    /// Type and layout of the pixels, mixed or not.
    pub format: PixelFormat,
}

/// Everything that determines a microbatch's bytes: requests with equal keys have equal answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RequestKey {
    dataset: Digest,
    recipe: Digest,
    name: MicrobatchName,
    format: PixelFormat,
}

impl Request {
    pub(crate) fn key(&self) -> RequestKey {
        let Self { dataset, recipe, name, format } = self;
        let (dataset, recipe) = (dataset.digest(), recipe.digest());
        RequestKey { dataset, recipe, name: *name, format: *format }
    }

    /// The samples of the microbatch.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if the step or the microbatch is past the end, and [`Error::Recipe`] if the
    /// dataset has too few records for one step.
    pub(crate) fn slots(&self) -> Result<Slots, Error> {
        let Self { dataset, name, .. } = self;
        let sampler = self.sampler()?;
        let epoch = sampler.epoch(name.epoch);
        let positions: Vec<u64> = sampler.positions(name.step, name.index).collect();
        let records = positions.iter().map(|&p| dataset.good_or_next(epoch.record(p))).collect();
        Ok(Slots { positions, records, sampler })
    }

    /// The sampler of the microbatch's epoch, which has the microbatch.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if the step or the microbatch is past the end.
    pub(crate) fn sampler(&self) -> Result<Sampler, Error> {
        let Self { dataset, recipe, name, .. } = self;
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
        Ok(sampler)
    }
}

/// The samples of a microbatch before any work is done, slot by slot.
pub(crate) struct Slots {
    /// Positions in the epoch.
    pub(crate) positions: Vec<u64>,
    /// Records at the positions, bad ones replaced.
    pub(crate) records: Vec<u64>,
    pub(crate) sampler: Sampler,
}

impl Slots {
    /// Number of samples.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.records.len()).expect("a batch has at most 2^32 samples")
    }
}
