//! Rounding by IEEE 754, for every format and mode.
//!
//! The method: a result that was rounded to *odd* in f64 (if it is inexact, its last bit is 1) can be rounded again to
//! any format of at most 51 bits, in any mode, as if it had never been rounded (Boldo and Melquiond, 2008).

/// Rounding modes as numbers, so that they fit in a slot.
pub(in super::super) mod mode {
    pub(in super::super::super) const EVEN: u64 = 0;
    pub(in super::super::super) const ZERO: u64 = 1;
    pub(in super::super::super) const DOWN: u64 = 2;
    pub(in super::super::super) const UP: u64 = 3;
    /// To nearest, ties away from zero.
    pub(in super::super::super) const AWAY: u64 = 4;

    /// The mode of a modifier such as `.rn` or `.rni`.
    pub(in super::super::super) fn of(modifier: &str) -> Option<u64> {
        Some(match modifier {
            "rn" | "rni" => EVEN,
            "rz" | "rzi" => ZERO,
            "rm" | "rmi" => DOWN,
            "rp" | "rpi" => UP,
            "rna" => AWAY,
            _ => return None,
        })
    }
}

/// A binary format: the bits of fraction and exponent.
#[derive(Clone, Copy)]
pub(super) struct Format {
    pub(super) fraction: u32,
    pub(super) exponent: u32,
}

pub(super) const F32: Format = Format { fraction: 23, exponent: 8 };
pub(super) const F16: Format = Format { fraction: 10, exponent: 5 };
pub(super) const BF16: Format = Format { fraction: 7, exponent: 8 };

impl Format {
    const fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    pub(super) const fn infinity(self) -> u64 {
        ((1 << self.exponent) - 1) << self.fraction
    }

    const fn sign(self) -> u32 {
        self.fraction + self.exponent
    }

    /// The canonical NaN, which all NaN results are.
    pub(super) const fn nan(self) -> u64 {
        (1 << self.sign()) - 1
    }

    /// The exact value of bits.
    pub(super) fn value(self, bits: u64) -> f64 {
        let fraction = bits & ((1 << self.fraction) - 1);
        let exponent = (bits >> self.fraction) & ((1 << self.exponent) - 1);
        let sign = (bits >> self.sign() & 1) << 63;
        let fraction_bits = fraction.cast_signed() as f64;
        let magnitude = if exponent == (1 << self.exponent) - 1 {
            if fraction == 0 { f64::INFINITY } else { f64::NAN }
        } else if exponent == 0 {
            fraction_bits * power(1 - self.bias() - self.fraction.cast_signed())
        } else {
            let exponent = i32::try_from(exponent).unwrap_or(0) - self.bias();
            (fraction_bits + power(self.fraction.cast_signed()))
                * power(exponent - self.fraction.cast_signed())
        };
        f64::from_bits(magnitude.to_bits() | sign)
    }

    /// The bits nearest to `value` in a mode.
    pub(super) fn round(self, value: f64, mode: u64) -> u64 {
        let negative = value.is_sign_negative();
        let sign = u64::from(negative) << self.sign();
        if value.is_nan() {
            return self.nan();
        }
        if value.is_infinite() {
            return sign | self.infinity();
        }
        let bits = value.to_bits() & !(1 << 63);
        let exponent = i32::try_from(bits >> 52).unwrap_or(0) - 1023;
        let significand = (bits & ((1 << 52) - 1)) | (u64::from(exponent > -1023) << 52);
        // Subnormal values have fewer bits.
        let lowest = 1 - self.bias();
        let below = u32::try_from(lowest - exponent).unwrap_or(0);
        let shift = (52 - self.fraction + below).min(63);
        let kept = significand >> shift;
        let rest = significand & ((1 << shift) - 1);
        let half = 1 << (shift - 1);
        let up = match mode {
            mode::EVEN => rest > half || (rest == half && kept & 1 == 1),
            mode::ZERO => false,
            mode::DOWN => negative && rest > 0,
            mode::UP => !negative && rest > 0,
            _ => rest >= half,
        };
        // The implicit bit is added to the exponent, as is a carry out of the fraction.
        let base = if below > 0 {
            0
        } else {
            u64::try_from(exponent + self.bias() - 1).unwrap_or(0) << self.fraction
        };
        let rounded = base + kept + u64::from(up);
        if rounded < self.infinity() {
            return sign | rounded;
        }
        let to_largest = match mode {
            mode::ZERO => true,
            mode::DOWN => !negative,
            mode::UP => negative,
            _ => false,
        };
        sign | (self.infinity() - u64::from(to_largest))
    }
}

fn power(exponent: i32) -> f64 {
    f64::from_bits(u64::try_from(exponent + 1023).unwrap_or(0) << 52)
}

/// Rounds to odd, given the rounded result and the sign of its error.
fn odd(rounded: f64, missing: f64) -> f64 {
    let bits = rounded.to_bits();
    if missing == 0.0 || missing.is_nan() || !rounded.is_finite() || bits & 1 == 1 {
        return rounded;
    }
    if rounded == 0.0 {
        return f64::from_bits(1 | (missing.to_bits() & (1 << 63)));
    }
    let outward = (missing > 0.0) == (rounded > 0.0);
    f64::from_bits(if outward { bits + 1 } else { bits - 1 })
}

/// The error of `sum`, the rounded a + b (Knuth's two-sum).
fn sum_error(a: f64, b: f64, sum: f64) -> f64 {
    let b_part = sum - a;
    let a_part = sum - b_part;
    (a - a_part) + (b - b_part)
}

/// An exact zero sum of values with opposite signs is -0 when rounding down.
fn zero_sign(sum: f64, a: f64, b: f64, mode: u64) -> f64 {
    let opposite = a.is_sign_negative() != b.is_sign_negative();
    if sum == 0.0 && opposite && mode == mode::DOWN { -0.0 } else { sum }
}

pub(super) fn odd_add(a: f64, b: f64, mode: u64) -> f64 {
    let sum = a + b;
    zero_sign(odd(sum, sum_error(a, b, sum)), a, b, mode)
}

/// The product of factors whose exact product fits f64: f32 and smaller.
pub(super) fn odd_fma(a: f64, b: f64, c: f64, mode: u64) -> f64 {
    odd_add(a * b, c, mode)
}

pub(super) fn odd_div(a: f64, b: f64) -> f64 {
    let quotient = a / b;
    let missing = (-quotient).mul_add(b, a);
    odd(quotient, if b.is_sign_negative() { -missing } else { missing })
}

pub(super) fn odd_sqrt(a: f64) -> f64 {
    let root = a.sqrt();
    odd(root, (-root).mul_add(root, a))
}

/// Converts an integer to f64, rounded to odd.
pub(super) fn odd_from(value: i128) -> f64 {
    let rounded = value as f64;
    // The difference is below 2^63 even after rounding up from a 64-bit value.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "|value| < 2^65: so is the rounded one, exactly"
    )]
    let missing = value - rounded as i128;
    odd(rounded, missing as f64)
}

/// Rounds an f64 result in a mode, given the result rounded to nearest and its error.
pub(super) fn directed(nearest: f64, missing: f64, mode: u64) -> f64 {
    if missing == 0.0 || !nearest.is_finite() || missing.is_nan() {
        return nearest;
    }
    let too_high = missing < 0.0;
    match mode {
        mode::DOWN if too_high => nearest.next_down(),
        mode::UP if !too_high => nearest.next_up(),
        mode::ZERO if too_high == (nearest > 0.0) => {
            if too_high {
                nearest.next_down()
            } else {
                nearest.next_up()
            }
        }
        _ => nearest,
    }
}

pub(super) fn directed_add(a: f64, b: f64, mode: u64) -> f64 {
    let sum = a + b;
    zero_sign(directed(sum, sum_error(a, b, sum), mode), a, b, mode)
}

/// Rounds to an integral value.
pub(super) fn integral(value: f64, mode: u64) -> f64 {
    match mode {
        mode::EVEN => value.round_ties_even(),
        mode::ZERO => value.trunc(),
        mode::DOWN => value.floor(),
        mode::UP => value.ceil(),
        _ => value.round(),
    }
}
