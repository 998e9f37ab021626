//! Pixel formats: dtype, layout and the side that mixes.

use std::fmt;
use std::str::FromStr;

use crate::parse::ParseError;

/// Type of one channel value of a pixel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DType {
    /// 0 to 255, not normalized.
    #[default]
    U8,
    /// IEEE half precision, normalized, little-endian, rounded from f32 to nearest even.
    F16,
    /// The upper half of an f32, normalized, little-endian, rounded from f32 to nearest even.
    Bf16,
    /// IEEE single precision, normalized, little-endian.
    F32,
}

/// Order of the dimensions of a batch of pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layout {
    /// Sample, row, column, channel (PyTorch's `channels_last`).
    #[default]
    Nhwc,
    /// Sample, channel, row, column.
    Nchw,
}

/// The side that applies `MixUp` and `CutMix`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MixedBy {
    /// The server sends mixed pixels.
    #[default]
    Server,
    /// The server sends unmixed pixels and the plan, which the trainer applies.
    Trainer,
}

/// The format in which a microbatch's pixels are requested. The default is mixed u8 in NHWC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PixelFormat {
    /// Type of the values.
    pub dtype: DType,
    /// Order of the dimensions.
    pub layout: Layout,
    /// The side that applies `MixUp` and `CutMix`.
    pub mixed_by: MixedBy,
}

impl DType {
    const NAMES: [(&'static str, Self); 4] =
        [("u8", Self::U8), ("f16", Self::F16), ("bf16", Self::Bf16), ("f32", Self::F32)];

    /// Bytes of one value.
    pub const fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

impl Layout {
    const NAMES: [(&'static str, Self); 2] = [("nhwc", Self::Nhwc), ("nchw", Self::Nchw)];

    /// The four dimensions of a batch of `n` RGB images.
    pub const fn shape(self, n: u32, height: u32, width: u32) -> [u32; 4] {
        match self {
            Self::Nhwc => [n, height, width, 3],
            Self::Nchw => [n, 3, height, width],
        }
    }
}

impl MixedBy {
    const NAMES: [(&'static str, Self); 2] = [("server", Self::Server), ("trainer", Self::Trainer)];
}

/// Implements `FromStr` and `Display` by a type's table of names.
macro_rules! named {
    ($type:ty) => {
        impl FromStr for $type {
            type Err = ParseError;

            fn from_str(text: &str) -> Result<Self, ParseError> {
                let found = Self::NAMES.iter().find(|(name, _)| *name == text);
                found.map(|(_, value)| *value).ok_or_else(|| {
                    let names = Self::NAMES.map(|(name, _)| format!("{name:?}"));
                    let [first @ .., last] = &names;
                    ParseError::new(text, format!("{} or {last}", first.join(", ")))
                })
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let found = Self::NAMES.iter().find(|(_, value)| value == self);
                f.write_str(found.map_or("", |(name, _)| name))
            }
        }
    };
}

named!(DType);
named!(Layout);
named!(MixedBy);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_read_as_they_are_written() {
        for (name, value) in DType::NAMES {
            assert_eq!((name.parse(), value.to_string()), (Ok(value), name.into()));
        }
        for (name, value) in Layout::NAMES {
            assert_eq!((name.parse(), value.to_string()), (Ok(value), name.into()));
        }
        for (name, value) in MixedBy::NAMES {
            assert_eq!((name.parse(), value.to_string()), (Ok(value), name.into()));
        }
    }

    #[test]
    fn the_error_for_an_unknown_format_lists_the_valid_ones() {
        let error = "int8".parse::<DType>().unwrap_err().to_string();
        assert_eq!(error, r#"invalid value "int8": expected "u8", "f16", "bf16" or "f32""#);
        let error = "blue".parse::<MixedBy>().unwrap_err().to_string();
        assert_eq!(error, r#"invalid value "blue": expected "server" or "trainer""#);
    }
}
