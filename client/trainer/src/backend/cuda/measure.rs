//! What measurements of single operations need of the backend.

use std::ops::Range;

use forebay::gpu::{Gpu, Lane};

use super::CudaBackend;
use crate::model::TensorId;

impl CudaBackend {
    pub(crate) const fn device(&self) -> &Gpu {
        &self.config.device
    }

    /// The lane that does all work of a step.
    pub(crate) fn lane(&self) -> &Lane {
        &self.lane
    }

    /// The parts of the lane's memory that the backward of an operation both reads and writes: the gradient of its result, in
    /// which norms work, and that of its input if it is added to.
    pub(crate) fn overwritten_backward(&self, op: usize) -> Vec<Range<usize>> {
        let (x, y) = self.training.graph.ops[op].tensors();
        let part = |tensor: TensorId| {
            let (start, bytes) = (self.memory.arena.start, self.config.precision.bytes());
            let values = self.training.gradients[tensor].as_ref()?;
            Some(start + values.start * bytes..start + values.end * bytes)
        };
        [Some(y), Some(x).filter(|_| self.training.adds[op])]
            .into_iter()
            .flatten()
            .filter_map(part)
            .collect()
    }
}
