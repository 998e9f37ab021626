//! The weights of one axis of a resize, as Pillow computes them.
//!
//! Source: Pillow 12, `src/libImaging/Resample.c`: `precompute_coeffs` and `normalize_coeffs_8bpc`.
//! Output pixel `x` has its centre at `(x + 0.5) * scale` of the source; the filter is widened by
//! `scale` where the image shrinks, sampled at the source's pixel centres in double precision,
//! divided by its sum and rounded to 22 fractional bits.

use std::ops::Range;

use crate::sample::Interpolation;

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
    /// One output's weights before they are rounded.
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
    pub(super) fn fill(&mut self, axis: &Axis) {
        let scale = f64::from(axis.source) / f64::from(axis.resized);
        let widened = scale.max(1.0);
        let support = widened * if axis.filter == Interpolation::Bicubic { 2.0 } else { 1.0 };
        let centre = |output: u32| (f64::from(output) + 0.5) * scale;

        self.first.clear();
        self.counts.clear();
        for output in outputs(axis) {
            let first = position(centre(output) - support + 0.5);
            let end = position(centre(output) + support + 0.5).min(axis.source);
            self.first.push(first);
            self.counts.push(end - first);
        }
        let most = self.counts.iter().copied().max().unwrap_or(0) as usize;
        self.taps = most.next_multiple_of(2);
        self.exact.resize(most, 0.0);
        self.weights.clear();
        self.weights.resize(self.first.len() * self.taps, 0);
        let narrowing = 1.0 / widened;
        for (index, output) in outputs(axis).enumerate() {
            let exact = &mut self.exact[..self.counts[index] as usize];
            let sum = sample(axis.filter, self.first[index], centre(output), narrowing, exact);
            for (to, weight) in self.weights[index * self.taps..].iter_mut().zip(exact) {
                *to = fixed(if sum == 0.0 { *weight } else { *weight / sum });
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

/// Samples the filter at the source positions from `first` on; their sum.
fn sample(
    filter: Interpolation,
    first: u32,
    centre: f64,
    narrowing: f64,
    weights: &mut [f64],
) -> f64 {
    let mut sum = 0.0;
    for (position, weight) in (first..).zip(weights) {
        let distance = (f64::from(position) - centre + 0.5) * narrowing;
        *weight = match filter {
            Interpolation::Bilinear => triangle(distance.abs()),
            Interpolation::Bicubic => cubic(distance.abs()),
        };
        sum += *weight;
    }
    sum
}

fn triangle(x: f64) -> f64 {
    if x < 1.0 { 1.0 - x } else { 0.0 }
}

/// Keys' cubic with a = -0.5.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// C's `(int)`, with what is below zero clipped to it.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturating is meant")]
fn position(value: f64) -> u32 {
    value as u32
}

/// A weight in fixed point, rounded half away from zero.
#[expect(clippy::cast_possible_truncation, reason = "weights are below 2 in size")]
fn fixed(weight: f64) -> i32 {
    let half = if weight < 0.0 { -0.5 } else { 0.5 };
    (half + weight * f64::from(1 << WEIGHT_BITS)) as i32
}
