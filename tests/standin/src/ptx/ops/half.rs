//! Arithmetic in f16 and bf16, one or two per register, computed in f64 and rounded once.

use super::super::code::Pure;
use super::float::{clamp, larger, or_nan, smaller};
use super::round::{self, BF16, F16, Format, mode};

/// The instruction `name` on `kind`: `f16`, `bf16`, `f16x2` or `bf16x2`.
pub(in super::super) fn find(name: &str, kind: &str) -> Option<Pure> {
    match kind {
        "f16" => scalar::<Half>(name),
        "bf16" => scalar::<Brain>(name),
        "f16x2" => packed::<Half>(name),
        "bf16x2" => packed::<Brain>(name),
        _ => None,
    }
}

trait Kind {
    const FORMAT: Format;

    fn value(bits: u64) -> f64 {
        Self::FORMAT.value(bits & 0xffff)
    }

    fn bits(value: f64) -> u64 {
        Self::FORMAT.round(value, mode::EVEN)
    }
}

struct Half;
struct Brain;

impl Kind for Half {
    const FORMAT: Format = F16;
}

impl Kind for Brain {
    const FORMAT: Format = BF16;
}

/// `$each` extends a computation on one value to a whole operand.
macro_rules! table {
    ($name:ident, $each:ident) => {
        fn $name<K: Kind>(name: &str) -> Option<Pure> {
            Some(match name {
                "add" => |a, b, c| {
                    $each(a, b, c, |a, b, _| {
                        K::bits(round::odd_add(K::value(a), K::value(b), mode::EVEN))
                    })
                },
                "sub" => |a, b, c| {
                    $each(a, b, c, |a, b, _| {
                        K::bits(round::odd_add(K::value(a), -K::value(b), mode::EVEN))
                    })
                },
                "mul" => |a, b, c| $each(a, b, c, |a, b, _| K::bits(K::value(a) * K::value(b))),
                "fma" => |a, b, c| $each(a, b, c, fused::<K>),
                "min" => {
                    |a, b, c| $each(a, b, c, |a, b, _| K::bits(smaller(K::value(a), K::value(b))))
                }
                "max" => {
                    |a, b, c| $each(a, b, c, |a, b, _| K::bits(larger(K::value(a), K::value(b))))
                }
                "min.NaN" => |a, b, c| {
                    $each(a, b, c, |a, b, _| K::bits(or_nan(smaller, K::value(a), K::value(b))))
                },
                "max.NaN" => |a, b, c| {
                    $each(a, b, c, |a, b, _| K::bits(or_nan(larger, K::value(a), K::value(b))))
                },
                "neg" => |a, b, c| $each(a, b, c, |a, _, _| a ^ 0x8000),
                "abs" => |a, b, c| $each(a, b, c, |a, _, _| a & 0x7fff),
                "relu" => {
                    |a, b, c| $each(a, b, c, |a, _, _| K::bits(or_nan(larger, K::value(a), 0.0)))
                }
                "saturate" => |a, b, c| $each(a, b, c, |a, _, _| K::bits(clamp(K::value(a)))),
                "exch" => |a, b, c| $each(a, b, c, |_, b, _| b),
                _ => return None,
            })
        }
    };
}

table!(scalar, single);
table!(packed, both);

fn single(a: u64, b: u64, c: u64, f: Pure) -> u64 {
    f(a & 0xffff, b & 0xffff, c & 0xffff)
}

fn both(a: u64, b: u64, c: u64, f: Pure) -> u64 {
    let [low, high] = [0, 16].map(|at| f(a >> at & 0xffff, b >> at & 0xffff, c >> at & 0xffff));
    low | high << 16
}

fn fused<K: Kind>(a: u64, b: u64, c: u64) -> u64 {
    K::bits(round::odd_fma(K::value(a), K::value(b), K::value(c), mode::EVEN))
}
