//! Options of a GPU.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args};
use forebay_types::settings::boolean;

use crate::backend::conv_config::{ConvApi, ConvConfig, Norms};
use crate::backend::device::GpuConfig;

/// How a GPU executes a step.
#[derive(Args, Debug)]
#[command(next_help_heading = "On a GPU")]
pub(crate) struct GpuArgs {
    /// Capture the launches of a step in CUDA graphs, each of which the host then launches at once.
    #[arg(
        long,
        env = "FOREBAY_CUDA_GRAPHS",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value = "true",
        default_missing_value = "true",
        value_parser = boolean,
        action = ArgAction::Set
    )]
    pub(crate) cuda_graphs: bool,
    #[command(flatten)]
    pub(crate) conv: ConvArgs,
}

impl GpuArgs {
    /// The settings, in the default precision.
    pub(crate) fn config(&self) -> GpuConfig {
        let conv = self.conv.config();
        GpuConfig { graphs: self.cuda_graphs, conv, ..GpuConfig::default() }
    }
}

/// How convolutions are computed on a GPU.
#[derive(Args, Debug)]
pub(crate) struct ConvArgs {
    /// Interface of cuDNN that computes convolutions on a GPU: graph, legacy, or auto, which is graph, and legacy for
    /// each convolution that graph refuses.
    #[arg(
        long,
        env = "FOREBAY_CONV_API",
        value_name = "auto|graph|legacy",
        value_enum,
        hide_possible_values = true,
        default_value = "auto"
    )]
    pub(crate) conv_api: ConvApi,
    /// Folder that remembers which plans of the graph API were the fastest on a GPU. Runs that share it use the same
    /// plans, and so give the same bits. With none, nothing is measured, and each run uses the first plan that cuDNN
    /// proposes. The default is forebay in the cache folder of the user.
    #[arg(long, env = "FOREBAY_CONV_PLAN_CACHE", value_name = "DIR|none")]
    pub(crate) conv_plan_cache: Option<PathBuf>,
    /// Where a GPU computes batch norms in training: separate, by kernels of their own, or fused into the convolutions
    /// before and after them. In bf16 only their statistics are, as far as cuDNN supports it. cuDNN does not say whether the order of its sums is then the same in
    /// every run.
    #[arg(
        long,
        env = "FOREBAY_NORMS",
        value_name = "separate|fused",
        value_enum,
        hide_possible_values = true,
        default_value = "separate"
    )]
    pub(crate) norms: Norms,
}

impl ConvArgs {
    /// The settings of the convolutions.
    pub(crate) fn config(&self) -> ConvConfig {
        let plan_cache = match &self.conv_plan_cache {
            Some(folder) if folder.as_os_str() == "none" => None,
            Some(folder) => Some(folder.clone()),
            None => user_cache(std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")),
        };
        ConvConfig { api: self.conv_api, norms: self.norms, plan_cache, ..ConvConfig::default() }
    }
}

/// The folder `forebay` in the cache folder of the user, by the XDG base directory specification.
fn user_cache(xdg_cache_home: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let absolute =
        |path: Option<OsString>| path.map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute(xdg_cache_home).or_else(|| Some(absolute(home)?.join(".cache")))?;
    Some(cache.join("forebay"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_remembered_in_the_cache_folder_of_the_user() {
        let folder = |xdg: &str, home: &str| {
            let set = |value: &str| (!value.is_empty()).then(|| value.into());
            user_cache(set(xdg), set(home))
        };
        assert_eq!(folder("/c", "/h"), Some("/c/forebay".into()));
        assert_eq!(folder("", "/h"), Some("/h/.cache/forebay".into()));
        assert_eq!(folder("relative", "/h"), Some("/h/.cache/forebay".into()));
        assert_eq!(folder("", ""), None);
    }
}
