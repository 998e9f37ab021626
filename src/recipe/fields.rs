//! The fields of a recipe.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::auto_augment::{self, AutoAugment, Noise, Rand, RandSet};
use super::color::Color;
use super::phase::Phase;
use crate::geometry::{Interpolation, ResizeFilter};

/// Version of the operations' semantics. It is raised when the same recipe would result in other pixels.
pub const SEMANTICS: u32 = 1;

/// A validated recipe.
///
/// ```
/// use forebay::recipe::RecipeSpec;
///
/// let recipe = RecipeSpec::preset("a2").with_changes(["image_size = 160".to_owned()]).resolve()?;
/// assert_eq!(recipe.image_size, 160);
/// // The digest tells recipes apart, and ignores how they were written down.
/// assert_ne!(recipe.digest(), RecipeSpec::preset("a2").resolve()?.digest());
/// # Ok::<(), forebay::recipe::RecipeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// [`SEMANTICS`] of the forebay version that the recipe was written for.
    pub semantics: u32,
    /// Height and width of a sample in pixels.
    pub image_size: u32,
    /// Samples of one optimizer step, over all ranks.
    pub batch: u32,
    /// Microbatches of a step. A microbatch is mixed and sent as a unit.
    pub microbatches: u32,
    /// Repeated augmentation: number of samples of each record that an epoch has (timm's
    /// `RepeatAugSampler`).
    pub repeats: u32,
    /// Order of the records in an epoch.
    pub order: RecordOrder,
    /// Filter of the resize and of the geometric operations.
    pub interpolation: Filter,
    /// Probability of a horizontal flip.
    pub flip: f64,
    /// Probability of a vertical flip. Not a part of the canonical form unless it is set.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub vflip: f64,
    /// Label smoothing, which the trainer's loss applies.
    pub smoothing: f64,
    /// Mean of red, green and blue in `0..=1`, subtracted from pixels that are not u8.
    pub mean: [f64; 3],
    /// Standard deviation of red, green and blue in `0..=1`, by which such pixels are divided.
    pub std: [f64; 3],
    /// Part of the image that is used.
    pub crop: Crop,
    /// RandAugment over timm's increasing set.
    pub randaugment: RandAugment,
    /// A policy of augmentation in place of `randaugment`. Not a part of the canonical form unless it is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_augment: Option<AutoAugment>,
    /// Color operations after RandAugment. Not a part of the canonical form unless they are set.
    #[serde(default, skip_serializing_if = "Color::is_off")]
    pub color: Color,
    /// MixUp and CutMix.
    pub mix: Mix,
    /// How often records of each class are drawn. Not a part of the canonical form unless it is set.
    #[serde(default, skip_serializing_if = "Sampling::is_uniform")]
    pub sampling: Sampling,
    /// Values that change with the epoch. Not a part of the canonical form unless there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedule: Vec<Phase>,
}

/// Order of the records in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordOrder {
    /// A new permutation for each epoch. Samples that do not fill a step are dropped.
    Shuffled,
    /// Dataset order. No sample is dropped, so the last microbatches of an epoch may be short.
    Sequential,
}

/// How often records of each class are drawn, with `order = "shuffled"`. By default an epoch has every record alike.
///
/// A class of n good records has the weight `weights[name] * n^(1 - balance)`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// 0 draws classes as often as the data has them, 1 draws all alike, 0.5 is square-root sampling.
    #[serde(skip_serializing_if = "is_zero")]
    pub balance: f64,
    /// Factors of classes by name; 1 for the others. A factor of 0 leaves a class out.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, f64>,
}

impl Sampling {
    /// Whether an epoch has every record alike.
    pub fn is_uniform(&self) -> bool {
        is_zero(&self.balance) && self.weights.is_empty()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

/// Filter of the resize and of the geometric operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// The nearest pixel.
    Nearest,
    /// Mean of the covered pixels; of the resize only.
    Box,
    /// Triangle.
    Bilinear,
    /// A sinc of one lobe; of the resize only.
    Hamming,
    /// Cubic.
    Bicubic,
    /// A sinc of three lobes; of the resize only.
    Lanczos,
    /// Bilinear or bicubic, drawn for each resize and each operation (timm's `random`).
    Random,
}

impl Filter {
    /// The filter of a resize, or `None` if it is drawn.
    pub const fn for_resize(self) -> Option<ResizeFilter> {
        match self {
            Self::Nearest => Some(ResizeFilter::Nearest),
            Self::Box => Some(ResizeFilter::Box),
            Self::Bilinear => Some(ResizeFilter::Bilinear),
            Self::Hamming => Some(ResizeFilter::Hamming),
            Self::Bicubic => Some(ResizeFilter::Bicubic),
            Self::Lanczos => Some(ResizeFilter::Lanczos),
            Self::Random => None,
        }
    }

    /// The filter of geometric operations, or `None` if it is drawn, or if Pillow has none of this kind.
    pub const fn for_operations(self) -> Option<Interpolation> {
        match self {
            Self::Nearest => Some(Interpolation::Nearest),
            Self::Bilinear => Some(Interpolation::Bilinear),
            Self::Bicubic => Some(Interpolation::Bicubic),
            Self::Box | Self::Hamming | Self::Lanczos | Self::Random => None,
        }
    }

    /// Whether geometric operations can use the filter. With another one, timm's raise an exception.
    pub const fn has_operations(self) -> bool {
        !matches!(self, Self::Box | Self::Hamming | Self::Lanczos)
    }
}

/// Part of the image that is used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Crop {
    /// timm's `RandomResizedCropAndInterpolation` (`rrc`).
    #[serde(alias = "rrc")]
    RandomResized {
        /// Smallest and largest area, as fractions of the image's area.
        scale: [f64; 2],
        /// Smallest and largest aspect ratio, width over height.
        ratio: [f64; 2],
    },
    /// timm's `rkrc`: resizes the short side to about `image_size` and takes the center. Where a side is
    /// shorter, the picture is reflected.
    #[serde(alias = "rkrc")]
    KeepRatioCenter {
        /// Smallest and largest area of a square part that would be enlarged as much, as fractions; for
        /// half of the samples.
        scale: [f64; 2],
        /// Smallest and largest change of the aspect ratio, for half of the samples.
        ratio: [f64; 2],
    },
    /// timm's `rkrr`: as `KeepRatioCenter`, at a random place.
    #[serde(alias = "rkrr")]
    KeepRatioRandom {
        /// As in `KeepRatioCenter`.
        scale: [f64; 2],
        /// As in `KeepRatioCenter`.
        ratio: [f64; 2],
    },
    /// Resizes the short side to `resize` pixels, and takes a random place in the reflected picture (the
    /// "simple random crop" of `DeiT` III, with 4 pixels of padding).
    SimpleRandom {
        /// Short side in pixels, at least `image_size`.
        resize: u32,
        /// Pixels of padding on each side.
        padding: u32,
    },
    /// Resizes the short side to `resize` pixels, then takes the center.
    Center {
        /// Short side in pixels, at least `image_size`.
        resize: u32,
        /// Pixels that are cut off of each side of the stored image (timm's `crop_border_pixels`).
        #[serde(default, skip_serializing_if = "is_none")]
        trim: u32,
    },
    /// Resizes both sides to `resize` pixels, then takes the center.
    Squash {
        /// Both sides in pixels, at least `image_size`.
        resize: u32,
        /// As in `Center`.
        #[serde(default, skip_serializing_if = "is_none")]
        trim: u32,
    },
    /// Resizes the long side to `resize` pixels, takes the center, and fills the rest with the mean.
    Border {
        /// Long side in pixels.
        resize: u32,
        /// As in `Center`.
        #[serde(default, skip_serializing_if = "is_none")]
        trim: u32,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_none(value: &u32) -> bool {
    *value == 0
}

/// RandAugment, timm's `rand-mM-mstdS-inc1`. `ops = 0` disables it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandAugment {
    /// Number of operations drawn for a sample, with replacement.
    pub ops: u32,
    /// Mean magnitude, in `0..=10`.
    pub magnitude: f64,
    /// Standard deviation of the magnitude, which is clipped to `0..=10`.
    pub std: f64,
    /// Probability that a drawn operation is applied.
    pub probability: f64,
}

/// MixUp and CutMix, as in timm's `Mixup`. `probability = 0.0` disables them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// The samples that share one draw.
    pub mode: MixMode,
    /// Probability of mixing.
    pub probability: f64,
    /// Probability of CutMix instead of MixUp, if both are enabled.
    pub switch: f64,
    /// Alpha of MixUp's Beta(alpha, alpha). 0 disables MixUp.
    pub mixup: f64,
    /// Alpha of CutMix's Beta(alpha, alpha). 0 disables CutMix.
    pub cutmix: f64,
}

impl Mix {
    /// Whether samples can be mixed.
    pub fn enabled(&self) -> bool {
        self.probability > 0.0 && (self.mixup > 0.0 || self.cutmix > 0.0)
    }
}

/// The samples that share one draw of kind, lambda and box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MixMode {
    /// All samples of a microbatch share one draw.
    Batch,
    /// A sample and its partner share one draw.
    Pair,
    /// Each sample has its own draw.
    Elem,
}

impl RandAugment {
    /// No operations, and no other values: its canonical form beside `auto_augment`.
    pub(super) const OFF: Self = Self { ops: 0, magnitude: 0.0, std: 0.0, probability: 0.0 };

    /// The table that says the same as a policy, if there is one.
    pub(super) fn of_policy(policy: &AutoAugment) -> Option<Self> {
        let AutoAugment::Rand(rand) = *policy else { return None };
        let Rand { magnitude, ops, probability, noise: Noise::Normal(std), max, set } = rand else {
            return None;
        };
        let fits = set == RandSet::Increasing && max == auto_augment::MAX && magnitude <= max;
        fits.then_some(Self { ops, magnitude: f64::from(magnitude), std, probability })
    }
}

impl Recipe {
    /// Samples of a full microbatch.
    pub const fn microbatch_size(&self) -> u32 {
        self.batch / self.microbatches
    }

    /// The color that geometric operations fill with: the mean, or black with torchvision's policies.
    pub fn fill(&self) -> [u8; 3] {
        match self.auto_augment {
            Some(AutoAugment::Torchvision(_)) => [0; 3],
            _ => self.mean_color(),
        }
    }

    /// The mean, rounded as timm does.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..=255")]
    pub fn mean_color(&self) -> [u8; 3] {
        self.mean.map(|mean| (255.0 * mean).round_ties_even().clamp(0.0, 255.0) as u8)
    }
}
