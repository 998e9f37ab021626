//! The two products behind every convolution and fully connected layer.
//!
//! [`Product`]: rows gathered from the source times a matrix in panels of [`PANEL`] columns. A tile of
//! M rows and one panel stays in registers while all taps and their depth go by.
//! [`Outer`]: the weight gradient, gathered rows transposed times rows of the output gradient. A tile
//! of W weights deep and one panel wide stays in registers while a block of pixels goes by.
//!
//! Each number of a result is summed in an order that depends on shapes alone, so the same input
//! gives the same bits on any number of threads and with any vectors.
#![expect(clippy::inline_always, reason = "kernels must be inlined where the features are enabled")]

use super::gather::{Gather, OUTSIDE};
use super::real::{Kernel, Lanes, PANEL, Real};

/// Rows of a block: its source rows stay in the cache while the panels go by. A multiple of each M.
const BLOCK: usize = 240;

/// Pixels that a weight gradient's tile sums before it goes back to memory.
const PIXELS: usize = 128;

/// `target[row][columns] (+)= rows of source · panels + bias`, for some images.
pub(super) struct Product<'a, T> {
    pub(super) gather: &'a Gather,
    /// Some images, `target_image` numbers each, rows of `columns`.
    pub(super) target: &'a mut [T],
    pub(super) target_image: usize,
    /// The same images, `source_image` numbers each.
    pub(super) source: &'a [T],
    pub(super) source_image: usize,
    /// At least `depth`, for taps outside the image.
    pub(super) zeros: &'a [T],
    /// Panel, tap, depth, column.
    pub(super) panels: &'a [T],
    pub(super) depth: usize,
    pub(super) columns: usize,
    pub(super) bias: Option<&'a [T]>,
    /// Adds to the target instead of writing it.
    pub(super) accumulate: bool,
}

impl<T: Real> Kernel<T> for Product<'_, T> {
    #[inline(always)]
    fn run<V: Lanes<T>, const R: usize, const M: usize, const W: usize>(mut self) {
        let rows = self.gather.rows() * (self.target.len() / self.target_image);
        let panel = self.gather.taps.len() * self.depth * PANEL;
        for block in (0..rows).step_by(BLOCK) {
            let end = rows.min(block + BLOCK);
            for (index, column) in (0..self.columns).step_by(PANEL).enumerate() {
                let weights = &self.panels[index * panel..][..panel];
                for first in (block..end).step_by(M) {
                    let tile = self.tile::<V, R, M>(first, end, weights);
                    self.put(first, end, column, &tile);
                }
            }
        }
    }
}

impl<T: Real> Product<'_, T> {
    /// Rows `first..first + M` (those from `end` on are zeros) times one panel.
    #[inline(always)]
    fn tile<V: Lanes<T>, const R: usize, const M: usize>(
        &self,
        first: usize,
        end: usize,
        panel: &[T],
    ) -> [[V; R]; M] {
        let mut at = self.position(first);
        let places: [Option<(usize, usize)>; M] = std::array::from_fn(|i| {
            let (image, row) = at;
            at = if row + 1 == self.gather.rows() { (image + 1, 0) } else { (image, row + 1) };
            (first + i < end).then_some((image * self.source_image, row * self.gather.taps.len()))
        });
        let mut sums = [[V::splat(T::ZERO); R]; M];
        for (tap, panel) in panel.chunks_exact(self.depth * PANEL).enumerate() {
            let rows: [&[T]; M] = std::array::from_fn(|i| match places[i] {
                Some((image, row)) if self.gather.source[row + tap] != OUTSIDE => {
                    &self.source[image + self.gather.source[row + tap] as usize..][..self.depth]
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

    /// Writes a tile's rows below `end` and columns that exist.
    #[inline(always)]
    fn put<V: Lanes<T>, const R: usize, const M: usize>(
        &mut self,
        first: usize,
        end: usize,
        column: usize,
        tile: &[[V; R]; M],
    ) {
        let width = PANEL.min(self.columns - column);
        let (mut image, mut row) = self.position(first);
        for sums in &tile[..M.min(end - first)] {
            let pixel = self.gather.target[row] as usize;
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
                if row + 1 == self.gather.rows() { (image + 1, 0) } else { (image, row + 1) };
        }
    }

    /// Image and row of the image.
    fn position(&self, row: usize) -> (usize, usize) {
        (row / self.gather.rows(), row % self.gather.rows())
    }
}

/// `weights[tap][depth][PANEL] = rows of source transposed · one panel of gradient`, for some images.
pub(super) struct Outer<'a, T> {
    pub(super) gather: &'a Gather,
    /// Tap, depth, column of the panel.
    pub(super) weights: &'a mut [T],
    pub(super) source: &'a [T],
    pub(super) source_image: usize,
    /// Rows of `columns`, in the order of the gather's rows.
    pub(super) gradient: &'a [T],
    pub(super) depth: usize,
    pub(super) columns: usize,
    /// The panel's first column.
    pub(super) column: usize,
}

impl<T: Real> Kernel<T> for Outer<'_, T> {
    #[inline(always)]
    fn run<V: Lanes<T>, const R: usize, const M: usize, const W: usize>(self) {
        self.weights.fill(T::ZERO);
        let rows = self.gradient.len() / self.columns;
        let width = PANEL.min(self.columns - self.column);
        let mut gradient = [[T::ZERO; PANEL]; PIXELS];
        let mut places = [(0, 0); PIXELS];
        for first in (0..rows).step_by(PIXELS) {
            let end = rows.min(first + PIXELS);
            for (row, packed) in (first..end).zip(&mut gradient) {
                packed[..width]
                    .copy_from_slice(&self.gradient[row * self.columns + self.column..][..width]);
            }
            for (tap, weights) in self.weights.chunks_exact_mut(self.depth * PANEL).enumerate() {
                let places = inside(self.gather, self.source_image, tap, first..end, &mut places);
                let mut deep = 0;
                while deep + W <= self.depth {
                    add::<T, V, R, W>(
                        &mut weights[deep * PANEL..],
                        &self.source[deep..],
                        places,
                        &gradient,
                    );
                    deep += W;
                }
                for deep in deep..self.depth {
                    add::<T, V, R, 1>(
                        &mut weights[deep * PANEL..],
                        &self.source[deep..],
                        places,
                        &gradient,
                    );
                }
            }
        }
    }
}

/// For the rows whose tap lies inside the image: where it begins, and the row's number in the block.
#[inline(always)]
fn inside<'a>(
    gather: &Gather,
    image: usize,
    tap: usize,
    rows: std::ops::Range<usize>,
    places: &'a mut [(usize, usize); PIXELS],
) -> &'a [(usize, usize)] {
    let (mut base, mut at) = (rows.start / gather.rows() * image, rows.start % gather.rows());
    let mut count = 0;
    for number in 0..rows.len() {
        let source = gather.source[at * gather.taps.len() + tap];
        if source != OUTSIDE {
            places[count] = (base + source as usize, number);
            count += 1;
        }
        at += 1;
        if at == gather.rows() {
            (base, at) = (base + image, 0);
        }
    }
    &places[..count]
}

/// Adds to W rows of weights the products of W neighbouring source numbers and a panel of gradient.
#[inline(always)]
fn add<T: Real, V: Lanes<T>, const R: usize, const W: usize>(
    weights: &mut [T],
    source: &[T],
    places: &[(usize, usize)],
    gradient: &[[T; PANEL]; PIXELS],
) {
    let weights = &mut weights[..W * PANEL];
    let mut sums: [[V; R]; W] = std::array::from_fn(|w| {
        std::array::from_fn(|r| V::load(&weights[w * PANEL + r * V::COUNT..]))
    });
    for &(place, number) in places {
        let values: &[T] = &source[place..][..W];
        let panel: [V; R] = std::array::from_fn(|r| V::load(&gradient[number][r * V::COUNT..]));
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
