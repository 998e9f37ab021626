//! Checks the values of a recipe.

use std::fmt::Display;

use super::error::RecipeError;
use super::fields::{Crop, Recipe, RecordOrder, SEMANTICS, Sampling};
use crate::randaugment::MAX_MAGNITUDE;

/// Largest values that a recipe may have.
pub mod limits {
    pub use forebay_types::limits::{BATCH, IMAGE_SIZE, MICROBATCHES};

    /// Most samples of a record per epoch.
    pub const REPEATS: u32 = 64;
    /// Most operations of RandAugment per sample.
    pub const OPS: u32 = 16;
    /// Most classes with a weight of their own. Each takes four of the 512 parts that a canonical form may have.
    pub const WEIGHTS: usize = 96;
    /// Smallest and largest weight of a class that is not left out.
    pub const WEIGHT: [f64; 2] = [1e-6, 1e6];
}

impl Recipe {
    /// Checks every field.
    ///
    /// # Errors
    /// [`RecipeError::Value`] with the first field whose value is invalid.
    pub(super) fn validate(&self) -> Result<(), RecipeError> {
        if self.semantics != SEMANTICS {
            let expected =
                format!("expected {SEMANTICS}, the semantics of this version of forebay");
            return invalid("semantics", self.semantics, expected);
        }
        whole("image_size", self.image_size, 1, limits::IMAGE_SIZE)?;
        whole("batch", self.batch, 1, limits::BATCH)?;
        whole("microbatches", self.microbatches, 1, limits::MICROBATCHES)?;
        whole("repeats", self.repeats, 1, limits::REPEATS)?;
        if !self.batch.is_multiple_of(self.microbatches) {
            let expected = format!("expected a divisor of batch = {}", self.batch);
            return invalid("microbatches", self.microbatches, expected);
        }
        if self.order == RecordOrder::Sequential && self.repeats != 1 {
            return invalid("repeats", self.repeats, "expected 1 with order = \"sequential\"");
        }
        real("flip", self.flip, 0.0, 1.0)?;
        real("smoothing", self.smoothing, 0.0, 1.0)?;
        self.mean.iter().try_for_each(|&mean| real("mean", mean, 0.0, 1.0))?;
        self.std.iter().try_for_each(|&std| real("std", std, 1e-6, 1e6))?;
        self.validate_crop()?;
        whole("randaugment.ops", self.randaugment.ops, 0, limits::OPS)?;
        real("randaugment.magnitude", self.randaugment.magnitude, 0.0, MAX_MAGNITUDE)?;
        real("randaugment.std", self.randaugment.std, 0.0, 100.0)?;
        real("randaugment.probability", self.randaugment.probability, 0.0, 1.0)?;
        self.validate_mix()?;
        self.validate_sampling()
    }

    fn validate_crop(&self) -> Result<(), RecipeError> {
        match self.crop {
            Crop::RandomResized { scale: [low, high], ratio: [narrow, wide] } => {
                if !(low > 0.0 && low <= high && high <= 1.0) {
                    let expected = "expected [low, high] with 0 < low <= high <= 1";
                    return invalid("crop.scale", format!("[{low}, {high}]"), expected);
                }
                if !(narrow >= 0.01 && narrow <= wide && wide <= 100.0) {
                    let expected = "expected [low, high] with 0.01 <= low <= high <= 100";
                    return invalid("crop.ratio", format!("[{narrow}, {wide}]"), expected);
                }
                Ok(())
            }
            Crop::Center { resize } => {
                whole("crop.resize", resize, self.image_size, limits::IMAGE_SIZE * 2)
            }
        }
    }

    fn validate_mix(&self) -> Result<(), RecipeError> {
        real("mix.probability", self.mix.probability, 0.0, 1.0)?;
        real("mix.switch", self.mix.switch, 0.0, 1.0)?;
        real("mix.mixup", self.mix.mixup, 0.0, 100.0)?;
        real("mix.cutmix", self.mix.cutmix, 0.0, 100.0)?;
        if !self.mix.enabled() {
            return Ok(());
        }
        if !self.microbatch_size().is_multiple_of(2) {
            let expected = format!(
                "expected an even number of samples per microbatch, because mixing pairs them; \
                 it is {} now",
                self.microbatch_size()
            );
            return invalid("batch", self.batch, expected);
        }
        if self.order == RecordOrder::Sequential {
            let expected = "expected 0 with order = \"sequential\", which cannot be mixed";
            return invalid("mix.probability", self.mix.probability, expected);
        }
        Ok(())
    }

    fn validate_sampling(&self) -> Result<(), RecipeError> {
        let Sampling { balance, weights } = &self.sampling;
        let sequential = self.order == RecordOrder::Sequential;
        real("sampling.balance", *balance, 0.0, 1.0)?;
        if sequential && *balance > 0.0 {
            let expected = "expected 0 with order = \"sequential\", which has every record once";
            return invalid("sampling.balance", balance, expected);
        }
        if sequential && !weights.is_empty() {
            let expected = "expected none with order = \"sequential\", which has every record once";
            return invalid("sampling.weights", format!("of {} classes", weights.len()), expected);
        }
        if weights.len() > limits::WEIGHTS {
            let expected =
                format!("expected at most {}; sampling.balance has no limit", limits::WEIGHTS);
            return invalid("sampling.weights", format!("of {} classes", weights.len()), expected);
        }
        let [min, max] = limits::WEIGHT;
        for (name, weight) in weights {
            if *weight != 0.0 && !(min..=max).contains(weight) {
                let expected = format!("expected 0, or {min} to {max}");
                return invalid("sampling.weights", format!("{weight} of {name:?}"), expected);
            }
        }
        Ok(())
    }
}

fn invalid(
    field: &'static str,
    value: impl Display,
    expected: impl Into<String>,
) -> Result<(), RecipeError> {
    Err(RecipeError::Value { field, value: value.to_string(), expected: expected.into() })
}

fn whole(field: &'static str, value: u32, min: u32, max: u32) -> Result<(), RecipeError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    invalid(field, value, format!("expected {min} to {max}"))
}

fn real(field: &'static str, value: f64, min: f64, max: f64) -> Result<(), RecipeError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    invalid(field, value, format!("expected {min} to {max}"))
}
