//! The operations of timm's `color_jitter`, `grayscale_prob` and `gaussian_blur_prob` as data, each with
//! the argument of torchvision's function. [`crate::augment`] applies them to pixels.
//!
//! Source: torchvision 0.29, `transforms/functional.py`; timm 1.0.31, `timm/data/transforms_factory.py`.

/// An operation with its argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ColorOp {
    /// Blends with black, by a factor.
    Brightness(f64),
    /// Blends with the mean gray.
    Contrast(f64),
    /// Blends with the gray image.
    Saturation(f64),
    /// Turns the hue by a part of the circle, -0.5 to 0.5.
    Hue(f64),
    /// Replaces each pixel by its gray.
    Grayscale,
    /// Convolves with a Gaussian of 23 x 23 pixels, by its standard deviation.
    GaussianBlur(f64),
}

/// The side of the kernel of [`ColorOp::GaussianBlur`], which timm has as a constant.
pub(crate) const BLUR_SIDE: usize = 23;

impl ColorOp {
    /// The name of torchvision's function.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Brightness(_) => "adjust_brightness",
            Self::Contrast(_) => "adjust_contrast",
            Self::Saturation(_) => "adjust_saturation",
            Self::Hue(_) => "adjust_hue",
            Self::Grayscale => "rgb_to_grayscale",
            Self::GaussianBlur(_) => "gaussian_blur",
        }
    }

    /// The argument of torchvision's function, if it has one.
    pub const fn arg(&self) -> Option<f64> {
        match *self {
            Self::Grayscale => None,
            Self::Brightness(value)
            | Self::Contrast(value)
            | Self::Saturation(value)
            | Self::Hue(value)
            | Self::GaussianBlur(value) => Some(value),
        }
    }

    /// The operation with torchvision's name and argument. Returns `None` if no operation has the name,
    /// or if the argument is out of its range.
    pub fn from_arg(name: &str, arg: Option<f64>) -> Option<Self> {
        let arg = |low: f64, high: f64| arg.filter(|value| (low..=high).contains(value));
        Some(match name {
            "adjust_brightness" => Self::Brightness(arg(0.0, f64::MAX)?),
            "adjust_contrast" => Self::Contrast(arg(0.0, f64::MAX)?),
            "adjust_saturation" => Self::Saturation(arg(0.0, f64::MAX)?),
            "adjust_hue" => Self::Hue(arg(-0.5, 0.5)?),
            "rgb_to_grayscale" => Self::Grayscale,
            "gaussian_blur" => Self::GaussianBlur(arg(f64::MIN_POSITIVE, f64::MAX)?),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_an_argument_give_the_operation() {
        for op in [
            ColorOp::Brightness(0.6),
            ColorOp::Contrast(1.4),
            ColorOp::Saturation(0.0),
            ColorOp::Hue(-0.5),
            ColorOp::Grayscale,
            ColorOp::GaussianBlur(0.1),
        ] {
            assert_eq!(ColorOp::from_arg(op.name(), op.arg()), Some(op));
        }
        assert_eq!(ColorOp::from_arg("adjust_hue", Some(0.6)), None);
        assert_eq!(ColorOp::from_arg("gaussian_blur", Some(0.0)), None);
        assert_eq!(ColorOp::from_arg("adjust_contrast", Some(f64::NAN)), None);
        assert_eq!(ColorOp::from_arg("adjust_gamma", Some(1.0)), None);
    }
}
