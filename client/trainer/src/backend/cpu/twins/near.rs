//! Error bounds of f32 arithmetic.

use std::ops::{Add, Div, Mul, Sub};

/// Half a unit in the last place of 1, plus a margin for the f64 arithmetic in between.
const UNIT: f64 = 1.001 / 16_777_216.0;

/// Half of the smallest f32.
const TINY: f64 = 1e-45;

/// A number that is at most `error` away from `value`. Operations propagate the errors of their operands, and
/// [`Near::rounded`] adds that of storing the result as f32.
#[derive(Clone, Copy, Debug)]
pub(super) struct Near {
    pub(super) value: f64,
    pub(super) error: f64,
}

impl Near {
    pub(super) fn exact(value: impl Into<f64>) -> Self {
        Self { value: value.into(), error: 0.0 }
    }

    pub(super) fn rounded(self) -> Self {
        self.widened(1.0)
    }

    /// Adds the errors of a number of roundings.
    pub(super) fn widened(self, roundings: f64) -> Self {
        let error = roundings * (UNIT * (self.value.abs() + self.error) + TINY);
        Self { error: self.error + error, ..self }
    }

    pub(super) fn root(self) -> Self {
        let value = self.value.sqrt();
        let min = (self.value - self.error).max(0.0).sqrt();
        let error = if self.error > 0.0 { self.error / (value + min) } else { 0.0 };
        Self { value, error }
    }

    /// Applies a function whose derivative is at most `slope` in the neighborhood.
    pub(super) fn map(self, slope: f64, function: impl Fn(f64) -> f64) -> Self {
        Self { value: function(self.value), error: slope * self.error }
    }

    /// A sum in f32 in which each term takes part in at most `depth` additions.
    pub(super) fn sum(terms: impl IntoIterator<Item = Self>, depth: usize) -> Self {
        let (mut sum, mut size) = (Self::exact(0.0), 0.0);
        for term in terms {
            sum = sum + term;
            size += term.value.abs() + term.error;
        }
        Self { error: sum.error + 1.001 * depth as f64 * (UNIT * size + TINY), ..sum }
    }

    /// Checks that the result of f32 arithmetic and that in f64 are within the bound, and that the bound is tight
    /// enough to mean something.
    #[track_caller]
    pub(super) fn holds(self, what: &str, got: f32, truth: f64) {
        let Self { value, error } = self;
        assert!((value - truth).abs() <= 1e-12 * (1.0 + truth.abs()), "{what}: {value} {truth}");
        assert!((f64::from(got) - truth).abs() <= error + 1e-13, "{what}: {got} {truth} {error}");
        assert!(error <= 1e-3 * (1.0 + truth.abs()), "{what}: {truth} may be off by {error}");
    }
}

impl Add for Near {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { value: self.value + other.value, error: self.error + other.error }
    }
}

impl Sub for Near {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { value: self.value - other.value, error: self.error + other.error }
    }
}

impl Mul for Near {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        let cross = self.value.abs() * other.error + other.value.abs() * self.error;
        Self { value: self.value * other.value, error: cross + self.error * other.error }
    }
}

impl Div for Near {
    type Output = Self;

    /// The divisor's range must not contain 0.
    fn div(self, other: Self) -> Self {
        let min = other.value.abs() - other.error;
        assert!(min > 0.0, "the divisor may be 0: {other:?}");
        let value = self.value / other.value;
        Self { value, error: (self.error + value.abs() * other.error) / min }
    }
}
