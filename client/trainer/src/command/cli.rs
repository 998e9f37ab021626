//! The command line. Options have the names of timm's `train.py` where they mean the same.

pub(super) mod distributed;
mod gpu;
mod hyperparameters;
mod measure;
mod numbers;
mod optimizer;
pub(super) mod run;
mod schedule;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};
use forebay_client::ClientFlags;
use forebay_types::settings::{AnyNumber, ByteSize, Number, boolean, probability, share};

use crate::backend::device::{GpuConfig, TrainDevice};
use crate::backend::precision::Precision;
use gpu::GpuArgs;
use numbers::{Pixels, Samples};
use optimizer::OptimizerChanges;
use schedule::ScheduleChanges;

pub(crate) use distributed::Distributed;
pub(crate) use hyperparameters::{HyperparameterChanges, LossName, set};
pub(crate) use measure::{BenchArgs, SelftestArgs};

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

/// Options of `train`.
#[derive(Args, Debug)]
pub(crate) struct TrainArgs {
    /// TOML file with settings: the options below, with underscores in their names, such as `warmup_epochs = 5`. Options and
    /// the environment override it.
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) config: Option<PathBuf>,
    /// Print all settings as TOML, for --config, each with where it comes from, and end.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) network: ModelArgs,
    /// Recipe of the data: a preset (a1, a2 or a3), a name from the server's configuration, or a TOML file.
    #[arg(long, env = "FOREBAY_RECIPE", value_name = "NAME|FILE.toml", default_value = "a2")]
    pub(crate) recipe: String,
    /// Preset of optimizer, schedule, loss and stochastic depth: a1, a2 or a3. The default is the recipe,
    /// or the `base` of its TOML file. Each value can be overridden by an option below, or in the file of --config.
    #[arg(long, env = "FOREBAY_HYPERPARAMETERS", value_name = "PRESET")]
    pub(crate) hyperparameters: Option<String>,
    /// Folder for checkpoints, the log, TensorBoard events and curves.
    #[arg(long, env = "FOREBAY_OUTPUT", value_name = "DIR", default_value = "run")]
    pub(crate) output: PathBuf,
    /// Resume from the newest checkpoint of the output folder, bit for bit.
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        value_parser = boolean,
        action = ArgAction::Set
    )]
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
    pub(crate) optimizer_changes: OptimizerChanges,
    #[command(flatten)]
    pub(crate) schedule_changes: ScheduleChanges,
    #[command(flatten)]
    pub(crate) distributed: Distributed,
    /// Evaluate every N epochs, and at the end; 0 evaluates only at the end.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) eval_epochs: AnyNumber,
    #[command(flatten)]
    pub(crate) checkpoints: run::CheckpointArgs,
    #[command(flatten)]
    pub(crate) logs: run::LogArgs,
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

/// Options of `eval`.
#[derive(Args, Debug)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) network: ModelArgs,
}
