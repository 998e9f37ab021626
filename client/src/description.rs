//! Sizes, digests and names that a server reports for a dataset with a recipe.

use forebay_proto::types::Digest;
use forebay_proto::types::limits::{self, RecipeFields};
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
    /// Whether records are drawn by weights of classes or of mixed datasets, so that an epoch has some of them
    /// several times and others never.
    pub weighted: bool,
    /// Changes of `image_size` by the recipe's schedule: first epochs, ascending, and sizes.
    pub image_sizes: Vec<(u64, u32)>,
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

    /// Height and width of the images of an epoch, in pixels.
    pub fn image_size_at(&self, epoch: u64) -> u32 {
        let begun = self.image_sizes.iter().take_while(|(from, _)| *from <= epoch);
        begun.last().map_or(self.image_size, |(_, size)| *size)
    }

    pub(crate) fn from_wire(wire: v1::DescribeResponse) -> Result<Self, Cause> {
        let invalid = |what| Cause::Wire(WireError::Description(what));
        let digest = |bytes: &[u8]| bytes.try_into().map(Digest);
        let three = |values: Vec<f64>| <[f64; 3]>::try_from(values);
        let v1::DescribeResponse { batch, microbatches, image_size, smoothing, .. } = wire;
        let (mean, std) = (&wire.mean[..], &wire.std[..]);
        let recipe = RecipeFields { batch, microbatches, image_size, smoothing, mean, std };
        if let Some(problem) = recipe.problem() {
            return Err(invalid(problem));
        }
        let (names, classes) = (wire.classes.len() as u64, wire.class_count);
        for (is_valid, what) in [
            (wire.records <= limits::RECORDS, "records must be at most 2^40"),
            (wire.bad_records <= wire.records, "bad_records must be at most the number of records"),
            (
                wire.samples_per_epoch <= wire.records || wire.weighted,
                "samples_per_epoch must be at most the number of records, unless these are drawn by weight",
            ),
            (wire.samples_per_epoch <= limits::RECORDS, "samples_per_epoch must be at most 2^40"),
            (
                wire.samples_per_epoch.div_ceil(batch.into()) == wire.steps_per_epoch,
                "steps_per_epoch must be samples_per_epoch divided by batch, rounded up",
            ),
            (
                wire.image_sizes.is_sorted_by(|a, b| a.from_epoch < b.from_epoch),
                "image_sizes must be in the order of their epochs",
            ),
            (
                wire.image_sizes.iter().all(|of| (1..=limits::IMAGE_SIZE).contains(&of.image_size)),
                "image_sizes must be from 1 to 4096",
            ),
            (classes == 0 || names == classes, "class_count must be the number of classes"),
        ] {
            if !is_valid {
                return Err(invalid(what));
            }
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
            weighted: wire.weighted,
            image_sizes: wire.image_sizes.iter().map(|of| (of.from_epoch, of.image_size)).collect(),
        })
    }
}

/// Largest size of the names of all classes: a `classes.txt` has at most a quarter of it.
const MAX_CLASS_BYTES: usize = 256 << 20;

/// Adds the names of a further response. `bytes` is the size of all further names so far.
pub(crate) fn add_classes(
    to: &mut v1::DescribeResponse,
    rest: v1::DescribeResponse,
    bytes: &mut usize,
) -> Result<(), Cause> {
    let invalid = |what| Cause::Wire(WireError::Description(what));
    if to.class_count > limits::CLASSES || rest.classes.is_empty() {
        return Err(invalid("class_count must be the number of classes, at most 2^24"));
    }
    *bytes += rest.classes.iter().map(String::len).sum::<usize>();
    if *bytes > MAX_CLASS_BYTES {
        return Err(invalid("the names of all classes must have at most 256 MiB"));
    }
    if (rest.dataset_digest, rest.class_count) != (to.dataset_digest.clone(), to.class_count) {
        return Err(invalid("the names of classes must all be of one dataset"));
    }
    to.classes.extend(rest.classes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> v1::DescribeResponse {
        v1::DescribeResponse {
            dataset_digest: vec![1; 32].into(),
            records: 8,
            classes: vec!["ant".into(), "bee".into()],
            class_count: 2,
            recipe_digest: vec![2; 32].into(),
            samples_per_epoch: 8,
            steps_per_epoch: 2,
            batch: 4,
            microbatches: 2,
            image_size: 8,
            mean: vec![0.0; 3],
            std: vec![1.0; 3],
            ..v1::DescribeResponse::default()
        }
    }

    fn from(from_epoch: u64, image_size: u32) -> v1::ImageSizeFrom {
        v1::ImageSizeFrom { from_epoch, image_size }
    }

    #[test]
    fn a_schedule_decides_the_size_of_each_epoch() {
        let image_sizes = vec![from(5, 16), from(9, 4)];
        let wire = v1::DescribeResponse { image_sizes, ..good() };
        let described = Description::from_wire(wire).unwrap();
        let sizes = [0, 4, 5, 8, 9, 100].map(|epoch| described.image_size_at(epoch));
        assert_eq!(sizes, [8, 8, 16, 16, 4, 4]);
    }

    #[test]
    fn numbers_that_no_server_has_are_refused() {
        type Change = fn(&mut v1::DescribeResponse);
        let changes: [(&str, Change); 17] = [
            ("batch", |d| d.batch = u32::MAX),
            ("batch", |d| d.batch = 0),
            ("microbatches", |d| d.microbatches = u32::MAX),
            ("image_size", |d| d.image_size = u32::MAX),
            ("image_sizes", |d| d.image_sizes = vec![from(5, 16), from(5, 32)]),
            ("image_sizes", |d| d.image_sizes = vec![from(5, 5000)]),
            ("records", |d| d.records = u64::MAX),
            ("bad_records", |d| d.bad_records = 9),
            ("samples_per_epoch", |d| (d.samples_per_epoch, d.steps_per_epoch) = (12, 3)),
            ("class_count", |d| d.class_count = 1),
            ("smoothing", |d| d.smoothing = f64::NAN),
            ("smoothing", |d| d.smoothing = -0.1),
            ("mean", |d| d.mean[1] = f64::NAN),
            ("mean", |d| d.mean.truncate(2)),
            ("std", |d| d.std[2] = 0.0),
            ("std", |d| d.std[0] = f64::INFINITY),
            ("std", |d| d.std.push(1.0)),
        ];
        Description::from_wire(good()).unwrap();
        for (field, change) in changes {
            let mut changed = good();
            change(&mut changed);
            let error = Description::from_wire(changed).unwrap_err().to_string();
            assert!(error.contains(field), "{field}: {error}");
        }
    }

    #[test]
    fn names_of_classes_without_end_are_refused() {
        let page = |names: &[usize]| v1::DescribeResponse {
            class_count: limits::CLASSES,
            classes: names.iter().map(|length| "x".repeat(*length)).collect(),
            ..good()
        };
        let (mut all, mut bytes) = (page(&[1]), 0);
        add_classes(&mut all, page(&[2, 3]), &mut bytes).unwrap();
        assert_eq!((all.classes.len(), bytes), (3, 5));
        add_classes(&mut all, page(&[]), &mut bytes).unwrap_err();
        add_classes(&mut all, page(&[MAX_CLASS_BYTES]), &mut bytes).unwrap_err();
        all.class_count = u64::MAX;
        add_classes(&mut all, page(&[1]), &mut 0).unwrap_err();
    }

    #[test]
    fn a_number_of_steps_that_does_not_fit_the_samples_is_refused() {
        let of = |samples_per_epoch, steps_per_epoch| {
            Description::from_wire(v1::DescribeResponse {
                samples_per_epoch,
                steps_per_epoch,
                ..good()
            })
        };
        let last = of(5, 2).unwrap();
        assert_eq!([last.samples(1, 0), last.samples(1, 1), last.samples(0, 1)], [1, 0, 2]);
        assert!(of(8, 2).is_ok() && of(0, 0).is_ok());
        assert!(of(8, u64::MAX).is_err() && of(9, 2).is_err());
    }
}
