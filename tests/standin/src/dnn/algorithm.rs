//! The algorithms of each pass: which there are, and what they need.

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

/// The sizes are made up, but those of one pass or shape do not do for another.
const FORWARD: [Algorithm; 2] = [
    // IMPLICIT_PRECOMP_GEMM: indices of the taps.
    Algorithm { number: 1, deterministic: true, workspace: |shape| shape.taps() * 4 },
    // IMPLICIT_GEMM.
    Algorithm { number: 0, deterministic: true, workspace: |_| 0 },
];

const BACKWARD_DATA: [Algorithm; 2] = [
    // 0: atomic adds.
    Algorithm { number: 0, deterministic: false, workspace: |_| 0 },
    // 1.
    Algorithm {
        number: 1,
        deterministic: true,
        workspace: |shape| shape.k * shape.filter[0] * shape.filter[1] * 4,
    },
];

const BACKWARD_FILTER: [Algorithm; 3] = [
    // 3: atomic adds, with indices.
    Algorithm { number: 3, deterministic: false, workspace: |shape| shape.pixels() * 4 },
    // 1: sums of parts.
    Algorithm { number: 1, deterministic: true, workspace: |shape| shape.taps() * shape.k * 4 },
    // 0: atomic adds.
    Algorithm { number: 0, deterministic: false, workspace: |_| 0 },
];

impl Pass {
    /// Fastest first, as Find and Get would have it.
    pub(super) fn algorithms(self) -> &'static [Algorithm] {
        match self {
            Self::Forward => &FORWARD,
            Self::BackwardData => &BACKWARD_DATA,
            Self::BackwardFilter => &BACKWARD_FILTER,
        }
    }

    /// How many numbers there are, those that are not supported included.
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
