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
mod nearest;
mod pad;
mod passes;
#[cfg(target_arch = "x86_64")]
mod rows;
mod scalar;
#[cfg(test)]
mod tests;
mod weights;

use crate::geometry::{Padding, Rect, ResizeFilter, Size, View};
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
    pub filter: ResizeFilter,
    /// Whether the window, with its padding, is mirrored left to right.
    pub flip: bool,
    /// Whether it is mirrored top to bottom.
    pub vflip: bool,
    /// What is added around the window.
    pub padding: Option<Padding>,
}

impl Resample {
    /// A resize to all of `resized`, without flips and padding.
    pub const fn whole(resized: Size, filter: ResizeFilter) -> Self {
        let window = resized.whole();
        Self { resized, window, filter, flip: false, vflip: false, padding: None }
    }

    /// The size of the result.
    pub fn out(&self) -> Size {
        self.padding.map_or(self.window.size(), |padding| padding.around(self.window.size()))
    }

    /// The part of a source of the given size that the window depends on.
    pub fn needs(&self, source: Size) -> Rect {
        if self.lowers(source) {
            // The rows of the first pass are whole.
            return Rect { left: 0, width: source.width, ..self.of_passes(source) };
        }
        self.of_passes(source)
    }

    fn of_passes(&self, source: Size) -> Rect {
        let side = |axis: Axis| {
            if axis.source == axis.resized {
                axis.window
            } else if axis.filter == ResizeFilter::Nearest {
                nearest::reach(&axis)
            } else {
                weights::reach(&axis)
            }
        };
        let (rows, columns) =
            (side(vertical_axis(source, self)), side(horizontal_axis(source, self)));
        Rect {
            top: rows.start,
            left: columns.start,
            height: rows.end - rows.start,
            width: columns.end - columns.start,
        }
    }

    /// Whether the vertical pass is the first one.
    fn lowers(&self, source: Size) -> bool {
        source.width != self.resized.width && self.resized.height < source.height && is_tall(source)
    }
}

/// The most memory that resizing takes: a part of a source of at most this size, to a window of `out`.
pub(crate) fn scratch_bytes(source: Size, out: Size) -> usize {
    /// Bytes for each row and column: weights of up to nine positions, in the forms of all kernels.
    const AXIS: usize = 640;
    let [height, width] = [source.height, source.width].map(|side| side as usize);
    let [out_height, out_width] = [out.height, out.width].map(|side| side as usize);
    let between = (height + 4) * (3 * out_width + 80);
    let lowered = if is_tall(source) { 3 * out_height * width } else { 0 };
    let unpadded = out.rgb_bytes();
    between + lowered + unpadded + AXIS * (height.max(out_height) + width.max(out_width))
}

/// Resizes images one after another and reuses its memory. Each worker has one.
#[derive(Debug, Default)]
pub struct Resizer {
    columns: Weights,
    rows: Weights,
    /// Columns and rows of the source, where outputs are their nearest pixels.
    nearest: [Vec<u32>; 2],
    /// The rows between the two passes.
    between: Vec<u8>,
    /// A very tall image after its vertical pass, if that is the first one.
    lowered: Vec<u8>,
    /// The window before it is padded.
    unpadded: Vec<u8>,
    passes: Passes,
}

impl Resizer {
    /// A resizer that uses the given instruction set.
    pub fn new(simd: Simd) -> Self {
        Self { passes: Passes::new(simd), ..Self::default() }
    }

    /// The bytes that it keeps, without those of the weights.
    pub(crate) const fn held_bytes(&self) -> usize {
        bytes_of(&self.between) + bytes_of(&self.lowered) + bytes_of(&self.unpadded)
    }

    /// Resizes `source` and writes the window to `slot`: rows of RGB, tightly packed.
    ///
    /// # Panics
    /// Panics if the source is empty, if the window is not inside the resized image, or if `slot`
    /// does not have exactly the size of the window and its padding.
    pub fn resize(&mut self, source: View<'_>, to: &Resample, slot: &mut [u8]) {
        let whole = source.size();
        self.resize_part(Part { pixels: source, rect: whole.whole(), whole }, to, slot);
    }

    /// Resizes a source of which only a part is there, with all that the window depends on.
    ///
    /// # Panics
    /// As [`Resizer::resize`], and if the part is not the box, or is less than [`Resample::needs`].
    pub fn resize_part(&mut self, source: Part<'_>, to: &Resample, slot: &mut [u8]) {
        let (from, window) = (source.whole, to.window);
        assert!(from.height > 0 && from.width > 0, "an empty image cannot be resized");
        assert!(window.fits(to.resized), "window {window:?} of {:?}", to.resized);
        assert_eq!(slot.len(), to.out().rgb_bytes(), "slot of a {window:?}");
        if let Some(padding) = to.padding {
            let inner = Resample { flip: false, vflip: false, padding: None, ..*to };
            let mut unpadded = std::mem::take(&mut self.unpadded);
            fit(&mut unpadded, window.size().rgb_bytes(), 0);
            self.resize_part(source, &inner, &mut unpadded);
            let view = View::new(&unpadded, window.size());
            pad::place(view, &padding, [to.flip, to.vflip], slot);
            self.unpadded = unpadded;
        } else if to.filter == ResizeFilter::Nearest {
            self.pick(source, to, slot);
        } else if to.lowers(from) {
            self.resize_tall(source, to, slot);
        } else {
            self.weigh(source, to, slot);
        }
    }

    /// Copies the nearest pixel of each output.
    fn pick(&mut self, source: Part<'_>, to: &Resample, slot: &mut [u8]) {
        let [columns, rows] = &mut self.nearest;
        nearest::fill(columns, &horizontal_axis(source.whole, to));
        nearest::fill(rows, &vertical_axis(source.whole, to));
        for column in columns.iter_mut() {
            *column -= source.rect.left;
        }
        for (y, out) in rows.iter().zip(slot.chunks_exact_mut(to.window.width as usize * 3)) {
            nearest::pick(source.pixels.row(y - source.rect.top), columns, out);
        }
    }

    /// Does the two passes, as far as sides change.
    fn weigh(&mut self, source: Part<'_>, to: &Resample, slot: &mut [u8]) {
        let (from, window) = (source.whole, to.window);
        let narrowed = from.width != to.resized.width;
        let shortened = from.height != to.resized.height;
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
            let columns = self.columns.rebase();
            (needed.left, needed.width) = (columns.start, columns.end - columns.start);
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
            let last = slot.len() / row_bytes - 1;
            for (y, row) in data.chunks(stride).enumerate().take(last + 1) {
                let y = if to.vflip { last - y } else { y };
                slot[y * row_bytes..][..row_bytes].copy_from_slice(&row[..row_bytes]);
            }
        }
        if to.flip && !narrowed {
            slot.chunks_exact_mut(row_bytes).for_each(mirror);
        }
    }

    /// Does the vertical pass before the horizontal one, by two resizes of one pass each.
    fn resize_tall(&mut self, source: Part<'_>, to: &Resample, slot: &mut [u8]) {
        let (width, window) = (source.whole.width, to.window);
        let lower = Resample {
            resized: Size { height: to.resized.height, width },
            window: Rect { left: 0, width, ..window },
            flip: false,
            ..*to
        };
        let mut lowered = std::mem::take(&mut self.lowered);
        fit(&mut lowered, lower.window.size().rgb_bytes(), 0);
        self.resize_part(source, &lower, &mut lowered);
        let widen = Resample {
            resized: Size { height: window.height, width: to.resized.width },
            window: Rect { top: 0, ..window },
            vflip: false,
            ..*to
        };
        self.resize(View::new(&lowered, lower.window.size()), &widen, slot);
        self.lowered = lowered;
    }
}

/// A part of a source.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Its pixels.
    pub pixels: View<'a>,
    /// The box of the source that it is.
    pub rect: Rect,
    /// The size of the whole source.
    pub whole: Size,
}

impl<'a> Part<'a> {
    /// The pixels inside a box of the source.
    fn crop(&self, rect: Rect) -> View<'a> {
        let Rect { top, left, .. } = self.rect;
        self.pixels.crop(Rect { top: rect.top - top, left: rect.left - left, ..rect })
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
        mirrored: to.vflip,
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
