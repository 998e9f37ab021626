//! The patterns of operations that engines support.

use std::sync::Arc;

use super::fused::{Pointwise, Statistics, mode};
use super::norm::NormGradient;
use super::operation::{Convolve, Operation};
use super::tensor::{FLOAT, HALF, Tensor};
use crate::dnn::algorithm::Pass;

/// What a graph computes, as engines see it.
#[derive(Clone, Debug)]
pub(super) enum Pattern {
    Convolution(Convolve),
    /// A convolution whose input is scaled, shifted and clipped first, or whose output gets statistics or is the gradient of a norm:
    /// cuDNN's `ConvBNfprop`, its part without the former, `ConvBNwgrad` and `DgradDreluBNBwdWeight`.
    Fused(Fused),
    /// No engine computes it.
    Unknown,
}

#[derive(Clone, Debug)]
pub(super) struct Fused {
    pub(super) convolve: Convolve,
    /// Pointwise functions of the convolution's input or output, in order.
    pointwise: Vec<Pointwise>,
    statistics: Option<Statistics>,
    norm: Option<NormGradient>,
}

impl Pattern {
    /// The pattern of operations, each of which comes after those whose outputs it uses.
    pub(super) fn of<'a>(operations: impl Iterator<Item = &'a Operation>) -> Self {
        let (mut convolve, mut statistics, mut norm) = (None, None, None);
        let mut pointwise = Vec::new();
        for operation in operations {
            let first = match operation {
                Operation::Convolution(found) => convolve.replace(found.clone()).is_none(),
                Operation::Statistics(found) => statistics.replace(found.clone()).is_none(),
                Operation::NormGradient(found) => norm.replace(found.clone()).is_none(),
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
        if statistics.is_none() && norm.is_none() && pointwise.is_empty() {
            return Self::Convolution(convolve);
        }
        if convolve.x.is_virtual {
            // Whatever the type of the virtual x, halves are multiplied.
            let data_type = convolve.w.data_type;
            convolve.x = Arc::new(Tensor { data_type, ..(*convolve.x).clone() });
        }
        let fused = Fused { convolve, pointwise, statistics, norm };
        if fused.is_known() { Self::Fused(fused) } else { Self::Unknown }
    }
}

impl Fused {
    fn is_known(&self) -> bool {
        let Self { convolve, pointwise, statistics, norm } = self;
        let plain = convolve.alpha.to_bits() == 1f32.to_bits() && convolve.beta.to_bits() == 0;
        plain
            && match (convolve.pass, statistics, norm) {
                (Pass::Forward, Some(statistics), None) => {
                    let measured = statistics.x.uid == convolve.y.uid && !convolve.y.is_virtual;
                    measured && (pointwise.is_empty() || scales(pointwise, &convolve.x))
                }
                (Pass::BackwardFilter, None, None) => scales(pointwise, &convolve.x),
                (Pass::BackwardData, None, Some(norm)) => masks(pointwise, &convolve.x, norm),
                _ => false,
            }
    }

    /// Why no engine supports the types of the tensors, if so.
    pub(super) fn refused(&self) -> Option<&'static str> {
        let data_type = self.convolve.w.data_type;
        if data_type == FLOAT {
            return Some("a fused convolution of f32");
        }
        if let Some(statistics) = &self.statistics
            && [statistics.precision, statistics.sum.data_type, statistics.squares.data_type]
                != [FLOAT; 3]
        {
            return Some("statistics in a type other than f32");
        }
        let first = self.pointwise.first()?;
        if data_type != HALF || first.x.data_type != HALF {
            return Some("a fused norm of a type other than f16");
        }
        if self.pointwise.iter().any(|one| one.function.precision != FLOAT) {
            return Some("pointwise arithmetic in a type other than f32");
        }
        // Values for each channel: f16 where they scale an input, and f32 in the gradient of a norm.
        let wanted = if self.norm.is_some() { FLOAT } else { HALF };
        let given = self.pointwise.iter().filter_map(|one| one.other.as_ref());
        let mut per_channel = given.filter(|other| !other.is_virtual);
        if per_channel.any(|other| other.data_type != wanted) {
            return Some("a scale or a bias of another type");
        }
        let norm = self.norm.as_ref()?;
        let mut tensors = norm.given.iter().chain(&norm.results);
        let is_float = norm.precision == FLOAT && tensors.all(|tensor| tensor.data_type == FLOAT);
        let is_half = norm.dy.data_type == HALF;
        (!is_float || !is_half).then_some("the gradient of a norm in another type")
    }
}

/// Whether these are functions of these kinds, connected by virtual tensors.
fn is_chain(pointwise: &[Pointwise], modes: &[u32]) -> bool {
    let plain = |one: &Pointwise| one.scales.map(f32::to_bits) == [1f32.to_bits(); 2];
    let joined =
        |pair: &[Pointwise]| pair[0].output.uid == pair[1].x.uid && pair[0].output.is_virtual;
    pointwise.iter().map(|one| one.function.mode).eq(modes.iter().copied())
        && pointwise.iter().all(|one| plain(one) && one.function.is_plain_relu())
        && pointwise.windows(2).all(joined)
}

fn is_per_channel(one: &Pointwise) -> bool {
    one.other.as_ref().is_some_and(|other| other.dims == one.output.of_channels())
}

/// Whether these are a scale, a bias and a `ReLU`, whose result is x.
fn scales(pointwise: &[Pointwise], x: &Tensor) -> bool {
    is_chain(pointwise, &[mode::MUL, mode::ADD, mode::RELU_FORWARD])
        && pointwise[..2].iter().all(is_per_channel)
        && pointwise[2].output.uid == x.uid
        && x.is_virtual
}

/// Whether these repeat a norm, whose sign is the mask of a gradient, which the norm's gradient uses.
fn masks(pointwise: &[Pointwise], gradient: &Tensor, norm: &NormGradient) -> bool {
    if !is_chain(pointwise, &[mode::SUB, mode::MUL, mode::MUL, mode::ADD, mode::RELU_BACKWARD]) {
        return false;
    }
    let uid = |one: &Pointwise| one.other.as_ref().map(|other| other.uid);
    let given = norm.given.each_ref().map(|tensor| Some(tensor.uid));
    pointwise[..4].iter().all(is_per_channel)
        && [uid(&pointwise[0]), uid(&pointwise[1]), uid(&pointwise[2])] == given
        && pointwise[0].x.uid == norm.x.uid
        && uid(&pointwise[4]) == Some(gradient.uid)
        && gradient.is_virtual
        && pointwise[4].output.uid == norm.dy.uid
        && !norm.dy.is_virtual
}
