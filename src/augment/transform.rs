//! An affine transform of an image, with the exact value of each output pixel.

use std::ops::Range;

use super::sampler::{Affine, Degree, sample};
use crate::geometry::View;

/// An affine transform of an image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transform<'a> {
    pub(super) source: View<'a>,
    pub(super) affine: Affine,
    pub(super) filter: Degree,
    pub(super) fill: [u8; 3],
}

impl Transform<'_> {
    /// The rows of the output, each with its number and the columns whose centers are inside the
    /// source. All other pixels are set to the fill color.
    pub(super) fn rows<'o>(
        &self,
        out: &'o mut [u8],
    ) -> impl Iterator<Item = (u32, Range<u32>, &'o mut [u8])> {
        let (transform, size) = (*self, self.source.size());
        (0..size.height).zip(out.chunks_exact_mut(size.width as usize * 3)).map(move |(y, row)| {
            let inside = transform.affine.inside(y, size.height, size.width);
            let (pixels, _) = row.as_chunks_mut::<3>();
            if inside.is_empty() {
                pixels.fill(transform.fill);
            } else {
                pixels[..inside.start as usize].fill(transform.fill);
                pixels[inside.end as usize..].fill(transform.fill);
            }
            (y, inside, row)
        })
    }

    /// An output pixel as Pillow computes it.
    pub(super) fn exact(&self, x: u32, y: u32) -> [u8; 3] {
        let (column, row) = (self.affine.column(x, y), self.affine.row(x, y));
        sample(self.source, column, row, self.filter).unwrap_or(self.fill)
    }

    /// Recomputes the pixels with doubtful bytes exactly. `row` starts with pixel `first`.
    pub(super) fn correct(&self, y: u32, first: u32, row: &mut [u8], doubtful: &[bool]) {
        let (pixels, _) = row.as_chunks_mut::<3>();
        let (doubtful, _) = doubtful.as_chunks::<3>();
        for ((pixel, doubtful), x) in pixels.iter_mut().zip(doubtful).zip(first..) {
            if *doubtful != [false; 3] {
                *pixel = self.exact(x, y);
            }
        }
    }
}

/// Computes every pixel as Pillow does: the twin of the fast paths.
pub(super) fn exactly(transform: &Transform<'_>, out: &mut [u8]) {
    for (y, inside, row) in transform.rows(out) {
        let (pixels, _) = row.as_chunks_mut::<3>();
        for x in inside {
            pixels[x as usize] = transform.exact(x, y);
        }
    }
}
