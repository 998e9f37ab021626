//! Exact numbers, an integer times a power of two, to which rounded results are compared.

use std::cmp::Ordering;

/// The exact number `.0 * 2^.1`. The numbers of the tests fit 127 bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exact(i128, i32);

impl Exact {
    pub(super) fn of(value: f64) -> Self {
        assert!(value.is_finite());
        let bits = value.to_bits();
        let exponent = i32::try_from(bits >> 52 & 0x7ff).unwrap();
        let fraction = i128::from(bits & ((1 << 52) - 1));
        let (mut significand, mut exponent) =
            if exponent == 0 { (fraction, -1074) } else { (fraction | 1 << 52, exponent - 1075) };
        while significand != 0 && significand % 2 == 0 {
            significand /= 2;
            exponent += 1;
        }
        if significand == 0 {
            exponent = 0;
        }
        Self(if value < 0.0 { -significand } else { significand }, exponent)
    }

    pub(super) fn times(self, other: Self) -> Self {
        Self(self.0.checked_mul(other.0).unwrap(), self.1 + other.1)
    }

    fn aligned(self, other: Self) -> (i128, i128, i32) {
        let least = if self.0 == 0 {
            other.1
        } else if other.0 == 0 {
            self.1
        } else {
            self.1.min(other.1)
        };
        let at = |number: Self| {
            if number.0 == 0 { 0 } else { number.0.checked_mul(1 << (number.1 - least)).unwrap() }
        };
        (at(self), at(other), least)
    }

    pub(super) fn plus(self, other: Self) -> Self {
        let (a, b, exponent) = self.aligned(other);
        Self(a.checked_add(b).unwrap(), exponent)
    }

    pub(super) fn negative(self) -> Self {
        Self(-self.0, self.1)
    }

    pub(super) fn order(self, other: Self) -> Ordering {
        let (a, b, _) = self.aligned(other);
        a.cmp(&b)
    }
}

/// The relation of a result to the exact one: the sign of `result - exact`.
pub(super) trait Side: Fn(f64) -> Ordering {}
impl<F: Fn(f64) -> Ordering> Side for F {}

/// Asserts that `found` is the exact value rounded in `mode` (`n`, `z`, `d` or `u`).
///
/// `side` compares any candidate with the exact value; `down` and `up` are the neighbors of `found` in its format.
pub(super) fn assert_rounded(
    found: f64,
    down: f64,
    up: f64,
    mode: char,
    side: &impl Side,
    what: &str,
) {
    let relation = side(found);
    let toward_zero = if found.is_sign_negative() { 'u' } else { 'd' };
    let good = match if mode == 'z' { toward_zero } else { mode } {
        'd' => relation.is_le() && (relation.is_eq() || side(up).is_gt()),
        'u' => relation.is_ge() && (relation.is_eq() || side(down).is_lt()),
        // The midpoints to both neighbors are beyond the exact value.
        _ => side(f64::midpoint(found, up)).is_ge() && side(f64::midpoint(found, down)).is_le(),
    };
    assert!(good, "{what} in mode {mode}: {found:e}");
}
