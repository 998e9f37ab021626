//! Where the rows of a convolution's product lie: tables planned once per convolution.
//!
//! A convolution is a product of rows gathered from the source image: for each target pixel and each
//! tap of the kernel, `depth` neighbouring numbers of the source. Nothing is copied to gather them
//! (Dukhan, "The Indirect Convolution Algorithm", 2019): a table holds where each tap begins.

use crate::model::Conv;

/// A tap outside the image: zeros.
pub(super) const OUTSIDE: u32 = u32::MAX;

/// The rows of one product, the same for each image of a batch.
#[derive(Debug)]
pub(super) struct Gather {
    /// Row to pixel of the target image.
    pub(super) target: Vec<u32>,
    /// Row and tap to the tap's first number in the source image, or [`OUTSIDE`].
    pub(super) source: Vec<u32>,
    /// The kernel's taps that these rows have.
    pub(super) taps: Vec<usize>,
}

impl Gather {
    /// Rows an image.
    pub(super) fn rows(&self) -> usize {
        self.target.len()
    }

    /// Output pixels from input pixels.
    ///
    /// The padded input of a stem holds a row of taps as neighbours: it counts as one tap.
    pub(super) fn forward(conv: &Conv) -> Self {
        let (kernel_width, row) =
            if conv.padded { (1, conv.padded_width()) } else { (conv.kernel, conv.input.width) };
        let taps: Vec<usize> = (0..conv.kernel * kernel_width).collect();
        let mut gather = Self { target: Vec::new(), source: Vec::new(), taps };
        for y in 0..conv.output.height {
            for x in 0..conv.output.width {
                gather.target.push(index(y * conv.output.width + x));
                for tap in 0..gather.taps.len() {
                    let down = y * conv.stride + tap / kernel_width;
                    let right = x * conv.stride + tap % kernel_width;
                    gather.source.push(if conv.padded {
                        index((down * row + right) * conv.input.channels)
                    } else {
                        inside(down, conv.pad, conv.input.height)
                            .zip(inside(right, conv.pad, conv.input.width))
                            .map_or(OUTSIDE, |(y, x)| index((y * row + x) * conv.input.channels))
                    });
                }
            }
        }
        gather
    }

    /// Gradients of input pixels from those of output pixels: one product for each position of a
    /// pixel within the stride, as each position is met by other taps.
    pub(super) fn backward(conv: &Conv) -> Vec<Self> {
        let phases = (0..conv.stride * conv.stride).map(|p| (p / conv.stride, p % conv.stride));
        phases.map(|(down, right)| Self::phase(conv, down, right)).collect()
    }

    fn phase(conv: &Conv, down: usize, right: usize) -> Self {
        // Input y meets tap r of output (y + pad - r) / stride where that is a whole number.
        let meets = |at: usize, tap: usize| {
            (at + conv.pad + conv.kernel * conv.stride - tap).is_multiple_of(conv.stride)
        };
        let taps: Vec<usize> = (0..conv.kernel * conv.kernel)
            .filter(|tap| meets(down, tap / conv.kernel) && meets(right, tap % conv.kernel))
            .collect();
        let output = |at: usize, tap: usize, size: usize| {
            inside(at + conv.pad, tap, usize::MAX).map(|o| o / conv.stride).filter(|o| *o < size)
        };
        let mut gather = Self { target: Vec::new(), source: Vec::new(), taps };
        for y in (down..conv.input.height).step_by(conv.stride) {
            for x in (right..conv.input.width).step_by(conv.stride) {
                gather.target.push(index(y * conv.input.width + x));
                for tap in &gather.taps {
                    let from = output(y, tap / conv.kernel, conv.output.height).zip(output(
                        x,
                        tap % conv.kernel,
                        conv.output.width,
                    ));
                    gather.source.push(from.map_or(OUTSIDE, |(y, x)| {
                        index((y * conv.output.width + x) * conv.output.channels)
                    }));
                }
            }
        }
        gather
    }
}

/// `at - before` where it lies in `0..size`.
fn inside(at: usize, before: usize, size: usize) -> Option<usize> {
    at.checked_sub(before).filter(|at| *at < size)
}

fn index(at: usize) -> u32 {
    u32::try_from(at).ok().filter(|at| *at != OUTSIDE).expect("an image is far below 2^32 numbers")
}
