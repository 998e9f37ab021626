//! What is planned: a convolution in one direction, for a number of images.

use std::fmt;

use crate::backend::cuda::Precision;
use crate::memory::MemoryPlan;
use crate::model::{Conv, Op};

/// The direction of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Direction {
    /// `y = conv(x, w)`.
    Forward,
    /// Overwrites `x` with its gradient or, if it adds, adds the gradient.
    BackwardData {
        /// Whether the gradient is added.
        adds: bool,
    },
    /// Overwrites `w` with its gradient.
    BackwardFilter,
}

/// A convolution in one direction, for a number of images. All operations of this shape share a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConvCase {
    pub(crate) conv: Conv,
    pub(crate) images: usize,
    pub(crate) direction: Direction,
}

/// Addresses of the tensors of a convolution: those of their values or, in the directions that compute or read
/// gradients, of their gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Operands {
    pub(crate) x: u64,
    pub(crate) w: u64,
    pub(crate) y: u64,
}

impl ConvCase {
    /// The cases of a network. Only those that run: without `train` no gradients are computed, and the gradient of
    /// the images never is.
    pub(crate) fn all(plan: &MemoryPlan, train: bool) -> Vec<Self> {
        let mut cases = Vec::new();
        for (op, adds) in plan.graph.ops.iter().zip(&plan.adds) {
            // The classifier, which alone has a bias, is cuBLAS's.
            let Op::Conv { conv, x, bias: None, .. } = op else { continue };
            let mut directions = vec![Direction::Forward];
            if train {
                directions.push(Direction::BackwardFilter);
                if plan.gradients[*x].is_some() {
                    directions.push(Direction::BackwardData { adds: *adds });
                }
            }
            let case = |direction| Self { conv: *conv, images: plan.batch, direction };
            cases.extend(directions.into_iter().map(case));
        }
        cases
    }

    /// Images, channels, height and width of the input as it is stored. That of the stem is stored with its padding.
    pub(super) const fn x_sizes(&self) -> [usize; 4] {
        let around = if self.conv.padded { 2 * self.conv.pad } else { 0 };
        let input = self.conv.input;
        [self.images, input.channels, input.height + around, input.width + around]
    }

    /// Output channels, input channels, height and width of the weights.
    pub(super) const fn w_sizes(&self) -> [usize; 4] {
        let Conv { input, output, kernel, .. } = self.conv;
        [output.channels, input.channels, kernel, kernel]
    }

    /// Images, channels, height and width of the output.
    pub(super) const fn y_sizes(&self) -> [usize; 4] {
        let output = self.conv.output;
        [self.images, output.channels, output.height, output.width]
    }

    /// Padding that is not stored.
    pub(super) const fn pad(&self) -> usize {
        if self.conv.padded { 0 } else { self.conv.pad }
    }

    /// The factor of what the output holds before.
    pub(super) fn beta(&self) -> f32 {
        f32::from(u8::from(self.direction == Direction::BackwardData { adds: true }))
    }

    /// Bytes of the tensors `x`, `w` and `y`.
    pub(super) fn bytes(&self, precision: Precision) -> [usize; 3] {
        [self.x_sizes(), self.w_sizes(), self.y_sizes()]
            .map(|sizes| sizes.into_iter().product::<usize>() * precision.bytes())
    }
}

impl fmt::Display for ConvCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::Forward => "forward",
            Direction::BackwardData { adds: false } => "backward data",
            Direction::BackwardData { adds: true } => "backward data, added,",
            Direction::BackwardFilter => "backward filter",
        };
        let Conv { kernel, stride, .. } = self.conv;
        let ([images, channels, height, width], pad) = (self.x_sizes(), self.pad());
        let [out, ..] = self.w_sizes();
        write!(
            f,
            "{direction} of {images} images {height}x{width}x{channels}, {kernel}x{kernel}/{stride} pad {pad} to {out}"
        )
    }
}
