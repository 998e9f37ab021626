//! Checks the values of a recipe.

use std::fmt::Display;

use super::auto_augment::AutoAugment;
use super::color::Color;
use super::error::RecipeError;
use super::fields::{Crop, Recipe, RecordOrder, SEMANTICS, Sampling};
use crate::jitter::BLUR_SIDE;
use crate::ops::MAX_MAGNITUDE;

/// Largest values that a recipe may have.
pub mod limits {
    pub use forebay_types::limits::{BATCH, IMAGE_SIZE, MICROBATCHES};

    /// Most samples of a record per epoch.
    pub const REPEATS: u32 = 64;
    /// Most operations of RandAugment per sample.
    pub const OPS: u32 = crate::recipe::auto_augment::OPS;
    /// Most phases of a schedule.
    pub const PHASES: usize = 16;
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
        real("vflip", self.vflip, 0.0, 1.0)?;
        self.validate_crop()?;
        whole("randaugment.ops", self.randaugment.ops, 0, limits::OPS)?;
        real("randaugment.magnitude", self.randaugment.magnitude, 0.0, MAX_MAGNITUDE)?;
        real("randaugment.std", self.randaugment.std, 0.0, 100.0)?;
        real("randaugment.probability", self.randaugment.probability, 0.0, 1.0)?;
        self.validate_auto_augment()?;
        self.validate_filter()?;
        self.validate_color()?;
        self.validate_mix()?;
        self.validate_sampling()?;
        self.validate_schedule()
    }

    fn validate_crop(&self) -> Result<(), RecipeError> {
        let largest = limits::IMAGE_SIZE * 2;
        match self.crop {
            Crop::RandomResized { scale: [low, high], ratio } => {
                if !(low > 0.0 && low <= high && high <= 1.0) {
                    let expected = "expected [low, high] with 0 < low <= high <= 1";
                    return invalid("crop.scale", format!("[{low}, {high}]"), expected);
                }
                range("crop.ratio", ratio)
            }
            Crop::KeepRatioCenter { scale, ratio } | Crop::KeepRatioRandom { scale, ratio } => {
                range("crop.scale", scale)?;
                range("crop.ratio", ratio)
            }
            Crop::SimpleRandom { resize, padding } => {
                whole("crop.resize", resize, self.image_size, largest)?;
                // A window then has all pixels that its padding reflects.
                whole("crop.padding", padding, 0, (self.image_size - 1) / 2)
            }
            Crop::Center { resize, trim } | Crop::Squash { resize, trim } => {
                whole("crop.resize", resize, self.image_size, largest)?;
                whole("crop.trim", trim, 0, limits::IMAGE_SIZE)
            }
            Crop::Border { resize, trim } => {
                whole("crop.resize", resize, 1, largest)?;
                whole("crop.trim", trim, 0, limits::IMAGE_SIZE)
            }
        }
    }

    /// Whether Pillow has the filter for the operations. timm's raise an exception in the middle of an epoch.
    fn validate_filter(&self) -> Result<(), RecipeError> {
        let operates = match &self.auto_augment {
            None => self.randaugment.ops > 0 && self.randaugment.probability > 0.0,
            // Its filter is its own.
            Some(AutoAugment::Torchvision(_)) => false,
            Some(_) => true,
        };
        if !operates || self.interpolation.has_operations() {
            return Ok(());
        }
        let name = format!("{:?}", self.interpolation).to_lowercase();
        let off = if self.auto_augment.is_some() {
            "auto_augment = \"none\""
        } else {
            "randaugment.ops = 0"
        };
        let expected = format!(
            "expected nearest, bilinear, bicubic or random, which Pillow's geometric operations can \
             use, or {off}"
        );
        invalid("interpolation", format!("{name:?}"), expected)
    }

    fn validate_color(&self) -> Result<(), RecipeError> {
        let Color { jitter, probability, grayscale, blur } = self.color;
        let [light @ .., hue] = jitter;
        light.iter().try_for_each(|most| real("color.jitter", *most, 0.0, 100.0))?;
        if !(0.0..=0.5).contains(&hue) {
            let expected = "expected a hue, the fourth number, from 0 to 0.5";
            return invalid("color.jitter", format!("{jitter:?}"), expected);
        }
        real("color.probability", probability, 0.0, 1.0)?;
        real("color.grayscale", grayscale, 0.0, 1.0)?;
        real("color.blur", blur, 0.0, 1.0)?;
        // The picture is reflected around its edges, without the outermost pixels.
        if blur > 0.0 && self.image_size as usize <= BLUR_SIDE / 2 {
            let expected = format!(
                "expected 0 for pictures of fewer than {} pixels a side, or a larger image_size; \
                 it is {} now",
                BLUR_SIDE / 2 + 1,
                self.image_size
            );
            return invalid("color.blur", blur, expected);
        }
        Ok(())
    }

    fn validate_auto_augment(&self) -> Result<(), RecipeError> {
        match &self.auto_augment {
            Some(policy) if self.randaugment.ops > 0 => {
                let expected = format!(
                    "expected one of randaugment and auto_augment: remove randaugment.ops = {}, \
                     or set auto_augment = \"none\"",
                    self.randaugment.ops
                );
                invalid("auto_augment", format!("{:?}", policy.to_string()), expected)
            }
            _ => Ok(()),
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

pub(super) fn invalid(
    field: &'static str,
    value: impl Display,
    expected: impl Into<String>,
) -> Result<(), RecipeError> {
    Err(RecipeError::Value { field, value: value.to_string(), expected: expected.into() })
}

fn range(field: &'static str, [low, high]: [f64; 2]) -> Result<(), RecipeError> {
    if low >= 0.01 && low <= high && high <= 100.0 {
        return Ok(());
    }
    let expected = "expected [low, high] with 0.01 <= low <= high <= 100";
    invalid(field, format!("[{low}, {high}]"), expected)
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
