//! What to serve, and what that amounts to.

use forebay_proto::v1;

use crate::error::{Cause, WireError};
use crate::{Digest, State};

/// A recipe, by name or as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecipeRef {
    /// A preset (a1, a2, a3, eval) or a recipe that the server was configured with.
    Name(String),
    /// A whole recipe as TOML.
    Toml(String),
}

/// What decides every microbatch of a training run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Name of a dataset that the servers have.
    pub dataset: String,
    /// The recipe.
    pub recipe: RecipeRef,
    /// Changes to it as TOML assignments, such as `batch = 32`, in order.
    pub set: Vec<String>,
    /// Seed of every random choice.
    pub seed: u64,
    /// The dataset's digest, where it is known: a server that has another is refused.
    pub dataset_digest: Option<Digest>,
    /// The recipe's digest, where it is known.
    pub recipe_digest: Option<Digest>,
}

impl Job {
    /// A dataset with a recipe of that name, seed 0, nothing changed and nothing expected.
    pub fn new(dataset: impl Into<String>, recipe: impl Into<String>) -> Self {
        Self {
            dataset: dataset.into(),
            recipe: RecipeRef::Name(recipe.into()),
            set: Vec::new(),
            seed: 0,
            dataset_digest: None,
            recipe_digest: None,
        }
    }

    /// The job that a checkpoint was written by: its seed, and nothing but its digests accepted.
    #[must_use]
    pub fn resumed(self, state: &State) -> Self {
        Self {
            seed: state.seed,
            dataset_digest: Some(state.dataset_digest),
            recipe_digest: Some(state.recipe_digest),
            ..self
        }
    }

    pub(crate) fn to_wire(&self) -> v1::Job {
        let (name, toml) = match self.recipe.clone() {
            RecipeRef::Name(name) => (name, String::new()),
            RecipeRef::Toml(toml) => (String::new(), toml),
        };
        let digest = |digest: Option<Digest>| {
            digest.map_or_else(Vec::new, |Digest(bytes)| bytes.to_vec()).into()
        };
        v1::Job {
            dataset: self.dataset.clone(),
            recipe: Some(v1::Recipe { name, toml, set: self.set.clone() }),
            seed: self.seed,
            dataset_digest: digest(self.dataset_digest),
            recipe_digest: digest(self.recipe_digest),
        }
    }
}

/// What a dataset and a recipe amount to.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// Version of the server that answered.
    pub server_version: String,
    /// Digest of the dataset.
    pub dataset_digest: Digest,
    /// Records of the dataset.
    pub records: u64,
    /// Those of them that do not decode, and are replaced by their successors.
    pub bad_records: u64,
    /// Names of the classes, by label.
    pub classes: Vec<String>,
    /// Digest of the recipe.
    pub recipe_digest: Digest,
    /// The recipe's canonical form, whose digest it is.
    pub recipe_toml: String,
    /// Positions of an epoch.
    pub samples_per_epoch: u64,
    /// Steps of an epoch.
    pub steps_per_epoch: u64,
    /// Samples of a step.
    pub batch: u32,
    /// Microbatches of a step.
    pub microbatches: u32,
    /// Height and width of the images, in pixels.
    pub image_size: u32,
    /// Label smoothing that the trainer's loss applies.
    pub smoothing: f64,
    /// Mean of R, G and B, in 0..1.
    pub mean: [f64; 3],
    /// Standard deviation of R, G and B.
    pub std: [f64; 3],
    /// Names of the datasets that the server has.
    pub datasets: Vec<String>,
}

impl Description {
    /// Samples of one microbatch: the positions `p` of its step with `p % microbatches == index`.
    /// Only the last step of an evaluation has fewer than `batch / microbatches`. With 0 the
    /// microbatch does not exist: no stream has it.
    pub fn samples(&self, step: u64, index: u32) -> u64 {
        let first = step.saturating_mul(self.batch.into()).min(self.samples_per_epoch);
        let end = first.saturating_add(self.batch.into()).min(self.samples_per_epoch);
        let (groups, index) = (u64::from(self.microbatches), u64::from(index));
        let below = |end: u64| end / groups + u64::from(end % groups > index);
        below(end) - below(first)
    }

    pub(crate) fn from_wire(wire: v1::DescribeResponse) -> Result<Self, Cause> {
        let says = |what| Cause::Wire(WireError::Description(what));
        let digest = |bytes: &[u8]| bytes.try_into().map(Digest);
        let three = |values: Vec<f64>| <[f64; 3]>::try_from(values);
        if wire.batch == 0 || wire.microbatches == 0 || wire.image_size == 0 {
            return Err(says("batch, microbatches and image_size must not be zero"));
        }
        if wire.samples_per_epoch.div_ceil(wire.batch.into()) != wire.steps_per_epoch {
            return Err(says("steps_per_epoch must be what samples_per_epoch and batch make"));
        }
        Ok(Self {
            server_version: wire.server_version,
            dataset_digest: digest(&wire.dataset_digest)
                .map_err(|_error| says("the dataset digest must be 32 bytes long"))?,
            records: wire.records,
            bad_records: wire.bad_records,
            classes: wire.classes,
            recipe_digest: digest(&wire.recipe_digest)
                .map_err(|_error| says("the recipe digest must be 32 bytes long"))?,
            recipe_toml: wire.recipe_toml,
            samples_per_epoch: wire.samples_per_epoch,
            steps_per_epoch: wire.steps_per_epoch,
            batch: wire.batch,
            microbatches: wire.microbatches,
            image_size: wire.image_size,
            smoothing: wire.smoothing,
            mean: three(wire.mean).map_err(|_error| says("mean must be three numbers"))?,
            std: three(wire.std).map_err(|_error| says("std must be three numbers"))?,
            datasets: wire.datasets,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_that_samples_do_not_fill_are_refused() {
        let of = |samples_per_epoch, steps_per_epoch| {
            Description::from_wire(v1::DescribeResponse {
                dataset_digest: vec![1; 32].into(),
                recipe_digest: vec![2; 32].into(),
                samples_per_epoch,
                steps_per_epoch,
                batch: 4,
                microbatches: 2,
                image_size: 8,
                mean: vec![0.0; 3],
                std: vec![1.0; 3],
                ..v1::DescribeResponse::default()
            })
        };
        let last = of(5, 2).unwrap();
        assert_eq!([last.samples(1, 0), last.samples(1, 1), last.samples(0, 1)], [1, 0, 2]);
        assert!(of(8, 2).is_ok() && of(0, 0).is_ok());
        assert!(of(8, u64::MAX).is_err() && of(9, 2).is_err());
    }
}
