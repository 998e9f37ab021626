//! The operations around a convolution: pointwise functions and statistics of channels.

use std::sync::Arc;

use super::descriptor::Values;
use super::names as n;
use super::tensor::Tensor;
use super::values::{child, enumerator, float, required};
use crate::dnn::{Answer, Status, wrong};

/// `cudnnPointwiseMode_t`: those that the stand-in computes.
pub(super) mod mode {
    pub(in super::super) const ADD: u32 = 0;
    pub(in super::super) const MUL: u32 = 1;
    pub(in super::super) const SUB: u32 = 9;
    pub(in super::super) const RELU_FORWARD: u32 = 100;
    pub(in super::super) const RELU_BACKWARD: u32 = 200;
}

/// A function of one or two values.
#[derive(Clone, Debug)]
pub(super) struct Function {
    pub(super) mode: u32,
    /// `cudnnDataType_t` of the arithmetic.
    pub(super) precision: u32,
    /// Values below `clip[0]` and above `clip[1]` are clipped, the former with a slope.
    pub(super) clip: [f32; 2],
    pub(super) slope: f32,
}

impl Function {
    pub(super) fn new(values: &Values) -> Self {
        let float = |number, otherwise| float(values, number).unwrap_or(otherwise);
        let (lower, upper) = (n::POINTWISE_RELU_LOWER_CLIP, n::POINTWISE_RELU_UPPER_CLIP);
        Self {
            mode: enumerator(values, n::POINTWISE_MODE),
            precision: enumerator(values, n::POINTWISE_MATH_PREC),
            clip: [float(lower, 0.0), float(upper, f32::MAX)],
            slope: float(n::POINTWISE_RELU_LOWER_CLIP_SLOPE, 0.0),
        }
    }

    /// Whether it clips at 0, and only there.
    pub(super) fn is_plain_relu(&self) -> bool {
        self.clip[0].to_bits() == 0 && self.clip[1] >= f32::MAX && self.slope.to_bits() == 0
    }

    /// The function of two values. Of one value, `other` is not used.
    pub(super) fn of(&self, value: f32, other: f32) -> f32 {
        let [lower, upper] = self.clip;
        match self.mode {
            mode::ADD => value + other,
            mode::MUL => value * other,
            mode::SUB => value - other,
            // NaN is neither below nor above.
            mode::RELU_FORWARD if value < lower => lower + self.slope * (value - lower),
            mode::RELU_FORWARD if value > upper => upper,
            mode::RELU_BACKWARD if value <= lower => other * self.slope,
            mode::RELU_BACKWARD if value > upper => 0.0,
            mode::RELU_BACKWARD => other,
            _ => value,
        }
    }
}

/// `output = function(alpha1 * x, alpha2 * other)`.
#[derive(Clone, Debug)]
pub(super) struct Pointwise {
    pub(super) function: Arc<Function>,
    pub(super) scales: [f32; 2],
    pub(super) x: Arc<Tensor>,
    /// B, or dy.
    pub(super) other: Option<Arc<Tensor>>,
    /// y, or dx.
    pub(super) output: Arc<Tensor>,
}

impl Pointwise {
    pub(super) fn new(values: &Values) -> Answer<Self> {
        let pw = n::OPERATION_POINTWISE_PW_DESCRIPTOR;
        let function: Arc<Function> = required(values, pw)?;
        let (other, output) = match function.mode {
            mode::RELU_BACKWARD => (n::OPERATION_POINTWISE_DYDESC, n::OPERATION_POINTWISE_DXDESC),
            _ => (n::OPERATION_POINTWISE_BDESC, n::OPERATION_POINTWISE_YDESC),
        };
        let scale = |number| float(values, number).unwrap_or(1.0);
        let scales = [scale(n::OPERATION_POINTWISE_ALPHA1), scale(n::OPERATION_POINTWISE_ALPHA2)];
        let found = Self {
            scales,
            x: required(values, n::OPERATION_POINTWISE_XDESC)?,
            other: child(values, other)?,
            output: required(values, output)?,
            function,
        };
        let wants = !matches!(found.function.mode, mode::RELU_FORWARD);
        if wants != found.other.is_some() {
            let what = format!("{} of a pointwise operation: wanted: {wants}", n::attribute(other));
            return wrong(Status::BAD_PARAM, what);
        }
        let fits = |tensor: &Tensor| {
            let dims = tensor.dims.iter().zip(&found.output.dims);
            tensor.dims.len() == found.output.dims.len()
                && dims.clone().all(|(one, all)| one == all || *one == 1)
        };
        if found.x.dims != found.output.dims || !found.other.as_deref().is_none_or(fits) {
            let other = found.other.as_ref().map(|other| &other.dims);
            let what = format!(
                "a pointwise operation of {:?} and {other:?} to {:?}",
                found.x.dims, found.output.dims
            );
            return wrong(Status::BAD_PARAM, what);
        }
        Ok(found)
    }

    pub(super) fn names(&self) -> [&'static str; 3] {
        match self.function.mode {
            mode::RELU_BACKWARD => ["x", "dy", "dx"],
            _ => ["x", "b", "y"],
        }
    }
}

/// The sum and the sum of squares of each channel.
#[derive(Clone, Debug)]
pub(super) struct Statistics {
    /// `cudnnDataType_t` of the arithmetic.
    pub(super) precision: u32,
    pub(super) x: Arc<Tensor>,
    pub(super) sum: Arc<Tensor>,
    pub(super) squares: Arc<Tensor>,
}

impl Statistics {
    pub(super) fn new(values: &Values) -> Answer<Self> {
        if enumerator(values, n::GENSTATS_MODE) != 0 {
            return wrong(Status::BAD_PARAM, "statistics other than CUDNN_GENSTATS_SUM_SQSUM");
        }
        let found = Self {
            precision: enumerator(values, n::GENSTATS_MATH_PREC),
            x: required(values, n::GENSTATS_XDESC)?,
            sum: required(values, n::GENSTATS_SUMDESC)?,
            squares: required(values, n::GENSTATS_SQSUMDESC)?,
        };
        let wanted = found.x.of_channels();
        for tensor in [&found.sum, &found.squares] {
            if tensor.dims != wanted {
                let what = format!(
                    "statistics of {:?} in {:?}: expected {wanted:?}",
                    found.x.dims, tensor.dims
                );
                return wrong(Status::BAD_PARAM, what);
            }
        }
        Ok(found)
    }
}
