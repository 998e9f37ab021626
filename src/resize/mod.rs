//! Resizes a part of an image into a slot of the batch, bit-equal to Pillow.
//!
//! Source: Pillow 12, `src/libImaging/Resample.c`: `ImagingResampleInner` and the 8-bit passes.
//!
//! ```text
//!   rows of the source that the window depends on
//!     -> horizontal pass, columns of the window only -> 8-bit rows   skipped if the width is equal
//!     -> vertical pass -> slot                                       skipped if the height is equal
//! ```
//!
//! The weights of both passes are integers in fixed point, so the sums are exact in any order. That
//! is why kernels of every vector width can be bit-equal to Pillow: [`weights`] reproduces Pillow's
//! arithmetic in double precision, and the passes only have to add the right products.
//!
//! The two passes do not commute, because the rows between them are rounded to 8 bits. Pillow
//! shrinks images that are more than a hundred times as tall as wide vertically first
//! (`Image.resize`), and so does [`Resizer::resize`]. Mirroring is free where there is a horizontal
//! pass, whose weights are then listed in reverse.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod passes;
#[cfg(target_arch = "x86_64")]
mod rows;
mod scalar;
#[cfg(test)]
mod tests;
mod weights;

use crate::geometry::{Interpolation, Rect, Size, View};
use crate::scratch::{bytes_of, fit};
use crate::simd::Simd;
use passes::Passes;
use weights::{Axis, Weights};

/// A resize to `resized`, of which only `window` is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resample {
    /// The size that the source is resized to.
    pub resized: Size,
    /// The part of the resized image that is computed.
    pub window: Rect,
    /// The filter.
    pub filter: Interpolation,
    /// Whether the window is mirrored left to right.
    pub flip: bool,
}

/// The most memory that resizing takes: a part of a source of at most this size, to a window of `out`.
pub(crate) fn scratch_bytes(source: Size, out: Size) -> usize {
    /// Bytes for each row and column: weights of up to seven positions, in the forms of all kernels.
    const AXIS: usize = 512;
    let [height, width] = [source.height, source.width].map(|side| side as usize);
    let [out_height, out_width] = [out.height, out.width].map(|side| side as usize);
    let between = (height + 4) * (3 * out_width + 80);
    let lowered = if is_tall(source) { 3 * out_height * width } else { 0 };
    between + lowered + AXIS * (height.max(out_height) + width.max(out_width))
}

/// Resizes images one after another and reuses its memory. Each worker has one.
#[derive(Debug, Default)]
pub struct Resizer {
    columns: Weights,
    rows: Weights,
    /// The rows between the two passes.
    between: Vec<u8>,
    /// A very tall image after its vertical pass, if that is the first one.
    lowered: Vec<u8>,
    passes: Passes,
}

impl Resizer {
    /// A resizer that uses the given instruction set.
    pub fn new(simd: Simd) -> Self {
        Self { passes: Passes::new(simd), ..Self::default() }
    }

    /// The bytes that it keeps, without those of the weights.
    pub(crate) const fn held_bytes(&self) -> usize {
        bytes_of(&self.between) + bytes_of(&self.lowered)
    }

    /// Resizes `source` and writes the window to `slot`: rows of RGB, tightly packed.
    ///
    /// # Panics
    /// Panics if the source is empty, if the window is not inside the resized image, or if `slot`
    /// does not have exactly the size of the window.
    pub fn resize(&mut self, source: View<'_>, to: &Resample, slot: &mut [u8]) {
        let (from, window) = (source.size(), to.window);
        assert!(from.height > 0 && from.width > 0, "an empty image cannot be resized");
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

    /// Does the vertical pass before the horizontal one, by two resizes of one pass each.
    fn resize_tall(&mut self, source: View<'_>, to: &Resample, slot: &mut [u8]) {
        let (width, window) = (source.size().width, to.window);
        let lower = Resample {
            resized: Size { height: to.resized.height, width },
            window: Rect { left: 0, width, ..window },
            flip: false,
            ..*to
        };
        let mut lowered = std::mem::take(&mut self.lowered);
        fit(&mut lowered, lower.window.size().rgb_bytes(), 0);
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

/// Whether Pillow shrinks an image of this size vertically first (`Image.resize`).
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

/// Mirrors a row of RGB pixels.
fn mirror(row: &mut [u8]) {
    row.as_chunks_mut::<3>().0.reverse();
}
