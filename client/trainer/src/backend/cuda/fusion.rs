//! Batch norms that are fused into the convolutions before and after them.
//!
//! In training, a convolution also sums its output, for the statistics of the norm that reads it. In f16, where a norm with
//! `ReLU` and without residual is read by the next convolution alone, that convolution applies it as well: its output is never
//! stored, though memory for it stays planned, because a microbatch of another size is computed by separate norms.
//!
//! ```text
//!                  separate                               fused
//! forward          conv, sums, finish, apply, conv        conv + sums, statistics, apply + conv + sums
//! backward         conv (filter), conv (data),            apply + conv (filter), conv (data) + mask + weights,
//!                  reduce, gradients, backward            weights, backward
//! ```
//!
//! What cuDNN refuses is computed by separate kernels, norm by norm.

use std::collections::BTreeMap;

use super::config::PassConfig;
use super::conv::{ConvCase, Convolutions, Direction, FusedCase};
use crate::backend::conv_config::Norms;
use crate::backend::precision::Precision;
use crate::memory::MemoryPlan;
use crate::model::Op;

/// What is fused in the graph of a training.
#[derive(Debug)]
pub(super) struct Fusions {
    /// Number of images for which the convolutions are planned.
    images: usize,
    /// One entry for each operation. Empty if nothing is fused.
    ops: Vec<FusedOp>,
}

/// What is fused into an operation, or what it is fused into. The numbers are those of operations.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FusedOp {
    /// For a convolution: the norm before it, which it applies.
    pub(super) applies: Option<usize>,
    /// For a convolution: the norm that reads its output, whose statistics it computes.
    pub(super) measures: Option<usize>,
    /// For a norm: whether the convolution before it computes its statistics.
    pub(super) is_measured: bool,
    /// For a norm: whether the convolution after it applies it.
    pub(super) is_applied: bool,
}

impl Fusions {
    /// Plans all fusions of a training that cuDNN supports.
    pub(super) fn plan(
        (norms, precision): (Norms, Precision),
        plan: &MemoryPlan,
        convolutions: &mut Convolutions,
    ) -> Self {
        let mut fusions = Self { images: plan.batch, ops: Vec::new() };
        if norms == Norms::Separate {
            return fusions;
        }
        let ops = &plan.graph.ops;
        fusions.ops = vec![FusedOp::default(); ops.len()];
        let mut refusals: BTreeMap<String, Vec<FusedCase>> = BTreeMap::new();
        for (index, op) in ops.iter().enumerate() {
            let Op::Conv { conv, y, bias: None, .. } = *op else { continue };
            let reads = |op: &Op| matches!(op, Op::BatchNorm { x, .. } if *x == y);
            let Some(after) = ops.iter().position(reads) else { continue };
            // cuDNN's patterns that apply a norm are of f16.
            let before = norm_before(ops, index).filter(|_| precision == Precision::F16);
            let mut planned = |norm, direction| {
                let case = ConvCase { conv, images: plan.batch, direction };
                let case = FusedCase { case, norm };
                let planned = convolutions.plan_fused(case);
                planned.map_err(|why| refusals.entry(why).or_default().push(case)).is_ok()
            };
            let directions = [
                Direction::Forward,
                Direction::BackwardFilter,
                Direction::BackwardData { adds: false },
            ];
            let applies = before.filter(|_| directions.iter().all(|one| planned(true, *one)));
            if applies.is_none() && !planned(false, Direction::Forward) {
                continue;
            }
            fusions.ops[index] = FusedOp { applies, measures: Some(after), ..fusions.ops[index] };
            fusions.ops[after].is_measured = true;
            if let Some(before) = applies {
                fusions.ops[before].is_applied = true;
            }
        }
        fusions.report(&refusals);
        fusions
    }

    fn report(&self, refusals: &BTreeMap<String, Vec<FusedCase>>) {
        for (refusal, cases) in refusals {
            if let Some(case) = cases.first() {
                tracing::warn!(
                    "cuDNN refuses {} convolutions with norms, which are computed separately. {case}: {refusal}",
                    cases.len()
                );
            }
        }
        let count = |has: fn(&FusedOp) -> bool| self.ops.iter().filter(|op| has(op)).count();
        tracing::info!(
            "norms: {} are applied by convolutions, and the statistics of {} are computed by convolutions",
            count(|op| op.is_applied),
            count(|op| op.is_measured),
        );
    }

    /// What is fused into an operation in this pass.
    pub(super) fn of(&self, index: usize, pass: PassConfig) -> FusedOp {
        let applies = pass.train && pass.samples == self.images;
        self.ops.get(index).filter(|_| applies).copied().unwrap_or_default()
    }
}

/// The norm before a convolution, if it has `ReLU` and no residual, and nothing else reads it.
fn norm_before(ops: &[Op], index: usize) -> Option<usize> {
    let before = index.checked_sub(1)?;
    let Op::BatchNorm { y, relu: true, residual: None, .. } = ops[before] else { return None };
    let is_residual =
        |op: &Op| matches!(op, Op::BatchNorm { residual: Some(residual), .. } if *residual == y);
    let readers = ops.iter().filter(|op| op.tensors().0 == y || is_residual(op)).count();
    (ops[index].tensors().0 == y && readers == 1).then_some(before)
}
