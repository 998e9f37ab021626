//! Everything that decides pixels and targets, as data.
//!
//! A recipe is a preset (`a1`, `a2`, `a3`, `eval`) or TOML of the user's own, which may start from a
//! preset with `base = "a2"`, and then changes such as `batch = 32` or `crop.scale = [0.35, 1.0]`.
//! However it was written, it has one canonical form: one `key = value` line a field, sorted. The
//! digest of that text names the recipe.

mod canonical;
mod resolve;

use forebay_types::Digest;
use serde::{Deserialize, Serialize};

use crate::geometry::Interpolation;

pub use canonical::difference;
pub use resolve::{PRESETS, RecipeSource, RecipeSpec};

/// The version of what the operations mean: raised when the same recipe would give other pixels.
pub const SEMANTICS: u32 = 1;

/// Bounds on what a recipe may ask for.
pub mod limits {
    /// Largest side of the output, in pixels.
    pub const IMAGE_SIZE: u32 = 4096;
    /// Most samples of a step.
    pub const BATCH: u32 = 1 << 20;
    /// Most microbatches of a step.
    pub const MICROBATCHES: u32 = 1024;
    /// Most repeats of a record in an epoch.
    pub const REPEATS: u32 = 64;
    /// Most operations of RandAugment on a sample.
    pub const OPS: u32 = 16;
}

/// A validated recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// [`SEMANTICS`] of the forebay that this recipe was written for.
    pub semantics: u32,
    /// Height and width of the output in pixels.
    pub image_size: u32,
    /// Samples of one optimizer step, over all trainers.
    pub batch: u32,
    /// Microbatches of a step: the unit of work, of mixing and of the wire.
    pub microbatches: u32,
    /// Repeated augmentation: how often a record comes in an epoch (timm's `RepeatAugSampler`).
    pub repeats: u32,
    /// Order of the records.
    pub order: RecordOrder,
    /// Filter of the resize and of the geometric operations.
    pub interpolation: Filter,
    /// Probability of a horizontal flip.
    pub flip: f64,
    /// Label smoothing; the trainer's loss applies it.
    pub smoothing: f64,
    /// Mean of R, G, B in `0..=1`, subtracted from outputs that are not u8.
    pub mean: [f64; 3],
    /// Standard deviation of R, G, B in `0..=1`.
    pub std: [f64; 3],
    /// What part of the image is used.
    pub crop: Crop,
    /// RandAugment over timm's increasing set.
    pub randaugment: RandAugment,
    /// MixUp and CutMix.
    pub mix: Mix,
}

/// Order of the records in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordOrder {
    /// A new permutation each epoch; what does not fill a step is left out.
    Shuffled,
    /// Dataset order; nothing is left out, so the last microbatches of an epoch may be short.
    Sequential,
}

/// Filter of the resize and of the geometric operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// Triangle.
    Bilinear,
    /// Cubic.
    Bicubic,
    /// One of both, drawn for each resize and each operation (timm's `random`).
    Random,
}

impl Filter {
    /// The one filter, unless it is to be drawn.
    pub const fn fixed(self) -> Option<Interpolation> {
        match self {
            Self::Bilinear => Some(Interpolation::Bilinear),
            Self::Bicubic => Some(Interpolation::Bicubic),
            Self::Random => None,
        }
    }
}

/// What part of the image is used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Crop {
    /// timm's `RandomResizedCropAndInterpolation`.
    RandomResized {
        /// Least and most area, as a fraction of the image's.
        scale: [f64; 2],
        /// Least and most aspect ratio, width over height.
        ratio: [f64; 2],
    },
    /// Resize so that the short side has `resize` pixels, then take the centre.
    Center {
        /// The short side in pixels, at least `image_size`.
        resize: u32,
    },
}

/// timm's `rand-mM-mstdS-inc1`; switched off by `ops = 0`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandAugment {
    /// Operations drawn for a sample, with replacement.
    pub ops: u32,
    /// Mean magnitude, `0..=10`.
    pub magnitude: f64,
    /// Standard deviation of the magnitude; what falls outside `0..=10` is clipped.
    pub std: f64,
    /// Probability that a drawn operation is applied.
    pub probability: f64,
}

/// MixUp and CutMix, as timm's `Mixup` has them; switched off by `probability = 0.0`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// What shares one draw.
    pub mode: MixMode,
    /// Probability of mixing at all.
    pub probability: f64,
    /// Probability of CutMix where both are possible.
    pub switch: f64,
    /// Alpha of MixUp's Beta(alpha, alpha); 0 switches MixUp off.
    pub mixup: f64,
    /// Alpha of CutMix's Beta(alpha, alpha); 0 switches CutMix off.
    pub cutmix: f64,
}

impl Mix {
    /// Whether anything can be mixed.
    pub fn enabled(&self) -> bool {
        self.probability > 0.0 && (self.mixup > 0.0 || self.cutmix > 0.0)
    }
}

/// What shares one draw of kind, lambda and box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MixMode {
    /// All samples of a microbatch.
    Batch,
    /// A sample and its partner.
    Pair,
    /// Nothing: each sample has its own.
    Elem,
}

impl Recipe {
    /// The BLAKE3 digest of the canonical form.
    pub fn digest(&self) -> Digest {
        Digest(*blake3::hash(self.canonical().as_bytes()).as_bytes())
    }

    /// Samples of a full microbatch.
    pub const fn microbatch_size(&self) -> u32 {
        self.batch / self.microbatches
    }

    /// The colour that geometric operations fill with: the mean, as timm rounds it.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..=255")]
    pub fn fill(&self) -> [u8; 3] {
        self.mean.map(|mean| (255.0 * mean).round_ties_even().clamp(0.0, 255.0) as u8)
    }

    /// What is wrong with the values, if anything.
    fn validate(&self) -> Result<(), RecipeError> {
        let fail = |field: &'static str, why: String| Err(RecipeError::Value { field, why });
        let whole = |field, value: u32, most: u32| {
            if (1..=most).contains(&value) {
                Ok(())
            } else {
                fail(field, format!("{value} is not in 1..={most}"))
            }
        };
        let within = |field, value: f64, least: f64, most: f64| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                fail(field, format!("{value} is not in {least}..={most}"))
            }
        };
        if self.semantics != SEMANTICS {
            return fail("semantics", format!("{} asked for, this is {SEMANTICS}", self.semantics));
        }
        whole("image_size", self.image_size, limits::IMAGE_SIZE)?;
        whole("batch", self.batch, limits::BATCH)?;
        whole("microbatches", self.microbatches, limits::MICROBATCHES)?;
        whole("repeats", self.repeats, limits::REPEATS)?;
        if !self.batch.is_multiple_of(self.microbatches) {
            return fail(
                "microbatches",
                format!("{} does not divide batch = {}", self.microbatches, self.batch),
            );
        }
        if self.order == RecordOrder::Sequential && self.repeats != 1 {
            return fail("repeats", "order = \"sequential\" takes every record once".into());
        }
        within("flip", self.flip, 0.0, 1.0)?;
        within("smoothing", self.smoothing, 0.0, 1.0)?;
        self.mean.iter().try_for_each(|&mean| within("mean", mean, 0.0, 1.0))?;
        self.std.iter().try_for_each(|&std| within("std", std, 1e-6, 1e6))?;
        self.validate_crop()?;
        let augment = &self.randaugment;
        if augment.ops > limits::OPS {
            return fail("randaugment.ops", format!("{} is over {}", augment.ops, limits::OPS));
        }
        within("randaugment.magnitude", augment.magnitude, 0.0, crate::randaugment::MAX_MAGNITUDE)?;
        within("randaugment.std", augment.std, 0.0, 100.0)?;
        within("randaugment.probability", augment.probability, 0.0, 1.0)?;
        within("mix.probability", self.mix.probability, 0.0, 1.0)?;
        within("mix.switch", self.mix.switch, 0.0, 1.0)?;
        within("mix.mixup", self.mix.mixup, 0.0, 100.0)?;
        within("mix.cutmix", self.mix.cutmix, 0.0, 100.0)?;
        if self.mix.enabled() {
            if !self.microbatch_size().is_multiple_of(2) {
                return fail(
                    "batch",
                    format!(
                        "a microbatch has {} samples; mixing pairs them, so it must be even",
                        self.microbatch_size()
                    ),
                );
            }
            if self.order == RecordOrder::Sequential {
                return fail("mix.probability", "only a shuffled order can be mixed".into());
            }
        }
        Ok(())
    }

    fn validate_crop(&self) -> Result<(), RecipeError> {
        let fail = |field: &'static str, why: String| Err(RecipeError::Value { field, why });
        match self.crop {
            Crop::RandomResized { scale: [low, high], ratio: [narrow, wide] } => {
                if !(low > 0.0 && low <= high && high <= 1.0) {
                    return fail(
                        "crop.scale",
                        format!("[{low}, {high}] is not 0 < low <= high <= 1"),
                    );
                }
                if !(narrow >= 0.01 && narrow <= wide && wide <= 100.0) {
                    return fail(
                        "crop.ratio",
                        format!("[{narrow}, {wide}] is not 0.01 <= low <= high <= 100"),
                    );
                }
            }
            Crop::Center { resize } => {
                if !(self.image_size..=limits::IMAGE_SIZE * 2).contains(&resize) {
                    return fail(
                        "crop.resize",
                        format!(
                            "{resize} is not in image_size = {}..={}",
                            self.image_size,
                            limits::IMAGE_SIZE * 2
                        ),
                    );
                }
            }
        }
        Ok(())
    }
}

/// Why a recipe is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// No preset or configured recipe has the name.
    #[error("there is no recipe {name:?}; there are {known}, or give a file ending in .toml")]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The text is not TOML, or not a recipe.
    #[error("{what} is not a recipe: {why}")]
    Syntax {
        /// The file, or the assignment.
        what: String,
        /// The parser's words.
        why: String,
    },
    /// A value that cannot be served.
    #[error("recipe field {field}: {why}")]
    Value {
        /// The field's dotted name.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The recipe's file cannot be read.
    #[error("cannot read the recipe {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The dataset is smaller than one step.
    #[error(
        "the dataset gives {samples} samples an epoch and a step takes {batch}; \
         use a smaller batch (--batch {}, --microbatches 1)",
        .samples / 2 * 2
    )]
    TooSmall {
        /// Samples of an epoch.
        samples: u64,
        /// Samples of a step.
        batch: u32,
    },
}
