//! Requests for microbatches, and the samples that each consists of.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use forebay_types::{Digest, MicrobatchName, PixelFormat};

use crate::dataset::{Dataset, Want};
use crate::error::Error;
use crate::order::Sampler;
use crate::recipe::{Recipe, RecipeError};

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
    /// The request with the recipe as it is in the epoch. Its digest is not that of the job.
    pub(crate) fn in_epoch(&self) -> Cow<'_, Self> {
        match self.recipe.at(self.name.epoch) {
            Cow::Borrowed(_) => Cow::Borrowed(self),
            Cow::Owned(recipe) => Cow::Owned(Self { recipe: Arc::new(recipe), ..self.clone() }),
        }
    }

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
        let sampler = sampler(dataset, recipe, name.seed)?;
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

/// The sampler of a dataset. The first one of a recipe with sampling fields lists the records of each class, which the
/// dataset keeps: four bytes for each.
///
/// # Errors
/// [`RecipeError::TooSmall`] if the dataset has too few records for one step, and, if the recipe has sampling fields,
/// [`RecipeError::UnknownClass`], or [`RecipeError::NothingDrawn`] if its weights leave no record.
pub fn sampler(dataset: &Dataset, recipe: &Recipe, seed: u64) -> Result<Sampler, RecipeError> {
    if recipe.sampling.is_uniform() {
        return Sampler::mixed(dataset.draws(), recipe, seed);
    }
    if dataset.draws().any(|(records, draws)| draws != records) {
        return Err(RecipeError::Value {
            field: "sampling",
            value: "with weights of datasets".to_owned(),
            expected:
                "either weights of classes or of datasets, which decide the draws of an epoch each"
                    .to_owned(),
        });
    }
    let table = dataset.by_class().ok_or_else(|| RecipeError::Value {
        field: "sampling",
        value: format!("for {} records", dataset.len()),
        expected: "a dataset of less than 2^32".to_owned(),
    })?;
    Sampler::by_class(table, dataset.classes(), dataset.len(), recipe, seed)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::build;
    use crate::explain;
    use crate::recipe::RecipeSpec;
    use crate::sample_data::{self, SampleData};

    /// A dataset of three classes of 8 records, of which one is bad.
    fn dataset() -> Arc<Dataset> {
        let folder = tempfile::tempdir().unwrap();
        let spec = SampleData { classes: 3, per_class: 8, val_per_class: 0, seed: 0 };
        sample_data::write(folder.path(), &spec, |_| ()).unwrap();
        let train = folder.path().join("train");
        let whole = build(&train, None, 1, &|_| ()).unwrap();
        assert_eq!(whole.good, 24);
        let name = Dataset::open(&train, None).unwrap().name(3).to_owned();
        std::fs::write(train.join(name), "not an image").unwrap();
        build(&train, None, 1, &|_| ()).unwrap();
        Arc::new(Dataset::open(&train, None).unwrap())
    }

    fn recipe(set: &[String]) -> Arc<Recipe> {
        let small = ["batch = 8", "microbatches = 1", "repeats = 1"].map(String::from);
        let changes = small.into_iter().chain(set.iter().cloned());
        Arc::new(RecipeSpec::preset("a2").with_changes(changes).resolve().unwrap())
    }

    #[test]
    fn microbatches_have_good_records_of_the_classes_that_are_drawn() {
        let dataset = dataset();
        assert_eq!((dataset.len(), dataset.bad_count()), (24, 1));
        let weights = format!(
            "sampling.weights = {{ {:?} = 0, {:?} = 3 }}",
            dataset.classes()[1],
            dataset.classes()[2]
        );
        let recipe = recipe(&[weights, "sampling.balance = 1".to_owned()]);
        for epoch in 0..20 {
            let mut labels = [0; 3];
            for step in 0..3 {
                let name = MicrobatchName { seed: 0, epoch, step, index: 0 };
                let (dataset, recipe) = (Arc::clone(&dataset), Arc::clone(&recipe));
                let request = Request { dataset, recipe, name, format: PixelFormat::default() };
                let explained = explain(&request).unwrap().samples;
                let records = request.records();
                assert!(explained.iter().map(|sample| sample.record).eq(records.iter().copied()));
                for record in records {
                    let drawn = request.dataset.record(record);
                    assert!(drawn.good);
                    labels[drawn.label as usize] += 1;
                }
            }
            assert_eq!(labels, [6, 0, 18]);
        }
    }

    #[test]
    fn a_class_that_the_dataset_does_not_have_is_refused() {
        let recipe = recipe(&["sampling.weights.dog = 2".to_owned()]);
        let error = sampler(&dataset(), &recipe, 0).unwrap_err().to_string();
        assert!(
            error.contains("the dataset has no class \"dog\" (none of its 3 classes"),
            "{error}"
        );
    }
}
