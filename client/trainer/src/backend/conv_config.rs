//! Settings of the convolutions on a GPU.

use std::path::PathBuf;

use clap::ValueEnum;

/// The interface of cuDNN that computes convolutions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ConvApi {
    /// The graph API, and the legacy API for each convolution that the graph API refuses.
    #[default]
    Auto,
    /// The graph API only.
    Graph,
    /// The legacy API only.
    Legacy,
}

/// Where batch norms are computed in training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Norms {
    /// By kernels of their own.
    #[default]
    Separate,
    /// Within the convolutions before and after them, where cuDNN has plans for that. Only in f16.
    Fused,
}

/// Settings of the convolutions on a GPU.
#[derive(Clone, Debug)]
pub struct ConvConfig {
    /// The interface of cuDNN.
    pub api: ConvApi,
    /// Where batch norms are computed.
    pub norms: Norms,
    /// The folder that remembers which plans were the fastest. Without one, nothing is measured, and the first plan
    /// that cuDNN's heuristics propose is used.
    pub plan_cache: Option<PathBuf>,
    /// Bytes of workspace above which a plan is used only where every other one needs more, too.
    pub workspace_limit: usize,
}

impl Default for ConvConfig {
    fn default() -> Self {
        let (api, norms) = (ConvApi::default(), Norms::default());
        Self { api, norms, plan_cache: None, workspace_limit: WORKSPACE_LIMIT }
    }
}

/// 512 MiB. A stem of 3 channels alone needs about 0.9 MB an image, in every plan for tensor cores of its weight
/// gradient.
const WORKSPACE_LIMIT: usize = 512 << 20;
