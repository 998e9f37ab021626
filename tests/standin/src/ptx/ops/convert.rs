//! The steps of conversions.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_lossless,
    reason = "an operand is the low bits of its slot"
)]

use super::super::code::Pure;
use super::round::{self, BF16, F16, F32, Format};

/// Converts a float of `kind` to f64 bits, exactly.
pub(in super::super) fn to_double(kind: &str) -> Option<Pure> {
    Some(match kind {
        "f16" => |a, _, _| F16.value(a & 0xffff).to_bits(),
        "bf16" => |a, _, _| BF16.value(a & 0xffff).to_bits(),
        "f32" => |a, _, _| (f32::from_bits(a as u32) as f64).to_bits(),
        "f64" => |a, _, _| a,
        _ => return None,
    })
}

/// Rounds f64 bits to a float of `kind` in mode `b`.
pub(in super::super) fn from_double(kind: &str) -> Option<Pure> {
    Some(match kind {
        "f16" => |a, b, _| F16.round(f64::from_bits(a), b),
        "bf16" => |a, b, _| BF16.round(f64::from_bits(a), b),
        "f32" => |a, b, _| F32.round(f64::from_bits(a), b),
        // TF32 has ten bits of fraction, in the upper bits of an f32.
        "tf32" => |a, b, _| Format { fraction: 10, exponent: 8 }.round(f64::from_bits(a), b) << 13,
        "f64" => |a, _, _| a,
        _ => return None,
    })
}

/// Rounds f64 bits to an integral value in mode `b`.
pub(in super::super) const INTEGRAL: Pure =
    |a, b, _| round::integral(f64::from_bits(a), b).to_bits();

/// Converts f64 bits of an integral value to an integer of `kind`, with saturation.
pub(in super::super) fn to_integer(kind: &str) -> Option<Pure> {
    macro_rules! saturating {
        ($t:ty, $u:ty) => {
            |a, _, _| f64::from_bits(a) as $t as $u as u64
        };
    }
    Some(match kind {
        "u8" => saturating!(u8, u8),
        "s8" => saturating!(i8, u8),
        "u16" => saturating!(u16, u16),
        "s16" => saturating!(i16, u16),
        "u32" => saturating!(u32, u32),
        "s32" => saturating!(i32, u32),
        "u64" => saturating!(u64, u64),
        "s64" => saturating!(i64, u64),
        _ => return None,
    })
}

/// The integer that a NaN becomes: the top bit if a 64-bit type is involved, otherwise 0.
pub(in super::super) fn nan_to(from: &str, to: &str, bytes: u64) -> u64 {
    if from == "f64" || matches!(to, "u64" | "s64") { 1 << (8 * bytes - 1) } else { 0 }
}

/// `a`, or `b` if the f64 bits `c` are a NaN.
pub(in super::super) const UNLESS_NAN: Pure =
    |a, b, c| if f64::from_bits(c).is_nan() { b } else { a };

/// Converts a 64-bit integer to a float of `kind` in mode `b`.
pub(in super::super) fn from_integer(signed: bool, kind: &str) -> Option<Pure> {
    macro_rules! from {
        ($t:ty) => {
            match kind {
                "f16" => |a, b, _| F16.round(round::odd_from(a as $t as i128), b),
                "bf16" => |a, b, _| BF16.round(round::odd_from(a as $t as i128), b),
                "f32" => |a, b, _| F32.round(round::odd_from(a as $t as i128), b),
                "f64" => |a, b, _| {
                    let nearest = a as $t as f64;
                    let missing = (a as $t as i128 - nearest as i128) as f64;
                    round::directed(nearest, missing, b).to_bits()
                },
                _ => return None,
            }
        };
    }
    Some(if signed { from!(i64) } else { from!(u64) })
}

/// The nearest f32 of an integer of at most 32 bits, which is the common case.
pub(in super::super) const WORD_TO_SINGLE: Pure = |a, _, _| (a as i64 as f32).to_bits() as u64;

/// Clamps a 64-bit integer, sign-extended or unsigned, to `kind`.
pub(in super::super) fn clamp_integer(signed: bool, kind: &str) -> Option<Pure> {
    macro_rules! clamped {
        ($t:ty, $u:ty) => {
            if signed {
                |a, _, _| {
                    (a as i64 as i128).clamp(<$t>::MIN as i128, <$t>::MAX as i128) as $u as u64
                }
            } else {
                |a, _, _| (a as i128).clamp(<$t>::MIN as i128, <$t>::MAX as i128) as $u as u64
            }
        };
    }
    Some(match kind {
        "u8" => clamped!(u8, u8),
        "s8" => clamped!(i8, u8),
        "u16" => clamped!(u16, u16),
        "s16" => clamped!(i16, u16),
        "u32" => clamped!(u32, u32),
        "s32" => clamped!(i32, u32),
        "u64" => clamped!(u64, u64),
        "s64" => clamped!(i64, u64),
        _ => return None,
    })
}
