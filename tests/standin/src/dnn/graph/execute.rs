//! Variant packs, and the execution of a plan: checked at the call and enqueued on the stream of the handle.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::body::Body;
use super::descriptor::{Values, get};
use super::engine::Inputs;
use super::graph::Graph;
use super::names as n;
use super::operation::{Convolve, Operation};
use super::plan::Plan;
use super::tensor::{Tensor, number};
use super::values::{int, ints};
use crate::dnn::algorithm::Pass;
use crate::dnn::arithmetic::{backward_data, backward_filter, forward};
use crate::dnn::handle::{context_of, stream_of};
use crate::dnn::{Answer, Status, wrong};
use crate::engine::{Fault, FaultKind};
use crate::machine::{Machine, inside};
use crate::memory::Operand;
use crate::number::{Number, blend, tf32};

/// The addresses of the tensors of a graph, and of the workspace.
#[derive(Clone, Debug)]
pub(super) struct Pack {
    addresses: BTreeMap<i64, u64>,
    workspace: u64,
}

impl Pack {
    pub(super) fn new(values: &Values) -> Answer<Self> {
        let uids = ints(values, n::VARIANT_PACK_UNIQUE_IDS);
        let pointers = ints(values, n::VARIANT_PACK_DATA_POINTERS);
        if uids.len() != pointers.len() {
            let what = format!("{} identifiers with {} pointers", uids.len(), pointers.len());
            return wrong(Status::BAD_PARAM, what);
        }
        let pairs = uids.iter().copied().zip(pointers.iter().map(|at| at.cast_unsigned()));
        let addresses: BTreeMap<i64, u64> = pairs.collect();
        if addresses.len() != uids.len() {
            return wrong(Status::BAD_PARAM, format!("an identifier twice in {uids:?}"));
        }
        let workspace = int(values, n::VARIANT_PACK_WORKSPACE).unwrap_or(0).cast_unsigned();
        Ok(Self { addresses, workspace })
    }
}

/// A plan with the memory that it uses.
struct Run {
    plan: Arc<Plan>,
    /// The memory of each tensor that is not virtual.
    memory: BTreeMap<i64, Operand>,
    workspace: Operand,
}

/// `cudnnBackendExecute`.
pub(super) fn execute(handle: usize, plan: usize, pack: usize) -> Answer {
    let context = context_of(handle)?;
    let (plan, pack) = (get(plan)?.body, get(pack)?.body);
    let Some(plan) = plan.as_ref().and_then(Body::plan) else {
        return wrong(Status::BAD_PARAM, "the plan is no finalized execution plan");
    };
    let Some(pack) = pack.as_ref().and_then(Body::pack) else {
        return wrong(Status::BAD_PARAM, "the variant pack is no finalized variant pack");
    };
    if plan.device.context != Some(context) {
        return wrong(Status::BAD_PARAM, "the plan was made for another device");
    }
    let run = Run::new(plan, &pack)?;
    inside(|machine| {
        let stream = machine.resolve(stream_of(handle)?)?;
        machine.queue(stream, "cuDNN graph", move |machine: &mut Machine| run.run(machine));
        Ok(())
    })
}

impl Run {
    fn new(plan: Arc<Plan>, pack: &Pack) -> Answer<Self> {
        let graph = Arc::clone(&plan.config.engine.graph);
        let mut memory = BTreeMap::new();
        for (name, tensor) in graph.operations.iter().flat_map(|one| {
            let all: Vec<_> = one.inputs().into_iter().chain(one.outputs()).collect();
            all
        }) {
            if tensor.is_virtual || memory.contains_key(&tensor.uid) {
                continue;
            }
            let Some(address) = pack.addresses.get(&tensor.uid) else {
                let what =
                    format!("the variant pack has no tensor {}, which is {name}", tensor.uid);
                return wrong(Status::BAD_PARAM, what);
            };
            check_pointer(name, *address, tensor.alignment)?;
            memory.insert(tensor.uid, tensor.operand(name, *address));
        }
        if let Some(uid) = pack.addresses.keys().find(|uid| !memory.contains_key(*uid)) {
            let what = format!(
                "the variant pack has a tensor {uid}, which the graph does not read or write"
            );
            return wrong(Status::BAD_PARAM, what);
        }
        let bytes = plan.workspace as u64;
        if bytes > 0 {
            check_pointer("the workspace", pack.workspace, 16)?;
        }
        let workspace = Operand { name: "workspace", address: pack.workspace, bytes };
        Ok(Self { plan, memory, workspace })
    }

    fn graph(&self) -> &Graph {
        &self.plan.config.engine.graph
    }

    fn run(&self, machine: &mut Machine) -> Result<(), Fault> {
        self.are_apart()?;
        self.spoil_workspace(machine)?;
        let mut values: BTreeMap<i64, Vec<f32>> = BTreeMap::new();
        for operation in &self.graph().operations {
            for (_, input) in operation.inputs() {
                if !values.contains_key(&input.uid) {
                    values.insert(input.uid, self.load(input, machine)?);
                }
            }
            match &**operation {
                Operation::Convolution(convolve) => {
                    let result = self.convolve(convolve, &values, machine)?;
                    values.insert(convolve.operands().1.uid, result);
                }
            }
        }
        for (_, output) in self.graph().operations.iter().flat_map(|one| one.outputs()) {
            if let (Some(memory), Some(values)) =
                (self.memory.get(&output.uid), values.get(&output.uid))
            {
                number_of(output)?.store(values, machine.space.output(memory)?);
            }
        }
        self.spoil_workspace(machine)
    }

    /// The values of a tensor in memory, as the engine rounds them.
    fn load(&self, tensor: &Tensor, machine: &Machine) -> Result<Vec<f32>, Fault> {
        let Some(memory) = self.memory.get(&tensor.uid) else { return Err(missing(tensor)) };
        Ok(number_of(tensor)?.load(machine.space.input(memory)?))
    }

    fn convolve(
        &self,
        convolve: &Convolve,
        values: &BTreeMap<i64, Vec<f32>>,
        machine: &Machine,
    ) -> Result<Vec<f32>, Fault> {
        let ([one, other], output) = convolve.operands();
        let input = |tensor: &Tensor| -> Result<Vec<f32>, Fault> {
            let values = values.get(&tensor.uid).ok_or_else(|| missing(tensor))?;
            let round = |value: &f32| match self.plan.config.engine.method().inputs {
                Inputs::Tf32 if number(tensor.data_type) == Some(Number::F32) => tf32(*value),
                Inputs::Bf16 => Number::Bf16.round(*value),
                Inputs::Tf32 | Inputs::Exact => *value,
            };
            Ok(values.iter().map(round).collect())
        };
        let (one, other) = (input(one)?, input(other)?);
        let shape = convolve.shape().map_err(|what| Fault::new(FaultKind::OnlyHere, what))?;
        let order = self.plan.config.order().unwrap_or_else(another_order);
        let mut result = match convolve.pass {
            Pass::Forward => forward(&shape, &one, &other, order),
            Pass::BackwardData => backward_data(&shape, &one, &other, order),
            Pass::BackwardFilter => backward_filter(&shape, &one, &other, order),
        };
        let old = if convolve.beta == 0.0 { None } else { Some(self.load(output, machine)?) };
        blend(&mut result, convolve.alpha, old.as_deref(), convolve.beta);
        let number = number_of(output)?;
        result.iter_mut().for_each(|value| *value = number.round(*value));
        Ok(result)
    }

    fn spoil_workspace(&self, machine: &mut Machine) -> Result<(), Fault> {
        if self.workspace.bytes == 0 { Ok(()) } else { machine.space.spoil(&self.workspace) }
    }

    /// Outputs and workspace must not overlap with anything.
    fn are_apart(&self) -> Result<(), Fault> {
        let all: Vec<&Operand> = self.memory.values().collect();
        if self.workspace.bytes > 0 {
            self.workspace.apart_from(&all)?;
        }
        for (_, output) in self.graph().operations.iter().flat_map(|one| one.outputs()) {
            let Some(memory) = self.memory.get(&output.uid) else { continue };
            let others: Vec<&Operand> = self
                .memory
                .iter()
                .filter(|(uid, _)| **uid != output.uid)
                .map(|(_, other)| other)
                .collect();
            memory.apart_from(&others)?;
        }
        Ok(())
    }
}

fn check_pointer(name: &str, address: u64, alignment: u64) -> Answer {
    if address == 0 {
        return wrong(Status::NULL_POINTER, format!("{name} is NULL"));
    }
    if !address.is_multiple_of(alignment) {
        let what = format!("{name} is not aligned to {alignment} bytes");
        return wrong(Status::MISALIGNED, what);
    }
    Ok(())
}

fn number_of(tensor: &Tensor) -> Result<Number, Fault> {
    number(tensor.data_type).ok_or_else(|| missing(tensor))
}

fn missing(tensor: &Tensor) -> Fault {
    Fault::new(FaultKind::OnlyHere, format!("the tensor {} has no value", tensor.uid))
}

/// The order of the sums of a nondeterministic engine: another one for each run.
fn another_order() -> usize {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    24 + 8 * (RUNS.fetch_add(1, Ordering::Relaxed) % 7)
}
