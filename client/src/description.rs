//! Sizes, digests and names that a server reports for a dataset with a recipe.

use forebay_proto::types::Digest;
use forebay_proto::v1;

use crate::error::{Cause, WireError};

/// Sizes, digests and names of a dataset with a recipe, as a server describes them.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// Version of the server.
    pub server_version: String,
    /// Digest of the dataset.
    pub dataset_digest: Digest,
    /// Records of the dataset.
    pub records: u64,
    /// Number of records that do not decode; each is replaced by the next good one.
    pub bad_records: u64,
    /// Class names, by label.
    pub classes: Vec<String>,
    /// Digest of the recipe.
    pub recipe_digest: Digest,
    /// The recipe's canonical form, from which its digest is computed.
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
    /// Label smoothing, to be applied by the trainer's loss.
    pub smoothing: f64,
    /// Mean of R, G and B, from 0 to 1.
    pub mean: [f64; 3],
    /// Standard deviation of R, G and B.
    pub std: [f64; 3],
    /// Names of the datasets that the server has.
    pub datasets: Vec<String>,
}

impl Description {
    /// Number of samples of a microbatch: the positions `p` of its step with
    /// `p % microbatches == index`.
    ///
    /// Only the last step of an evaluation has fewer than `batch / microbatches`. A microbatch
    /// without samples does not exist: no stream contains it.
    pub fn samples(&self, step: u64, index: u32) -> u64 {
        let first = step.saturating_mul(self.batch.into()).min(self.samples_per_epoch);
        let end = first.saturating_add(self.batch.into()).min(self.samples_per_epoch);
        let (groups, index) = (u64::from(self.microbatches), u64::from(index));
        let below = |end: u64| end / groups + u64::from(end % groups > index);
        below(end) - below(first)
    }

    pub(crate) fn from_wire(wire: v1::DescribeResponse) -> Result<Self, Cause> {
        let invalid = |what| Cause::Wire(WireError::Description(what));
        let digest = |bytes: &[u8]| bytes.try_into().map(Digest);
        let three = |values: Vec<f64>| <[f64; 3]>::try_from(values);
        if wire.batch == 0 || wire.microbatches == 0 || wire.image_size == 0 {
            return Err(invalid("batch, microbatches and image_size must not be zero"));
        }
        if wire.samples_per_epoch.div_ceil(wire.batch.into()) != wire.steps_per_epoch {
            return Err(invalid(
                "steps_per_epoch must be samples_per_epoch divided by batch, rounded up",
            ));
        }
        Ok(Self {
            server_version: wire.server_version,
            dataset_digest: digest(&wire.dataset_digest)
                .map_err(|_error| invalid("the dataset digest must be 32 bytes long"))?,
            records: wire.records,
            bad_records: wire.bad_records,
            classes: wire.classes,
            recipe_digest: digest(&wire.recipe_digest)
                .map_err(|_error| invalid("the recipe digest must be 32 bytes long"))?,
            recipe_toml: wire.recipe_toml,
            samples_per_epoch: wire.samples_per_epoch,
            steps_per_epoch: wire.steps_per_epoch,
            batch: wire.batch,
            microbatches: wire.microbatches,
            image_size: wire.image_size,
            smoothing: wire.smoothing,
            mean: three(wire.mean).map_err(|_error| invalid("mean must be three numbers"))?,
            std: three(wire.std).map_err(|_error| invalid("std must be three numbers"))?,
            datasets: wire.datasets,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_steps_that_does_not_fit_the_samples_is_refused() {
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
