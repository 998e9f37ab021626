//! The two matrix products behind every convolution and fully connected layer.
//!
//! [`Gemm`] multiplies rows of the source, found through an indirection table, by a matrix in panels of
//! [`PANEL`] columns. A tile of M rows by one panel stays in registers for all taps and their depth.
//!
//! [`OuterProduct`] computes the weight gradient: the transposed rows of the source times the rows of the
//! output gradient. A tile of W rows of weights by one panel stays in registers for a block of pixels.
//!
//! The order in which the terms of each result are added depends on shapes only. So the same input gives
//! the same bits on any number of threads and with any vector width.
#![expect(clippy::inline_always, reason = "kernels must be inlined where the features are enabled")]

use super::indirection::{Indirection, OUTSIDE};
use crate::simd::{PANEL, Real, SimdKernel, SimdVector};

/// Rows per block, whose source values stay in the cache for all panels. A multiple of every M.
const BLOCK: usize = 240;

/// Pixels that a tile of the weight gradient sums before it is stored to memory.
const PIXELS: usize = 128;

/// `target[row][columns] (+)= source[row] * panels + bias`, for a number of images.
pub(super) struct Gemm<'a, T> {
    pub(super) indirection: &'a Indirection,
    /// Images of `target_image` values each, in rows of `columns`.
    pub(super) target: &'a mut [T],
    pub(super) target_image: usize,
    /// The same images, of `source_image` values each.
    pub(super) source: &'a [T],
    pub(super) source_image: usize,
    /// At least `depth` zeros, for taps outside of the image.
    pub(super) zeros: &'a [T],
    /// Matrix in the order panel, tap, depth, column.
    pub(super) panels: &'a [T],
    pub(super) depth: usize,
    pub(super) columns: usize,
    pub(super) bias: Option<&'a [T]>,
    /// Whether to add to the target instead of overwriting it.
    pub(super) accumulate: bool,
}

impl<T: Real> SimdKernel<T> for Gemm<'_, T> {
    #[inline(always)]
    fn run<V: SimdVector<T>, const R: usize, const M: usize, const W: usize>(mut self) {
        let rows = self.indirection.rows() * (self.target.len() / self.target_image);
        let panel = self.indirection.taps.len() * self.depth * PANEL;
        for block in (0..rows).step_by(BLOCK) {
            let end = rows.min(block + BLOCK);
            for (index, column) in (0..self.columns).step_by(PANEL).enumerate() {
                let weights = &self.panels[index * panel..][..panel];
                for first in (block..end).step_by(M) {
                    let tile = self.tile::<V, R, M>(first, end, weights);
                    self.store(first, end, column, &tile);
                }
            }
        }
    }
}

impl<T: Real> Gemm<'_, T> {
    /// Rows `first..first + M` times one panel. Rows from `end` on are zeros.
    #[inline(always)]
    fn tile<V: SimdVector<T>, const R: usize, const M: usize>(
        &self,
        first: usize,
        end: usize,
        panel: &[T],
    ) -> [[V; R]; M] {
        let mut at = self.position(first);
        let offsets: [Option<(usize, usize)>; M] = std::array::from_fn(|i| {
            let (image, row) = at;
            at = if row + 1 == self.indirection.rows() { (image + 1, 0) } else { (image, row + 1) };
            (first + i < end)
                .then_some((image * self.source_image, row * self.indirection.taps.len()))
        });
        let mut sums = [[V::splat(T::ZERO); R]; M];
        for (tap, panel) in panel.chunks_exact(self.depth * PANEL).enumerate() {
            let rows: [&[T]; M] = std::array::from_fn(|i| match offsets[i] {
                Some((image, row)) if self.indirection.source[row + tap] != OUTSIDE => {
                    &self.source[image + self.indirection.source[row + tap] as usize..]
                        [..self.depth]
                }
                _ => &self.zeros[..self.depth],
            });
            for (k, panel) in panel.chunks_exact(PANEL).enumerate().take(self.depth) {
                let weights: [V; R] = std::array::from_fn(|r| V::load(&panel[r * V::COUNT..]));
                for (sums, row) in sums.iter_mut().zip(&rows) {
                    let value = V::splat(row[k]);
                    for (sum, weight) in sums.iter_mut().zip(&weights) {
                        *sum = sum.add_product(value, *weight);
                    }
                }
            }
        }
        sums
    }

    /// Stores the rows of a tile below `end` and the columns that exist.
    #[inline(always)]
    fn store<V: SimdVector<T>, const R: usize, const M: usize>(
        &mut self,
        first: usize,
        end: usize,
        column: usize,
        tile: &[[V; R]; M],
    ) {
        let width = PANEL.min(self.columns - column);
        let (mut image, mut row) = self.position(first);
        for sums in &tile[..M.min(end - first)] {
            let pixel = self.indirection.target[row] as usize;
            let target = &mut self.target
                [image * self.target_image + pixel * self.columns + column..][..width];
            if width == PANEL && !self.accumulate && self.bias.is_none() {
                for (r, sum) in sums.iter().enumerate() {
                    sum.store(&mut target[r * V::COUNT..]);
                }
            } else {
                let mut wide = [T::ZERO; PANEL];
                for (r, sum) in sums.iter().enumerate() {
                    sum.store(&mut wide[r * V::COUNT..]);
                }
                if let Some(bias) = self.bias {
                    for (sum, bias) in wide.iter_mut().zip(&bias[column..]) {
                        *sum += *bias;
                    }
                }
                for (target, sum) in target.iter_mut().zip(wide) {
                    *target = if self.accumulate { *target + sum } else { sum };
                }
            }
            (image, row) =
                if row + 1 == self.indirection.rows() { (image + 1, 0) } else { (image, row + 1) };
        }
    }

    /// The image of a row, and its row within the image.
    fn position(&self, row: usize) -> (usize, usize) {
        (row / self.indirection.rows(), row % self.indirection.rows())
    }
}

/// `weights[tap][depth][PANEL] = transposed(source rows) * panel of the gradient`, for a number of images.
pub(super) struct OuterProduct<'a, T> {
    pub(super) indirection: &'a Indirection,
    /// Result in the order tap, depth, column of the panel.
    pub(super) weights: &'a mut [T],
    pub(super) source: &'a [T],
    pub(super) source_image: usize,
    /// Rows of `columns`, in the order of the rows of the table.
    pub(super) gradient: &'a [T],
    pub(super) depth: usize,
    pub(super) columns: usize,
    /// First column of the panel.
    pub(super) column: usize,
}

impl<T: Real> SimdKernel<T> for OuterProduct<'_, T> {
    #[inline(always)]
    fn run<V: SimdVector<T>, const R: usize, const M: usize, const W: usize>(self) {
        self.weights.fill(T::ZERO);
        let rows = self.gradient.len() / self.columns;
        let width = PANEL.min(self.columns - self.column);
        let mut gradient = [[T::ZERO; PANEL]; PIXELS];
        let mut taps = [(0, 0); PIXELS];
        for first in (0..rows).step_by(PIXELS) {
            let end = rows.min(first + PIXELS);
            for (row, packed) in (first..end).zip(&mut gradient) {
                packed[..width]
                    .copy_from_slice(&self.gradient[row * self.columns + self.column..][..width]);
            }
            for (tap, weights) in self.weights.chunks_exact_mut(self.depth * PANEL).enumerate() {
                let taps = inside(self.indirection, self.source_image, tap, first..end, &mut taps);
                let mut depth = 0;
                while depth + W <= self.depth {
                    add::<T, V, R, W>(
                        &mut weights[depth * PANEL..],
                        &self.source[depth..],
                        taps,
                        &gradient,
                    );
                    depth += W;
                }
                for depth in depth..self.depth {
                    add::<T, V, R, 1>(
                        &mut weights[depth * PANEL..],
                        &self.source[depth..],
                        taps,
                        &gradient,
                    );
                }
            }
        }
    }
}

/// For the rows whose tap is inside of the image: the offset of the tap, and the row's index in the block.
#[inline(always)]
fn inside<'a>(
    indirection: &Indirection,
    image: usize,
    tap: usize,
    rows: std::ops::Range<usize>,
    taps: &'a mut [(usize, usize); PIXELS],
) -> &'a [(usize, usize)] {
    let (mut base, mut at) =
        (rows.start / indirection.rows() * image, rows.start % indirection.rows());
    let mut count = 0;
    for number in 0..rows.len() {
        let source = indirection.source[at * indirection.taps.len() + tap];
        if source != OUTSIDE {
            taps[count] = (base + source as usize, number);
            count += 1;
        }
        at += 1;
        if at == indirection.rows() {
            (base, at) = (base + image, 0);
        }
    }
    &taps[..count]
}

/// Adds to W rows of weights the products of W consecutive source values and a panel of the gradient.
#[inline(always)]
fn add<T: Real, V: SimdVector<T>, const R: usize, const W: usize>(
    weights: &mut [T],
    source: &[T],
    taps: &[(usize, usize)],
    gradient: &[[T; PANEL]; PIXELS],
) {
    let weights = &mut weights[..W * PANEL];
    let mut sums: [[V; R]; W] = std::array::from_fn(|w| {
        std::array::from_fn(|r| V::load(&weights[w * PANEL + r * V::COUNT..]))
    });
    for &(offset, row) in taps {
        let values: &[T] = &source[offset..][..W];
        let panel: [V; R] = std::array::from_fn(|r| V::load(&gradient[row][r * V::COUNT..]));
        for w in 0..W {
            let value = V::splat(values[w]);
            for r in 0..R {
                sums[w][r] = sums[w][r].add_product(value, panel[r]);
            }
        }
    }
    for (w, sums) in sums.iter().enumerate() {
        for (r, sum) in sums.iter().enumerate() {
            sum.store(&mut weights[w * PANEL + r * V::COUNT..]);
        }
    }
}
