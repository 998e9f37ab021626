//! The values of the tensors of a graph.

use std::collections::BTreeMap;

use super::fused::{Pointwise, Statistics};
use super::methods::{Inputs, Method};
use super::norm::NormGradient;
use super::operation::Convolve;
use super::tensor::{Tensor, number};
use crate::dnn::algorithm::Pass;
use crate::dnn::arithmetic::{backward_data, backward_filter, forward};
use crate::engine::{Fault, FaultKind};
use crate::number::{Number, blend, tf32};

/// The values that have been computed or loaded, by tensor.
pub(super) type Known = BTreeMap<i64, Vec<f32>>;

/// How an engine computes.
#[derive(Clone, Copy)]
pub(super) struct Arithmetic {
    pub(super) method: &'static Method,
    /// The length of the blocks in which sums are computed.
    pub(super) order: usize,
}

impl Arithmetic {
    pub(super) fn convolve(
        self,
        convolve: &Convolve,
        known: &Known,
        old: Option<&[f32]>,
    ) -> Result<Vec<f32>, Fault> {
        let ([one, other], _) = convolve.operands();
        // What is multiplied has the type of the filter, also if x is a virtual tensor of f32.
        let number = number_of(&convolve.w)?;
        let (one, other) = (self.input(one, number, known)?, self.input(other, number, known)?);
        let shape = convolve.shape().map_err(|what| Fault::new(FaultKind::OnlyHere, what))?;
        let mut result = match convolve.pass {
            Pass::Forward => forward(&shape, &one, &other, self.order),
            Pass::BackwardData => backward_data(&shape, &one, &other, self.order),
            Pass::BackwardFilter => backward_filter(&shape, &one, &other, self.order),
        };
        blend(&mut result, convolve.alpha, old, convolve.beta);
        Ok(result)
    }

    /// An input of a convolution, as the engine rounds it.
    fn input(self, tensor: &Tensor, number: Number, known: &Known) -> Result<Vec<f32>, Fault> {
        let round = |value: &f32| match self.method.inputs {
            Inputs::Tf32 if number == Number::F32 => tf32(*value),
            Inputs::Bf16 => Number::Bf16.round(*value),
            Inputs::Tf32 | Inputs::Exact => number.round(*value),
        };
        Ok(find(tensor, known)?.iter().map(round).collect())
    }

    pub(super) fn pointwise(pointwise: &Pointwise, known: &Known) -> Result<Vec<f32>, Fault> {
        let x = find(&pointwise.x, known)?;
        let [scale, other_scale] = pointwise.scales;
        let Some(tensor) = &pointwise.other else {
            return Ok(x.iter().map(|x| pointwise.function.of(scale * x, 0.0)).collect());
        };
        let other = find(tensor, known)?;
        // With the channels last, a value for each channel repeats after each pixel.
        let values = x.iter().zip(other.iter().cycle());
        Ok(values.map(|(x, other)| pointwise.function.of(scale * x, other_scale * other)).collect())
    }

    /// The sums and the sums of squares.
    pub(super) fn statistics(
        self,
        statistics: &Statistics,
        known: &Known,
    ) -> Result<[Vec<f32>; 2], Fault> {
        let x = find(&statistics.x, known)?;
        let values = |at: usize, _| [x[at], x[at] * x[at]];
        Ok(self.sums(x.len(), statistics.x.dims[1], values))
    }

    /// The gradients of scale and bias, and a, b and c of `dx = a * dy + b * x + c`.
    pub(super) fn norm_gradient(
        self,
        norm: &NormGradient,
        known: &Known,
    ) -> Result<[Vec<f32>; 5], Fault> {
        let [mean, deviation, scale] = norm.given.each_ref().map(|tensor| find(tensor, known));
        let (mean, deviation, scale) = (mean?, deviation?, scale?);
        let (x, dy, channels) = (find(&norm.x, known)?, find(&norm.dy, known)?, mean.len());
        let values = |at: usize, channel: usize| {
            [dy[at] * ((x[at] - mean[channel]) * deviation[channel]), dy[at]]
        };
        let [dscale, dbias] = self.sums(x.len(), channels, values);
        let count = (x.len() / channels) as f32;
        let [mut a, mut b, mut c] = [vec![0.0; channels], vec![0.0; channels], vec![0.0; channels]];
        for channel in 0..channels {
            a[channel] = scale[channel] * deviation[channel];
            b[channel] = -a[channel] * deviation[channel] * dscale[channel] / count;
            c[channel] = -a[channel] * dbias[channel] / count - b[channel] * mean[channel];
        }
        Ok([dscale, dbias, a, b, c])
    }

    /// Two sums for each channel, of blocks of pixels first. The function has the index of a value, and its channel.
    fn sums(
        self,
        count: usize,
        channels: usize,
        of: impl Fn(usize, usize) -> [f32; 2],
    ) -> [Vec<f32>; 2] {
        let mut totals = [vec![0.0; channels], vec![0.0; channels]];
        for first in (0..count).step_by(channels * self.order) {
            let mut sums = [vec![0.0f32; channels], vec![0.0f32; channels]];
            for at in first..(first + channels * self.order).min(count) {
                let channel = at % channels;
                let [one, other] = of(at, channel);
                sums[0][channel] += one;
                sums[1][channel] += other;
            }
            for (total, sum) in totals.iter_mut().flatten().zip(sums.iter().flatten()) {
                *total += sum;
            }
        }
        totals
    }
}

fn find<'a>(tensor: &Tensor, known: &'a Known) -> Result<&'a [f32], Fault> {
    known.get(&tensor.uid).map(Vec::as_slice).ok_or_else(|| missing(tensor))
}

pub(super) fn number_of(tensor: &Tensor) -> Result<Number, Fault> {
    number(tensor.data_type).ok_or_else(|| missing(tensor))
}

pub(super) fn missing(tensor: &Tensor) -> Fault {
    Fault::new(FaultKind::OnlyHere, format!("the tensor {} has no value", tensor.uid))
}

/// Rounds values to the type of their tensor.
pub(super) fn rounded(tensor: &Tensor, mut values: Vec<f32>) -> Result<Vec<f32>, Fault> {
    let number = number_of(tensor)?;
    for value in &mut values {
        *value = number.round(*value);
    }
    Ok(values)
}
