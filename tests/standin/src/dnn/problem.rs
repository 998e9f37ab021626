//! A convolution: the checked combination of its descriptors.

use super::descriptor::{Filter, Layout, Tensor};
use super::geometry::{ALLOW_CONVERSION, Convolution, FMA_MATH};
use super::{Answer, Status, wrong};
use crate::number::{Number, tf32};

/// The sizes of a convolution: x is n, h, w, c; the filter is k, r, s, c; y is n, oh, ow, k.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) n: usize,
    pub(super) c: usize,
    pub(super) k: usize,
    /// Height and width of the input, the filter and the output.
    pub(super) input: [usize; 2],
    pub(super) filter: [usize; 2],
    pub(super) output: [usize; 2],
    pub(super) pad: [usize; 2],
    pub(super) stride: [usize; 2],
}

impl Shape {
    /// The number of products in the sum of one element of y.
    pub(super) fn taps(&self) -> usize {
        self.filter[0] * self.filter[1] * self.c
    }

    /// The number of pixels of y.
    pub(super) fn pixels(&self) -> usize {
        self.n * self.output[0] * self.output[1]
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Problem {
    pub(super) shape: Shape,
    pub(super) number: Number,
    pub(super) layout: Layout,
    /// The math type of the descriptor of the convolution.
    pub(super) math: u32,
    /// Whether the device has tensor cores for these types.
    pub(super) tensor_cores: bool,
}

impl Problem {
    /// Checks descriptors. In a backward pass, those of x and y, or of the filter, are the descriptors of gradients.
    pub(super) fn new(
        x: &Tensor,
        filter: &Filter,
        convolution: &Convolution,
        y: &Tensor,
        capability: (i32, i32),
    ) -> Answer<Self> {
        let (number, layout) = (x.number, filter.layout);
        if filter.number != number || y.number != number {
            return wrong(Status::NOT_SUPPORTED, "x, filter and y are of different types");
        }
        if number == Number::Bf16 && capability < (8, 0) {
            return wrong(Status::NOT_SUPPORTED, "bf16 below compute capability 8.0");
        }
        if !x.is_in(layout) || !y.is_in(layout) {
            let what = format!("x or y is not packed in the layout of the filter, {layout:?}");
            return wrong(Status::NOT_SUPPORTED, what);
        }
        let ([n, c, h, w], [k, filter_c, r, s]) = (x.dims, filter.dims);
        if c != filter_c {
            return wrong(Status::BAD_PARAM, format!("x has {c} channels, the filter {filter_c}"));
        }
        let Convolution { pad, stride, math } = *convolution;
        let padded = [h + 2 * pad[0], w + 2 * pad[1]];
        if r > padded[0] || s > padded[1] {
            return wrong(
                Status::BAD_PARAM,
                format!("a filter of {r}x{s} on {h}x{w}, padded by {pad:?}"),
            );
        }
        let output = [(padded[0] - r) / stride[0] + 1, (padded[1] - s) / stride[1] + 1];
        let wanted = [n, k, output[0], output[1]];
        if y.dims != wanted {
            return wrong(Status::BAD_PARAM, format!("y is {:?}: expected {wanted:?}", y.dims));
        }
        let shape = Shape { n, c, k, input: [h, w], filter: [r, s], output, pad, stride };
        let least = if number == Number::F16 { (7, 0) } else { (8, 0) };
        Ok(Self { shape, number, layout, math, tensor_cores: capability >= least })
    }

    /// The inputs as the math type rounds them.
    pub(super) fn rounded(&self, mut values: Vec<f32>) -> Vec<f32> {
        if self.number == Number::F32 && self.math != FMA_MATH && self.tensor_cores {
            let round =
                if self.math == ALLOW_CONVERSION { |value| Number::F16.round(value) } else { tf32 };
            for value in &mut values {
                *value = round(*value);
            }
        }
        values
    }
}
