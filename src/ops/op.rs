//! An operation: what is done to pixels, and its name and argument in the library that does the same.

use serde::Serialize;

use crate::geometry::Interpolation;

/// The magnitude of the full effect, timm's `_LEVEL_DENOM`.
pub(crate) const MAX_MAGNITUDE: f64 = 10.0;

/// An operation with its argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Op {
    library: Library,
    name: &'static str,
    arg: Option<f64>,
    effect: Effect,
}

/// The library whose names and arguments an operation has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Library {
    /// timm: a function of `NAME_TO_OP`, and its argument.
    Timm,
    /// torchvision: a `transform_id` of `_AutoAugmentBase`, and its magnitude.
    Torchvision,
}

/// What an operation does to pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Effect {
    /// `ImageOps.autocontrast`.
    AutoContrast,
    /// `ImageOps.equalize`.
    Equalize,
    /// `ImageOps.invert`.
    Invert,
    /// Keeps this many upper bits of each channel.
    Posterize(u8),
    /// Inverts values at or above the threshold, 0 to 256.
    Solarize(u16),
    /// Adds to values below 128, and saturates at 255.
    SolarizeAdd(u8),
    /// `ImageEnhance.Color` factor.
    Color(f64),
    /// `ImageEnhance.Contrast` factor.
    Contrast(f64),
    /// `ImageEnhance.Brightness` factor.
    Brightness(f64),
    /// `ImageEnhance.Sharpness` factor.
    Sharpness(f64),
    /// `ImageFilter.GaussianBlur` radius.
    GaussianBlur(f64),
    /// Rotates counter-clockwise about the center, by degrees.
    Rotate(f64, Interpolation),
    /// Source column = column + factor * row.
    ShearX(f64, Interpolation),
    /// Source row = row + factor * column.
    ShearY(f64, Interpolation),
    /// Source column = column + factor * row, with torchvision's factor of a magnitude.
    TorchShearX(f64, Interpolation),
    /// Source row = row + factor * column, with torchvision's factor of a magnitude.
    TorchShearY(f64, Interpolation),
    /// Source column = column + pixels.
    TranslateX(f64, Interpolation),
    /// Source row = row + pixels.
    TranslateY(f64, Interpolation),
    /// Source column = column + fraction * width.
    TranslateXRel(f64, Interpolation),
    /// Source row = row + fraction * height.
    TranslateYRel(f64, Interpolation),
}

impl Op {
    pub(super) const fn new(
        library: Library,
        name: &'static str,
        arg: Option<f64>,
        effect: Effect,
    ) -> Self {
        Self { library, name, arg, effect }
    }

    /// The library whose names and arguments it has.
    pub const fn library(&self) -> Library {
        self.library
    }

    /// The name of the operation in its library.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The argument of its library's function, if it has one.
    pub const fn arg(&self) -> Option<f64> {
        self.arg
    }

    pub(crate) const fn effect(&self) -> &Effect {
        &self.effect
    }

    /// The filter of a geometric operation.
    pub const fn interpolation(&self) -> Option<Interpolation> {
        match self.effect {
            Effect::Rotate(_, filter)
            | Effect::ShearX(_, filter)
            | Effect::ShearY(_, filter)
            | Effect::TorchShearX(_, filter)
            | Effect::TorchShearY(_, filter)
            | Effect::TranslateX(_, filter)
            | Effect::TranslateY(_, filter)
            | Effect::TranslateXRel(_, filter)
            | Effect::TranslateYRel(_, filter) => Some(filter),
            _ => None,
        }
    }
}

#[cfg(test)]
impl Effect {
    /// An operation with this effect, for tests of the effect.
    pub(crate) const fn op(self) -> Op {
        Op { library: Library::Timm, name: "test", arg: None, effect: self }
    }
}
