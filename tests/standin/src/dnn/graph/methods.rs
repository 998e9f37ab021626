//! The ways in which engines compute.
//!
//! All of them are inventions, with the properties that cuDNN's engines have: notes say how an engine computes, a knob changes its
//! workspace and the order of its sums, and some refuse a graph only when its plan is made.

use super::operation::Convolve;
use super::pattern::Pattern;
use super::tensor::{FLOAT, HALF};
use crate::dnn::algorithm::Pass;
use crate::dnn::problem::Shape;

/// `cudnnBackendNumericalNote_t`.
pub(super) mod note {
    pub(in super::super) const TENSOR_CORE: u32 = 0;
    pub(in super::super) const DOWN_CONVERT_INPUTS: u32 = 1;
    pub(in super::super) const NONDETERMINISTIC: u32 = 4;
    pub(in super::super) const WINOGRAD: u32 = 5;
    pub(in super::super) const STRICT_NAN_PROP: u32 = 9;
}

/// `CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION`.
const RUNTIME_COMPILATION: u32 = 0;
/// `CUDNN_KNOB_TYPE_SPLIT_K` and `CUDNN_KNOB_TYPE_TILE_SIZE`.
pub(super) const SPLIT_K: u32 = 0;
pub(super) const TILE_SIZE: u32 = 2;
/// How an engine rounds its inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inputs {
    /// f32 keeps its bits.
    Exact,
    /// f32 is rounded to TF32, as tensor cores do.
    Tf32,
    /// f32 is rounded to bf16.
    Bf16,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Knob {
    pub(super) type_: u32,
    pub(super) range: [i64; 2],
}

/// A kind of engine. `order` is the length of the blocks in which sums are computed; 0 stands for another one in each run.
#[derive(Debug)]
pub(super) struct Method {
    pub(super) notes: &'static [u32],
    pub(super) behavior: &'static [u32],
    pub(super) knobs: &'static [Knob],
    pub(super) inputs: Inputs,
    pub(super) order: usize,
    /// Whether the results of all operations are rounded to the types of their tensors, or only those in memory. The header does not
    /// say which, so that statistics may be those of a convolution before or after its rounding.
    pub(super) rounds: bool,
    workspace: fn(&Shape, Pass) -> usize,
    supports: fn(&Convolve, &Shape) -> bool,
}

const fn method(
    notes: &'static [u32],
    inputs: Inputs,
    order: usize,
    workspace: fn(&Shape, Pass) -> usize,
    supports: fn(&Convolve, &Shape) -> bool,
) -> Method {
    Method { notes, behavior: &[], knobs: &[], inputs, order, rounds: true, workspace, supports }
}

/// The engines of a convolution. The comments say what a caller may get wrong.
static PLAIN: [Method; 9] = [
    // The slowest: everything is exact, and everything is supported.
    method(&[note::STRICT_NAN_PROP], Inputs::Exact, 512, |_, _| 0, |_, _| true),
    // The usual one: it needs aligned channels, and knobs change its workspace.
    Method {
        knobs: &[Knob { type_: TILE_SIZE, range: [0, 3] }, Knob { type_: SPLIT_K, range: [1, 8] }],
        ..method(&[note::TENSOR_CORE], Inputs::Tf32, 256, partial_sums, aligned_channels)
    },
    // The fastest, whose sums have no fixed order.
    method(
        &[note::TENSOR_CORE, note::NONDETERMINISTIC],
        Inputs::Tf32,
        0,
        |_, _| 0,
        aligned_channels,
    ),
    // Fast for f32, with inputs of half the precision.
    method(
        &[note::TENSOR_CORE, note::DOWN_CONVERT_INPUTS],
        Inputs::Bf16,
        128,
        |shape, _| (shape.n * shape.input[0] * shape.input[1] + shape.k) * shape.c * 2 + 131,
        |convolve, _| convolve.x.data_type == FLOAT,
    ),
    // Any channels, by a copy with more of them, which is large.
    method(&[note::TENSOR_CORE], Inputs::Tf32, 192, padded_copy, |_, _| true),
    // Only filters of 3x3 that move by one pixel.
    method(
        &[note::TENSOR_CORE, note::WINOGRAD],
        Inputs::Tf32,
        64,
        |shape, _| shape.k * shape.c * 64 + 40,
        |_, shape| shape.filter == [3, 3] && shape.stride == [1, 1],
    ),
    // The heuristics propose it, but it has no plans.
    method(&[note::TENSOR_CORE], Inputs::Tf32, 256, |_, _| 0, |_, _| false),
    // Compiled when its plan is made.
    Method {
        behavior: &[RUNTIME_COMPILATION],
        ..method(
            &[note::TENSOR_CORE],
            Inputs::Tf32,
            96,
            |shape, _| shape.taps() * 4 + 3,
            aligned_channels,
        )
    },
    // Not for this kind of GPU.
    method(&[], Inputs::Exact, 256, |_, _| 0, |_, _| false),
];

/// The engines of fused convolutions, which are of halves.
static FUSED: [Method; 7] = [
    // Not for this kind of GPU.
    method(&[], Inputs::Exact, 256, |_, _| 0, |_, _| false),
    // Without notes; the statistics are those of values before they are rounded.
    Method {
        rounds: false,
        ..method(&[], Inputs::Exact, 128, |shape, _| shape.k * 8 + 16, aligned_halves)
    },
    // The fastest, whose sums have no fixed order.
    method(&[note::NONDETERMINISTIC], Inputs::Exact, 0, |_, _| 0, aligned_halves),
    // The statistics are those of the rounded values, and knobs change its workspace.
    Method {
        knobs: &[Knob { type_: TILE_SIZE, range: [0, 3] }, Knob { type_: SPLIT_K, range: [1, 8] }],
        ..method(&[], Inputs::Exact, 256, partial_sums, aligned_halves)
    },
    // Compiled when its plan is made, also for bf16.
    Method {
        behavior: &[RUNTIME_COMPILATION],
        ..method(
            &[note::TENSOR_CORE],
            Inputs::Exact,
            96,
            |shape, _| shape.taps() * 4 + 3,
            aligned_channels,
        )
    },
    method(&[], Inputs::Exact, 64, |_, _| 0, |_, _| false),
    // The heuristics propose it, but it has no plans.
    method(&[], Inputs::Exact, 256, |_, _| 0, |_, _| false),
];

/// The methods for a pattern, none if no engine computes it.
pub(super) fn methods(pattern: &Pattern) -> &'static [Method] {
    match pattern {
        Pattern::Convolution(_) => &PLAIN,
        Pattern::Fused(_) => &FUSED,
        Pattern::Unknown => &[],
    }
}

/// The number of the method that is proposed and has no plans.
pub(super) const WITHOUT_PLANS: usize = 6;

fn partial_sums(shape: &Shape, pass: Pass) -> usize {
    let outputs = match pass {
        Pass::Forward => shape.k,
        Pass::BackwardData => shape.c,
        Pass::BackwardFilter => shape.k * shape.filter[0] * shape.filter[1],
    };
    outputs * 8 + 16
}

fn padded_copy(shape: &Shape, pass: Pass) -> usize {
    let pixels = match pass {
        Pass::Forward | Pass::BackwardFilter => shape.n * shape.input[0] * shape.input[1],
        Pass::BackwardData => shape.pixels(),
    };
    pixels * shape.c.next_multiple_of(8) * 2 + 400
}

fn aligned_halves(convolve: &Convolve, shape: &Shape) -> bool {
    convolve.x.data_type == HALF && aligned_channels(convolve, shape)
}

/// 16 bytes of channels, as tensor cores want them.
fn aligned_channels(convolve: &Convolve, shape: &Shape) -> bool {
    let together = if convolve.x.data_type == FLOAT { 4 } else { 8 };
    shape.c.is_multiple_of(together) && shape.k.is_multiple_of(together)
}

impl Method {
    /// The bytes of workspace, if the method supports these types and sizes.
    pub(super) fn workspace(&self, convolve: &Convolve, shape: &Shape) -> Option<usize> {
        (self.supports)(convolve, shape).then(|| (self.workspace)(shape, convolve.pass))
    }
}
