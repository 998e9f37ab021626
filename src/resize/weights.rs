//! The weights of one axis of a resize, as Pillow computes them.
//!
//! Source: Pillow 12, `src/libImaging/Resample.c`: `precompute_coeffs` and `normalize_coeffs_8bpc`.
//! The center of output pixel `x` is at `(x + 0.5) * scale` in the source. The filter is widened by
//! `scale` where the image shrinks, sampled at the centers of the source's pixels in double
//! precision, divided by its sum and rounded to 22 fractional bits:
//!
//! ```text
//!   source   |  0  |  1  |  2  |  3  |  4  |  5  |         scale = 2, triangle filter
//!                  /     ^ center of output 1
//!   filter     .-'   '-.                                    first[1] = 0, counts[1] = 4
//!   weights     w0  w1  w2  w3                              sum to 1 before rounding
//! ```
//!
//! The outputs are independent, so the arrays are ordered by tap first: each loop computes one tap
//! of all outputs, and the compiler turns it into vectors.

use std::f64::consts::PI;
use std::ops::Range;

use crate::geometry::ResizeFilter;
use crate::simd::{Simd, kernel};

/// Fractional bits of a weight: 8 bits of result and 2 for overshoot leave 22 of 32.
pub(super) const WEIGHT_BITS: u32 = 22;

/// For each output of one axis, the first source position that it uses and the weights from there
/// on.
#[derive(Debug, Default)]
pub(super) struct Weights {
    /// The first source position of each output.
    pub(super) first: Vec<u32>,
    /// The number of weights of each output. It is even, for kernels that take weights in pairs;
    /// the unused weights are zero, and their positions may be past the end of the source.
    pub(super) taps: usize,
    /// `taps` weights for each output.
    pub(super) values: Vec<i32>,
    /// The number of source positions that each output uses.
    counts: Vec<u32>,
    /// The center of each output, in the source.
    centers: Vec<f64>,
    /// The sum of each output's weights before they are rounded.
    sums: Vec<f64>,
    /// The weights of all outputs before they are rounded, tap after tap.
    exact: Vec<f64>,
}

/// One axis of a resize.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    /// The number of pixels of the source.
    pub(super) source: u32,
    /// The number of pixels of the whole result.
    pub(super) resized: u32,
    /// The part of the result that is computed.
    pub(super) window: Range<u32>,
    /// The filter.
    pub(super) filter: ResizeFilter,
    /// Whether the outputs are listed from the window's last to its first.
    pub(super) mirrored: bool,
}

impl Weights {
    /// Computes the weights of an axis. They replace the previous ones.
    pub(super) fn fill(&mut self, simd: Simd, axis: &Axis) {
        let scale = f64::from(axis.source) / f64::from(axis.resized);
        let widened = scale.max(1.0);
        let support = widened * support(axis.filter);
        self.first.clear();
        self.counts.clear();
        self.centers.clear();
        for output in outputs(axis) {
            let center = (f64::from(output) + 0.5) * scale;
            let (first, end) = (begin(center, support), end(center, support, axis.source));
            self.first.push(first);
            self.counts.push(end - first);
            self.centers.push(center);
        }
        let max = self.counts.iter().copied().max().unwrap_or(0);
        let (outputs, taps) = (self.first.len(), max.next_multiple_of(2) as usize);
        self.taps = taps;
        self.sums.clear();
        self.sums.resize(outputs, 0.0);
        self.exact.resize(outputs * max as usize, 0.0);
        for (tap, weights) in (0..max).zip(self.exact.chunks_exact_mut(outputs)) {
            let spans = Spans { first: &self.first, counts: &self.counts, centers: &self.centers };
            let filter = match axis.filter {
                // Without weights: the pass is a copy.
                ResizeFilter::Nearest => unreachable!("nearest.rs does it"),
                ResizeFilter::Box => rectangle,
                ResizeFilter::Bilinear => triangle,
                ResizeFilter::Hamming => hamming,
                ResizeFilter::Bicubic => cubic,
                ResizeFilter::Lanczos => lanczos,
            };
            filter(simd, &spans, tap, 1.0 / widened, weights);
            self.sums.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += *weight);
        }
        self.values.clear();
        self.values.resize(outputs * taps, 0);
        for (tap, weights) in self.exact.chunks_exact_mut(outputs).enumerate() {
            scale_to_fixed(simd, weights, &self.sums);
            for (to, weight) in self.values[tap..].iter_mut().step_by(taps).zip(weights) {
                *to = truncate(*weight);
            }
        }
    }

    /// Returns the range of source positions that the outputs use, and makes `first` relative to
    /// its start.
    pub(super) fn rebase(&mut self) -> Range<u32> {
        let start = self.first.iter().copied().min().unwrap_or(0);
        let end = self.first.iter().zip(&self.counts).map(|(first, count)| first + count).max();
        self.first.iter_mut().for_each(|first| *first -= start);
        start..end.unwrap_or(0)
    }
}

/// Half of the width of a filter that is not widened.
fn support(filter: ResizeFilter) -> f64 {
    match filter {
        ResizeFilter::Nearest | ResizeFilter::Box => 0.5,
        ResizeFilter::Bilinear | ResizeFilter::Hamming => 1.0,
        ResizeFilter::Bicubic => 2.0,
        ResizeFilter::Lanczos => 3.0,
    }
}

/// The first source position that the output with this center uses.
fn begin(center: f64, support: f64) -> u32 {
    position(center - support + 0.5)
}

/// The position after the last one that the output with this center uses.
fn end(center: f64, support: f64, source: u32) -> u32 {
    position(center + support + 0.5).min(source)
}

/// The source positions that the outputs of an axis use.
pub(super) fn reach(axis: &Axis) -> Range<u32> {
    let scale = f64::from(axis.source) / f64::from(axis.resized);
    let support = scale.max(1.0) * support(axis.filter);
    let center = |output: u32| (f64::from(output) + 0.5) * scale;
    let Range { start: first, end: after } = axis.window;
    begin(center(first), support)..end(center(after - 1), support, axis.source)
}

/// The outputs of an axis, in the order of their weights.
fn outputs(axis: &Axis) -> impl Iterator<Item = u32> {
    let (window, mirrored) = (axis.window.clone(), axis.mirrored);
    window.clone().map(move |x| if mirrored { window.end - 1 - (x - window.start) } else { x })
}

/// The source positions of all outputs.
struct Spans<'a> {
    first: &'a [u32],
    counts: &'a [u32],
    centers: &'a [f64],
}

kernel! {
    /// Half open, so that a pixel between two outputs belongs to one of them.
    fn rectangle(spans: &Spans<'_>, tap: u32, narrowing: f64, weights: &mut [f64]) {
        sample(spans, tap, narrowing, weights, |x| if x > -0.5 && x <= 0.5 { 1.0 } else { 0.0 });
    }
}

kernel! {
    fn triangle(spans: &Spans<'_>, tap: u32, narrowing: f64, weights: &mut [f64]) {
        sample(spans, tap, narrowing, weights, |x| {
            let x = x.abs();
            if x < 1.0 { 1.0 - x } else { 0.0 }
        });
    }
}

kernel! {
    fn hamming(spans: &Spans<'_>, tap: u32, narrowing: f64, weights: &mut [f64]) {
        sample(spans, tap, narrowing, weights, |x| {
            let x = x.abs();
            if x == 0.0 {
                1.0
            } else if x >= 1.0 {
                0.0
            } else {
                // Pillow's constants are in single precision.
                let angle = x * PI;
                let window = f64::from(0.54_f32) + f64::from(0.46_f32) * libm::cos(angle);
                libm::sin(angle) / angle * window
            }
        });
    }
}

kernel! {
    /// Keys' cubic with a = -0.5.
    fn cubic(spans: &Spans<'_>, tap: u32, narrowing: f64, weights: &mut [f64]) {
        const A: f64 = -0.5;
        sample(spans, tap, narrowing, weights, |x| {
            let x = x.abs();
            // Both pieces are computed, so that there is no branch.
            let near = ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
            let far = (((x - 5.0) * x + 8.0) * x - 4.0) * A;
            let far = if x < 2.0 { far } else { 0.0 };
            if x < 1.0 { near } else { far }
        });
    }
}

kernel! {
    fn lanczos(spans: &Spans<'_>, tap: u32, narrowing: f64, weights: &mut [f64]) {
        sample(spans, tap, narrowing, weights, |x| {
            if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
        });
    }
}

/// The sine of `x * pi`, over `x * pi`.
fn sinc(x: f64) -> f64 {
    let angle = x * PI;
    if x == 0.0 { 1.0 } else { libm::sin(angle) / angle }
}

/// Samples a filter at source position number `tap` of each output. The weight is zero past the
/// output's last position.
#[expect(clippy::inline_always, reason = "must take its caller's features")]
#[inline(always)]
fn sample(
    spans: &Spans<'_>,
    tap: u32,
    narrowing: f64,
    weights: &mut [f64],
    filter: impl Fn(f64) -> f64,
) {
    let count = weights.len();
    let Spans { first, counts, centers } = spans;
    let (first, counts, centers) = (&first[..count], &counts[..count], &centers[..count]);
    for i in 0..count {
        let distance = (f64::from(first[i] + tap) - centers[i] + 0.5) * narrowing;
        let weight = filter(distance);
        weights[i] = if tap < counts[i] { weight } else { 0.0 };
    }
}

kernel! {
    /// Divides weights by their sums, shifts them left by the fractional bits and adds a half, so
    /// that truncation rounds them.
    fn scale_to_fixed(weights: &mut [f64], sums: &[f64]) {
        for (weight, sum) in weights.iter_mut().zip(sums) {
            let one = if *sum == 0.0 { 1.0 } else { *sum };
            let scaled = *weight / one * f64::from(1 << WEIGHT_BITS);
            *weight = scaled + if scaled < 0.0 { -0.5 } else { 0.5 };
        }
    }
}

/// C's `(int)`, with negative values clipped to zero.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturating is meant")]
fn position(value: f64) -> u32 {
    value as u32
}

/// Truncates a weight in fixed point.
#[expect(clippy::cast_possible_truncation, reason = "weights are below 2 in magnitude")]
fn truncate(weight: f64) -> i32 {
    weight as i32
}
