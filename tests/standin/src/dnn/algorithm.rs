//! The algorithms of each pass, and their workspaces.

use super::problem::{Problem, Shape};
use super::{Answer, Status, wrong};

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
    pub(super) fn workspace(&self, problem: &Problem) -> usize {
        (self.workspace)(&problem.shape).next_multiple_of(256)
    }
}

/// The sizes are invented, but they differ between passes and shapes, so that the size of one is wrong for another.
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
