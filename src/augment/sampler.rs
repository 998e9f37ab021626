//! One pixel of an affine transform, exactly as Pillow computes it.
//!
//! Source: Pillow 12, `src/libImaging/Geometry.c`: `affine_transform`, `bilinear_filter32RGB`,
//! `bicubic_filter32RGB`. All arithmetic is in double precision and in the order of that source,
//! because a different order of additions can change the truncated result. The cubic has a = -1,
//! unlike that of a resize.
//!
//! ```text
//!   output (x, y) -> its center, (x + 1/2, y + 1/2) -> matrix -> point in the source
//!     outside -> fill
//!     inside  -> 2 x 2 or 4 x 4 pixels around the point: rows first, then the results
//!                -> clamped to 0..=255 and truncated, not rounded
//! ```

use std::ops::Range;

use crate::geometry::View;

/// The degree of the polynomials between pixels, along rows and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Degree {
    Linear,
    Cubic,
}

/// An affine matrix. It maps the center `(x, y)` of an output pixel to the point
/// `(a*x + b*y + c, d*x + e*y + f)` of the source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Affine(pub(super) [f64; 6]);

impl Affine {
    /// The column in the source of the center of an output pixel.
    pub(super) fn column(&self, x: u32, y: u32) -> f64 {
        let [a, b, c, ..] = self.0;
        a * (f64::from(x) + 0.5) + b * (f64::from(y) + 0.5) + c
    }

    /// The row in the source of the center of an output pixel.
    pub(super) fn row(&self, x: u32, y: u32) -> f64 {
        let [.., d, e, f] = self.0;
        d * (f64::from(x) + 0.5) + e * (f64::from(y) + 0.5) + f
    }

    /// The output columns of row `y` whose centers are inside a source of the given height and width.
    /// They are contiguous, because each coordinate is monotone in `x`, even when it is rounded.
    pub(super) fn inside(&self, y: u32, height: u32, width: u32) -> Range<u32> {
        let columns = within(width, width, self.0[0] < 0.0, |x| self.column(x, y));
        let rows = within(width, height, self.0[3] < 0.0, |x| self.row(x, y));
        columns.start.max(rows.start)..columns.end.min(rows.end)
    }
}

/// The positions below `count` whose coordinate, a monotone function, is in `0..limit`.
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

/// The first position below `count` where a predicate does not hold, given that it holds for all
/// positions before the first one where it does not.
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

/// The interpolated pixel at a point, or `None` if the point is outside the source.
pub(super) fn sample(source: View<'_>, x: f64, y: f64, filter: Degree) -> Option<[u8; 3]> {
    let (width, height) = (source.size().width, source.size().height);
    let inside = (0.0..f64::from(width)).contains(&x) && (0.0..f64::from(height)).contains(&y);
    inside.then(|| match filter {
        Degree::Linear => interpolate(source, x - 0.5, y - 0.5, 0, bilinear),
        Degree::Cubic => interpolate(source, x - 0.5, y - 0.5, 1, bicubic),
    })
}

/// Interpolates along rows, then between the results. `before` is the number of pixels before that
/// of the point. Pillow clamps columns to the image and repeats the nearest row in place of rows
/// outside, which is the same thing.
fn interpolate<const N: usize>(
    source: View<'_>,
    x: f64,
    y: f64,
    before: i32,
    curve: impl Fn([f64; N], f64) -> f64,
) -> [u8; 3] {
    let (column, row) = (floor(x), floor(y));
    let (dx, dy) = (x - f64::from(column), y - f64::from(row));
    let mut columns = [0; N];
    let mut rows = [source.row(0); N];
    for (tap, offset) in (0..N).zip(-before..) {
        columns[tap] = clamp(column + offset, source.size().width) as usize * 3;
        rows[tap] = source.row(clamp(row + offset, source.size().height));
    }
    let mut pixel = [0; 3];
    for (channel, to) in pixel.iter_mut().enumerate() {
        let mut values = [0.0; N];
        for (value, row) in values.iter_mut().zip(rows) {
            let mut line = [0.0; N];
            for (to, column) in line.iter_mut().zip(columns) {
                *to = f64::from(row[column + channel]);
            }
            *value = curve(line, dx);
        }
        *to = byte(curve(values, dy));
    }
    pixel
}

/// The largest whole number not above a value, which is at least -1.
#[expect(clippy::cast_possible_truncation, reason = "positions in an image fit")]
fn floor(value: f64) -> i32 {
    if value < 0.0 { -1 } else { value as i32 }
}

#[expect(clippy::cast_possible_wrap, clippy::cast_sign_loss, reason = "sizes are far below 2^31")]
fn clamp(position: i32, count: u32) -> u32 {
    position.clamp(0, count as i32 - 1) as u32
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

/// Clamps and truncates.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the saturating cast is Pillow's clipping"
)]
fn byte(value: f64) -> u8 {
    value as u8
}
