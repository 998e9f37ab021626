//! Heuristics: the engine configurations that are proposed for a graph, from the fastest on.

use std::sync::Arc;

use super::descriptor::{Value, Values};
use super::device::Device;
use super::engine::Engine;
use super::methods::{SPLIT_K, TILE_SIZE, WITHOUT_PLANS};
use super::names as n;
use super::operation_graph::Graph;
use super::pattern::Pattern;
use super::plan::Config;
use super::values::{child, children, enumerator, required};
use crate::dnn::{Answer, Status, wrong};

/// A method and the values of its knobs.
type Proposal = (usize, &'static [(u32, i64)]);

/// `CUDNN_HEUR_MODE_INSTANT`, `B`, `FALLBACK` and `A`.
const PLAIN: [&[Proposal]; 4] = [&INSTANT, &B, &FALLBACK, &A];
const FUSED: [&[Proposal]; 4] = [&FUSIONS, &FUSIONS, &[], &FUSIONS];

const SPLIT: [(u32, i64); 2] = [(TILE_SIZE, 2), (SPLIT_K, 4)];
const WHOLE: [(u32, i64); 2] = [(TILE_SIZE, 0), (SPLIT_K, 1)];

/// The first one has no plan, the next ones are not deterministic or round the inputs, and one engine is proposed twice. As cuDNN
/// does, mode A proposes nothing but tensor cores: f32 that is exact is a fallback.
const A: [Proposal; 8] = [
    (WITHOUT_PLANS, &[]),
    (2, &[]),
    (3, &[]),
    (1, &SPLIT),
    (1, &WHOLE),
    (5, &[]),
    (7, &[]),
    (4, &[]),
];
const B: [Proposal; 8] =
    [(2, &[]), (1, &WHOLE), (5, &[]), (WITHOUT_PLANS, &[]), (7, &[]), (4, &[]), (3, &[]), (0, &[])];
const INSTANT: [Proposal; 4] = [(2, &[]), (1, &WHOLE), (3, &[]), (4, &[])];
const FALLBACK: [Proposal; 2] = [(4, &[]), (0, &[])];
const FUSIONS: [Proposal; 6] =
    [(WITHOUT_PLANS, &[]), (2, &[]), (1, &[]), (3, &SPLIT), (3, &WHOLE), (4, &[])];

/// Adds the proposals to the values of a descriptor. There are none for a graph that no engine supports.
pub(super) fn propose(values: &mut Values) -> Answer {
    let graph: Arc<Graph> = required(values, n::ENGINEHEUR_OPERATION_GRAPH)?;
    let mode = enumerator(values, n::ENGINEHEUR_MODE);
    let modes = match graph.pattern() {
        Pattern::Convolution(_) => PLAIN,
        Pattern::Fused(_) => FUSED,
        Pattern::Unknown => [&[] as &[Proposal]; 4],
    };
    let Some(proposals) = usize::try_from(mode).ok().and_then(|mode| modes.get(mode)) else {
        return wrong(Status::BAD_PARAM, format!("heuristics of mode {mode}"));
    };
    let described = child::<Device>(values, n::ENGINEHEUR_DEVICEPROP)?;
    let Some(device) = described.map(|device| *device).or(graph.device) else {
        let what = "heuristics for no device: set the handle of the graph";
        return wrong(Status::BAD_PARAM, what);
    };
    let descriptor = children(values, n::ENGINEHEUR_OPERATION_GRAPH)[0].clone();
    let configs: Vec<Config> = proposals
        .iter()
        .map(|(method, knobs)| {
            let engine = Engine { graph: Arc::clone(&graph), device, method: *method };
            Config { engine: Arc::new(engine), knobs: knobs.to_vec() }
        })
        .collect();
    let is_supported = |config: &Config| config.engine.workspace(&config.knobs).is_ok();
    let any = configs.iter().any(is_supported);
    let listed = configs
        .into_iter()
        .filter(|config| any && (is_supported(config) || config.engine.method == WITHOUT_PLANS));
    let results = listed.map(|config| config.describe(&descriptor)).collect();
    values.insert(n::ENGINEHEUR_RESULTS, Value::Children(results));
    Ok(())
}
