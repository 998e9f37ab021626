//! Variant packs, and the execution of a plan: checked at the call and enqueued on the stream of the handle.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::compute::{Arithmetic, Known, missing, number_of, rounded};
use super::descriptor::{Values, get};
use super::names as n;
use super::operation::Operation;
use super::operation_graph::Graph;
use super::plan::Plan;
use super::tensor::Tensor;
use super::values::{int, ints};
use crate::dnn::handle::{context_of, stream_of};
use crate::dnn::{Answer, Status, wrong};
use crate::engine::Fault;
use crate::machine::{Machine, inside};
use crate::memory::Operand;

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
    let Some(plan) = get(plan)?.is::<Plan>() else {
        return wrong(Status::BAD_PARAM, "the plan is no finalized execution plan");
    };
    let Some(pack) = get(pack)?.is::<Pack>() else {
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
        let operations = graph.operations.iter();
        let tensors = operations.flat_map(|one| one.inputs().into_iter().chain(one.outputs()));
        for (name, tensor) in tensors {
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
        let order = self.plan.config.order().unwrap_or_else(another_order);
        let mut known = Known::new();
        for operation in &self.graph().operations {
            for (_, input) in operation.inputs() {
                if let Entry::Vacant(unknown) = known.entry(input.uid) {
                    unknown.insert(self.load(input, machine)?);
                }
            }
            self.compute(operation, &mut known, order, machine)?;
        }
        for (_, output) in self.outputs() {
            if let (Some(memory), Some(values)) =
                (self.memory.get(&output.uid), known.get(&output.uid))
            {
                number_of(output)?.store(values, machine.space.output(memory)?);
            }
        }
        self.spoil_workspace(machine)
    }

    /// Computes the outputs of an operation, as the engine of the plan does.
    fn compute(
        &self,
        operation: &Operation,
        known: &mut Known,
        order: usize,
        machine: &Machine,
    ) -> Result<(), Fault> {
        let method = self.plan.config.engine.method();
        let arithmetic = Arithmetic { method, order };
        let results = match operation {
            Operation::Convolution(convolve) => {
                let output = convolve.operands().1;
                let old =
                    if convolve.beta == 0.0 { None } else { Some(self.load(output, machine)?) };
                vec![arithmetic.convolve(convolve, known, old.as_deref())?]
            }
            Operation::Pointwise(pointwise) => vec![Arithmetic::pointwise(pointwise, known)?],
            Operation::Statistics(statistics) => arithmetic.statistics(statistics, known)?.to_vec(),
            Operation::NormGradient(norm) => arithmetic.norm_gradient(norm, known)?.to_vec(),
        };
        for ((_, output), values) in operation.outputs().into_iter().zip(results) {
            let values = if method.rounds { rounded(output, values)? } else { values };
            known.insert(output.uid, values);
        }
        Ok(())
    }

    fn outputs(&self) -> impl Iterator<Item = (&'static str, &Arc<Tensor>)> {
        self.graph().operations.iter().flat_map(|one| one.outputs())
    }

    /// The values of a tensor in memory.
    fn load(&self, tensor: &Tensor, machine: &Machine) -> Result<Vec<f32>, Fault> {
        let Some(memory) = self.memory.get(&tensor.uid) else { return Err(missing(tensor)) };
        Ok(number_of(tensor)?.load(machine.space.input(memory)?))
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
        for (_, output) in self.outputs() {
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

/// The order of the sums of a nondeterministic engine: another one for each run.
fn another_order() -> usize {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    24 + 8 * (RUNS.fetch_add(1, Ordering::Relaxed) % 7)
}
