//! CUDA graphs of the passes: launched one by one, the 500 launches of a step take the host longer than a small microbatch
//! takes the GPU.
//!
//! A pass runs launch by launch when it is seen first, which also prepares its convolutions. The second time its launches are
//! captured, and from then on the graph is launched. What changes from step to step is in the GPU's memory (scalars.rs,
//! the targets, the stochastic-depth mask), so that a graph depends on its [`Pass`] only.

use forebay::gpu::Graph;

use crate::loss::Loss;
use crate::optimizer::Optimizer;
use crate::optimizer::clip::ClipGrad;

/// Maximum number of graphs. Each takes memory on the GPU, and training has a few: forward, backward and update, perhaps
/// with a short microbatch at the end of an epoch.
const MAX_GRAPHS: usize = 16;

/// Work whose launches depend on nothing else.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Pass {
    Forward { samples: usize, drop_path: bool },
    Backward { samples: usize, drop_path: bool, loss: Loss },
    Update { optimizer: Optimizer, clip_grad: Option<ClipGrad>, ema: bool },
}

/// The graphs of a backend.
#[derive(Debug)]
pub(super) struct Graphs {
    is_enabled: bool,
    /// Passes that were seen, with their graphs if they were captured.
    passes: Vec<(Pass, Option<Graph>)>,
}

/// How to execute a pass.
pub(super) enum Execution<'a> {
    /// Launch by launch.
    Eager,
    /// Capture its launches, and then launch the graph.
    Capture,
    Launch(&'a Graph),
}

impl Graphs {
    pub(super) const fn new(is_enabled: bool) -> Self {
        Self { is_enabled, passes: Vec::new() }
    }

    /// How to execute a pass now.
    pub(super) fn execution(&mut self, pass: Pass) -> Execution<'_> {
        if !self.is_enabled {
            return Execution::Eager;
        }
        let Some(index) = self.passes.iter().position(|(seen, _)| *seen == pass) else {
            if self.passes.len() < MAX_GRAPHS {
                self.passes.push((pass, None));
            }
            return Execution::Eager;
        };
        self.passes[index].1.as_ref().map_or(Execution::Capture, Execution::Launch)
    }

    /// Keeps the graph of a pass. Returns it.
    pub(super) fn insert(&mut self, pass: Pass, graph: Graph) -> &Graph {
        let index = self.passes.iter().position(|(seen, _)| *seen == pass);
        let (_, kept) = &mut self.passes[index.expect("it was seen before it was captured")];
        kept.insert(graph)
    }

    /// Executes all passes launch by launch from now on.
    pub(super) fn disable(&mut self) {
        self.is_enabled = false;
        self.passes.clear();
    }

    /// Number of graphs captured so far.
    pub(super) fn captured(&self) -> usize {
        self.passes.iter().filter(|(_, graph)| graph.is_some()).count()
    }
}
