//! Engines: the ways in which a graph can be computed, which differ in rounding, workspace and what they support.
//!
//! All of them are inventions, with the properties that cuDNN's engines have: the same engine has another number in each direction,
//! notes say how it computes, a knob changes its workspace and the order of its sums, and some refuse a graph only when its plan is
//! made.

use std::sync::Arc;

use super::body::Body;
use super::descriptor::{Descriptor, Value, Values};
use super::device::Device;
use super::graph::{Graph, Pattern};
use super::names::{self as n, Type, kind};
use super::operation::Convolve;
use super::tensor::{FLOAT, HALF, number};
use super::values::{child, int, required};
use crate::dnn::algorithm::Pass;
use crate::dnn::problem::Shape;
use crate::dnn::{Answer, Status, wrong};

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
/// `CUDNN_LAYOUT_TYPE_PREFERRED_NHWC`.
const PREFERRED_NHWC: u32 = 1;

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
    behavior: &'static [u32],
    pub(super) knobs: &'static [Knob],
    pub(super) inputs: Inputs,
    pub(super) order: usize,
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
    Method { notes, behavior: &[], knobs: &[], inputs, order, workspace, supports }
}

/// The engines of a convolution. The comments say what a caller may get wrong.
pub(super) static METHODS: [Method; 9] = [
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

/// 16 bytes of channels, as tensor cores want them.
fn aligned_channels(convolve: &Convolve, shape: &Shape) -> bool {
    let together = if convolve.x.data_type == FLOAT { 4 } else { 8 };
    shape.c.is_multiple_of(together) && shape.k.is_multiple_of(together)
}

/// An engine for a graph.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    pub(super) graph: Arc<Graph>,
    pub(super) device: Device,
    /// The method, as an index of [`METHODS`].
    pub(super) method: usize,
}

fn shift(pattern: &Pattern) -> Option<usize> {
    match pattern {
        Pattern::Convolution(convolve) => Some(match convolve.pass {
            Pass::Forward => 0,
            Pass::BackwardData => 4,
            Pass::BackwardFilter => 7,
        }),
        Pattern::Unknown => None,
    }
}

/// The number of engines for a pattern.
pub(super) fn count(pattern: &Pattern) -> i64 {
    if shift(pattern).is_some() { i64::try_from(METHODS.len()).unwrap_or(0) } else { 0 }
}

impl Engine {
    pub(super) fn new(values: &mut Values) -> Answer<Self> {
        let graph = required(values, n::ENGINE_OPERATION_GRAPH, Body::graph)?;
        let index = int(values, n::ENGINE_GLOBAL_INDEX).unwrap_or(-1);
        let pattern = graph.pattern();
        let known = shift(&pattern).zip(usize::try_from(index).ok());
        let Some((shift, index)) = known.filter(|(_, index)| *index < METHODS.len()) else {
            return wrong(Status::NOT_SUPPORTED, format!("no engine {index} for this graph"));
        };
        let described = child(values, n::ENGINE_DEVICEPROP, Body::device)?;
        let Some(device) = described.or(graph.device) else {
            let what = "an engine for no device: set the handle of the graph";
            return wrong(Status::ARCH_MISMATCH, what);
        };
        let method = (index + METHODS.len() - shift) % METHODS.len();
        let engine = Self { graph, device, method };
        values.extend(engine.notes());
        Ok(engine)
    }

    /// The engine as a descriptor, with the number that it has for its graph.
    pub(super) fn describe(self, graph: &Descriptor) -> Descriptor {
        let shift = shift(&self.graph.pattern()).unwrap_or(0);
        let index = (self.method + shift) % METHODS.len();
        let mut values = self.notes();
        values.insert(n::ENGINE_OPERATION_GRAPH, Value::Children(vec![graph.clone()]));
        let index = Value::ints(&[i64::try_from(index).unwrap_or(0)]);
        values.insert(n::ENGINE_GLOBAL_INDEX, index);
        Descriptor::made(kind::ENGINE, values, Body::Engine(Arc::new(self)))
    }

    pub(super) fn method(&self) -> &'static Method {
        &METHODS[self.method]
    }

    /// The attributes that can only be read.
    fn notes(&self) -> Values {
        let method = self.method();
        let knobs = method.knobs.iter().map(|knob| {
            let values = Values::from([
                (n::KNOB_INFO_TYPE, Value::numbers(Type::KNOB_TYPE, &[knob.type_])),
                (n::KNOB_INFO_MINIMUM_VALUE, Value::ints(&knob.range[..1])),
                (n::KNOB_INFO_MAXIMUM_VALUE, Value::ints(&knob.range[1..])),
                (n::KNOB_INFO_STRIDE, Value::ints(&[1])),
            ]);
            Descriptor::made(kind::KNOB_INFO, values, Body::Values)
        });
        let layouts = self.graph.tensors.keys().map(|uid| {
            let values = Values::from([
                (n::LAYOUT_INFO_TENSOR_UID, Value::ints(&[*uid])),
                (n::LAYOUT_INFO_TYPES, Value::numbers(Type::LAYOUT_TYPE, &[PREFERRED_NHWC])),
            ]);
            Descriptor::made(kind::LAYOUT_INFO, values, Body::Values)
        });
        Values::from([
            (n::ENGINE_KNOB_INFO, Value::Children(knobs.collect())),
            (n::ENGINE_LAYOUT_INFO, Value::Children(layouts.collect())),
            (n::ENGINE_NUMERICAL_NOTE, Value::numbers(Type::NUMERICAL_NOTE, method.notes)),
            (n::ENGINE_BEHAVIOR_NOTE, Value::numbers(Type::BEHAVIOR_NOTE, method.behavior)),
        ])
    }

    /// The bytes of workspace with these values of knobs, or why the engine does not support its graph.
    pub(super) fn workspace(&self, knobs: &[(u32, i64)]) -> Result<usize, String> {
        let Pattern::Convolution(convolve) = self.graph.pattern() else {
            return Err("no engine computes this graph".to_owned());
        };
        let shape = supported(&convolve, self.device.capability)?;
        let method = self.method();
        for (type_, value) in knobs {
            let known = method.knobs.iter().find(|known| known.type_ == *type_);
            if !known.is_some_and(|known| (known.range[0]..=known.range[1]).contains(value)) {
                return Err(format!("the engine has no knob {type_} with the value {value}"));
            }
        }
        if !(method.supports)(&convolve, &shape) {
            return Err("the engine does not support these sizes or types".to_owned());
        }
        let split =
            knobs.iter().find(|(type_, _)| *type_ == SPLIT_K).map_or(1, |(_, value)| *value);
        let split = usize::try_from(split).unwrap_or(1);
        Ok((method.workspace)(&shape, convolve.pass) * split)
    }
}

/// The shape, if engines exist for these types, layouts and alignments.
fn supported(convolve: &Convolve, capability: (i32, i32)) -> Result<Shape, String> {
    let tensors = [&convolve.x, &convolve.w, &convolve.y];
    let data_type = convolve.x.data_type;
    if number(data_type).is_none() || tensors.iter().any(|tensor| tensor.data_type != data_type) {
        return Err("x, w and y are not all f32, all f16 or all bf16".to_owned());
    }
    if convolve.geometry.sums != FLOAT {
        return Err("sums in a type other than f32".to_owned());
    }
    if data_type != FLOAT && data_type != HALF && capability < (8, 0) {
        return Err("bf16 below compute capability 8.0".to_owned());
    }
    if tensors.iter().any(|tensor| !tensor.is_channels_last()) {
        return Err("x, w or y is not packed with the channels last".to_owned());
    }
    if tensors.iter().any(|tensor| tensor.alignment < 16) {
        return Err("x, w or y is not aligned to 16 bytes".to_owned());
    }
    convolve.shape()
}
