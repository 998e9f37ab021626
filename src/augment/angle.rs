//! Cosine and sine of an angle, correctly rounded.
//!
//! Python calls the C library's functions. The last bit of glibc's is nearly always correct, and that
//! of the portable `libm` is wrong about ten times as often, which can show in a pixel near the
//! center of a rotation. So both are summed here as Taylor series in twice the precision (T. J.
//! Dekker, "A floating-point technique for extending the available precision", 1971), with equal
//! results on every platform.

use std::f64::consts::FRAC_PI_2;
use std::ops::Neg;

/// The remainder of pi / 2 beyond double precision.
const FRAC_PI_2_REST: f64 = 6.123_233_995_736_766e-17;

/// The number of terms of a series, for angles up to pi / 4: the next term is below 2^-106.
const TERMS: u32 = 14;

/// Cosine and sine of an angle in radians, of at most a few turns.
pub(super) fn cos_sin(angle: f64) -> (f64, f64) {
    let (cos, sin) = cos_sin_twofold(angle);
    (cos.high, sin.high)
}

/// torchvision's factor of a horizontal shear: the tangent of the arc tangent of a magnitude, by way of
/// degrees.
pub(super) fn shear_x(magnitude: f64) -> f64 {
    let (cos, sin) = cos_sin_twofold(shear_angle(magnitude));
    sin.divided_by(cos)
}

/// torchvision's factor of a vertical shear: the same with sine and cosine rounded before the division.
pub(super) fn shear_y(magnitude: f64) -> f64 {
    let (cos, sin) = cos_sin(shear_angle(magnitude));
    sin / cos
}

/// `math.radians(math.degrees(math.atan(magnitude)))`.
fn shear_angle(magnitude: f64) -> f64 {
    let near = libm::atan(magnitude);
    let (cos, sin) = cos_sin_twofold(near);
    // The tangent of a difference of angles is nearly that difference.
    let times = |twofold: Twofold| twofold.times(Twofold { high: magnitude, low: 0.0 });
    let rest = times(cos).plus(-sin).high / cos.plus(times(sin)).high;
    (near + rest).to_degrees().to_radians()
}

fn cos_sin_twofold(angle: f64) -> (Twofold, Twofold) {
    let quarters = (angle / FRAC_PI_2).round();
    let turned =
        Twofold::product(-quarters, FRAC_PI_2).plus(Twofold::product(-quarters, FRAC_PI_2_REST));
    let rest = Twofold { high: angle, low: 0.0 }.plus(turned);
    let cos = series(Twofold { high: 1.0, low: 0.0 }, rest, 0.0);
    let sin = series(rest, rest, 1.0);
    match quarters.rem_euclid(4.0) {
        0.0 => (cos, sin),
        1.0 => (-sin, cos),
        2.0 => (-cos, -sin),
        _ => (sin, -cos),
    }
}

/// The sum of the alternating series whose first term has the given power of `x`.
fn series(first: Twofold, x: Twofold, mut power: f64) -> Twofold {
    let square = x.times(x);
    let (mut term, mut sum) = (first, first);
    for _ in 0..TERMS {
        term = term.times(square).over(-(power + 1.0) * (power + 2.0));
        power += 2.0;
        sum = sum.plus(term);
    }
    sum
}

impl Neg for Twofold {
    type Output = Self;

    fn neg(self) -> Self {
        Self { high: -self.high, low: -self.low }
    }
}

/// An unevaluated sum `high + low`, where `low` is at most half a unit in the last place of `high`.
#[derive(Clone, Copy, Debug)]
struct Twofold {
    high: f64,
    low: f64,
}

impl Twofold {
    fn sum(a: f64, b: f64) -> Self {
        let high = a + b;
        let taken = high - a;
        Self { high, low: (a - (high - taken)) + (b - taken) }
    }

    fn product(a: f64, b: f64) -> Self {
        let high = a * b;
        Self { high, low: a.mul_add(b, -high) }
    }

    fn plus(self, other: Self) -> Self {
        let sum = Self::sum(self.high, other.high);
        let low = Self::sum(self.low, other.low);
        let sum = Self::sum(sum.high, sum.low + low.high);
        Self::sum(sum.high, sum.low + low.low)
    }

    fn times(self, other: Self) -> Self {
        let product = Self::product(self.high, other.high);
        Self::sum(product.high, product.low + (self.high * other.low + self.low * other.high))
    }

    /// The quotient, rounded.
    fn divided_by(self, divisor: Self) -> f64 {
        let quotient = self.high / divisor.high;
        let product = divisor.times(Self { high: quotient, low: 0.0 });
        quotient + self.plus(-product).high / divisor.high
    }

    fn over(self, divisor: f64) -> Self {
        let quotient = self.high / divisor;
        let rest = (-quotient).mul_add(divisor, self.high) + self.low;
        Self::sum(quotient, rest / divisor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::unreadable_literal, reason = "as Python prints them")]
    #[test]
    fn cosine_and_sine_match_python() {
        // math.cos and math.sin of math.radians(degrees).
        for (degrees, cos, sin) in [
            (185.13932163645663, -0.995979823402651, -0.08957785091653025),
            (-185.13932163645663, -0.995979823402651, 0.08957785091653025),
            (0.0, 1.0, 0.0),
            (21.0, 0.9335804264972017, 0.35836794954530027),
            (-21.7, 0.9291325715340562, -0.3697467572738293),
            (30.0, 0.8660254037844387, 0.49999999999999994),
            (-29.123456789, 0.8735730449865678, -0.48669306043223576),
            (44.99999, 0.7071069045999517, 0.7071066577731218),
            (45.00001, 0.7071066577731218, 0.7071069045999517),
            (90.0, 6.123233995736766e-17, 1.0),
            (133.3, -0.6858183529273763, 0.7277727576572105),
            (200.25, -0.9381913359224842, -0.3461170570774931),
            (271.5, 0.026176948307873114, -0.9996573249755573),
            (359.9, 0.9999984769132877, -0.0017453283658984452),
        ] {
            assert_eq!(cos_sin(f64::to_radians(degrees)), (cos, sin), "{degrees} degrees");
        }
    }

    #[test]
    fn cosine_and_sine_are_close_to_libm_over_two_turns() {
        for step in -720..=720 {
            let angle = f64::from(step) / 2.0 * std::f64::consts::PI / 180.0;
            let (cos, sin) = cos_sin(angle);
            assert!((cos - libm::cos(angle)).abs() < 3e-16, "cosine of {angle}");
            assert!((sin - libm::sin(angle)).abs() < 3e-16, "sine of {angle}");
        }
    }
}
