//! Convolutions by cuDNN.
//!
//! ```text
//! conv.rs               plans convolutions and launches them
//! conv/case.rs          what is planned: a convolution, a direction, a number of images
//! conv/graph.rs         plans of the graph API
//! conv/operation.rs     describes a convolution to it
//! conv/fused.rs         describes convolutions with batch norms to it
//! conv/descriptor.rs    its descriptors
//! conv/choice.rs        which plans are suitable, and which is the best
//! conv/tune.rs          measures them
//! conv/plan_cache.rs    remembers the fastest
//! conv/legacy.rs        plans of the legacy API
//! conv/library.rs       cuDNN's handle and functions
//! ```
//!
//! Everything is planned when the backend is opened, except for a number of images that is not the planned one, such
//! as in the last microbatch of an evaluation: that is planned when it is first seen, by the heuristics alone. After
//! the first execution at the same addresses, an execution only launches: nothing is created or waited for.

mod case;
mod choice;
mod descriptor;
mod fused;
mod graph;
mod legacy;
mod library;
mod operation;
mod plan_cache;
mod refusal;
mod tune;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use forebay::gpu::{DeviceError, Gpu, Lane};

pub(super) use case::{ConvCase, Direction, Operands};
pub(super) use fused::{FusedCase, FusedOperands};

use choice::fastest;
use graph::GraphPlan;
use legacy::LegacyPlan;
use library::{GraphApi, Handle};
use operation::{Planner, TENSORS};
use plan_cache::PlanCache;
use refusal::Refusal;

use super::Precision;
use crate::backend::conv_config::{ConvApi, ConvConfig};

/// Minimum size of the workspace, for plans that are made when it has been allocated.
const MIN_WORKSPACE: usize = 32 << 20;

/// Number of plans that are measured, of those that the heuristics prefer.
const MEASURED: usize = 4;

/// The planned convolutions of a backend.
pub(super) struct Convolutions {
    precision: Precision,
    config: ConvConfig,
    graph_api: Result<GraphApi, Refusal>,
    // The plans are dropped before the handle.
    plans: BTreeMap<ConvCase, Plan>,
    fused: BTreeMap<FusedCase, GraphPlan>,
    handle: Handle,
    device: Gpu,
    /// Address and size of the workspace; `None` before [`Self::attach`].
    workspace: Option<(u64, usize)>,
}

/// A convolution that can be launched.
enum Plan {
    Graph(Box<GraphPlan>),
    Legacy(Box<LegacyPlan>),
}

impl Convolutions {
    pub(super) fn open(
        device: &Gpu,
        precision: Precision,
        config: ConvConfig,
    ) -> Result<Self, DeviceError> {
        let handle = Handle::open(device)?;
        let (graph_api, device) = (GraphApi::load(), device.clone());
        let (plans, fused) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { precision, config, graph_api, plans, fused, handle, device, workspace: None })
    }

    /// Plans convolutions. The fastest of several plans is used if that can be remembered, and otherwise the first one
    /// that the heuristics propose. Returns the size of the workspace for all of them.
    pub(super) fn plan(&mut self, cases: &[ConvCase]) -> Result<usize, DeviceError> {
        let folder = self.config.plan_cache.clone().filter(|_| self.uses_graphs());
        let platform = if folder.is_some() { self.platform()? } else { String::new() };
        let mut cases = BTreeSet::from_iter(cases);
        // Without the lock: the ranks of a machine would make the plans that they remember one rank after the other.
        let cache = folder.as_deref().map(PlanCache::unlocked);
        cases.retain(|case| !self.use_remembered(cache.as_ref(), &platform, case));
        let cache = folder.filter(|_| !cases.is_empty()).map(|folder| PlanCache::open(&folder));
        let limit = (self.config.workspace_limit, false);
        let (mut unmeasured, mut refusals) = (Vec::new(), BTreeMap::new());
        for case in cases {
            // Another process may have measured it since.
            if self.use_remembered(cache.as_ref(), &platform, case) {
                continue;
            }
            let measures = cache.as_ref().is_some_and(PlanCache::is_writable);
            let count = if measures { MEASURED } else { 1 };
            match self.graph_plans(case, limit, count) {
                Ok(plans) if measures => unmeasured.push((*case, plans)),
                Ok(plans) => self.plans.extend(plans.into_iter().map(|p| (*case, Plan::from(p)))),
                Err(refusal) => {
                    let plan = self.legacy_plan(case, limit, &refusal)?;
                    self.plans.insert(*case, plan);
                    refusals.entry(refusal.0).or_insert_with(Vec::new).push(*case);
                }
            }
        }
        if let Some(mut cache) = cache {
            let measured = if unmeasured.is_empty() {
                Vec::new()
            } else {
                self.measure(unmeasured, &platform, &mut cache)
            };
            // What is not remembered would be another choice in the next run, and on the next rank.
            let remembered = cache.close();
            for (case, mut plans, best) in measured {
                let plan = plans.swap_remove(if remembered { best } else { 0 });
                self.plans.insert(case, Plan::from(plan));
            }
        }
        if self.config.api == ConvApi::Auto {
            warn(&refusals);
        }
        Ok(self.report())
    }

    /// Runs all further convolutions on a lane, with a workspace in its memory.
    pub(super) fn attach(
        &mut self,
        lane: &Lane,
        workspace: (u64, usize),
    ) -> Result<(), DeviceError> {
        self.workspace = Some(workspace);
        self.handle.attach(lane)
    }

    /// Launches a convolution. The addresses must be of tensors of its sizes.
    pub(super) fn launch(&mut self, case: ConvCase, operands: Operands) -> Result<(), DeviceError> {
        let (address, bytes) = self.workspace.expect("attached before the first launch");
        if !self.plans.contains_key(&case) {
            let limit = (bytes, true);
            let plan = match self.graph_plans(&case, limit, 1) {
                Ok(mut plans) if !plans.is_empty() => Plan::from(plans.swap_remove(0)),
                Ok(_) => return Err(self.error(&case, &"no plan")),
                Err(refusal) => self.legacy_plan(&case, limit, &refusal)?,
            };
            tracing::debug!("{case}: {plan}");
            self.plans.insert(case, plan);
        }
        match self.plans.get_mut(&case).expect("planned above") {
            Plan::Graph(plan) => {
                plan.launch(&self.handle, [operands.x, operands.w, operands.y, address])
            }
            Plan::Legacy(plan) => plan.launch(&self.handle, operands, address),
        }
    }

    /// Plans a convolution with batch norms, before all others. Returns why cuDNN refuses.
    pub(super) fn plan_fused(&mut self, case: FusedCase) -> Result<(), String> {
        if self.fused.contains_key(&case) {
            return Ok(());
        }
        let planned = self.planner().and_then(|planner| {
            let graph = planner.fused_graph(&case)?;
            planner.plans(&graph, case.tensors(), (self.config.workspace_limit, true), 1)
        });
        let mut plans = planned.map_err(|refusal| refusal.to_string())?;
        self.fused.extend(plans.pop().map(|plan| (case, plan)));
        Ok(())
    }

    /// Launches a convolution with batch norms. The addresses must be of tensors of its sizes.
    pub(super) fn launch_fused(
        &mut self,
        case: &FusedCase,
        operands: FusedOperands,
    ) -> Result<(), DeviceError> {
        let (workspace, _) = self.workspace.expect("attached before the first launch");
        let plan = self.fused.get_mut(case).expect("planned when the backend was opened");
        operands.launch(plan, &self.handle, workspace)
    }

    /// Each convolution with its plan.
    pub(super) fn describe(&self) -> Vec<String> {
        let fused = self.fused.iter().map(|(case, plan)| format!("{case}: {plan}"));
        self.plans.iter().map(|(case, plan)| format!("{case}: {plan}")).chain(fused).collect()
    }

    /// Whether the graph API may be used.
    fn uses_graphs(&self) -> bool {
        self.config.api != ConvApi::Legacy
    }

    /// The GPU, cuDNN and precision for which a plan is remembered.
    fn platform(&self) -> Result<String, DeviceError> {
        let (name, (major, minor)) = (self.device.name()?, self.device.compute_capability()?);
        let (version, precision) = (library::version(), self.precision);
        Ok(format!("{name} {major}.{minor}, cuDNN {version}, {precision:?}"))
    }

    fn planner(&self) -> Result<Planner<'_>, Refusal> {
        if !self.uses_graphs() {
            return Err(Refusal("not asked for".to_owned()));
        }
        let api = self.graph_api.clone()?;
        Ok(Planner { api, handle: &self.handle, precision: self.precision })
    }

    /// Uses the remembered plan of a convolution, if there is one, and cuDNN still supports it. Returns whether it does.
    fn use_remembered(
        &mut self,
        cache: Option<&PlanCache>,
        platform: &str,
        case: &ConvCase,
    ) -> bool {
        let key = format!("{platform}, {case}");
        let Some((cache, choice)) = cache.and_then(|cache| Some((cache, cache.get(&key)?))) else {
            return false;
        };
        match self.planner().and_then(|planner| planner.chosen(case, choice)) {
            Ok(plan) => {
                self.plans.insert(*case, Plan::from(plan));
                true
            }
            Err(refusal) => {
                if cache.is_writable() {
                    tracing::warn!(
                        "the remembered plan of {key} cannot be used, so it is replaced: {refusal}"
                    );
                }
                false
            }
        }
    }

    fn graph_plans(
        &self,
        case: &ConvCase,
        limit: (usize, bool),
        count: usize,
    ) -> Result<Vec<GraphPlan>, Refusal> {
        let planner = self.planner()?;
        planner.plans(&planner.operation_graph(case)?, &TENSORS, limit, count)
    }

    /// The plan of the legacy API for a convolution that the graph API refuses.
    fn legacy_plan(
        &self,
        case: &ConvCase,
        limit: (usize, bool),
        refusal: &Refusal,
    ) -> Result<Plan, DeviceError> {
        if self.config.api == ConvApi::Graph {
            return Err(self.error(case, refusal));
        }
        let plan = LegacyPlan::new(&self.handle, case, self.precision, limit);
        let plan = plan.map_err(|legacy| match self.config.api {
            ConvApi::Legacy => self.error(case, &legacy),
            _ => self.error(case, &format!("graph API: {refusal}; legacy API: {legacy}")),
        })?;
        Ok(Plan::Legacy(Box::new(plan)))
    }

    /// Measures the plans of each case, and remembers the fastest. Returns its index beside them.
    fn measure(
        &self,
        mut cases: Vec<(ConvCase, Vec<GraphPlan>)>,
        platform: &str,
        cache: &mut PlanCache,
    ) -> Vec<(ConvCase, Vec<GraphPlan>, usize)> {
        let times = match tune::measure(&self.device, &self.handle, self.precision, &mut cases) {
            Ok(times) => times,
            Err(error) => {
                tracing::warn!("convolutions are not measured: {error}");
                Vec::new()
            }
        };
        let choose = |(at, (case, plans)): (usize, (ConvCase, Vec<GraphPlan>))| {
            let times = times.get(at);
            let best = times.map_or(0, |times| fastest(times));
            // Where no plan has executed, there is no fastest one to remember.
            if let Some(times) = times.filter(|times| times[best].is_finite()) {
                tracing::debug!("{case}: {}, measured {times:?} ms", plans[best]);
                cache.insert(format!("{platform}, {case}"), plans[best].choice.clone());
            }
            (case, plans, best)
        };
        cases.into_iter().enumerate().map(choose).collect()
    }

    /// Logs the plans. Returns the size of the workspace.
    fn report(&self) -> usize {
        for line in self.describe() {
            tracing::debug!("{line}");
        }
        let fused = self.fused.values().map(|plan| plan.workspace);
        let workspace = self.plans.values().map(Plan::workspace).chain(fused).max();
        let workspace = workspace.map_or(0, |bytes| bytes.max(MIN_WORKSPACE));
        let graphs = self.plans.values().filter(|plan| matches!(plan, Plan::Graph(_))).count();
        tracing::info!(
            "cuDNN {}: {graphs} convolutions by the graph API, {} by the legacy API, {workspace} bytes of workspace",
            library::version(),
            self.plans.len() - graphs,
        );
        workspace
    }

    fn error(&self, case: &ConvCase, problem: &dyn fmt::Display) -> DeviceError {
        self.handle.error("planning a convolution", &format!("{case}: {problem}"))
    }
}

/// Warns about convolutions that the graph API refuses, once for each reason.
fn warn(refusals: &BTreeMap<String, Vec<ConvCase>>) {
    for (refusal, cases) in refusals {
        if let Some(case) = cases.first() {
            tracing::warn!(
                "cuDNN's graph API refuses {} convolutions, which the legacy API computes. {case}: {refusal}",
                cases.len()
            );
        }
    }
}

impl Plan {
    const fn workspace(&self) -> usize {
        match self {
            Self::Graph(plan) => plan.workspace,
            Self::Legacy(plan) => plan.workspace,
        }
    }
}

impl From<GraphPlan> for Plan {
    fn from(plan: GraphPlan) -> Self {
        Self::Graph(Box::new(plan))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Graph(plan) => plan.fmt(f),
            Self::Legacy(plan) => plan.fmt(f),
        }
    }
}

impl fmt::Debug for Convolutions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Convolutions({} plans)", self.plans.len())
    }
}
