//! The nearest pixel of each output: a copy of rows and columns.
//!
//! Source: Pillow 12, `src/libImaging/Geometry.c`: `ImagingScaleAffine`. Positions are sums of steps, in
//! double precision and from the first output of the image on, because their rounding is a part of the
//! result.

use std::ops::Range;

use super::weights::Axis;

/// The most steps that are added up in front of a window. Pictures with more do not fit Pillow's memory.
const STEPS: u32 = 1 << 24;

/// The source position of each output of an axis, in the order of the outputs.
pub(super) fn fill(positions: &mut Vec<u32>, axis: &Axis) {
    positions.clear();
    positions.extend(self::positions(axis));
    if axis.mirrored {
        positions.reverse();
    }
}

/// The source positions that the outputs of an axis use.
pub(super) fn reach(axis: &Axis) -> Range<u32> {
    let mut positions = positions(axis);
    let first = positions.next().unwrap_or(0);
    first..positions.last().unwrap_or(first) + 1
}

/// Source positions in ascending order.
fn positions(axis: &Axis) -> impl Iterator<Item = u32> {
    let step = f64::from(axis.source) / f64::from(axis.resized);
    let first = axis.window.start.saturating_sub(STEPS);
    let last = axis.source - 1;
    let mut at = step * (f64::from(first) + 0.5);
    let mut next = move || {
        // The last center is half a step before the end, which is more than the sum's error.
        let position = truncate(at).min(last);
        at += step;
        position
    };
    for _ in first..axis.window.start {
        next();
    }
    axis.window.clone().map(move |_| next())
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in the source")]
fn truncate(at: f64) -> u32 {
    at as u32
}

/// Copies the pixels of a row at `columns`, each of which is relative to its start.
pub(super) fn pick(row: &[u8], columns: &[u32], out: &mut [u8]) {
    let (pixels, _) = row.as_chunks::<3>();
    for (to, column) in out.as_chunks_mut::<3>().0.iter_mut().zip(columns) {
        *to = pixels[*column as usize];
    }
}
