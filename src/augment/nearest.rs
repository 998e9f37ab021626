//! Affine transforms to the nearest pixel, as Pillow computes positions.
//!
//! Source: Pillow 12, `src/libImaging/Geometry.c`: `ImagingScaleAffine` for translations, and
//! `affine_fixed`, in fixed point with 16 fractional bits, for everything else. Positions are sums of
//! steps, because their rounding is a part of the result.

use super::sampler::Affine;
use crate::geometry::{Size, View};

/// Fractional bits of a position in fixed point.
const BITS: u32 = 16;

/// Writes the transformed image to `out`.
pub(super) fn transform(source: View<'_>, affine: Affine, fill: [u8; 3], out: &mut [u8]) {
    let size = source.size();
    let (pixels, _) = out.as_chunks_mut::<3>();
    pixels.fill(fill);
    let rows = pixels.chunks_exact_mut(size.width as usize);
    match affine.0 {
        [a, 0.0, c, 0.0, e, f] => {
            let columns = steps(c + a * 0.5, a, size.width);
            let heights = steps(f + e * 0.5, e, size.height);
            for (row, y) in rows.zip(heights) {
                copy(source, columns.iter().map(|x| (*x, y)), row);
            }
        }
        matrix if is_fixed(&matrix, size) => {
            let [a, b, _, d, e, _] = matrix.map(fixed);
            let mut x = fixed(matrix[2] + matrix[0] * 0.5 + matrix[1] * 0.5);
            let mut y = fixed(matrix[5] + matrix[3] * 0.5 + matrix[4] * 0.5);
            for row in rows {
                let at = |column: i64| ((x + column * a) >> BITS, (y + column * d) >> BITS);
                copy(source, (0..).map(at), row);
                (x, y) = (x + b, y + e);
            }
        }
        [a, b, c, d, e, f] => {
            let (mut x, mut y) = (c + b * 0.5 + a * 0.5, f + e * 0.5 + d * 0.5);
            for row in rows {
                let columns = steps(x, a, size.width);
                let heights = steps(y, d, size.width);
                copy(source, columns.into_iter().zip(heights), row);
                (x, y) = (x + b, y + e);
            }
        }
    }
}

/// Copies the pixels whose positions, column and row, are inside of the source.
fn copy(source: View<'_>, positions: impl Iterator<Item = (i64, i64)>, row: &mut [[u8; 3]]) {
    let Size { height, width } = source.size();
    let inside = |at: i64, side: u32| u32::try_from(at).ok().filter(|at| *at < side);
    for (to, (x, y)) in row.iter_mut().zip(positions) {
        if let (Some(x), Some(y)) = (inside(x, width), inside(y, height)) {
            to.copy_from_slice(&source.row(y)[x as usize * 3..][..3]);
        }
    }
}

/// Whole positions from `at` on; negative ones are -1.
fn steps(mut at: f64, step: f64, count: u32) -> Vec<i64> {
    let mut next = || {
        let position = if at < 0.0 { -1 } else { truncate(at) };
        at += step;
        position
    };
    (0..count).map(|_| next()).collect()
}

/// Whether the positions of all corners fit fixed point.
fn is_fixed([a, b, c, d, e, f]: &[f64; 6], size: Size) -> bool {
    let (width, height) = (f64::from(size.width), f64::from(size.height));
    let fits =
        |x: f64, y: f64| (x * a + y * b + c).abs() < 32768.0 && (x * d + y * e + f).abs() < 32768.0;
    [(0.0, 0.0), (width, height), (0.0, height), (width, 0.0)].iter().all(|(x, y)| fits(*x, *y))
}

fn fixed(value: f64) -> i64 {
    truncate((value * f64::from(1 << BITS) + 0.5).floor())
}

#[expect(clippy::cast_possible_truncation, reason = "saturates far outside of any image")]
fn truncate(value: f64) -> i64 {
    value as i64
}
