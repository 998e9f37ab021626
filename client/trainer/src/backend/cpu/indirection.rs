//! Indirection tables: which input values each row of a convolution's matrix product reads.
//!
//! A convolution is a product of the weights with rows of input values: for each output pixel and each
//! tap of the kernel, `depth` consecutive values of the input. Instead of copying these values into a
//! matrix (im2col), a table holds the offset of each tap (Dukhan, "The Indirect Convolution Algorithm",
//! 2019). The table is computed once per convolution.

use crate::model::Conv;

/// Offset of a tap outside of the image, which reads zeros.
pub(super) const OUTSIDE: u32 = u32::MAX;

/// The rows of one product, which are the same for every image of a batch.
#[derive(Debug)]
pub(super) struct Indirection {
    /// For each row, the pixel of the target image that it computes.
    pub(super) target: Vec<u32>,
    /// For each row and tap, the offset of the tap in the source image, or [`OUTSIDE`].
    pub(super) source: Vec<u32>,
    /// Taps of the kernel that take part in these rows.
    pub(super) taps: Vec<usize>,
}

impl Indirection {
    /// Rows per image.
    pub(super) fn rows(&self) -> usize {
        self.target.len()
    }

    /// Computes output pixels from input pixels.
    ///
    /// In the padded input of a stem, the taps of one kernel row are contiguous, so a row counts as one tap.
    pub(super) fn forward(conv: &Conv) -> Self {
        let (kernel_width, row) =
            if conv.padded { (1, conv.padded_width()) } else { (conv.kernel, conv.input.width) };
        let taps: Vec<usize> = (0..conv.kernel * kernel_width).collect();
        let mut indirection = Self { target: Vec::new(), source: Vec::new(), taps };
        for y in 0..conv.output.height {
            for x in 0..conv.output.width {
                indirection.target.push(index(y * conv.output.width + x));
                for tap in 0..indirection.taps.len() {
                    let down = y * conv.stride + tap / kernel_width;
                    let right = x * conv.stride + tap % kernel_width;
                    indirection.source.push(if conv.padded {
                        index((down * row + right) * conv.input.channels)
                    } else {
                        inside(down, conv.pad, conv.input.height)
                            .zip(inside(right, conv.pad, conv.input.width))
                            .map_or(OUTSIDE, |(y, x)| index((y * row + x) * conv.input.channels))
                    });
                }
            }
        }
        indirection
    }

    /// Computes gradients of input pixels from those of output pixels. There is one product for each
    /// phase, which is the position of a pixel modulo the stride, because each phase meets other taps.
    pub(super) fn backward(conv: &Conv) -> Vec<Self> {
        let phases = (0..conv.stride * conv.stride).map(|p| (p / conv.stride, p % conv.stride));
        phases.map(|(down, right)| Self::phase(conv, down, right)).collect()
    }

    fn phase(conv: &Conv, down: usize, right: usize) -> Self {
        // Input y meets tap r of output (y + pad - r) / stride if that is an integer.
        let meets = |at: usize, tap: usize| {
            (at + conv.pad + conv.kernel * conv.stride - tap).is_multiple_of(conv.stride)
        };
        let taps: Vec<usize> = (0..conv.kernel * conv.kernel)
            .filter(|tap| meets(down, tap / conv.kernel) && meets(right, tap % conv.kernel))
            .collect();
        let output = |at: usize, tap: usize, size: usize| {
            inside(at + conv.pad, tap, usize::MAX).map(|o| o / conv.stride).filter(|o| *o < size)
        };
        let mut indirection = Self { target: Vec::new(), source: Vec::new(), taps };
        for y in (down..conv.input.height).step_by(conv.stride) {
            for x in (right..conv.input.width).step_by(conv.stride) {
                indirection.target.push(index(y * conv.input.width + x));
                for tap in &indirection.taps {
                    let from = output(y, tap / conv.kernel, conv.output.height).zip(output(
                        x,
                        tap % conv.kernel,
                        conv.output.width,
                    ));
                    indirection.source.push(from.map_or(OUTSIDE, |(y, x)| {
                        index((y * conv.output.width + x) * conv.output.channels)
                    }));
                }
            }
        }
        indirection
    }
}

/// `at - before` if it is in `0..size`.
fn inside(at: usize, before: usize, size: usize) -> Option<usize> {
    at.checked_sub(before).filter(|at| *at < size)
}

fn index(at: usize) -> u32 {
    u32::try_from(at).ok().filter(|at| *at != OUTSIDE).expect("an image has fewer than 2^32 values")
}
