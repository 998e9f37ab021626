//! Pools, the parameter-free shortcut, and copying images into the first tensor. Images are independent
//! of each other, and each is one task.

use rayon::prelude::*;

use crate::model::Shape;
use crate::simd::Real;

/// Taps of a 3x3 window, in row-major order.
const TAPS: usize = 9;

/// The input pixel of a tap of output pixel (y, x), for stride 2 and padding 1.
const fn tap_pixel(from: Shape, y: usize, x: usize, tap: usize) -> Option<usize> {
    let (down, right) = (2 * y + tap / 3, 2 * x + tap % 3);
    if down == 0 || right == 0 || down > from.height || right > from.width {
        return None;
    }
    Some((down - 1) * from.width + right - 1)
}

/// Maximum over 3x3 pixels. Writes to `taps` which tap was the maximum: the first of equal ones, as in
/// torch.
pub(super) fn max<T: Real>(from: Shape, to: Shape, x: &[T], y: &mut [T], taps: &mut [u8]) {
    let c = from.channels;
    let images = y.par_chunks_mut(to.elements()).zip(taps.par_chunks_mut(to.elements()));
    images.zip(x.par_chunks(from.elements())).for_each(|((y, taps), x)| {
        for (pixel, (y, taps)) in y.chunks_exact_mut(c).zip(taps.chunks_exact_mut(c)).enumerate() {
            let mut first = true;
            for tap in 0..TAPS {
                let Some(source) = tap_pixel(from, pixel / to.width, pixel % to.width, tap) else {
                    continue;
                };
                let x = &x[source * c..][..c];
                let tap = u8::try_from(tap).expect("nine taps");
                if first {
                    y.copy_from_slice(x);
                    taps.fill(tap);
                    first = false;
                    continue;
                }
                for ((x, y), best) in x.iter().zip(&mut *y).zip(&mut *taps) {
                    let greater = *x > *y;
                    *y = if greater { *x } else { *y };
                    *best = if greater { tap } else { *best };
                }
            }
        }
    });
}

/// Passes the gradient to the tap that was the maximum.
pub(super) fn max_backward<T: Real>(from: Shape, to: Shape, dy: &[T], taps: &[u8], dx: &mut [T]) {
    let c = from.channels;
    let images = dx.par_chunks_mut(from.elements()).zip(dy.par_chunks(to.elements()));
    images.zip(taps.par_chunks(to.elements())).for_each(|((dx, dy), taps)| {
        dx.fill(T::ZERO);
        for (pixel, (dy, taps)) in dy.chunks_exact(c).zip(taps.chunks_exact(c)).enumerate() {
            for tap in 0..TAPS {
                let Some(source) = tap_pixel(from, pixel / to.width, pixel % to.width, tap) else {
                    continue;
                };
                let tap = u8::try_from(tap).expect("nine taps");
                for ((dx, dy), best) in dx[source * c..][..c].iter_mut().zip(dy).zip(taps) {
                    *dx += if *best == tap { *dy } else { T::ZERO };
                }
            }
        }
    });
}

/// Mean over all pixels of an image.
pub(super) fn mean<T: Real>(from: Shape, x: &[T], y: &mut [T]) {
    let count = T::from_f64(from.pixels() as f64);
    y.par_chunks_mut(from.channels).zip(x.par_chunks(from.elements())).for_each(|(y, x)| {
        y.fill(T::ZERO);
        for x in x.chunks_exact(from.channels) {
            for (sum, x) in y.iter_mut().zip(x) {
                *sum += *x;
            }
        }
        for sum in y {
            *sum = *sum / count;
        }
    });
}

/// Spreads the gradient evenly over all pixels.
pub(super) fn mean_backward<T: Real>(from: Shape, dy: &[T], dx: &mut [T]) {
    let count = T::from_f64(from.pixels() as f64);
    dx.par_chunks_mut(from.elements()).zip(dy.par_chunks(from.channels)).for_each(|(dx, dy)| {
        for dx in dx.chunks_exact_mut(from.channels) {
            for (dx, dy) in dx.iter_mut().zip(dy) {
                *dx = *dy / count;
            }
        }
    });
}

/// Every second pixel; added channels are zero.
pub(super) fn shortcut<T: Real>(from: Shape, to: Shape, x: &[T], y: &mut [T]) {
    let c = from.channels;
    y.par_chunks_mut(to.elements()).zip(x.par_chunks(from.elements())).for_each(|(y, x)| {
        for (pixel, y) in y.chunks_exact_mut(to.channels).enumerate() {
            let source = 2 * (pixel / to.width) * from.width + 2 * (pixel % to.width);
            y[..c].copy_from_slice(&x[source * c..][..c]);
            y[c..].fill(T::ZERO);
        }
    });
}

/// Passes the gradient to the pixels that forward took; all others get zero.
pub(super) fn shortcut_backward<T: Real>(from: Shape, to: Shape, dy: &[T], dx: &mut [T]) {
    let c = from.channels;
    dx.par_chunks_mut(from.elements()).zip(dy.par_chunks(to.elements())).for_each(|(dx, dy)| {
        dx.fill(T::ZERO);
        for (pixel, dy) in dy.chunks_exact(to.channels).enumerate() {
            let source = 2 * (pixel / to.width) * from.width + 2 * (pixel % to.width);
            dx[source * c..][..c].copy_from_slice(&dy[..c]);
        }
    });
}

/// Copies images into the first tensor, padded by zeros. `value` converts a pixel value of a channel to
/// the value that the network takes.
pub(super) fn images<P: Copy + Sync, T: Real>(
    padded: Shape,
    pad: usize,
    pixels: &[P],
    value: impl Fn(P, usize) -> T + Sync,
    x: &mut [T],
) {
    let row = (padded.width - 2 * pad) * 3;
    let image = (padded.height - 2 * pad) * row;
    x.par_chunks_mut(padded.elements()).zip(pixels.par_chunks(image)).for_each(|(x, pixels)| {
        x.fill(T::ZERO);
        let inner = x.chunks_exact_mut(padded.width * 3).skip(pad);
        for (x, pixels) in inner.zip(pixels.chunks_exact(row)) {
            for (i, (x, pixel)) in x[pad * 3..].iter_mut().zip(pixels).enumerate() {
                *x = value(*pixel, i % 3);
            }
        }
    });
}
