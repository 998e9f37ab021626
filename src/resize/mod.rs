//! Crop box and filter to a slot of the batch, bit-equal to Pillow.
//!
//! Source: Pillow 12, `src/libImaging/Resample.c`: `ImagingResampleInner` and the 8-bit passes.
//!
//! ```text
//!   source rows that the window needs
//!     -> horizontal pass, window columns only -> 8-bit rows    skipped if the width stays
//!     -> vertical pass -> slot                                 skipped if the height stays
//! ```
//!
//! An image more than a hundred times as tall as wide that shrinks in height takes the vertical pass
//! first, as in `Image.resize`. Weights are 22-bit fixed point and sums are exact, so the order of additions does not matter. A
//! mirrored result costs nothing where there is a horizontal pass: its table is listed backwards.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod coefficients;
mod passes;
#[cfg(target_arch = "x86_64")]
mod rows;
mod scalar;
#[cfg(test)]
mod tests;

use crate::sample::{Interpolation, Rect, Size, View};
use crate::simd::Simd;
use coefficients::{Axis, Table};
use passes::Passes;

/// What to compute: the image is resized to `resized`, of which only `window` is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resample {
    /// The size that the source is resized to.
    pub resized: Size,
    /// The part of the resized image that is wanted.
    pub window: Rect,
    /// The filter.
    pub filter: Interpolation,
    /// Whether the window is mirrored left to right.
    pub flip: bool,
}

/// Scratch of one worker: weights, and the rows between the two passes.
#[derive(Debug, Default)]
pub struct Resizer {
    columns: Table,
    rows: Table,
    between: Vec<u8>,
    /// A very tall image after its vertical pass, where that comes first.
    lowered: Vec<u8>,
    passes: Passes,
}

impl Resizer {
    /// A resizer that runs the given kernels.
    pub fn new(simd: Simd) -> Self {
        Self { passes: Passes::new(simd), ..Self::default() }
    }

    /// Resizes `source` and writes the window to `slot`: rows of RGB, tightly packed.
    ///
    /// # Panics
    /// When the source is empty, the window does not lie in the resized image, or `slot` does not
    /// hold exactly the window.
    pub fn resize(&mut self, source: View<'_>, to: &Resample, slot: &mut [u8]) {
        let (from, window) = (source.size(), to.window);
        assert!(from.height > 0 && from.width > 0, "nothing to resize");
        assert!(window.fits(to.resized), "window {window:?} of {:?}", to.resized);
        assert_eq!(slot.len(), window.size().rgb_bytes(), "slot of a {window:?}");
        let narrowed = from.width != to.resized.width;
        let shortened = from.height != to.resized.height;
        if narrowed && to.resized.height < from.height && is_tall(from) {
            return self.resize_tall(source, to, slot);
        }
        let row_bytes = window.width as usize * 3;

        let rows = if shortened {
            self.rows.fill(self.passes.simd(), &vertical_axis(from, to));
            self.rows.rebase()
        } else {
            window.top..window.top + window.height
        };
        let mut needed =
            Rect { top: rows.start, left: 0, height: rows.end - rows.start, width: from.width };
        let (data, stride) = if narrowed {
            self.columns.fill(self.passes.simd(), &horizontal_axis(from, to));
            let view = source.crop(needed);
            let stride = self.passes.horizontal(view, &self.columns, &mut self.between);
            (&self.between[..(needed.height as usize - 1) * stride + row_bytes], stride)
        } else {
            (needed.left, needed.width) = (window.left, window.width);
            let view = source.crop(needed);
            (view.data(), view.stride())
        };

        if shortened {
            self.passes.vertical(data, stride, &self.rows, slot);
        } else {
            for (row, to) in data.chunks(stride).zip(slot.chunks_exact_mut(row_bytes)) {
                to.copy_from_slice(&row[..row_bytes]);
            }
        }
        if to.flip && !narrowed {
            slot.chunks_exact_mut(row_bytes).for_each(mirror);
        }
    }

    /// The vertical pass, then the horizontal one: two resizes of one pass each.
    fn resize_tall(&mut self, source: View<'_>, to: &Resample, slot: &mut [u8]) {
        let (width, window) = (source.size().width, to.window);
        let lower = Resample {
            resized: Size { height: to.resized.height, width },
            window: Rect { left: 0, width, ..window },
            flip: false,
            ..*to
        };
        let mut lowered = std::mem::take(&mut self.lowered);
        lowered.resize(lower.window.size().rgb_bytes(), 0);
        self.resize(source, &lower, &mut lowered);
        let widen = Resample {
            resized: Size { height: window.height, width: to.resized.width },
            window: Rect { top: 0, ..window },
            ..*to
        };
        self.resize(View::new(&lowered, lower.window.size()), &widen, slot);
        self.lowered = lowered;
    }
}

/// Whether Pillow does the vertical pass of a shrinking image first (`Image.resize`).
fn is_tall(size: Size) -> bool {
    u64::from(size.height) > u64::from(size.width) * 100
}

fn vertical_axis(from: Size, to: &Resample) -> Axis {
    Axis {
        source: from.height,
        resized: to.resized.height,
        window: to.window.top..to.window.top + to.window.height,
        filter: to.filter,
        mirrored: false,
    }
}

fn horizontal_axis(from: Size, to: &Resample) -> Axis {
    Axis {
        source: from.width,
        resized: to.resized.width,
        window: to.window.left..to.window.left + to.window.width,
        filter: to.filter,
        mirrored: to.flip,
    }
}

/// Mirrors a row of RGB pixels left to right.
fn mirror(row: &mut [u8]) {
    row.as_chunks_mut::<3>().0.reverse();
}
