//! timm's operations: names, and the arguments that they have at a magnitude.
//!
//! Source: timm 1.0.31, `timm/data/auto_augment.py` (`NAME_TO_OP`, `LEVEL_TO_ARG`).

use super::op::{Effect, Library, MAX_MAGNITUDE, Op};
use crate::geometry::Interpolation;

/// timm's names of operations. Some share a function and differ in the argument at a magnitude.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are timm's")]
pub enum TimmOp {
    AutoContrast,
    Equalize,
    Invert,
    Rotate,
    Posterize,
    PosterizeIncreasing,
    PosterizeOriginal,
    Solarize,
    SolarizeIncreasing,
    SolarizeAdd,
    Color,
    ColorIncreasing,
    Contrast,
    ContrastIncreasing,
    Brightness,
    BrightnessIncreasing,
    Sharpness,
    SharpnessIncreasing,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    TranslateXRel,
    TranslateYRel,
    Desaturate,
    GaussianBlur,
    GaussianBlurRand,
}

/// What arguments depend on besides the magnitude: timm's `hparams`.
#[derive(Clone, Copy, Debug)]
pub struct Hparams {
    /// Pixels that `TranslateX` and `TranslateY` move at the full magnitude.
    pub translate_const: f64,
    /// Fraction of the side that `TranslateXRel` and `TranslateYRel` move at the full magnitude.
    pub translate_pct: f64,
}

/// What is drawn for an operation besides its magnitude.
#[derive(Clone, Copy, Debug)]
pub struct Drawn {
    /// Whether the argument is negated, if it has a sign.
    pub negative: bool,
    /// Uniform in `0..1`, for the radius of `GaussianBlurRand`.
    pub radius: f64,
    /// The filter, if the operation is geometric.
    pub filter: Interpolation,
}

impl TimmOp {
    /// All operations.
    pub const ALL: [Self; 27] = [
        Self::AutoContrast,
        Self::Equalize,
        Self::Invert,
        Self::Rotate,
        Self::Posterize,
        Self::PosterizeIncreasing,
        Self::PosterizeOriginal,
        Self::Solarize,
        Self::SolarizeIncreasing,
        Self::SolarizeAdd,
        Self::Color,
        Self::ColorIncreasing,
        Self::Contrast,
        Self::ContrastIncreasing,
        Self::Brightness,
        Self::BrightnessIncreasing,
        Self::Sharpness,
        Self::SharpnessIncreasing,
        Self::ShearX,
        Self::ShearY,
        Self::TranslateX,
        Self::TranslateY,
        Self::TranslateXRel,
        Self::TranslateYRel,
        Self::Desaturate,
        Self::GaussianBlur,
        Self::GaussianBlurRand,
    ];

    /// `_RAND_INCREASING_TRANSFORMS`, in the order of the indices that are drawn.
    pub const INCREASING: [Self; 15] = [
        Self::AutoContrast,
        Self::Equalize,
        Self::Invert,
        Self::Rotate,
        Self::PosterizeIncreasing,
        Self::SolarizeIncreasing,
        Self::SolarizeAdd,
        Self::ColorIncreasing,
        Self::ContrastIncreasing,
        Self::BrightnessIncreasing,
        Self::SharpnessIncreasing,
        Self::ShearX,
        Self::ShearY,
        Self::TranslateXRel,
        Self::TranslateYRel,
    ];

    /// The operation with a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.name() == name)
    }

    /// timm's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AutoContrast => "AutoContrast",
            Self::Equalize => "Equalize",
            Self::Invert => "Invert",
            Self::Rotate => "Rotate",
            Self::Posterize => "Posterize",
            Self::PosterizeIncreasing => "PosterizeIncreasing",
            Self::PosterizeOriginal => "PosterizeOriginal",
            Self::Solarize => "Solarize",
            Self::SolarizeIncreasing => "SolarizeIncreasing",
            Self::SolarizeAdd => "SolarizeAdd",
            Self::Color => "Color",
            Self::ColorIncreasing => "ColorIncreasing",
            Self::Contrast => "Contrast",
            Self::ContrastIncreasing => "ContrastIncreasing",
            Self::Brightness => "Brightness",
            Self::BrightnessIncreasing => "BrightnessIncreasing",
            Self::Sharpness => "Sharpness",
            Self::SharpnessIncreasing => "SharpnessIncreasing",
            Self::ShearX => "ShearX",
            Self::ShearY => "ShearY",
            Self::TranslateX => "TranslateX",
            Self::TranslateY => "TranslateY",
            Self::TranslateXRel => "TranslateXRel",
            Self::TranslateYRel => "TranslateYRel",
            Self::Desaturate => "Desaturate",
            Self::GaussianBlur => "GaussianBlur",
            Self::GaussianBlurRand => "GaussianBlurRand",
        }
    }

    /// The operation that timm applies at a magnitude, which is not negative. `GaussianBlurRand` becomes
    /// a `GaussianBlur` of the drawn radius.
    ///
    /// # Panics
    /// Panics if the magnitude is negative or not finite.
    pub fn at(self, magnitude: f64, hparams: &Hparams, drawn: &Drawn) -> Op {
        assert!(magnitude >= 0.0 && magnitude.is_finite(), "magnitude {magnitude}");
        let arg = self.argument(magnitude / MAX_MAGNITUDE, hparams, drawn);
        let op = match self {
            Self::GaussianBlurRand => Self::GaussianBlur,
            op => op,
        };
        op.with(arg, drawn.filter).expect("arguments of magnitudes are in range")
    }

    /// The argument of timm's function: `LEVEL_TO_ARG`, with the order of its arithmetic.
    fn argument(self, level: f64, hparams: &Hparams, drawn: &Drawn) -> Option<f64> {
        let signed = |value: f64| if drawn.negative { -value } else { value };
        let posterize = (level * 4.0).trunc();
        let solarize = f64::min(256.0, (level * 256.0).trunc());
        // `_minmax_level_to_arg`.
        let minmax = |min: f64, max: f64| (min + (max - min) * level).clamp(min, max);
        Some(match self {
            Self::AutoContrast | Self::Equalize | Self::Invert => return None,
            Self::Rotate => signed(level * 30.0),
            Self::Posterize => posterize,
            Self::PosterizeIncreasing => 4.0 - posterize,
            Self::PosterizeOriginal => posterize + 4.0,
            Self::Solarize => solarize,
            Self::SolarizeIncreasing => 256.0 - solarize,
            Self::SolarizeAdd => f64::min(128.0, (level * 110.0).trunc()),
            Self::Color | Self::Contrast | Self::Brightness | Self::Sharpness => level * 1.8 + 0.1,
            Self::ColorIncreasing
            | Self::ContrastIncreasing
            | Self::BrightnessIncreasing
            | Self::SharpnessIncreasing => f64::max(0.1, 1.0 + signed(level * 0.9)),
            Self::ShearX | Self::ShearY => signed(level * 0.3),
            Self::TranslateX | Self::TranslateY => signed(level * hparams.translate_const),
            Self::TranslateXRel | Self::TranslateYRel => signed(level * hparams.translate_pct),
            Self::Desaturate => minmax(0.5, 1.0),
            Self::GaussianBlur => minmax(0.1, 2.0),
            Self::GaussianBlurRand => 0.1 + (2.0 * minmax(0.0, 1.0) - 0.1) * drawn.radius,
        })
    }

    /// The operation with the argument of timm's function. Returns `None` if the argument is out of its
    /// range, or if there should be none. `GaussianBlurRand` draws within its function, so that none can
    /// be given.
    pub fn with(self, arg: Option<f64>, filter: Interpolation) -> Option<Op> {
        let value = || arg.filter(|value| value.is_finite());
        let whole =
            |min: f64, max: f64| value().filter(|v| (min..=max).contains(v) && v.fract() == 0.0);
        // timm leaves an image of 8 bits or more alone, and Pillow makes one of less than 1 bit black.
        let bits = || Some(byte(whole(-1000.0, 1000.0)?.clamp(0.0, 8.0)));
        let effect = match self {
            Self::AutoContrast => Effect::AutoContrast,
            Self::Equalize => Effect::Equalize,
            Self::Invert => Effect::Invert,
            Self::Rotate => Effect::Rotate(value()?, filter),
            Self::Posterize | Self::PosterizeIncreasing | Self::PosterizeOriginal => {
                Effect::Posterize(bits()?)
            }
            Self::Solarize | Self::SolarizeIncreasing => Effect::Solarize(word(whole(0.0, 256.0)?)),
            Self::SolarizeAdd => Effect::SolarizeAdd(byte(whole(0.0, 128.0)?)),
            Self::Color | Self::ColorIncreasing => Effect::Color(value()?),
            Self::Contrast | Self::ContrastIncreasing => Effect::Contrast(value()?),
            Self::Brightness | Self::BrightnessIncreasing => Effect::Brightness(value()?),
            Self::Sharpness | Self::SharpnessIncreasing => Effect::Sharpness(value()?),
            Self::ShearX => Effect::ShearX(value()?, filter),
            Self::ShearY => Effect::ShearY(value()?, filter),
            Self::TranslateX => Effect::TranslateX(value()?, filter),
            Self::TranslateY => Effect::TranslateY(value()?, filter),
            Self::TranslateXRel => Effect::TranslateXRel(value()?, filter),
            Self::TranslateYRel => Effect::TranslateYRel(value()?, filter),
            Self::Desaturate => Effect::Color((1.0 - value()?).clamp(0.0, 1.0)),
            Self::GaussianBlur => {
                Effect::GaussianBlur(value().filter(|v| (0.0..=MAX_RADIUS).contains(v))?)
            }
            Self::GaussianBlurRand => return None,
        };
        let arg = match self {
            Self::AutoContrast | Self::Equalize | Self::Invert => None,
            _ => arg,
        };
        Some(Op::new(Library::Timm, self.name(), arg, effect))
    }
}

/// Largest radius of a blur. timm draws at most 2.
const MAX_RADIUS: f64 = 100.0;

/// A whole number in `0..=255`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
fn byte(value: f64) -> u8 {
    debug_assert!((0.0..256.0).contains(&value));
    value as u8
}

/// A whole number in `0..=65535`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
fn word(value: f64) -> u16 {
    debug_assert!((0.0..65536.0).contains(&value));
    value as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const HPARAMS: Hparams = Hparams { translate_const: 100.0, translate_pct: 0.45 };

    #[test]
    fn every_name_has_an_operation_of_that_name() {
        let drawn = Drawn { negative: false, radius: 0.5, filter: Interpolation::Bicubic };
        for kind in TimmOp::ALL {
            assert_eq!(TimmOp::named(kind.name()), Some(kind));
            let op = kind.at(7.0, &HPARAMS, &drawn);
            let name = if kind == TimmOp::GaussianBlurRand { "GaussianBlur" } else { kind.name() };
            assert_eq!(op.name(), name);
            let again = TimmOp::named(name).map(|kind| kind.with(op.arg(), Interpolation::Bicubic));
            assert_eq!(again, Some(Some(op)));
        }
    }

    #[test]
    fn magnitudes_above_the_full_one_have_operations() {
        let drawn = Drawn { negative: true, radius: 0.999, filter: Interpolation::Bilinear };
        for kind in TimmOp::ALL {
            kind.at(100.0, &HPARAMS, &drawn);
        }
        let black = TimmOp::PosterizeIncreasing.at(13.0, &HPARAMS, &drawn);
        assert_eq!((black.arg(), *black.effect()), (Some(-1.0), Effect::Posterize(0)));
    }

    #[test]
    fn arguments_out_of_range_are_refused() {
        let filter = Interpolation::Bilinear;
        assert_eq!(TimmOp::PosterizeIncreasing.with(Some(1.5), filter), None);
        assert_eq!(TimmOp::SolarizeAdd.with(Some(1.5), filter), None);
        assert_eq!(TimmOp::ShearX.with(Some(f64::NAN), filter), None);
        assert_eq!(TimmOp::ShearX.with(None, filter), None);
        assert_eq!(TimmOp::GaussianBlur.with(Some(-1.0), filter), None);
        assert_eq!(TimmOp::GaussianBlurRand.with(Some(1.0), filter), None);
        assert_eq!(TimmOp::named("Blur"), None);
    }
}
