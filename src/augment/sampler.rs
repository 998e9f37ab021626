//! One pixel of an affine transform, exactly as Pillow computes it.
//!
//! Source: Pillow 12, `src/libImaging/Geometry.c`: `affine_transform`, `bilinear_filter32RGB`,
//! `bicubic_filter32RGB`. All in double precision, in the order of the source; the cubic has a = -1.

use std::ops::Range;

use crate::sample::{Interpolation, View};

/// Where an output pixel's centre lies in the source:
/// `(a*x + b*y + c, d*x + e*y + f)` for a centre `(x, y)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Affine(pub(super) [f64; 6]);

impl Affine {
    /// Column in the source of an output pixel's centre.
    pub(super) fn column(&self, x: u32, y: u32) -> f64 {
        let [a, b, c, ..] = self.0;
        a * (f64::from(x) + 0.5) + b * (f64::from(y) + 0.5) + c
    }

    /// Row in the source of an output pixel's centre.
    pub(super) fn row(&self, x: u32, y: u32) -> f64 {
        let [.., d, e, f] = self.0;
        d * (f64::from(x) + 0.5) + e * (f64::from(y) + 0.5) + f
    }

    /// The output columns of row `y` whose centres lie in a source of the given height and width.
    ///
    /// Each coordinate is monotone in `x`, rounded or not, so they are neighbours.
    pub(super) fn inside(&self, y: u32, height: u32, width: u32) -> Range<u32> {
        let columns = within(width, width, self.0[0] < 0.0, |x| self.column(x, y));
        let rows = within(width, height, self.0[3] < 0.0, |x| self.row(x, y));
        columns.start.max(rows.start)..columns.end.min(rows.end)
    }
}

/// The positions below `count` for which a monotone coordinate lies in `0..limit`.
fn within(count: u32, limit: u32, falls: bool, coordinate: impl Fn(u32) -> f64) -> Range<u32> {
    let limit = f64::from(limit);
    if falls {
        let start = partition_point(count, |x| coordinate(x) >= limit);
        start..partition_point(count, |x| coordinate(x) >= 0.0)
    } else {
        let start = partition_point(count, |x| coordinate(x) < 0.0);
        start..partition_point(count, |x| coordinate(x) < limit)
    }
}

/// The first position below `count` for which the predicate, true up to some position, is false.
fn partition_point(count: u32, holds: impl Fn(u32) -> bool) -> u32 {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low.midpoint(high);
        if holds(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// The source's value at a point, or nothing where the point lies outside.
pub(super) fn sample(source: View<'_>, x: f64, y: f64, filter: Interpolation) -> Option<[u8; 3]> {
    let (width, height) = (source.size().width, source.size().height);
    let inside = (0.0..f64::from(width)).contains(&x) && (0.0..f64::from(height)).contains(&y);
    inside.then(|| match filter {
        Interpolation::Bilinear => interpolate(source, x - 0.5, y - 0.5, 0, bilinear),
        Interpolation::Bicubic => interpolate(source, x - 0.5, y - 0.5, 1, bicubic),
    })
}

/// Interpolates rows, then the results; `before` values lie before the point's own pixel. Pillow
/// clamps columns to the image and lets rows outside repeat their neighbour, which is the same.
fn interpolate<const N: usize>(
    source: View<'_>,
    x: f64,
    y: f64,
    before: i64,
    curve: impl Fn([f64; N], f64) -> f64,
) -> [u8; 3] {
    let (column, row) = (x.floor(), y.floor());
    let (dx, dy) = (x - column, y - row);
    let at = |base: f64, tap: usize, count: u32| clamped(base, tap as i64 - before, count);
    let columns: [usize; N] = std::array::from_fn(|tap| at(column, tap, source.size().width) * 3);
    let rows: [&[u8]; N] = std::array::from_fn(|tap| {
        let y = at(row, tap, source.size().height);
        &source.data()[y * source.stride()..]
    });
    [0, 1, 2].map(|channel| {
        let values = rows.map(|row| curve(columns.map(|x| f64::from(row[x + channel])), dx));
        byte(curve(values, dy))
    })
}

/// A position `offset` from `base`, clamped to `0..count`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped, and small")]
fn clamped(base: f64, offset: i64, count: u32) -> usize {
    (base as i64 + offset).clamp(0, i64::from(count) - 1) as usize
}

fn bilinear([v1, v2]: [f64; 2], d: f64) -> f64 {
    v1 + (v2 - v1) * d
}

fn bicubic([v1, v2, v3, v4]: [f64; 4], d: f64) -> f64 {
    let p2 = -v1 + v3;
    let p3 = 2.0 * (v1 - v2) + v3 - v4;
    let p4 = -v1 + v2 - v3 + v4;
    v2 + d * (p2 + d * (p3 + d * p4))
}

/// Clamped and truncated.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturating is meant")]
fn byte(value: f64) -> u8 {
    value as u8
}
