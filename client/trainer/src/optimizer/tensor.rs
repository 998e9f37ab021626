//! What an update works on.

/// One parameter tensor and its optimizer state.
#[derive(Debug)]
pub struct OptimizerTensor<'a, T> {
    /// Values, updated in place.
    pub parameter: &'a mut [T],
    /// Gradient; overwritten as scratch.
    pub gradient: &'a mut [T],
    /// First moment, or the momentum buffer of SGD.
    pub exp_avg: &'a mut [T],
    /// Second moment, which SGD does not use.
    pub exp_avg_sq: &'a mut [T],
    /// Whether weight decay applies to this tensor.
    pub decays: bool,
}

/// Values that all tensors of one update share.
#[derive(Clone, Copy, Debug)]
pub struct UpdateStep {
    /// Learning rate.
    pub lr: f64,
    /// Number of the update, from 1.
    pub update: u64,
    /// Norm of the gradients of all tensors, after they were clipped.
    pub grad_norm: f64,
}

/// Values that one parallel task updates.
pub(crate) const CHUNK: usize = 1 << 14;
