//! A memory plan with everything that convolutions precompute.

use std::ops::Range;

use super::conv::Convolution;
use crate::memory::MemoryPlan;
use crate::model::{Op, TensorId};

/// A memory plan with the tables of its convolutions.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) plan: MemoryPlan,
    /// The tables of each operation; `None` if it is not a convolution.
    convolutions: Vec<Option<Convolution>>,
}

impl Program {
    pub(super) fn new(plan: MemoryPlan) -> Self {
        let table = |op: &Op| match op {
            Op::Conv { conv, x, .. } => Some(Convolution::new(*conv, plan.gradients[*x].is_some())),
            _ => None,
        };
        Self { convolutions: plan.graph.ops.iter().map(table).collect(), plan }
    }

    /// Range in the arena of the values of the first `samples` samples of a tensor.
    pub(super) fn value(&self, tensor: TensorId, samples: usize) -> Range<usize> {
        let start = self.plan.values[tensor].start;
        start..start + self.plan.graph.tensors[tensor].elements() * samples
    }

    /// Range in the arena of the gradients of the first `samples` samples of a tensor.
    pub(super) fn gradient(&self, tensor: TensorId, samples: usize) -> Range<usize> {
        let start = self.plan.gradients[tensor].as_ref().expect("planned").start;
        start..start + self.plan.graph.tensors[tensor].elements() * samples
    }

    pub(super) fn convolution(&self, op: usize) -> &Convolution {
        self.convolutions[op].as_ref().expect("the operation is a convolution")
    }

    /// Length of the scratch that the backward pass of any convolution needs.
    pub(super) fn conv_scratch_len(&self, samples: usize) -> usize {
        let convolutions = self.convolutions.iter().flatten();
        let len = |c: &Convolution| c.transposed_len().max(c.partial_len(samples));
        convolutions.map(len).max().unwrap_or(0)
    }
}
