//! Affine transforms to the nearest pixel, as Pillow computes positions.
//!
//! Source: Pillow 12, `src/libImaging/Geometry.c`: `affine_fixed`, in fixed point with 16 fractional bits,
//! in which a whole translation is what `ImagingScaleAffine` makes of it; and the loop in double precision
//! for positions that do not fit. Positions are sums of steps, because their rounding is a part of the
//! result.

use super::sampler::Affine;
use crate::geometry::{Size, View};

/// Fractional bits of a position in fixed point.
const BITS: u32 = 16;

/// One pixel in fixed point.
const ONE: i64 = 1 << BITS;

/// Writes the transformed image to `out`.
pub(super) fn transform(source: View<'_>, affine: Affine, fill: [u8; 3], out: &mut [u8]) {
    let size = source.size();
    let (pixels, _) = out.as_chunks_mut::<3>();
    let rows = pixels.chunks_exact_mut(size.width as usize);
    let [a, b, c, d, e, f] = affine.0;
    let (mut x, mut y) = (c + a * 0.5 + b * 0.5, f + d * 0.5 + e * 0.5);
    if !is_fixed(&affine.0, size) {
        for row in rows {
            let (mut at_x, mut at_y) = (x, y);
            for to in row {
                *to = pixel(source, whole(at_x), whole(at_y)).unwrap_or(fill);
                (at_x, at_y) = (at_x + a, at_y + d);
            }
            (x, y) = (x + b, y + e);
        }
        return;
    }
    let [a, b, _, d, e, _] = affine.0.map(fixed);
    let (mut x, mut y) = (fixed(x), fixed(y));
    for row in rows {
        if (a, d) == (ONE, 0) {
            shift(source, x >> BITS, y >> BITS, fill, row);
        } else {
            let (mut at_x, mut at_y) = (x, y);
            for to in row {
                *to = pixel(source, at_x >> BITS, at_y >> BITS).unwrap_or(fill);
                (at_x, at_y) = (at_x + a, at_y + d);
            }
        }
        (x, y) = (x + b, y + e);
    }
}

/// Writes a row whose pixels are neighbors in the source, the first of them at a position.
fn shift(source: View<'_>, x: i64, y: i64, fill: [u8; 3], row: &mut [[u8; 3]]) {
    let Size { height, width } = source.size();
    let Some(y) = inside(y, height) else { return row.fill(fill) };
    let (pixels, _) = source.row(y).as_chunks::<3>();
    let at = |position: i64| usize::try_from(position.clamp(0, i64::from(width))).unwrap_or(0);
    // Columns of the output whose pixel is inside of the source.
    let (start, end) = (at(-x), at(i64::from(width) - x));
    row[..start].fill(fill);
    row[end.max(start)..].fill(fill);
    if start < end {
        row[start..end].copy_from_slice(&pixels[at(x)..][..end - start]);
    }
}

fn pixel(source: View<'_>, x: i64, y: i64) -> Option<[u8; 3]> {
    let (x, y) = (inside(x, source.size().width)?, inside(y, source.size().height)?);
    source.row(y).as_chunks::<3>().0.get(x as usize).copied()
}

/// A position that is inside of a side.
fn inside(at: i64, side: u32) -> Option<u32> {
    u32::try_from(at).ok().filter(|at| *at < side)
}

/// Whether the positions of all corners fit fixed point.
fn is_fixed([a, b, c, d, e, f]: &[f64; 6], size: Size) -> bool {
    let (width, height) = (f64::from(size.width), f64::from(size.height));
    let fits =
        |x: f64, y: f64| (x * a + y * b + c).abs() < 32768.0 && (x * d + y * e + f).abs() < 32768.0;
    [(0.0, 0.0), (width, height), (0.0, height), (width, 0.0)].iter().all(|(x, y)| fits(*x, *y))
}

fn fixed(value: f64) -> i64 {
    truncate((value * ONE as f64 + 0.5).floor())
}

/// The whole position; negative ones are -1.
fn whole(value: f64) -> i64 {
    if value < 0.0 { -1 } else { truncate(value) }
}

#[expect(clippy::cast_possible_truncation, reason = "saturates far outside of any image")]
fn truncate(value: f64) -> i64 {
    value as i64
}
