//! How pixels come: type, order of dimensions, mixed or not.

use std::fmt;
use std::str::FromStr;

use forebay_proto::v1;

use crate::Error;

/// Type of one channel value of a pixel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dtype {
    /// 0 to 255, not normalised.
    #[default]
    U8,
    /// IEEE half precision, normalised, little-endian.
    F16,
    /// The upper half of a single, normalised, little-endian.
    Bf16,
    /// IEEE single precision, normalised, little-endian.
    F32,
}

/// Order of the dimensions of the pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Sample, row, column, channel.
    #[default]
    Nhwc,
    /// Sample, channel, row, column.
    Nchw,
}

/// Who applies MixUp and CutMix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MixedBy {
    /// Pixels come mixed.
    #[default]
    Server,
    /// Pixels come unmixed; [`Microbatch::mix`](crate::Microbatch::mix) says what is left to do.
    Trainer,
}

impl Dtype {
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

    pub(crate) const fn to_wire(self) -> v1::DType {
        match self {
            Self::U8 => v1::DType::DtypeU8,
            Self::F16 => v1::DType::DtypeF16,
            Self::Bf16 => v1::DType::DtypeBf16,
            Self::F32 => v1::DType::DtypeF32,
        }
    }
}

impl Layout {
    const NAMES: [(&'static str, Self); 2] = [("nhwc", Self::Nhwc), ("nchw", Self::Nchw)];

    pub(crate) const fn to_wire(self) -> v1::Layout {
        match self {
            Self::Nhwc => v1::Layout::Nhwc,
            Self::Nchw => v1::Layout::Nchw,
        }
    }
}

impl MixedBy {
    const NAMES: [(&'static str, Self); 2] = [("server", Self::Server), ("trainer", Self::Trainer)];

    pub(crate) const fn to_wire(self) -> v1::MixedBy {
        match self {
            Self::Server => v1::MixedBy::Server,
            Self::Trainer => v1::MixedBy::Trainer,
        }
    }
}

/// `FromStr` and `Display` by the type's table of names.
macro_rules! named {
    ($type:ty, $what:literal) => {
        impl FromStr for $type {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                let found = Self::NAMES.iter().find(|(name, _)| *name == text);
                found.map(|(_, value)| *value).ok_or_else(|| {
                    let names = Self::NAMES.map(|(name, _)| name).join(", ");
                    Error::Options(format!("{text:?} is no {}: give one of {names}", $what))
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

named!(Dtype, "dtype");
named!(Layout, "layout");
named!(MixedBy, "one who mixes");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for (name, value) in Dtype::NAMES {
            assert_eq!(name.parse::<Dtype>().unwrap(), value);
            assert_eq!(value.to_string(), name);
        }
        for (name, value) in Layout::NAMES {
            assert_eq!((name.parse::<Layout>().unwrap(), value.to_string()), (value, name.into()));
        }
        let error = "int8".parse::<Dtype>().unwrap_err().to_string();
        assert_eq!(error, "\"int8\" is no dtype: give one of u8, f16, bf16, f32");
    }
}
