//! timm's sets of operations: sub-policies of AutoAugment, and weights of `RandAugment`.
//!
//! Source: timm 1.0.31, `timm/data/auto_augment.py` (`auto_augment_policy_*`, `_RAND_*`).

use super::timm::TimmOp as Op;

/// An operation of a sub-policy: its probability and its magnitude.
pub(crate) type Part = (Op, f64, u8);

/// `_RAND_TRANSFORMS`: operations of which some weaken as the magnitude rises.
pub(crate) const RAND: [Op; 15] = [
    Op::AutoContrast,
    Op::Equalize,
    Op::Invert,
    Op::Rotate,
    Op::Posterize,
    Op::Solarize,
    Op::SolarizeAdd,
    Op::Color,
    Op::Contrast,
    Op::Brightness,
    Op::Sharpness,
    Op::ShearX,
    Op::ShearY,
    Op::TranslateXRel,
    Op::TranslateYRel,
];

/// `_RAND_3A`.
pub(crate) const RAND_3A: [Op; 3] = [Op::SolarizeIncreasing, Op::Desaturate, Op::GaussianBlur];

/// `_RAND_WEIGHTED_3A`.
pub(crate) const WEIGHTED_3A: [(Op, f64); 14] = [
    (Op::SolarizeIncreasing, 6.0),
    (Op::Desaturate, 6.0),
    (Op::GaussianBlur, 6.0),
    (Op::Rotate, 3.0),
    (Op::ShearX, 2.0),
    (Op::ShearY, 2.0),
    (Op::PosterizeIncreasing, 1.0),
    (Op::AutoContrast, 1.0),
    (Op::ColorIncreasing, 1.0),
    (Op::SharpnessIncreasing, 1.0),
    (Op::ContrastIncreasing, 1.0),
    (Op::BrightnessIncreasing, 1.0),
    (Op::Equalize, 1.0),
    (Op::Invert, 1.0),
];

/// `_RAND_WEIGHTED_0`.
pub(crate) const WEIGHTED: [(Op, f64); 15] = [
    (Op::Rotate, 3.0),
    (Op::ShearX, 2.0),
    (Op::ShearY, 2.0),
    (Op::TranslateXRel, 1.0),
    (Op::TranslateYRel, 1.0),
    (Op::ColorIncreasing, 0.25),
    (Op::SharpnessIncreasing, 0.25),
    (Op::AutoContrast, 0.25),
    (Op::SolarizeIncreasing, 0.05),
    (Op::SolarizeAdd, 0.05),
    (Op::ContrastIncreasing, 0.05),
    (Op::BrightnessIncreasing, 0.05),
    (Op::Equalize, 0.05),
    (Op::PosterizeIncreasing, 0.05),
    (Op::Invert, 0.05),
];

/// `_AUGMIX_TRANSFORMS`.
pub(crate) const AUG_MIX: [Op; 13] = [
    Op::AutoContrast,
    Op::ColorIncreasing,
    Op::ContrastIncreasing,
    Op::BrightnessIncreasing,
    Op::SharpnessIncreasing,
    Op::Equalize,
    Op::Rotate,
    Op::PosterizeIncreasing,
    Op::SolarizeIncreasing,
    Op::ShearX,
    Op::ShearY,
    Op::TranslateXRel,
    Op::TranslateYRel,
];

/// `auto_augment_policy_original`; `originalr` has `PosterizeIncreasing` in place of `PosterizeOriginal`.
pub(crate) const ORIGINAL: [&[Part]; 25] = [
    &[(Op::PosterizeOriginal, 0.4, 8), (Op::Rotate, 0.6, 9)],
    &[(Op::Solarize, 0.6, 5), (Op::AutoContrast, 0.6, 5)],
    &[(Op::Equalize, 0.8, 8), (Op::Equalize, 0.6, 3)],
    &[(Op::PosterizeOriginal, 0.6, 7), (Op::PosterizeOriginal, 0.6, 6)],
    &[(Op::Equalize, 0.4, 7), (Op::Solarize, 0.2, 4)],
    &[(Op::Equalize, 0.4, 4), (Op::Rotate, 0.8, 8)],
    &[(Op::Solarize, 0.6, 3), (Op::Equalize, 0.6, 7)],
    &[(Op::PosterizeOriginal, 0.8, 5), (Op::Equalize, 1.0, 2)],
    &[(Op::Rotate, 0.2, 3), (Op::Solarize, 0.6, 8)],
    &[(Op::Equalize, 0.6, 8), (Op::PosterizeOriginal, 0.4, 6)],
    &[(Op::Rotate, 0.8, 8), (Op::Color, 0.4, 0)],
    &[(Op::Rotate, 0.4, 9), (Op::Equalize, 0.6, 2)],
    &[(Op::Equalize, 0.0, 7), (Op::Equalize, 0.8, 8)],
    &[(Op::Invert, 0.6, 4), (Op::Equalize, 1.0, 8)],
    &[(Op::Color, 0.6, 4), (Op::Contrast, 1.0, 8)],
    &[(Op::Rotate, 0.8, 8), (Op::Color, 1.0, 2)],
    &[(Op::Color, 0.8, 8), (Op::Solarize, 0.8, 7)],
    &[(Op::Sharpness, 0.4, 7), (Op::Invert, 0.6, 8)],
    &[(Op::ShearX, 0.6, 5), (Op::Equalize, 1.0, 9)],
    &[(Op::Color, 0.4, 0), (Op::Equalize, 0.6, 3)],
    &[(Op::Equalize, 0.4, 7), (Op::Solarize, 0.2, 4)],
    &[(Op::Solarize, 0.6, 5), (Op::AutoContrast, 0.6, 5)],
    &[(Op::Invert, 0.6, 4), (Op::Equalize, 1.0, 8)],
    &[(Op::Color, 0.6, 4), (Op::Contrast, 1.0, 8)],
    &[(Op::Equalize, 0.8, 8), (Op::Equalize, 0.6, 3)],
];

/// `auto_augment_policy_v0`; `v0r` has `PosterizeIncreasing` in place of `Posterize`.
pub(crate) const V0: [&[Part]; 25] = [
    &[(Op::Equalize, 0.8, 1), (Op::ShearY, 0.8, 4)],
    &[(Op::Color, 0.4, 9), (Op::Equalize, 0.6, 3)],
    &[(Op::Color, 0.4, 1), (Op::Rotate, 0.6, 8)],
    &[(Op::Solarize, 0.8, 3), (Op::Equalize, 0.4, 7)],
    &[(Op::Solarize, 0.4, 2), (Op::Solarize, 0.6, 2)],
    &[(Op::Color, 0.2, 0), (Op::Equalize, 0.8, 8)],
    &[(Op::Equalize, 0.4, 8), (Op::SolarizeAdd, 0.8, 3)],
    &[(Op::ShearX, 0.2, 9), (Op::Rotate, 0.6, 8)],
    &[(Op::Color, 0.6, 1), (Op::Equalize, 1.0, 2)],
    &[(Op::Invert, 0.4, 9), (Op::Rotate, 0.6, 0)],
    &[(Op::Equalize, 1.0, 9), (Op::ShearY, 0.6, 3)],
    &[(Op::Color, 0.4, 7), (Op::Equalize, 0.6, 0)],
    &[(Op::Posterize, 0.4, 6), (Op::AutoContrast, 0.4, 7)],
    &[(Op::Solarize, 0.6, 8), (Op::Color, 0.6, 9)],
    &[(Op::Solarize, 0.2, 4), (Op::Rotate, 0.8, 9)],
    &[(Op::Rotate, 1.0, 7), (Op::TranslateYRel, 0.8, 9)],
    &[(Op::ShearX, 0.0, 0), (Op::Solarize, 0.8, 4)],
    &[(Op::ShearY, 0.8, 0), (Op::Color, 0.6, 4)],
    &[(Op::Color, 1.0, 0), (Op::Rotate, 0.6, 2)],
    &[(Op::Equalize, 0.8, 4), (Op::Equalize, 0.0, 8)],
    &[(Op::Equalize, 1.0, 4), (Op::AutoContrast, 0.6, 2)],
    &[(Op::ShearY, 0.4, 7), (Op::SolarizeAdd, 0.6, 7)],
    &[(Op::Posterize, 0.8, 2), (Op::Solarize, 0.6, 10)],
    &[(Op::Solarize, 0.6, 8), (Op::Equalize, 0.6, 1)],
    &[(Op::Color, 0.8, 6), (Op::Rotate, 0.4, 5)],
];

/// `auto_augment_policy_3a`.
pub(crate) const THREE_AUGMENT: [&[Part]; 3] =
    [&[(Op::Solarize, 1.0, 5)], &[(Op::Desaturate, 1.0, 10)], &[(Op::GaussianBlurRand, 1.0, 10)]];
