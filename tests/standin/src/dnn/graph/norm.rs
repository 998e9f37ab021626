//! The gradients of a batch norm's weights, and the coefficients of the gradient of its input.

use std::sync::Arc;

use super::descriptor::Values;
use super::names as n;
use super::tensor::Tensor;
use super::values::{enumerator, required};
use crate::dnn::{Answer, Status, wrong};

/// `CUDNN_BACKEND_OPERATION_BN_BWD_WEIGHTS_DESCRIPTOR`.
#[derive(Clone, Debug)]
pub(super) struct NormGradient {
    /// `cudnnDataType_t` of the arithmetic.
    pub(super) precision: u32,
    pub(super) x: Arc<Tensor>,
    pub(super) dy: Arc<Tensor>,
    /// The mean, the inverse standard deviation and the scale of each channel.
    pub(super) given: [Arc<Tensor>; 3],
    /// The gradients of scale and bias, and a, b and c of `dx = a * dy + b * x + c`.
    pub(super) results: [Arc<Tensor>; 5],
}

/// The names of the given values and the results.
pub(super) const GIVEN: [&str; 3] = ["mean", "inverse deviation", "scale"];
pub(super) const RESULTS: [&str; 5] = ["dscale", "dbias", "scale of dy", "scale of x", "bias"];

impl NormGradient {
    pub(super) fn new(values: &Values) -> Answer<Self> {
        let found = Self {
            precision: enumerator(values, n::BN_BWD_WEIGHTS_MATH_PREC),
            x: required(values, n::BN_BWD_WEIGHTS_X_DESC)?,
            dy: required(values, n::BN_BWD_WEIGHTS_DY_DESC)?,
            given: [
                required(values, n::BN_BWD_WEIGHTS_MEAN_DESC)?,
                required(values, n::BN_BWD_WEIGHTS_INVSTD_DESC)?,
                required(values, n::BN_BWD_WEIGHTS_BN_SCALE_DESC)?,
            ],
            results: [
                required(values, n::BN_BWD_WEIGHTS_DBN_SCALE_DESC)?,
                required(values, n::BN_BWD_WEIGHTS_DBN_BIAS_DESC)?,
                required(values, n::BN_BWD_WEIGHTS_EQ_DY_SCALE_DESC)?,
                required(values, n::BN_BWD_WEIGHTS_EQ_X_SCALE_DESC)?,
                required(values, n::BN_BWD_WEIGHTS_EQ_BIAS)?,
            ],
        };
        let wanted = found.x.of_channels();
        let wrong_size = found.given.iter().chain(&found.results).find(|one| one.dims != wanted);
        if found.x.dims != found.dy.dims || wrong_size.is_some() {
            let what = format!(
                "the gradient of a norm of {:?}, from {:?}, with {:?}: expected {wanted:?}",
                found.x.dims,
                found.dy.dims,
                wrong_size.map(|one| &one.dims)
            );
            return wrong(Status::BAD_PARAM, what);
        }
        Ok(found)
    }
}
