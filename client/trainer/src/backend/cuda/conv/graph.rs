//! Convolutions by cuDNN's graph API.
//!
//! A convolution is a graph of one operation, or of several if batch norms are fused into it. The heuristics propose
//! configurations of engines for it, best first. Each engine has notes on its arithmetic. A configuration becomes a plan
//! if cuDNN supports it on this GPU.

#![expect(unsafe_code, reason = "calls of cuDNN")]

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use cudarc::cudnn::sys::cudnnBackendAttributeName_t as Name;
use cudarc::cudnn::sys::cudnnBackendAttributeType_t as Type;
use cudarc::cudnn::sys::cudnnBackendDescriptorType_t as Kind;
use cudarc::cudnn::sys::cudnnBackendHeurMode_t as Mode;
use forebay::gpu::DeviceError;

use super::case::ConvCase;
use super::choice::{Choice, unsuitable};
use super::descriptor::Descriptor;
use super::library::{GraphApi, Handle};
use super::operation::{Planner, TENSORS};
use super::refusal::Refusal;

/// Maximum number of configurations that are read from the heuristics, of notes of an engine, and of knobs.
const MAX_CONFIGS: usize = 32;
const MAX_NOTES: usize = 32;
const MAX_KNOBS: usize = 64;

/// An executable plan of a convolution.
pub(super) struct GraphPlan {
    api: GraphApi,
    pub(super) choice: Choice,
    /// The numerical notes of the engine.
    notes: Vec<u32>,
    /// Bytes of workspace.
    pub(super) workspace: usize,
    plan: Rc<Descriptor>,
    /// The unique numbers of the tensors of the graph that are in memory.
    tensors: &'static [i64],
    /// The addresses of the tensors and the workspace of each execution so far. Operations of one shape share a plan.
    packs: BTreeMap<Vec<u64>, Rc<Descriptor>>,
}

impl Planner<'_> {
    /// At most `count` suitable plans of a graph of these tensors, best first. Those that need more than `limit` bytes
    /// of workspace are passed over. If there is no other, and without `strict`, the one that needs least is returned.
    pub(super) fn plans(
        &self,
        graph: &Rc<Descriptor>,
        tensors: &'static [i64],
        (limit, strict): (usize, bool),
        count: usize,
    ) -> Result<Vec<GraphPlan>, Refusal> {
        let (mut plans, mut offers) = (Vec::<GraphPlan>::new(), Vec::new());
        let mut smallest: Option<GraphPlan> = None;
        for mode in [Mode::CUDNN_HEUR_MODE_A, Mode::CUDNN_HEUR_MODE_FALLBACK] {
            let configs = self.configs(graph, mode).unwrap_or_else(|refusal| {
                offers.push(format!("{mode:?}: {refusal}"));
                Vec::new()
            });
            for config in configs {
                let plan = match self.plan((graph, tensors), &config) {
                    Ok(plan) => plan,
                    Err(refusal) => {
                        offers.push(refusal.to_string());
                        continue;
                    }
                };
                if plan.workspace > limit {
                    offers.push(format!("{}: {} bytes", plan.choice, plan.workspace));
                    if smallest.as_ref().is_none_or(|other| plan.workspace < other.workspace) {
                        smallest = Some(plan);
                    }
                } else if plans.iter().all(|other| other.choice != plan.choice) {
                    plans.push(plan);
                }
                if plans.len() == count {
                    return Ok(plans);
                }
            }
            // The fallbacks are slow, but they work where nothing else does.
            if !plans.is_empty() {
                return Ok(plans);
            }
        }
        let smallest = smallest.filter(|_| !strict);
        smallest.map(|plan| vec![plan]).ok_or_else(|| Refusal::of_all(&offers, limit))
    }

    /// The plan of an earlier choice.
    pub(super) fn chosen(&self, case: &ConvCase, choice: &Choice) -> Result<GraphPlan, Refusal> {
        let graph = self.operation_graph(case)?;
        let engine =
            Descriptor::build(self.api, Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR, |engine| {
                engine
                    .descriptors(Name::CUDNN_ATTR_ENGINE_OPERATION_GRAPH, &[Rc::clone(&graph)])?;
                engine.numbers(Name::CUDNN_ATTR_ENGINE_GLOBAL_INDEX, &[choice.engine])
            })?;
        let knobs = choice.knobs.iter().map(|(knob, value)| {
            Descriptor::build(self.api, Kind::CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, |choice| {
                let kind = Type::CUDNN_TYPE_KNOB_TYPE;
                choice.setting(Name::CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, kind, *knob)?;
                choice.numbers(Name::CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, &[*value])
            })
        });
        let knobs = knobs.collect::<Result<Vec<_>, _>>()?;
        let config =
            Descriptor::build(self.api, Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, |config| {
                config.descriptors(Name::CUDNN_ATTR_ENGINECFG_ENGINE, &[engine])?;
                if knobs.is_empty() {
                    return Ok(());
                }
                config.descriptors(Name::CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, &knobs)
            })?;
        self.plan((&graph, &TENSORS), &config)
    }

    /// The configurations that the heuristics propose, best first.
    fn configs(&self, graph: &Rc<Descriptor>, mode: Mode) -> Result<Vec<Rc<Descriptor>>, Refusal> {
        let heuristics =
            Descriptor::build(self.api, Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, |heuristics| {
                let graph = Rc::clone(graph);
                heuristics.descriptors(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, &[graph])?;
                let kind = Type::CUDNN_TYPE_HEUR_MODE;
                heuristics.setting(Name::CUDNN_ATTR_ENGINEHEUR_MODE, kind, mode as u32)
            })?;
        let kind = Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR;
        heuristics.fill(Name::CUDNN_ATTR_ENGINEHEUR_RESULTS, kind, MAX_CONFIGS)
    }

    /// The plan of a configuration, if its arithmetic is suitable and cuDNN supports it.
    fn plan(
        &self,
        (graph, tensors): (&Rc<Descriptor>, &'static [i64]),
        config: &Rc<Descriptor>,
    ) -> Result<GraphPlan, Refusal> {
        let (choice, notes) = read(config)?;
        if let Some(reason) = unsuitable(&notes, self.precision) {
            return Err(Refusal(format!("{choice}: {reason}")));
        }
        let plan =
            Descriptor::build(self.api, Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, |plan| {
                plan.keep(graph);
                plan.handle(Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, self.handle)?;
                let config = Rc::clone(config);
                plan.descriptors(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &[config])
            });
        let plan = plan.map_err(|refusal| Refusal(format!("{choice}: {refusal}")))?;
        let workspace = plan.number(Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)?;
        let workspace = usize::try_from(workspace).unwrap_or(0);
        let (api, packs) = (self.api, BTreeMap::new());
        Ok(GraphPlan { api, choice, notes, workspace, plan, tensors, packs })
    }
}

/// The engine and the knobs of a configuration, and the numerical notes of the engine.
fn read(config: &Rc<Descriptor>) -> Result<(Choice, Vec<u32>), Refusal> {
    let kind = Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR;
    let engines = config.fill(Name::CUDNN_ATTR_ENGINECFG_ENGINE, kind, 1)?;
    let engine = engines.first().ok_or_else(|| Refusal("a configuration has no engine".into()))?;
    let kind = Type::CUDNN_TYPE_NUMERICAL_NOTE;
    let notes = engine.settings(Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, kind, MAX_NOTES)?;
    let kind = Kind::CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR;
    let choices = config.fill(Name::CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, kind, MAX_KNOBS)?;
    let mut knobs = BTreeMap::new();
    for choice in choices {
        let (name, kind) = (Name::CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, Type::CUDNN_TYPE_KNOB_TYPE);
        let knob = choice.settings(name, kind, 1)?;
        let value = choice.number(Name::CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE)?;
        knobs.extend(knob.first().map(|knob| (*knob, value)));
    }
    let engine = engine.number(Name::CUDNN_ATTR_ENGINE_GLOBAL_INDEX)?;
    Ok((Choice { engine, knobs }, notes))
}

/// The addresses of the tensors of an execution, and of its workspace.
fn pack(
    api: GraphApi,
    tensors: &[i64],
    (addresses, workspace): (&[u64], u64),
) -> Result<Rc<Descriptor>, Refusal> {
    Descriptor::build(api, Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, |pack| {
        pack.numbers(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, tensors)?;
        pack.addresses(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, addresses)?;
        pack.addresses(Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, &[workspace])
    })
}

impl GraphPlan {
    /// Launches the convolution, with the addresses of its tensors and at last that of the workspace. Creates no
    /// descriptor if it has run at these addresses before.
    pub(super) fn launch<const COUNT: usize>(
        &mut self,
        handle: &Handle,
        all: [u64; COUNT],
    ) -> Result<(), DeviceError> {
        let api = self.api;
        if !self.packs.contains_key(&all[..]) {
            let (workspace, addresses) = all.split_last().expect("a workspace");
            let pack = pack(api, self.tensors, (addresses, *workspace));
            let pack = pack.map_err(|e| handle.error("describing addresses", &e))?;
            self.packs.insert(all.to_vec(), pack);
        }
        let pack = &self.packs[&all[..]];
        // SAFETY: both are finalized; the caller passes addresses of tensors of the planned sizes, and a workspace of
        // at least the size that the plan needs, in the memory of the lane to which the handle is attached.
        unsafe { api.execute(handle, self.plan.raw(), pack.raw()) }
    }

    /// Forgets the addresses of earlier executions.
    pub(super) fn forget_addresses(&mut self) {
        self.packs.clear();
    }
}

impl fmt::Display for GraphPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { choice, notes, workspace, .. } = self;
        write!(f, "graph API, {choice}, notes {notes:?}, {workspace} bytes of workspace")
    }
}
