//! The weights of one axis of a resize, as Pillow computes them.
//!
//! Source: Pillow 12, `src/libImaging/Resample.c`: `precompute_coeffs` and `normalize_coeffs_8bpc`.
//! Output pixel `x` has its centre at `(x + 0.5) * scale` of the source; the filter is widened by
//! `scale` where the image shrinks, sampled at the source's pixel centres in double precision,
//! divided by its sum and rounded to 22 fractional bits.

use std::ops::Range;

use crate::sample::Interpolation;
use crate::simd::{Simd, kernel};

/// Fractional bits of a weight: 8 bits of result and 2 for overshoot leave 22 of 32.
pub(super) const WEIGHT_BITS: u32 = 22;

/// For each output position of one axis: the first source position and the weights from there on.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// First source position, one an output.
    pub(super) first: Vec<u32>,
    /// Weights an output: even, the unused ones are zero, and may lie past the source's end.
    pub(super) taps: usize,
    /// `taps` weights an output.
    pub(super) weights: Vec<i32>,
    /// Source positions used by an output.
    counts: Vec<u32>,
    /// Centres of the outputs in the source.
    centres: Vec<f64>,
    /// For each output the sum of its weights before they are rounded.
    sums: Vec<f64>,
    /// The weights of all outputs before they are rounded, tap after tap.
    exact: Vec<f64>,
}

/// One axis of a resize.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    /// Pixels of the source.
    pub(super) source: u32,
    /// Pixels of the whole result.
    pub(super) resized: u32,
    /// The part of the result that is wanted.
    pub(super) window: Range<u32>,
    /// The filter.
    pub(super) filter: Interpolation,
    /// Whether the outputs are listed from the window's last to its first.
    pub(super) mirrored: bool,
}

impl Table {
    /// Computes the table of an axis, into the memory of the last one.
    pub(super) fn fill(&mut self, simd: Simd, axis: &Axis) {
        let scale = f64::from(axis.source) / f64::from(axis.resized);
        let widened = scale.max(1.0);
        let support = widened * if axis.filter == Interpolation::Bicubic { 2.0 } else { 1.0 };
        self.first.clear();
        self.counts.clear();
        self.centres.clear();
        for output in outputs(axis) {
            let centre = (f64::from(output) + 0.5) * scale;
            let first = position(centre - support + 0.5);
            let end = position(centre + support + 0.5).min(axis.source);
            self.first.push(first);
            self.counts.push(end - first);
            self.centres.push(centre);
        }
        let most = self.counts.iter().copied().max().unwrap_or(0);
        let (outputs, taps) = (self.first.len(), most.next_multiple_of(2) as usize);
        self.taps = taps;
        self.sums.clear();
        self.sums.resize(outputs, 0.0);
        self.exact.resize(outputs * most as usize, 0.0);
        for (tap, weights) in (0..most).zip(self.exact.chunks_exact_mut(outputs)) {
            let places =
                Places { first: &self.first, counts: &self.counts, centres: &self.centres };
            match axis.filter {
                Interpolation::Bilinear => triangle(simd, &places, tap, 1.0 / widened, weights),
                Interpolation::Bicubic => cubic(simd, &places, tap, 1.0 / widened, weights),
            }
            self.sums.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += *weight);
        }
        self.weights.clear();
        self.weights.resize(outputs * taps, 0);
        for (tap, weights) in self.exact.chunks_exact_mut(outputs).enumerate() {
            fix(simd, weights, &self.sums);
            for (to, weight) in self.weights[tap..].iter_mut().step_by(taps).zip(weights) {
                *to = whole(*weight);
            }
        }
    }

    /// The source positions that the outputs use; from here on `first` counts from their start.
    pub(super) fn rebase(&mut self) -> Range<u32> {
        let start = self.first.iter().copied().min().unwrap_or(0);
        let end = self.first.iter().zip(&self.counts).map(|(first, count)| first + count).max();
        self.first.iter_mut().for_each(|first| *first -= start);
        start..end.unwrap_or(0)
    }
}

/// The outputs of an axis, in the order of the table.
fn outputs(axis: &Axis) -> impl Iterator<Item = u32> {
    let (window, mirrored) = (axis.window.clone(), axis.mirrored);
    window.clone().map(move |x| if mirrored { window.end - 1 - (x - window.start) } else { x })
}

/// Where the outputs lie in the source.
struct Places<'a> {
    first: &'a [u32],
    counts: &'a [u32],
    centres: &'a [f64],
}

kernel! {
    fn triangle(places: &Places<'_>, tap: u32, narrowing: f64, weights: &mut [f64]) {
        sample(places, tap, narrowing, weights, |x| if x < 1.0 { 1.0 - x } else { 0.0 });
    }
}

kernel! {
    /// Keys' cubic with a = -0.5.
    fn cubic(places: &Places<'_>, tap: u32, narrowing: f64, weights: &mut [f64]) {
        const A: f64 = -0.5;
        sample(places, tap, narrowing, weights, |x| {
            // Both, so that there is no branch.
            let near = ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
            let far = (((x - 5.0) * x + 8.0) * x - 4.0) * A;
            let far = if x < 2.0 { far } else { 0.0 };
            if x < 1.0 { near } else { far }
        });
    }
}

/// Samples a filter at each output's source position of a number; zero past its last.
#[expect(clippy::inline_always, reason = "must take its caller's features")]
#[inline(always)]
fn sample(
    places: &Places<'_>,
    tap: u32,
    narrowing: f64,
    weights: &mut [f64],
    filter: impl Fn(f64) -> f64,
) {
    let count = weights.len();
    let Places { first, counts, centres } = places;
    let (first, counts, centres) = (&first[..count], &counts[..count], &centres[..count]);
    for i in 0..count {
        let distance = (f64::from(first[i] + tap) - centres[i] + 0.5) * narrowing;
        let weight = filter(distance.abs());
        weights[i] = if tap < counts[i] { weight } else { 0.0 };
    }
}

kernel! {
    /// Divides weights by the sums and gives them their fractional bits, to be truncated.
    fn fix(weights: &mut [f64], sums: &[f64]) {
        for (weight, sum) in weights.iter_mut().zip(sums) {
            let one = if *sum == 0.0 { 1.0 } else { *sum };
            let scaled = *weight / one * f64::from(1 << WEIGHT_BITS);
            *weight = scaled + if scaled < 0.0 { -0.5 } else { 0.5 };
        }
    }
}

/// C's `(int)`, with what is below zero clipped to it.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturating is meant")]
fn position(value: f64) -> u32 {
    value as u32
}

/// A weight of fixed point.
#[expect(clippy::cast_possible_truncation, reason = "weights are below 2 in size")]
fn whole(weight: f64) -> i32 {
    weight as i32
}
