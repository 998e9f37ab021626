//! The command line. Options have the names of timm's `train.py` where they mean the same.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use forebay_client::ClientFlags;
use forebay_types::settings::{
    AnyNumber, ByteSize, NonZeroTimeSpan, Number, boolean, duration, finite, non_negative,
    positive, probability, share,
};

use crate::backend::conv_config::{ConvApi, ConvConfig, Norms};
use crate::backend::device::{GpuConfig, TrainDevice};
use crate::backend::precision::Precision;

/// Trains ResNets by the recipes of "ResNet strikes back", on data from forebay servers.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Number of CPU threads, at most 4096; 0 uses all cores. The result does not depend on it.
    #[arg(long, global = true, env = "FOREBAY_THREADS", value_name = "N", default_value = "0")]
    pub(crate) threads: Number<0, 4096>,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a model, with evaluations in between.
    Train(Box<TrainArgs>),
    /// Evaluate a model.
    Eval(Box<EvalArgs>),
    /// Measure the speed of training steps on generated images, without a server.
    Bench(BenchArgs),
    /// Compare a GPU with the CPU, operation by operation, and measure its speed.
    GpuSelftest(SelftestArgs),
}

/// Height and width of images.
pub(crate) type Pixels = Number<1, 4096>;

/// A number of samples.
pub(crate) type Samples = Number<1, 1_048_576>;

/// A number of epochs. Their steps can be counted, however many an epoch has.
pub(crate) type Epochs = Number<1, 1_000_000>;

/// The source of microbatches.
#[derive(Args, Debug)]
pub(crate) struct SourceArgs {
    #[command(flatten)]
    pub(crate) client: ClientFlags,
    /// Name of the dataset to train on.
    #[arg(long, env = "FOREBAY_DATASET", value_name = "NAME", required_unless_present = "replay")]
    pub(crate) dataset: Option<String>,
    /// Name of the dataset to evaluate on. Without it, the model is not evaluated.
    #[arg(long, env = "FOREBAY_EVAL_DATASET", value_name = "NAME")]
    pub(crate) eval_dataset: Option<String>,
    /// Read microbatches from a folder that --dump wrote, instead of from servers.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["endpoint", "dataset", "eval_dataset"])]
    pub(crate) replay: Option<PathBuf>,
    /// Height and width of the images in evaluation. The default is that of the recipe `eval`, 224.
    #[arg(long, env = "FOREBAY_EVAL_IMAGE_SIZE", value_name = "PIXELS")]
    pub(crate) eval_image_size: Option<Pixels>,
    /// Share of the resized image's side that the center crop keeps in evaluation. Has an effect only
    /// with --eval-image-size.
    #[arg(long, value_name = "SHARE", default_value_t = 0.95, value_parser = share)]
    pub(crate) crop_pct: f64,
    /// Samples per microbatch of each process in evaluation.
    #[arg(long, value_name = "N", default_value = "64")]
    pub(crate) validation_batch_size: Samples,
}

/// The model and the device.
#[derive(Args, Debug)]
pub(crate) struct ModelArgs {
    /// Model: resnet18, resnet34, resnet50, resnet101 or resnet152 for ImageNet, or resnet20, resnet32,
    /// resnet44 or resnet56 for CIFAR.
    #[arg(long, env = "FOREBAY_MODEL", value_name = "NAME", default_value = "resnet50")]
    pub(crate) model: String,
    /// Initialize the model from a safetensors file that this trainer or timm wrote.
    #[arg(long, value_name = "FILE")]
    pub(crate) initial_checkpoint: Option<PathBuf>,
    /// Device that computes: cpu, cuda or cuda:N. cuda is the GPU with the number `LOCAL_RANK`, which
    /// torchrun sets, or else GPU 0.
    #[arg(long, env = "FOREBAY_DEVICE", default_value = "cpu")]
    pub(crate) device: TrainDevice,
    #[arg(long, env = "LOCAL_RANK", hide = true)]
    pub(crate) local_rank: Option<String>,
    /// Refuse a model that needs more memory than this for its parameters, with their gradients and moments, and for
    /// one microbatch.
    #[arg(long, env = "FOREBAY_MEMORY_LIMIT", value_name = "SIZE", default_value = "64GiB")]
    pub(crate) memory_limit: ByteSize,
    /// Precision of activations on a GPU: bf16, the default, f16 with a loss scale, or f32. The CPU computes in f32.
    #[arg(
        long,
        env = "FOREBAY_PRECISION",
        value_enum,
        value_name = "bf16|f16|f32",
        hide_possible_values = true
    )]
    pub(crate) precision: Option<Precision>,
    #[command(flatten)]
    pub(crate) gpu: GpuArgs,
}

impl ModelArgs {
    /// How the GPU trains.
    pub(crate) fn gpu_config(&self) -> GpuConfig {
        GpuConfig { precision: self.precision.unwrap_or_default(), ..self.gpu.config() }
    }
}

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
    /// before and after them, which needs f16. cuDNN does not say whether the order of its sums is then the same in
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

/// Several processes that train together.
#[derive(Args, Debug)]
#[command(next_help_heading = "Distributed training")]
pub(crate) struct Distributed {
    /// Number of processes, which must divide the microbatches of a step. Any number trains the same
    /// model, bit for bit. Also read from `WORLD_SIZE`.
    #[arg(long, env = "FOREBAY_WORLD", value_name = "N")]
    pub(crate) world: Option<Number<1, 1024>>,
    /// Rank of this process, from 0. Rank 0 writes the files. Also read from `RANK` or
    /// `JOB_COMPLETION_INDEX`.
    #[arg(long, env = "FOREBAY_RANK", value_name = "N")]
    pub(crate) rank: Option<Number<0, 1023>>,
    /// Address at which rank 0 listens for the others. Also read from `MASTER_ADDR` and `MASTER_PORT`.
    #[arg(long, env = "FOREBAY_RENDEZVOUS", value_name = "HOST:PORT")]
    pub(crate) rendezvous: Option<String>,
    /// Maximum time to wait until all ranks have joined; more than 0.
    #[arg(long, env = "FOREBAY_RENDEZVOUS_TIMEOUT", value_name = "TIME", default_value = "5m")]
    pub(crate) rendezvous_timeout: NonZeroTimeSpan,
    /// Time of silence after which a rank counts as lost; at least 2s. A rank sends one heartbeat per
    /// second.
    #[arg(long, env = "FOREBAY_HEARTBEAT_TIMEOUT", value_name = "TIME", default_value = "15s", value_parser = heartbeat_timeout)]
    pub(crate) heartbeat_timeout: Duration,
    /// Maximum time that a rank which sends heartbeats may keep the others waiting; 0 waits forever.
    #[arg(long, env = "FOREBAY_STALL_TIMEOUT", value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub(crate) stall_timeout: Duration,
    #[command(flatten)]
    pub(crate) launcher: LauncherEnv,
}

/// Parses a duration in which at least one heartbeat can arrive.
fn heartbeat_timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration(text).map_err(|error| error.to_string())?;
    if timeout < Duration::from_secs(2) {
        return Err(
            "expected at least 2s, because a rank sends one heartbeat per second".to_owned()
        );
    }
    Ok(timeout)
}

/// Environment variables that torchrun and Kubernetes Indexed Jobs set. An empty one counts as unset.
#[derive(Args, Debug)]
pub(crate) struct LauncherEnv {
    #[arg(long, env = "WORLD_SIZE", hide = true)]
    pub(crate) world_size: Option<String>,
    #[arg(long, env = "RANK", hide = true)]
    pub(crate) global_rank: Option<String>,
    #[arg(long, env = "JOB_COMPLETION_INDEX", hide = true)]
    pub(crate) job_completion_index: Option<String>,
    #[arg(long, env = "MASTER_ADDR", hide = true)]
    pub(crate) master_addr: Option<String>,
    #[arg(long, env = "MASTER_PORT", hide = true)]
    pub(crate) master_port: Option<String>,
}

/// The loss function.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LossName {
    /// Binary cross-entropy, averaged over classes (timm's --bce-loss).
    Bce,
    /// Binary cross-entropy, summed over classes (timm's --bce-loss with --bce-sum).
    BceSum,
    /// Cross-entropy of the softmax.
    CrossEntropy,
}

/// Options of `train`.
#[derive(Args, Debug)]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) network: ModelArgs,
    /// Recipe of the data: a preset (a1, a2 or a3), a name from the server's configuration, or a TOML file.
    #[arg(long, env = "FOREBAY_RECIPE", value_name = "NAME|FILE.toml", default_value = "a2")]
    pub(crate) recipe: String,
    /// Preset of optimizer, schedule, loss and stochastic depth: a1, a2 or a3. The default is the recipe,
    /// or the `base` of its TOML file. Each value can be overridden by an option below.
    #[arg(long, env = "FOREBAY_HYPERPARAMETERS", value_name = "PRESET")]
    pub(crate) hyperparameters: Option<String>,
    /// Folder for checkpoints, the log, TensorBoard events and curves.
    #[arg(long, env = "FOREBAY_OUTPUT", value_name = "DIR", default_value = "run")]
    pub(crate) output: PathBuf,
    /// Resume from the newest checkpoint of the output folder, bit for bit.
    #[arg(long)]
    pub(crate) resume: bool,
    /// Resume if there is a checkpoint, and start otherwise. Suits jobs that are restarted automatically.
    #[arg(
        long,
        env = "FOREBAY_AUTO_RESUME",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        value_parser = boolean,
        action = ArgAction::Set
    )]
    pub(crate) auto_resume: bool,
    /// Seed of the data, the initial weights and stochastic depth.
    #[arg(long, value_name = "N", default_value = "0")]
    pub(crate) seed: AnyNumber,
    #[command(flatten)]
    pub(crate) recipe_changes: RecipeChanges,
    #[command(flatten)]
    pub(crate) hyperparameter_changes: HyperparameterChanges,
    #[command(flatten)]
    pub(crate) distributed: Distributed,
    /// Evaluate every N epochs, and at the end; 0 evaluates only at the end.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) eval_epochs: AnyNumber,
    /// Write a checkpoint every N steps, in addition to the end of every epoch; 0 writes no others.
    #[arg(long, value_name = "N", default_value = "0")]
    pub(crate) checkpoint_steps: AnyNumber,
    /// Write a checkpoint and stop after N steps in total.
    #[arg(long, value_name = "N")]
    pub(crate) stop_after: Option<Number<1, { u64::MAX }>>,
    /// Write every microbatch to this folder as a safetensors file.
    #[arg(long, value_name = "DIR")]
    pub(crate) dump: Option<PathBuf>,
}

/// Changes to the recipe of the data.
#[derive(Args, Debug)]
#[command(next_help_heading = "Changes to the recipe")]
pub(crate) struct RecipeChanges {
    /// Height and width of the training images.
    #[arg(long, visible_alias = "img-size", value_name = "PIXELS")]
    pub(crate) image_size: Option<Pixels>,
    /// Samples per step, over all processes. timm's --batch-size counts those of one process instead.
    #[arg(long, value_name = "N")]
    pub(crate) batch: Option<Samples>,
    /// Microbatches per step, each with its own batch statistics.
    #[arg(long, value_name = "N")]
    pub(crate) microbatches: Option<Number<1, 1024>>,
    /// Minimum and maximum share of an image's area that a random crop covers, such as 0.35 1.
    #[arg(long, num_args = 2, value_names = ["MIN", "MAX"], value_parser = share)]
    pub(crate) scale: Vec<f64>,
    /// Label smoothing; 0 disables it.
    #[arg(long, value_name = "SHARE", value_parser = probability)]
    pub(crate) smoothing: Option<f64>,
    /// Any other change, as a TOML assignment such as `mix.mixup = 0.2`. Can be repeated.
    #[arg(long = "set", value_name = "ASSIGNMENT")]
    pub(crate) set: Vec<String>,
}

/// Changes to the hyperparameters.
#[derive(Args, Debug)]
#[command(next_help_heading = "Changes to the hyperparameters")]
pub(crate) struct HyperparameterChanges {
    /// Epochs of training, at most 1000000.
    #[arg(long, value_name = "N")]
    pub(crate) epochs: Option<Epochs>,
    /// Peak learning rate. The presets' values are for a batch of 2048.
    #[arg(long, value_parser = positive)]
    pub(crate) lr: Option<f64>,
    /// Learning rate at the start of the warm-up.
    #[arg(long, value_name = "LR", value_parser = non_negative)]
    pub(crate) warmup_lr: Option<f64>,
    /// Learning rate at the end of the cosine.
    #[arg(long, value_name = "LR", value_parser = non_negative)]
    pub(crate) min_lr: Option<f64>,
    /// Epochs of warm-up; 0 disables it.
    #[arg(long, value_name = "N")]
    pub(crate) warmup_epochs: Option<Number<0, 1_000_000>>,
    /// Change the learning rate at every step instead of every epoch.
    #[arg(long)]
    pub(crate) sched_on_updates: bool,
    /// Weight decay of all parameters except biases and batch norms; 0 disables it.
    #[arg(long, value_name = "DECAY", value_parser = non_negative)]
    pub(crate) weight_decay: Option<f64>,
    /// Norm that gradients are clipped to; 0 disables clipping.
    #[arg(long, value_name = "NORM", value_parser = non_negative)]
    pub(crate) clip_grad: Option<f64>,
    /// Stochastic depth: probability that the last residual block is dropped; 0 disables it.
    #[arg(long, value_name = "SHARE", value_parser = probability)]
    pub(crate) drop_path: Option<f64>,
    /// Loss function.
    #[arg(long, value_enum)]
    pub(crate) loss: Option<LossName>,
    /// BCE targets above this threshold become 1, all others 0; a negative one keeps the mixed targets.
    #[arg(long, value_name = "SHARE", allow_hyphen_values = true, value_parser = finite)]
    pub(crate) bce_target_thresh: Option<f64>,
    /// Keep an exponential moving average of the model, and evaluate it as well.
    #[arg(long)]
    pub(crate) model_ema: bool,
    /// Decay of the moving average.
    #[arg(long, value_name = "DECAY", default_value_t = 0.9998, value_parser = probability)]
    pub(crate) model_ema_decay: f64,
}

/// Options of `eval`.
#[derive(Args, Debug)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) network: ModelArgs,
}

/// Options of `gpu-selftest`.
#[derive(Args, Debug)]
pub(crate) struct SelftestArgs {
    /// Only list the libraries of CUDA, their versions, and where they were found. Needs no GPU.
    #[arg(long)]
    pub(crate) libraries: bool,
    /// GPU to test: cuda or cuda:N.
    #[arg(long, env = "FOREBAY_DEVICE", default_value = "cuda:0")]
    pub(crate) device: TrainDevice,
    /// Models whose operations are compared with the CPU's.
    #[arg(
        long,
        value_name = "NAME,...",
        default_value = "resnet20,resnet18,resnet50",
        value_delimiter = ','
    )]
    pub(crate) compare: Vec<String>,
    /// Model to measure.
    #[arg(long, env = "FOREBAY_MODEL", value_name = "NAME", default_value = "resnet50")]
    pub(crate) model: String,
    /// Samples per step.
    #[arg(long, value_name = "N", default_value = "256")]
    pub(crate) batch: Number<1, 65_536>,
    /// Height and width of the images.
    #[arg(long, visible_alias = "img-size", value_name = "PIXELS", default_value = "224")]
    pub(crate) image_size: Pixels,
    /// Steps to measure; 0 only compares.
    #[arg(long, value_name = "N", default_value = "20")]
    pub(crate) steps: Number<0, 1_000_000>,
    /// Precision of activations of the steps that are measured.
    #[arg(
        long,
        value_enum,
        value_name = "bf16|f16|f32",
        default_value = "bf16",
        hide_possible_values = true
    )]
    pub(crate) precision: Precision,
    #[command(flatten)]
    pub(crate) gpu: GpuArgs,
}

/// Options of `bench`.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// Model to measure.
    #[arg(long, value_name = "NAME", default_value = "resnet50")]
    pub(crate) model: String,
    /// Device to measure: cpu, cuda or cuda:N.
    #[arg(long, env = "FOREBAY_DEVICE", default_value = "cpu")]
    pub(crate) device: TrainDevice,
    /// Samples per step. Each of several numbers is measured.
    #[arg(long, value_name = "N,...", default_value = "32", value_delimiter = ',')]
    pub(crate) batch: Vec<Number<1, 65_536>>,
    /// Height and width of the images. Each of several numbers is measured.
    #[arg(long, visible_aliases = ["size", "img-size"], value_name = "PIXELS,...", default_value = "224", value_delimiter = ',')]
    pub(crate) image_size: Vec<Pixels>,
    /// Precision of activations. Each of several is measured; the default is that in which the device trains.
    #[arg(
        long,
        value_enum,
        value_name = "bf16,f16,f32",
        value_delimiter = ',',
        hide_possible_values = true
    )]
    pub(crate) precision: Vec<Precision>,
    #[command(flatten)]
    pub(crate) gpu: GpuArgs,
    /// Number of classes.
    #[arg(long, value_name = "N", default_value = "1000")]
    pub(crate) classes: Number<1, 100_000>,
    /// Refuse a model that needs more memory than this for its parameters, with their gradients and moments, and for
    /// a step.
    #[arg(long, env = "FOREBAY_MEMORY_LIMIT", value_name = "SIZE", default_value = "64GiB")]
    pub(crate) memory_limit: ByteSize,
    /// Steps to measure.
    #[arg(long, value_name = "N", default_value = "5")]
    pub(crate) steps: Number<1, 1_000_000>,
    /// Steps before these, in which clocks rise and libraries load their kernels.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) warm_up: Number<1, 1_000_000>,
    /// Write the measurements to this file as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
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
