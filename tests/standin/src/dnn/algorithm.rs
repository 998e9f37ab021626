//! The algorithms of each pass, and their workspaces.

use super::geometry::{ALLOW_CONVERSION, DEFAULT_MATH, FMA_MATH, TENSOR_OP_MATH};
use super::problem::{Problem, Shape};
use super::{Answer, Status, wrong};
use crate::number::Number;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    Forward,
    BackwardData,
    BackwardFilter,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Algorithm {
    pub(super) number: u32,
    pub(super) deterministic: bool,
    workspace: fn(&Shape) -> usize,
}

impl Algorithm {
    /// The bytes of workspace with the math type of the convolution's descriptor, which belong to both: on tensor cores the smaller
    /// operands are copied, and conversions need room for the converted values.
    pub(super) fn workspace(&self, problem: &Problem) -> usize {
        let own = (self.workspace)(&problem.shape).next_multiple_of(256);
        let shape = &problem.shape;
        let copies = match problem.math {
            TENSOR_OP_MATH => shape.k * shape.taps() * 2,
            ALLOW_CONVERSION => shape.k * shape.taps() * 2 + shape.pixels() * 4,
            _ => 0,
        };
        own + copies.next_multiple_of(256)
    }

    /// The math types of its entries in the results of Find and Get, from the fastest on: those that the descriptor allows, and
    /// default math. Tensor cores are not always the fastest.
    pub(super) fn math_types(&self, problem: &Problem) -> &'static [u32] {
        match (problem.number, problem.math) {
            (_, FMA_MATH) => &[FMA_MATH],
            _ if !problem.tensor_cores => &[DEFAULT_MATH],
            (Number::F32, ALLOW_CONVERSION) => &[ALLOW_CONVERSION, DEFAULT_MATH],
            (Number::F32, _) => &[DEFAULT_MATH, FMA_MATH],
            _ if self.deterministic && self.number == 1 => &[DEFAULT_MATH, TENSOR_OP_MATH],
            _ => &[TENSOR_OP_MATH, DEFAULT_MATH],
        }
    }
}

/// The sizes are invented, but they differ between passes, shapes and math types, so that the size of one is wrong for another.
const FORWARD: [Algorithm; 2] = [
    // IMPLICIT_PRECOMP_GEMM stores the indices of the taps.
    Algorithm { number: 1, deterministic: true, workspace: |shape| shape.taps() * 4 },
    // IMPLICIT_GEMM needs none.
    Algorithm { number: 0, deterministic: true, workspace: |_| 0 },
];

const BACKWARD_DATA: [Algorithm; 2] = [
    // Algorithm 0 uses atomic adds.
    Algorithm { number: 0, deterministic: false, workspace: |_| 0 },
    // Algorithm 1.
    Algorithm {
        number: 1,
        deterministic: true,
        workspace: |shape| shape.k * shape.filter[0] * shape.filter[1] * 4,
    },
];

const BACKWARD_FILTER: [Algorithm; 3] = [
    // Algorithm 3 uses atomic adds, with indices.
    Algorithm { number: 3, deterministic: false, workspace: |shape| shape.pixels() * 4 },
    // Algorithm 1 adds partial sums.
    Algorithm { number: 1, deterministic: true, workspace: |shape| shape.taps() * shape.k * 4 },
    // Algorithm 0 uses atomic adds.
    Algorithm { number: 0, deterministic: false, workspace: |_| 0 },
];

impl Pass {
    /// All algorithms, from the fastest on, as Find and Get return them.
    pub(super) fn algorithms(self) -> &'static [Algorithm] {
        match self {
            Self::Forward => &FORWARD,
            Self::BackwardData => &BACKWARD_DATA,
            Self::BackwardFilter => &BACKWARD_FILTER,
        }
    }

    /// The count of algorithm numbers, including those that are not supported.
    pub(super) fn count(self) -> u32 {
        match self {
            Self::Forward => 8,
            Self::BackwardData => 6,
            Self::BackwardFilter => 7,
        }
    }

    pub(super) fn algorithm(self, number: u32) -> Answer<Algorithm> {
        match self.algorithms().iter().find(|algorithm| algorithm.number == number) {
            Some(found) => Ok(*found),
            None if number < self.count() => {
                wrong(Status::NOT_SUPPORTED, format!("{self:?} has no algorithm {number} here"))
            }
            None => wrong(Status::BAD_PARAM, format!("{self:?}: algorithm {number}")),
        }
    }
}
