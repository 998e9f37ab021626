//! Graphs of operations, and the patterns that engines support.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::descriptor::{Value, Values};
use super::device::Device;
use super::methods::methods;
use super::names::{self as n, attribute};
use super::operation::Operation;
use super::pattern::Pattern;
use super::tensor::Tensor;
use super::values::{children, handle};
use crate::dnn::{Answer, Status, wrong};

#[derive(Clone, Debug)]
pub(super) struct Graph {
    /// The device of the handle, if one was set.
    pub(super) device: Option<Device>,
    /// The operations, each after those whose outputs it uses.
    pub(super) operations: Vec<Arc<Operation>>,
    pub(super) tensors: BTreeMap<i64, Arc<Tensor>>,
}

impl Graph {
    pub(super) fn new(values: &mut Values) -> Answer<Self> {
        let device = match handle(values, n::OPERATIONGRAPH_HANDLE) {
            0 => None,
            found => Some(Device::of_handle(found)?),
        };
        let mut operations = Vec::new();
        for child in children(values, n::OPERATIONGRAPH_OPS) {
            let Some(operation) = child.is::<Operation>() else {
                let what = format!(
                    "{} has a descriptor of kind {}",
                    attribute(n::OPERATIONGRAPH_OPS),
                    child.kind
                );
                return wrong(Status::BAD_PARAM, what);
            };
            operations.push(operation);
        }
        if operations.is_empty() {
            return wrong(Status::BAD_PARAM, "a graph without operations");
        }
        let tensors = tensors(&operations)?;
        let operations = ordered(operations)?;
        let graph = Self { device, operations, tensors };
        graph.check_virtual()?;
        let count = i64::try_from(methods(&graph.pattern()).len()).unwrap_or(0);
        values.insert(n::OPERATIONGRAPH_ENGINE_GLOBAL_COUNT, Value::ints(&[count]));
        Ok(graph)
    }

    pub(super) fn pattern(&self) -> Pattern {
        Pattern::of(self.operations.iter().map(|one| &**one))
    }

    /// A virtual tensor has no memory: an operation must compute it and another one use it.
    fn check_virtual(&self) -> Answer {
        for tensor in self.tensors.values().filter(|tensor| tensor.is_virtual) {
            let is = |tensors: Vec<(&'static str, &Arc<Tensor>)>| {
                tensors.iter().any(|(_, other)| other.uid == tensor.uid)
            };
            let made = self.operations.iter().any(|operation| is(operation.outputs()));
            let used = self.operations.iter().any(|operation| is(operation.inputs()));
            if !(made && used) {
                let what = format!(
                    "the virtual tensor {} is computed by an operation: {made}, and used by one: {used}",
                    tensor.uid
                );
                return wrong(Status::BAD_PARAM, what);
            }
        }
        Ok(())
    }
}

/// The tensors of the operations by identifier.
fn tensors(operations: &[Arc<Operation>]) -> Answer<BTreeMap<i64, Arc<Tensor>>> {
    let mut tensors: BTreeMap<i64, Arc<Tensor>> = BTreeMap::new();
    for operation in operations {
        for (_, tensor) in operation.inputs().into_iter().chain(operation.outputs()) {
            let known = tensors.entry(tensor.uid).or_insert_with(|| Arc::clone(tensor));
            if known != tensor {
                let what = format!("two different tensors have the identifier {}", tensor.uid);
                return wrong(Status::BAD_PARAM, what);
            }
            if tensor.by_value {
                return wrong(Status::NOT_SUPPORTED, "tensors by value");
            }
        }
    }
    Ok(tensors)
}

/// The operations, each after those whose outputs it uses.
fn ordered(mut left: Vec<Arc<Operation>>) -> Answer<Vec<Arc<Operation>>> {
    let made: Vec<i64> =
        left.iter().flat_map(|one| one.outputs()).map(|(_, made)| made.uid).collect();
    for (at, uid) in made.iter().enumerate() {
        if made[..at].contains(uid) {
            let what = format!("two operations compute the tensor {uid}");
            return wrong(Status::BAD_PARAM, what);
        }
    }
    let mut done: Vec<Arc<Operation>> = Vec::new();
    while !left.is_empty() {
        let waits = |one: &Arc<Operation>| {
            let inputs = one.inputs();
            let mut pending = left.iter().flat_map(|other| other.outputs());
            pending.any(|(_, made)| inputs.iter().any(|(_, input)| input.uid == made.uid))
        };
        let Some(next) = left.iter().position(|one| !waits(one)) else {
            return wrong(Status::BAD_PARAM, "the operations of a graph form a cycle");
        };
        done.push(left.remove(next));
    }
    Ok(done)
}
