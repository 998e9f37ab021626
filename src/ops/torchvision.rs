//! torchvision's operations on Pillow's images, and the magnitudes of its policies.
//!
//! Source: torchvision 0.29, `torchvision/transforms/v2/_auto_augment.py`. Magnitudes are entries of
//! `torch.linspace`, which is of single precision, with fused multiplication on every CPU with AVX2.

use super::op::{Effect, Library, Op};
use crate::geometry::Interpolation;

/// torchvision's names of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are torchvision's")]
pub enum TorchOp {
    Identity,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
    Brightness,
    Color,
    Contrast,
    Sharpness,
    Posterize,
    Solarize,
    AutoContrast,
    Equalize,
    Invert,
}

/// A policy's `_AUGMENTATION_SPACE`: the magnitudes of its operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// `AutoAugment`, with 10 magnitudes, and `RandAugment`, with 31.
    Narrow(u32),
    /// `TrivialAugmentWide`, with 31.
    Wide,
}

impl TorchOp {
    /// All operations. The first 14 are those that `RandAugment` and `TrivialAugmentWide` draw from.
    pub const ALL: [Self; 15] = [
        Self::Identity,
        Self::ShearX,
        Self::ShearY,
        Self::TranslateX,
        Self::TranslateY,
        Self::Rotate,
        Self::Brightness,
        Self::Color,
        Self::Contrast,
        Self::Sharpness,
        Self::Posterize,
        Self::Solarize,
        Self::AutoContrast,
        Self::Equalize,
        Self::Invert,
    ];

    /// The operation with a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.name() == name)
    }

    /// torchvision's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Identity => "Identity",
            Self::ShearX => "ShearX",
            Self::ShearY => "ShearY",
            Self::TranslateX => "TranslateX",
            Self::TranslateY => "TranslateY",
            Self::Rotate => "Rotate",
            Self::Brightness => "Brightness",
            Self::Color => "Color",
            Self::Contrast => "Contrast",
            Self::Sharpness => "Sharpness",
            Self::Posterize => "Posterize",
            Self::Solarize => "Solarize",
            Self::AutoContrast => "AutoContrast",
            Self::Equalize => "Equalize",
            Self::Invert => "Invert",
        }
    }

    /// Whether a magnitude is negated at random.
    pub const fn is_signed(self) -> bool {
        matches!(
            self,
            Self::ShearX
                | Self::ShearY
                | Self::TranslateX
                | Self::TranslateY
                | Self::Rotate
                | Self::Brightness
                | Self::Color
                | Self::Contrast
                | Self::Sharpness
        )
    }

    /// The magnitude with an index, for a square image; `None` if the operation has none.
    ///
    /// # Panics
    /// Panics if the space has no such index.
    pub fn magnitude(self, space: Space, index: u32, side: u32) -> Option<f64> {
        let (bins, wide) = match space {
            Space::Narrow(bins) => (bins, false),
            Space::Wide => (31, true),
        };
        assert!(index < bins, "magnitude {index} of {bins}");
        let between = |low: f64, high: f64| Some(linspace(low, high, bins, index));
        match self {
            Self::Identity | Self::AutoContrast | Self::Equalize | Self::Invert => None,
            Self::ShearX | Self::ShearY => between(0.0, if wide { 0.99 } else { 0.3 }),
            Self::TranslateX | Self::TranslateY if wide => between(0.0, 32.0),
            Self::TranslateX | Self::TranslateY => between(0.0, 150.0 / 331.0 * f64::from(side)),
            Self::Rotate => between(0.0, if wide { 135.0 } else { 30.0 }),
            Self::Brightness | Self::Color | Self::Contrast | Self::Sharpness => {
                between(0.0, if wide { 0.99 } else { 0.9 })
            }
            Self::Posterize => Some(f64::from(bits(index, bins, if wide { 6.0 } else { 4.0 }))),
            Self::Solarize => between(1.0, 0.0),
        }
    }

    /// The operation at a magnitude. Returns `None` for `Identity`, if the magnitude is out of its range, or if there
    /// should be none.
    pub fn at(self, magnitude: Option<f64>, filter: Interpolation) -> Option<Op> {
        let value = || magnitude.filter(|value| value.is_finite());
        let within = |min: f64, max: f64| value().filter(|v| (min..=max).contains(v));
        let effect = match self {
            Self::Identity => return None,
            Self::AutoContrast => Effect::AutoContrast,
            Self::Equalize => Effect::Equalize,
            Self::Invert => Effect::Invert,
            Self::ShearX => Effect::TorchShearX(within(-10.0, 10.0)?, filter),
            Self::ShearY => Effect::TorchShearY(within(-10.0, 10.0)?, filter),
            // The image moves by this many whole pixels.
            Self::TranslateX => Effect::TranslateX(-value()?.trunc(), filter),
            Self::TranslateY => Effect::TranslateY(-value()?.trunc(), filter),
            Self::Rotate => Effect::Rotate(value()?, filter),
            Self::Brightness => Effect::Brightness(1.0 + value()?),
            Self::Color => Effect::Color(1.0 + value()?),
            Self::Contrast => Effect::Contrast(1.0 + value()?),
            Self::Sharpness => Effect::Sharpness(1.0 + value()?),
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..=8")]
            Self::Posterize => Effect::Posterize(within(0.0, 8.0)? as u8),
            // Values at or above a fraction of 255 are inverted.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..=255")]
            Self::Solarize => Effect::Solarize((255.0 * within(0.0, 1.0)?).ceil() as u16),
        };
        Some(Op::new(Library::Torchvision, self.name(), magnitude, effect))
    }
}

/// An entry of `torch.linspace`. The upper half is computed from the end.
#[expect(clippy::cast_possible_truncation, reason = "single precision")]
fn linspace(start: f64, end: f64, count: u32, index: u32) -> f64 {
    let (start, end) = (start as f32, end as f32);
    let step = (end - start) / (count - 1) as f32;
    f64::from(if index < count / 2 {
        step.mul_add(index as f32, start)
    } else {
        (-step).mul_add((count - 1 - index) as f32, end)
    })
}

/// The bits that posterizing keeps: 8 minus up to `range`.
fn bits(index: u32, count: u32, range: f64) -> f32 {
    #[expect(clippy::cast_possible_truncation, reason = "single precision")]
    let step = (f64::from(count - 1) / range) as f32;
    (8.0 - index as f32 / step).round_ties_even()
}
