//! Arithmetic in f32 and f64.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_lossless,
    clippy::float_cmp,
    reason = "an operand is the low bits of its slot; comparisons are those of the instruction"
)]

use std::cmp::Ordering;

use super::super::code::Pure;
use super::round::{self, F32, mode};

/// The instruction `name` on `kind`. If it has two operands, the third slot is the rounding mode.
pub(in super::super) fn find(name: &str, kind: &str, mode: u64) -> Option<Pure> {
    match kind {
        "f32" => single(name, mode).or_else(|| approximate(name)),
        "f64" => double(name, mode),
        _ => None,
    }
}

fn f(a: u64) -> f32 {
    f32::from_bits(a as u32)
}

fn wide(a: u64) -> f64 {
    f(a) as f64
}

/// An f32 result, with the canonical NaN.
fn bits(value: f32) -> u64 {
    if value.is_nan() { F32.nan() } else { value.to_bits() as u64 }
}

fn single(name: &str, rounding: u64) -> Option<Pure> {
    Some(match (name, rounding) {
        ("add", mode::EVEN) => |a, b, _| bits(f(a) + f(b)),
        ("sub", mode::EVEN) => |a, b, _| bits(f(a) - f(b)),
        ("mul", mode::EVEN) => |a, b, _| bits(f(a) * f(b)),
        ("div", mode::EVEN) => |a, b, _| bits(f(a) / f(b)),
        ("fma" | "mad", mode::EVEN) => |a, b, c| bits(f(a).mul_add(f(b), f(c))),
        ("sqrt", mode::EVEN) => |a, _, _| bits(f(a).sqrt()),
        ("rcp", mode::EVEN) => |a, _, _| bits(1.0 / f(a)),
        ("add", _) => |a, b, m| F32.round(round::odd_add(wide(a), wide(b), m), m),
        ("sub", _) => |a, b, m| F32.round(round::odd_add(wide(a), -wide(b), m), m),
        ("mul", _) => |a, b, m| F32.round(wide(a) * wide(b), m),
        ("div", _) => |a, b, m| F32.round(round::odd_div(wide(a), wide(b)), m),
        ("fma", mode::ZERO) => fused::<{ mode::ZERO }>,
        ("fma", mode::DOWN) => fused::<{ mode::DOWN }>,
        ("fma", mode::UP) => fused::<{ mode::UP }>,
        ("sqrt", _) => |a, _, m| F32.round(round::odd_sqrt(wide(a)), m),
        ("rcp", _) => |a, _, m| F32.round(round::odd_div(1.0, wide(a)), m),
        ("neg", _) => |a, _, _| (a ^ 0x8000_0000) & 0xffff_ffff,
        ("abs", _) => |a, _, _| a & 0x7fff_ffff,
        // The sign is that of the first operand.
        ("copysign", _) => |a, b, _| a & 0x8000_0000 | b & 0x7fff_ffff,
        ("min", _) => |a, b, _| bits(smaller(wide(a), wide(b)) as f32),
        ("max", _) => |a, b, _| bits(larger(wide(a), wide(b)) as f32),
        ("min.NaN", _) => |a, b, _| bits(or_nan(smaller, wide(a), wide(b)) as f32),
        ("max.NaN", _) => |a, b, _| bits(or_nan(larger, wide(a), wide(b)) as f32),
        // Steps of other instructions: `.ftz`, `.sat`, `.relu`.
        ("flush", _) => |a, _, _| if f(a).is_subnormal() { a & 0x8000_0000 } else { a },
        ("saturate", _) => |a, _, _| bits(clamp(wide(a)) as f32),
        ("relu", _) => |a, _, _| bits(or_nan(larger, wide(a), 0.0) as f32),
        ("testp.finite", _) => |a, _, _| f(a).is_finite() as u64,
        ("testp.infinite", _) => |a, _, _| f(a).is_infinite() as u64,
        ("testp.number", _) => |a, _, _| !f(a).is_nan() as u64,
        ("testp.notanumber", _) => |a, _, _| f(a).is_nan() as u64,
        ("testp.normal", _) => |a, _, _| f(a).is_normal() as u64,
        ("testp.subnormal", _) => |a, _, _| f(a).is_subnormal() as u64,
        ("exch", _) => |_, b, _| b & 0xffff_ffff,
        (comparison, _) => compare(comparison, "f32")?,
    })
}

fn fused<const MODE: u64>(a: u64, b: u64, c: u64) -> u64 {
    F32.round(round::odd_fma(wide(a), wide(b), wide(c), MODE), MODE)
}

/// Instructions for which PTX guarantees an error bound. Here they are rounded once from f64, which is within the bound.
/// The bounds are: rcp, sqrt, rsqrt 1 to 2^0.9 ulp; div 2 ulp; ex2 2 + 2^-22 relative; lg2 2^-22 absolute near 1;
/// sin, cos 2^-20.5 absolute in [-pi, pi]; tanh 2^-11 relative.
fn approximate(name: &str) -> Option<Pure> {
    Some(match name {
        "rcp.approx" => |a, _, _| bits((1.0 / wide(a)) as f32),
        "sqrt.approx" => |a, _, _| bits(wide(a).sqrt() as f32),
        "rsqrt.approx" => |a, _, _| bits((1.0 / wide(a).sqrt()) as f32),
        "div.full" => |a, b, _| bits((wide(a) / wide(b)) as f32),
        // A divisor above 2^126 is treated as infinite.
        "div.approx" => |a, b, _| {
            let huge = f(b).is_finite() && f(b).abs() > 8.507_059e37;
            let divisor = if huge { f64::INFINITY.copysign(wide(b)) } else { wide(b) };
            bits((wide(a) / divisor) as f32)
        },
        "ex2.approx" => |a, _, _| bits(wide(a).exp2() as f32),
        "lg2.approx" => |a, _, _| bits(wide(a).log2() as f32),
        "sin.approx" => |a, _, _| bits(wide(a).sin() as f32),
        "cos.approx" => |a, _, _| bits(wide(a).cos() as f32),
        "tanh.approx" => |a, _, _| bits(wide(a).tanh() as f32),
        _ => return None,
    })
}

fn d(a: u64) -> f64 {
    f64::from_bits(a)
}

fn double(name: &str, rounding: u64) -> Option<Pure> {
    Some(match (name, rounding) {
        ("add", mode::EVEN) => |a, b, _| (d(a) + d(b)).to_bits(),
        ("sub", mode::EVEN) => |a, b, _| (d(a) - d(b)).to_bits(),
        ("mul", mode::EVEN) => |a, b, _| (d(a) * d(b)).to_bits(),
        ("div", mode::EVEN) => |a, b, _| (d(a) / d(b)).to_bits(),
        ("fma" | "mad", mode::EVEN) => |a, b, c| d(a).mul_add(d(b), d(c)).to_bits(),
        ("sqrt", mode::EVEN) => |a, _, _| d(a).sqrt().to_bits(),
        ("rcp", mode::EVEN) => |a, _, _| (1.0 / d(a)).to_bits(),
        ("add", _) => |a, b, m| round::directed_add(d(a), d(b), m).to_bits(),
        ("sub", _) => |a, b, m| round::directed_add(d(a), -d(b), m).to_bits(),
        ("mul", _) => |a, b, m| {
            let product = d(a) * d(b);
            round::directed(product, d(a).mul_add(d(b), -product), m).to_bits()
        },
        ("neg", _) => |a, _, _| a ^ 1 << 63,
        ("abs", _) => |a, _, _| a & !(1 << 63),
        ("copysign", _) => |a, b, _| a & 1 << 63 | b & !(1 << 63),
        ("min", _) => |a, b, _| smaller(d(a), d(b)).to_bits(),
        ("max", _) => |a, b, _| larger(d(a), d(b)).to_bits(),
        // Only the upper word is read and written.
        ("rcp.approx", _) => |a, _, _| (1.0 / d(a & !0xffff_ffff)).to_bits() & !0xffff_ffff,
        ("rsqrt.approx", _) => {
            |a, _, _| (1.0 / d(a & !0xffff_ffff).sqrt()).to_bits() & !0xffff_ffff
        }
        ("flush", _) => |a, _, _| if d(a).is_subnormal() { a & 1 << 63 } else { a },
        ("saturate", _) => |a, _, _| clamp(d(a)).to_bits(),
        ("testp.finite", _) => |a, _, _| d(a).is_finite() as u64,
        ("testp.infinite", _) => |a, _, _| d(a).is_infinite() as u64,
        ("testp.number", _) => |a, _, _| !d(a).is_nan() as u64,
        ("testp.notanumber", _) => |a, _, _| d(a).is_nan() as u64,
        ("testp.normal", _) => |a, _, _| d(a).is_normal() as u64,
        ("testp.subnormal", _) => |a, _, _| d(a).is_subnormal() as u64,
        ("exch", _) => |_, b, _| b,
        (comparison, _) => compare(comparison, "f64")?,
    })
}

/// The minimum, where -0 is below +0 and a number is preferred to a NaN.
pub(super) fn smaller(a: f64, b: f64) -> f64 {
    if b.is_nan() || a < b || (a == b && a.is_sign_negative()) { a } else { b }
}

pub(super) fn larger(a: f64, b: f64) -> f64 {
    if b.is_nan() || a > b || (a == b && a.is_sign_positive()) { a } else { b }
}

pub(super) fn or_nan(pick: fn(f64, f64) -> f64, a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { pick(a, b) }
}

/// Clamps to 0..1. NaN and -0 become +0.
pub(super) fn clamp(a: f64) -> f64 {
    if a > 0.0 { a.min(1.0) } else { 0.0 }
}

/// With a NaN, `lt` is false and `ltu` is true.
pub(in super::super) fn compare(name: &str, kind: &str) -> Option<Pure> {
    macro_rules! comparisons {
        ($of:expr) => {{
            macro_rules! ordered {
                ($test:ident) => {
                    |a, b, _| $of(a).partial_cmp(&$of(b)).is_some_and(Ordering::$test) as u64
                };
            }
            macro_rules! or_unordered {
                ($test:ident) => {
                    |a, b, _| $of(a).partial_cmp(&$of(b)).is_none_or(Ordering::$test) as u64
                };
            }
            match name {
                "eq" => ordered!(is_eq),
                "ne" => ordered!(is_ne),
                "lt" => ordered!(is_lt),
                "le" => ordered!(is_le),
                "gt" => ordered!(is_gt),
                "ge" => ordered!(is_ge),
                "equ" => or_unordered!(is_eq),
                "neu" => or_unordered!(is_ne),
                "ltu" => or_unordered!(is_lt),
                "leu" => or_unordered!(is_le),
                "gtu" => or_unordered!(is_gt),
                "geu" => or_unordered!(is_ge),
                "num" => |a, b, _| $of(a).partial_cmp(&$of(b)).is_some() as u64,
                "nan" => |a, b, _| $of(a).partial_cmp(&$of(b)).is_none() as u64,
                _ => return None,
            }
        }};
    }
    Some(match kind {
        "f32" => comparisons!(f),
        "f64" => comparisons!(d),
        "f16" => comparisons!(f16),
        "bf16" => comparisons!(bf16),
        _ => return None,
    })
}

fn f16(a: u64) -> f64 {
    round::F16.value(a & 0xffff)
}

fn bf16(a: u64) -> f64 {
    round::BF16.value(a & 0xffff)
}
