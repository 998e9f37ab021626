//! The patterns of operations that engines support.

use std::sync::Arc;

use super::fused::{Pointwise, Statistics, mode};
use super::operation::{Convolve, Operation};
use super::tensor::{FLOAT, HALF, Tensor};
use crate::dnn::algorithm::Pass;

/// What a graph computes, as engines see it.
#[derive(Clone, Debug)]
pub(super) enum Pattern {
    Convolution(Convolve),
    /// A convolution whose input is scaled, shifted and clipped first, or whose output gets statistics: cuDNN's `ConvBNfprop`, its
    /// part without the former, and `ConvBNwgrad`.
    Fused(Fused),
    /// No engine computes it.
    Unknown,
}

#[derive(Clone, Debug)]
pub(super) struct Fused {
    pub(super) convolve: Convolve,
    /// A scale, a bias and a `ReLU` of x.
    pub(super) prologue: Option<[Pointwise; 3]>,
    pub(super) statistics: Option<Statistics>,
}

impl Pattern {
    /// The pattern of operations, each of which comes after those whose outputs it uses.
    pub(super) fn of<'a>(operations: impl Iterator<Item = &'a Operation>) -> Self {
        let (mut convolve, mut statistics, mut pointwise) = (None, None, Vec::new());
        for operation in operations {
            let first = match operation {
                Operation::Convolution(found) => convolve.replace(found.clone()).is_none(),
                Operation::Statistics(found) => statistics.replace(found.clone()).is_none(),
                Operation::Pointwise(found) => {
                    pointwise.push(found.clone());
                    true
                }
            };
            if !first {
                return Self::Unknown;
            }
        }
        let Some(mut convolve) = convolve else { return Self::Unknown };
        if statistics.is_none() && pointwise.is_empty() {
            return Self::Convolution(convolve);
        }
        let prologue = match <[Pointwise; 3]>::try_from(pointwise) {
            Ok(three) => Some(three),
            Err(none) if none.is_empty() => None,
            Err(_) => return Self::Unknown,
        };
        if prologue.is_some() {
            // Whatever the type of the virtual x, halves are multiplied.
            let data_type = convolve.w.data_type;
            convolve.x = Arc::new(Tensor { data_type, ..(*convolve.x).clone() });
        }
        let fused = Fused { convolve, prologue, statistics };
        if fused.is_known() { Self::Fused(fused) } else { Self::Unknown }
    }
}

impl Fused {
    fn is_known(&self) -> bool {
        let Self { convolve, prologue, statistics } = self;
        let plain = convolve.alpha.to_bits() == 1f32.to_bits() && convolve.beta.to_bits() == 0;
        let direction = match convolve.pass {
            Pass::Forward => statistics.is_some(),
            Pass::BackwardFilter => statistics.is_none() && prologue.is_some(),
            Pass::BackwardData => false,
        };
        let measured = statistics
            .as_ref()
            .is_none_or(|statistics| statistics.x.uid == convolve.y.uid && !convolve.y.is_virtual);
        plain
            && direction
            && measured
            && prologue.as_ref().is_none_or(|three| leads_to(three, &convolve.x))
    }

    /// Why no engine supports the types of the tensors, if so.
    pub(super) fn refused(&self) -> Option<&'static str> {
        let data_type = self.convolve.x.data_type;
        if data_type == FLOAT {
            return Some("a fused convolution of f32");
        }
        if let Some(statistics) = &self.statistics
            && [statistics.precision, statistics.sum.data_type, statistics.squares.data_type]
                != [FLOAT; 3]
        {
            return Some("statistics in a type other than f32");
        }
        let three = self.prologue.as_ref()?;
        if data_type != HALF {
            return Some("a scaled input of a type other than f16");
        }
        let given =
            |one: &Pointwise| one.other.as_ref().is_none_or(|other| other.data_type == HALF);
        if !three.iter().all(given) || three[0].x.data_type != HALF {
            return Some("a scale or a bias of a type other than f16");
        }
        three
            .iter()
            .any(|one| one.function.precision != FLOAT)
            .then_some("pointwise arithmetic in a type other than f32")
    }
}

/// Whether these are a scale, a bias and a `ReLU`, connected by virtual tensors, whose result is x.
fn leads_to(three: &[Pointwise; 3], x: &Tensor) -> bool {
    let [scale, bias, relu] = three;
    let modes = [scale.function.mode, bias.function.mode, relu.function.mode];
    let plain = |one: &Pointwise| one.scales.map(f32::to_bits) == [1f32.to_bits(); 2];
    let per_channel = |one: &Pointwise| {
        one.other.as_ref().is_some_and(|other| {
            other.dims.iter().enumerate().all(|(axis, size)| axis == 1 || *size == 1)
                && other.dims[1] == x.dims[1]
        })
    };
    let joined =
        |one: &Pointwise, next: &Tensor| one.output.uid == next.uid && one.output.is_virtual;
    modes == [mode::MUL, mode::ADD, mode::RELU_FORWARD]
        && three.iter().all(plain)
        && relu.function.is_plain_relu()
        && per_channel(scale)
        && per_channel(bias)
        && joined(scale, &bias.x)
        && joined(bias, &relu.x)
        && joined(relu, x)
}
