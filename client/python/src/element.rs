//! Types of the elements of an array.

use std::ffi::CStr;

/// Type of the elements of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    U8,
    F16,
    Bf16,
    F32,
    I64,
}

impl Element {
    /// Size in bytes.
    pub(crate) const fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::I64 => 8,
        }
    }

    /// The name that numpy, torch and JAX have for it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::U8 => "uint8",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::F32 => "float32",
            Self::I64 => "int64",
        }
    }

    /// Format of the buffer protocol, which has no bfloat16: consumers see its 16 bits.
    pub(crate) const fn format(self) -> &'static CStr {
        match self {
            Self::U8 => c"B",
            Self::F16 => c"e",
            Self::Bf16 => c"H",
            Self::F32 => c"f",
            Self::I64 => c"q",
        }
    }

    /// Format of `__array_interface__`, which has no bfloat16 either.
    pub(crate) const fn type_string(self) -> &'static str {
        match self {
            Self::U8 => "|u1",
            Self::F16 => "<f2",
            Self::Bf16 => "<u2",
            Self::F32 => "<f4",
            Self::I64 => "<i8",
        }
    }
}
