//! RandAugment's fifteen operations as data: timm's "increasing" set, each with the argument of
//! timm's function. [`crate::augment`] applies them to pixels; the plan only names them.
//!
//! Source: timm 1.0.31, `timm/data/auto_augment.py` (`_RAND_INCREASING_TRANSFORMS`, `LEVEL_TO_ARG`).

use crate::geometry::Interpolation;

/// An operation with its argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    /// `ImageOps.autocontrast`.
    AutoContrast,
    /// `ImageOps.equalize`.
    Equalize,
    /// `ImageOps.invert`.
    Invert,
    /// Rotates counter-clockwise about the center, by degrees.
    Rotate(f64, Interpolation),
    /// Keeps this many upper bits of each channel, 0 to 8.
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
    /// Source column = column + factor * row.
    ShearX(f64, Interpolation),
    /// Source row = row + factor * column.
    ShearY(f64, Interpolation),
    /// Source column = column + fraction * width.
    TranslateXRel(f64, Interpolation),
    /// Source row = row + fraction * height.
    TranslateYRel(f64, Interpolation),
}

/// timm's names, by the index that `np.random.choice` draws.
pub const NAMES: [&str; 15] = [
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "PosterizeIncreasing",
    "SolarizeIncreasing",
    "SolarizeAdd",
    "ColorIncreasing",
    "ContrastIncreasing",
    "BrightnessIncreasing",
    "SharpnessIncreasing",
    "ShearX",
    "ShearY",
    "TranslateXRel",
    "TranslateYRel",
];

/// The magnitude of the full effect, timm's `_LEVEL_DENOM`.
pub(crate) const MAX_MAGNITUDE: f64 = 10.0;

impl Op {
    /// The operation that timm applies for the index of a name in [`NAMES`] and a magnitude in
    /// `0..=10`. `negative` negates the argument of operations that have a sign.
    ///
    /// # Panics
    /// Panics if `index` is not below 15 or the magnitude is out of range.
    pub fn at(index: usize, magnitude: f64, negative: bool, filter: Interpolation) -> Self {
        assert!((0.0..=MAX_MAGNITUDE).contains(&magnitude), "magnitude {magnitude}");
        let level = magnitude / MAX_MAGNITUDE;
        let signed = |value: f64| if negative { -value } else { value };
        let factor = || f64::max(0.1, 1.0 + signed(level * 0.9));
        match index {
            0 => Self::AutoContrast,
            1 => Self::Equalize,
            2 => Self::Invert,
            3 => Self::Rotate(signed(level * 30.0), filter),
            4 => Self::Posterize(4 - truncate(level * 4.0)),
            5 => Self::Solarize(256 - truncate16(level * 256.0).min(256)),
            6 => Self::SolarizeAdd(truncate(level * 110.0).min(128)),
            7 => Self::Color(factor()),
            8 => Self::Contrast(factor()),
            9 => Self::Brightness(factor()),
            10 => Self::Sharpness(factor()),
            11 => Self::ShearX(signed(level * 0.3), filter),
            12 => Self::ShearY(signed(level * 0.3), filter),
            13 => Self::TranslateXRel(signed(level * 0.45), filter),
            14 => Self::TranslateYRel(signed(level * 0.45), filter),
            _ => panic!("index {index} of an operation: expected 0 to 14"),
        }
    }

    /// The operation with timm's name and the argument of timm's function, which is `None` for
    /// functions without one. Returns `None` if no operation has the name, or if the argument is out
    /// of its range.
    pub fn from_arg(name: &str, arg: Option<f64>, filter: Interpolation) -> Option<Self> {
        let arg = || arg.filter(|value| value.is_finite());
        let whole = |max: f64| arg().filter(|v| (0.0..=max).contains(v) && v.fract() == 0.0);
        Some(match name {
            "AutoContrast" => Self::AutoContrast,
            "Equalize" => Self::Equalize,
            "Invert" => Self::Invert,
            "Rotate" => Self::Rotate(arg()?, filter),
            "PosterizeIncreasing" => Self::Posterize(truncate(whole(8.0)?)),
            "SolarizeIncreasing" => Self::Solarize(truncate16(whole(256.0)?)),
            "SolarizeAdd" => Self::SolarizeAdd(truncate(whole(128.0)?)),
            "ColorIncreasing" => Self::Color(arg()?),
            "ContrastIncreasing" => Self::Contrast(arg()?),
            "BrightnessIncreasing" => Self::Brightness(arg()?),
            "SharpnessIncreasing" => Self::Sharpness(arg()?),
            "ShearX" => Self::ShearX(arg()?, filter),
            "ShearY" => Self::ShearY(arg()?, filter),
            "TranslateXRel" => Self::TranslateXRel(arg()?, filter),
            "TranslateYRel" => Self::TranslateYRel(arg()?, filter),
            _ => return None,
        })
    }

    /// timm's name.
    pub const fn name(&self) -> &'static str {
        NAMES[match self {
            Self::AutoContrast => 0,
            Self::Equalize => 1,
            Self::Invert => 2,
            Self::Rotate(..) => 3,
            Self::Posterize(_) => 4,
            Self::Solarize(_) => 5,
            Self::SolarizeAdd(_) => 6,
            Self::Color(_) => 7,
            Self::Contrast(_) => 8,
            Self::Brightness(_) => 9,
            Self::Sharpness(_) => 10,
            Self::ShearX(..) => 11,
            Self::ShearY(..) => 12,
            Self::TranslateXRel(..) => 13,
            Self::TranslateYRel(..) => 14,
        }]
    }

    /// The argument of timm's function, if it has one.
    pub fn arg(&self) -> Option<f64> {
        match *self {
            Self::AutoContrast | Self::Equalize | Self::Invert => None,
            Self::Posterize(value) | Self::SolarizeAdd(value) => Some(f64::from(value)),
            Self::Solarize(value) => Some(f64::from(value)),
            Self::Color(value)
            | Self::Contrast(value)
            | Self::Brightness(value)
            | Self::Sharpness(value)
            | Self::Rotate(value, _)
            | Self::ShearX(value, _)
            | Self::ShearY(value, _)
            | Self::TranslateXRel(value, _)
            | Self::TranslateYRel(value, _) => Some(value),
        }
    }

    /// The filter of a geometric operation.
    pub const fn interpolation(&self) -> Option<Interpolation> {
        match *self {
            Self::Rotate(_, filter)
            | Self::ShearX(_, filter)
            | Self::ShearY(_, filter)
            | Self::TranslateXRel(_, filter)
            | Self::TranslateYRel(_, filter) => Some(filter),
            _ => None,
        }
    }
}

/// Python's `int()` of a value in `0..=255`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
fn truncate(value: f64) -> u8 {
    debug_assert!((0.0..256.0).contains(&value));
    value as u8
}

/// Python's `int()` of a value in `0..=65535`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
fn truncate16(value: f64) -> u16 {
    debug_assert!((0.0..65536.0).contains(&value));
    value as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_an_operation_of_that_name() {
        for (index, name) in NAMES.iter().enumerate() {
            let op = Op::at(index, 7.0, false, Interpolation::Bicubic);
            assert_eq!(op.name(), *name);
            assert_eq!(Op::from_arg(name, op.arg(), Interpolation::Bicubic), Some(op));
        }
    }

    #[test]
    fn arguments_out_of_range_are_refused() {
        let filter = Interpolation::Bilinear;
        assert_eq!(Op::from_arg("PosterizeIncreasing", Some(9.0), filter), None);
        assert_eq!(Op::from_arg("SolarizeAdd", Some(1.5), filter), None);
        assert_eq!(Op::from_arg("ShearX", Some(f64::NAN), filter), None);
        assert_eq!(Op::from_arg("ShearX", None, filter), None);
        assert_eq!(Op::from_arg("Blur", Some(1.0), filter), None);
    }
}
