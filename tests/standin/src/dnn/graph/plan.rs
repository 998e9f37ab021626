//! Engine configurations (an engine and the values of its knobs) and execution plans.

use std::sync::Arc;

use super::descriptor::{Descriptor, Value, Values};
use super::device::Device;
use super::engine::Engine;
use super::methods::{SPLIT_K, TILE_SIZE};
use super::names::{self as n, Type, kind};
use super::values::{child, children, enumerator, handle, int, required};
use crate::api::counts::refuses_plans;
use crate::dnn::{Answer, Status, wrong};

#[derive(Clone, Copy, Debug)]
pub(super) struct KnobChoice {
    pub(super) type_: u32,
    pub(super) value: i64,
}

impl KnobChoice {
    pub(super) fn new(values: &Values) -> Self {
        let value = int(values, n::KNOB_CHOICE_KNOB_VALUE).unwrap_or(0);
        Self { type_: enumerator(values, n::KNOB_CHOICE_KNOB_TYPE), value }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) engine: Arc<Engine>,
    pub(super) knobs: Vec<(u32, i64)>,
}

impl Config {
    pub(super) fn new(values: &mut Values) -> Answer<Self> {
        let engine: Arc<Engine> = required(values, n::ENGINECFG_ENGINE)?;
        let mut knobs: Vec<(u32, i64)> = Vec::new();
        for choice in children(values, n::ENGINECFG_KNOB_CHOICES) {
            let Some(choice) = choice.is::<KnobChoice>() else {
                return wrong(Status::BAD_PARAM, "a knob choice is another descriptor");
            };
            if knobs.iter().any(|(known, _)| *known == choice.type_) {
                return wrong(Status::BAD_PARAM, format!("knob {} is set twice", choice.type_));
            }
            knobs.push((choice.type_, choice.value));
        }
        let config = Self { engine, knobs };
        let bytes = config.workspace()?;
        values.insert(n::ENGINECFG_WORKSPACE_SIZE, bytes_of(bytes));
        Ok(config)
    }

    /// A proposal of the heuristics, as a descriptor. It may have no plan.
    pub(super) fn describe(self, graph: &Descriptor) -> Descriptor {
        let engine = (*self.engine).clone().describe(graph);
        let choices = self.knobs.iter().map(|(type_, value)| {
            let values = Values::from([
                (n::KNOB_CHOICE_KNOB_TYPE, Value::numbers(Type::KNOB_TYPE, &[*type_])),
                (n::KNOB_CHOICE_KNOB_VALUE, Value::ints(&[*value])),
            ]);
            let choice = KnobChoice { type_: *type_, value: *value };
            Descriptor::made(kind::KNOB_CHOICE, values, Arc::new(choice))
        });
        let bytes = self.engine.workspace(&self.knobs).unwrap_or(0);
        let values = Values::from([
            (n::ENGINECFG_ENGINE, Value::Children(vec![engine])),
            (n::ENGINECFG_KNOB_CHOICES, Value::Children(choices.collect())),
            (n::ENGINECFG_WORKSPACE_SIZE, bytes_of(bytes)),
        ]);
        Descriptor::made(kind::ENGINE_CONFIG, values, Arc::new(self))
    }

    fn workspace(&self) -> Answer<usize> {
        self.engine.workspace(&self.knobs).or_else(|why| wrong(Status::NOT_SUPPORTED, why))
    }

    /// The length of the blocks in which sums are computed, which the knobs change. `None` for another one in each run.
    pub(super) fn order(&self) -> Option<usize> {
        let knob = |type_, otherwise| {
            let found = self.knobs.iter().find(|(known, _)| *known == type_);
            found.and_then(|(_, value)| usize::try_from(*value).ok()).unwrap_or(otherwise)
        };
        match self.engine.method().order {
            0 => None,
            order => Some(((order >> knob(TILE_SIZE, 0)) / knob(SPLIT_K, 1)).max(1)),
        }
    }
}

fn bytes_of(bytes: usize) -> Value {
    Value::ints(&[i64::try_from(bytes).unwrap_or(i64::MAX)])
}

#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) config: Arc<Config>,
    pub(super) workspace: usize,
    pub(super) device: Device,
}

impl Plan {
    pub(super) fn new(values: &mut Values) -> Answer<Self> {
        let config: Arc<Config> = required(values, n::EXECUTION_PLAN_ENGINE_CONFIG)?;
        let device = match handle(values, n::EXECUTION_PLAN_HANDLE) {
            0 => {
                let described = child::<Device>(values, n::EXECUTION_PLAN_DEVICEPROP)?;
                let Some(device) = described else {
                    return wrong(Status::BAD_PARAM, "EXECUTION_PLAN_HANDLE was not set");
                };
                *device
            }
            found => Device::of_handle(found)?,
        };
        if device.capability != config.engine.device.capability {
            let what = "the plan is for another device than its engine";
            return wrong(Status::ARCH_MISMATCH, what);
        }
        if refuses_plans() {
            return wrong(Status::NOT_SUPPORTED, "plans are refused, as a test asked for");
        }
        let workspace = config.workspace()?;
        values.insert(n::EXECUTION_PLAN_WORKSPACE_SIZE, bytes_of(workspace));
        Ok(Self { config, workspace, device })
    }
}
