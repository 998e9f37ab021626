//! Engines: the ways in which a graph can be computed, which differ in rounding, workspace and what they support.
//!
//! The same method has another number in each direction, as cuDNN's engines have.

use std::sync::Arc;

use super::descriptor::{Descriptor, Value, Values};
use super::device::Device;
use super::methods::{Method, SPLIT_K, methods};
use super::names::{self as n, Type, kind};
use super::operation::Convolve;
use super::operation_graph::Graph;
use super::pattern::Pattern;
use super::tensor::{FLOAT, HALF, number};
use super::values::{child, int, required};
use crate::dnn::algorithm::Pass;
use crate::dnn::problem::Shape;
use crate::dnn::{Answer, Status, wrong};

/// `CUDNN_LAYOUT_TYPE_PREFERRED_NHWC`.
const PREFERRED_NHWC: u32 = 1;

/// An engine for a graph.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    pub(super) graph: Arc<Graph>,
    pub(super) device: Device,
    /// The index of the method among those for the pattern of the graph.
    pub(super) method: usize,
}

/// The number of the first method for a pattern.
fn shift(pattern: &Pattern) -> usize {
    let pass = match pattern {
        Pattern::Convolution(convolve) => convolve.pass,
        Pattern::Fused(fused) => fused.convolve.pass,
        Pattern::Unknown => return 0,
    };
    match pass {
        Pass::Forward => 0,
        Pass::BackwardData => 4,
        Pass::BackwardFilter => 7,
    }
}

impl Engine {
    pub(super) fn new(values: &mut Values) -> Answer<Self> {
        let graph: Arc<Graph> = required(values, n::ENGINE_OPERATION_GRAPH)?;
        let index = int(values, n::ENGINE_GLOBAL_INDEX).unwrap_or(-1);
        let pattern = graph.pattern();
        let count = methods(&pattern).len();
        let Some(index) = usize::try_from(index).ok().filter(|index| *index < count) else {
            return wrong(Status::NOT_SUPPORTED, format!("no engine {index} for this graph"));
        };
        let described = child::<Device>(values, n::ENGINE_DEVICEPROP)?;
        let Some(device) = described.map(|device| *device).or(graph.device) else {
            let what = "an engine for no device: set the handle of the graph";
            return wrong(Status::ARCH_MISMATCH, what);
        };
        let method = (index + count - shift(&pattern) % count) % count;
        let engine = Self { graph, device, method };
        values.extend(engine.notes());
        Ok(engine)
    }

    /// The engine as a descriptor, with the number that it has for its graph.
    pub(super) fn describe(self, graph: &Descriptor) -> Descriptor {
        let pattern = self.graph.pattern();
        let index = (self.method + shift(&pattern)) % methods(&pattern).len().max(1);
        let mut values = self.notes();
        values.insert(n::ENGINE_OPERATION_GRAPH, Value::Children(vec![graph.clone()]));
        let index = Value::ints(&[i64::try_from(index).unwrap_or(0)]);
        values.insert(n::ENGINE_GLOBAL_INDEX, index);
        Descriptor::made(kind::ENGINE, values, Arc::new(self))
    }

    pub(super) fn method(&self) -> &'static Method {
        &methods(&self.graph.pattern())[self.method]
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
            Descriptor::made(kind::KNOB_INFO, values, Arc::new(()))
        });
        let layouts = self.graph.tensors.keys().map(|uid| {
            let values = Values::from([
                (n::LAYOUT_INFO_TENSOR_UID, Value::ints(&[*uid])),
                (n::LAYOUT_INFO_TYPES, Value::numbers(Type::LAYOUT_TYPE, &[PREFERRED_NHWC])),
            ]);
            Descriptor::made(kind::LAYOUT_INFO, values, Arc::new(()))
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
        let convolve = match self.graph.pattern() {
            Pattern::Convolution(convolve) => convolve,
            Pattern::Fused(fused) => {
                if let Some(why) = fused.refused() {
                    return Err(why.to_owned());
                }
                fused.convolve
            }
            Pattern::Unknown => return Err("no engine computes this graph".to_owned()),
        };
        let shape = supported(&convolve, self.device.capability)?;
        let method = self.method();
        for (type_, value) in knobs {
            let known = method.knobs.iter().find(|known| known.type_ == *type_);
            if !known.is_some_and(|known| (known.range[0]..=known.range[1]).contains(value)) {
                return Err(format!("the engine has no knob {type_} with the value {value}"));
            }
        }
        let Some(bytes) = method.workspace(&convolve, &shape) else {
            return Err("the engine does not support these sizes or types".to_owned());
        };
        let split =
            knobs.iter().find(|(type_, _)| *type_ == SPLIT_K).map_or(1, |(_, value)| *value);
        let split = usize::try_from(split).unwrap_or(1);
        Ok(bytes * split)
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
