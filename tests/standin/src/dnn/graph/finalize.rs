//! Gives a descriptor its meaning.

use std::sync::Arc;

use super::descriptor::{Descriptor, Meaning};
use super::device::Device;
use super::engine::Engine;
use super::execute::Pack;
use super::fused::{Function, Pointwise, Statistics};
use super::heuristics;
use super::names::kind;
use super::norm::NormGradient;
use super::operation::{Convolution, Convolve, Operation};
use super::operation_graph::Graph;
use super::plan::{Config, KnobChoice, Plan};
use super::tensor::Tensor;
use crate::dnn::{Answer, Status, wrong};

/// `cudnnBackendFinalize`. Attributes that can only be read are added to the values.
pub(super) fn finalize(descriptor: &mut Descriptor) -> Answer {
    descriptor.check()?;
    let values = &mut descriptor.values;
    let meaning: Meaning = match descriptor.kind {
        kind::TENSOR => Arc::new(Tensor::new(values)?),
        kind::CONVOLUTION => Arc::new(Convolution::new(values)?),
        kind::FORWARD | kind::BACKWARD_DATA | kind::BACKWARD_FILTER => {
            Arc::new(Operation::Convolution(Convolve::new(descriptor.kind, values)?))
        }
        kind::POINTWISE => Arc::new(Function::new(values)),
        kind::OPERATION_POINTWISE => Arc::new(Operation::Pointwise(Pointwise::new(values)?)),
        kind::GEN_STATS => Arc::new(Operation::Statistics(Statistics::new(values)?)),
        kind::NORM_GRADIENT => Arc::new(Operation::NormGradient(NormGradient::new(values)?)),
        kind::GRAPH => Arc::new(Graph::new(values)?),
        kind::ENGINE => Arc::new(Engine::new(values)?),
        kind::ENGINE_CONFIG => Arc::new(Config::new(values)?),
        kind::HEURISTICS => {
            heuristics::propose(values)?;
            Arc::new(())
        }
        kind::PLAN => Arc::new(Plan::new(values)?),
        kind::VARIANT_PACK => Arc::new(Pack::new(values)?),
        kind::KNOB_CHOICE => Arc::new(KnobChoice::new(values)),
        kind::DEVICE => Arc::new(Device::new(values)?),
        other => {
            let what = format!("a descriptor of kind {other} is finalized, which the library does");
            return wrong(Status::BAD_PARAM, what);
        }
    };
    descriptor.meaning = Some(meaning);
    Ok(())
}
