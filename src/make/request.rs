//! Requests for microbatches, and the samples that each consists of.

use std::sync::{Arc, OnceLock};

use forebay_types::{Digest, MicrobatchName, PixelFormat};

use crate::dataset::{Dataset, Want};
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

/// A request on its way through the queue.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) request: Request,
    /// Keeps what was fetched for it, if its dataset is in a bucket, until it has been made.
    pub(crate) fetched: Arc<OnceLock<Want>>,
}

/// Bytes that are fetched for a microbatch before it is requested. They may be dropped once this is.
#[derive(Debug)]
pub struct FetchAhead {
    bytes: u64,
    _want: Want,
}

impl FetchAhead {
    /// Number of the bytes, as an estimate.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
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

    /// Begins to fetch the records of the microbatch, so that they are there when it is requested. `None` if its
    /// dataset is not in a bucket, or the request is out of range.
    pub fn fetch_ahead(&self, samples: u64) -> Option<FetchAhead> {
        self.dataset.storage()?;
        let request = self.clone();
        let want = self.dataset.want_ahead(move || request.records())?;
        let samples = samples / u64::from(self.recipe.repeats).max(1);
        Some(FetchAhead { bytes: samples.saturating_mul(self.dataset.mean_bytes()), _want: want })
    }

    /// The records of the microbatch; none if it is out of range.
    pub(crate) fn records(&self) -> Vec<u64> {
        self.slots().map_or_else(|_error| Vec::new(), |slots| slots.records)
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
