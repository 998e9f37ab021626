//! What a finalized descriptor means.

use std::sync::Arc;

use super::descriptor::Values;
use super::device::Device;
use super::engine::Engine;
use super::execute::Pack;
use super::graph::Graph;
use super::heuristics;
use super::names::kind;
use super::operation::{Convolution, Convolve, Operation};
use super::plan::{Config, KnobChoice, Plan};
use super::tensor::Tensor;
use crate::dnn::{Answer, Status, wrong};

#[derive(Clone, Debug)]
pub(super) enum Body {
    Tensor(Arc<Tensor>),
    Convolution(Arc<Convolution>),
    Operation(Arc<Operation>),
    Graph(Arc<Graph>),
    Engine(Arc<Engine>),
    Config(Arc<Config>),
    Plan(Arc<Plan>),
    Pack(Arc<Pack>),
    KnobChoice(KnobChoice),
    Device(Device),
    /// Everything about the descriptor is in its values.
    Values,
}

macro_rules! pick {
    ($($name:ident: $variant:ident($type:ty);)*) => {$(
        pub(super) fn $name(&self) -> Option<$type> {
            match self {
                Self::$variant(found) => Some(found.clone()),
                _ => None,
            }
        }
    )*};
}

impl Body {
    pick! {
        tensor: Tensor(Arc<Tensor>);
        convolution: Convolution(Arc<Convolution>);
        operation: Operation(Arc<Operation>);
        graph: Graph(Arc<Graph>);
        engine: Engine(Arc<Engine>);
        config: Config(Arc<Config>);
        plan: Plan(Arc<Plan>);
        pack: Pack(Arc<Pack>);
        knob_choice: KnobChoice(KnobChoice);
        device: Device(Device);
    }

    /// Checks the values of a descriptor. Attributes that can only be read are added to them.
    pub(super) fn new(of: u32, values: &mut Values) -> Answer<Self> {
        Ok(match of {
            kind::TENSOR => Self::Tensor(Arc::new(Tensor::new(values)?)),
            kind::CONVOLUTION => Self::Convolution(Arc::new(Convolution::new(values)?)),
            kind::FORWARD | kind::BACKWARD_DATA | kind::BACKWARD_FILTER => {
                Self::Operation(Arc::new(Operation::Convolution(Convolve::new(of, values)?)))
            }
            kind::GRAPH => Self::Graph(Arc::new(Graph::new(values)?)),
            kind::ENGINE => Self::Engine(Arc::new(Engine::new(values)?)),
            kind::ENGINE_CONFIG => Self::Config(Arc::new(Config::new(values)?)),
            kind::HEURISTICS => {
                heuristics::propose(values)?;
                Self::Values
            }
            kind::PLAN => Self::Plan(Arc::new(Plan::new(values)?)),
            kind::VARIANT_PACK => Self::Pack(Arc::new(Pack::new(values)?)),
            kind::KNOB_CHOICE => Self::KnobChoice(KnobChoice::new(values)),
            kind::DEVICE => Self::Device(Device::new(values)?),
            other => {
                let what =
                    format!("a descriptor of kind {other} is finalized, which the library does");
                return wrong(Status::BAD_PARAM, what);
            }
        })
    }
}
