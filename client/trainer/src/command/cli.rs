//! The command line.

use std::path::PathBuf;

use crate::backend::Device;
use clap::{Args, Parser, Subcommand, ValueEnum};
use forebay_client::ClientFlags;

/// Trains ResNets by the recipes of "ResNet strikes back", fed by forebay servers.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Threads; 0 takes all cores. The result does not depend on it.
    #[arg(long, global = true, env = "FOREBAY_THREADS", default_value_t = 0)]
    pub(crate) threads: usize,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a model, and evaluate it on the way.
    Train(Box<Train>),
    /// Evaluate a model.
    Eval(Box<Evaluate>),
    /// Measure training steps on made-up images, without a server.
    Bench(Bench),
    /// Compare a GPU with the CPU, operation by operation, and time it.
    GpuSelftest(SelfTest),
}

/// Where microbatches come from.
#[derive(Args, Debug)]
pub(crate) struct Source {
    #[command(flatten)]
    pub(crate) client: ClientFlags,
    /// Name of the dataset to train on.
    #[arg(long, env = "FOREBAY_DATASET", required_unless_present = "replay")]
    pub(crate) dataset: Option<String>,
    /// Name of the dataset to evaluate on; without it nothing is evaluated.
    #[arg(long, env = "FOREBAY_EVAL_DATASET")]
    pub(crate) eval_dataset: Option<String>,
    /// Read the microbatches of a folder that --dump wrote, instead of a server's.
    #[arg(long, conflicts_with_all = ["endpoint", "dataset"])]
    pub(crate) replay: Option<PathBuf>,
    /// Height and width of the images in evaluation. The recipe's own: 224, from 235 (crop ratio 0.95).
    #[arg(long, env = "FOREBAY_EVAL_IMAGE_SIZE")]
    pub(crate) eval_image_size: Option<u32>,
    /// Crop ratio of evaluation.
    #[arg(long, default_value_t = 0.95)]
    pub(crate) eval_crop: f64,
    /// Samples of a microbatch in evaluation, of each process.
    #[arg(long, default_value_t = 64)]
    pub(crate) eval_batch: u32,
}

/// The network and its first weights.
#[derive(Args, Debug)]
pub(crate) struct Network {
    /// resnet18, 34, 50, 101, 152 (ImageNet) or resnet20, 32, 44, 56 (CIFAR).
    #[arg(long, env = "FOREBAY_MODEL", default_value = "resnet50")]
    pub(crate) model: String,
    /// Begin with the weights of a safetensors file, ours or timm's.
    #[arg(long)]
    pub(crate) init: Option<PathBuf>,
    /// cpu, cuda or cuda:N. cuda is the GPU that torchrun's `LOCAL_RANK` numbers, else the first.
    #[arg(long, env = "FOREBAY_DEVICE", default_value = "cpu")]
    pub(crate) device: Device,
    #[arg(long, env = "LOCAL_RANK", hide = true)]
    pub(crate) local_rank: Option<String>,
    /// Most memory that a microbatch's tensors may take, in GiB.
    #[arg(long, env = "FOREBAY_MEMORY_LIMIT", default_value_t = 64.0)]
    pub(crate) memory_limit: f64,
}

/// Processes that train together.
#[derive(Args, Debug, Default)]
pub(crate) struct Place {
    /// Processes that train together, a divisor of the microbatches of a step. Any number gives the same
    /// model. Also `WORLD_SIZE`.
    #[arg(long, env = "FOREBAY_WORLD")]
    pub(crate) world: Option<u32>,
    /// Which of them this is, from 0; rank 0 writes the files. Also `RANK`, or `JOB_COMPLETION_INDEX`.
    #[arg(long, env = "FOREBAY_RANK")]
    pub(crate) rank: Option<u32>,
    /// Where they meet, as host:port: rank 0 listens there. Also `MASTER_ADDR` and `MASTER_PORT`.
    #[arg(long, env = "FOREBAY_RENDEZVOUS")]
    pub(crate) rendezvous: Option<String>,
    /// Seconds in which all must have come.
    #[arg(long, env = "FOREBAY_RENDEZVOUS_TIMEOUT", default_value_t = 300)]
    pub(crate) rendezvous_timeout: u64,
    /// Seconds without a sign of life, of which there is one a second, until a rank counts as lost.
    #[arg(long, env = "FOREBAY_LOST_AFTER", default_value_t = 15, value_parser = clap::value_parser!(u64).range(2..))]
    pub(crate) lost_after: u64,
    /// Seconds that a rank may let the others wait while it lives; 0: for ever.
    #[arg(long, env = "FOREBAY_STALL_TIMEOUT", default_value_t = 600)]
    pub(crate) stall_timeout: u64,
    #[command(flatten)]
    pub(crate) launcher: Launcher,
}

/// What torchrun and Kubernetes Indexed Jobs set, as variables alone; empty is unset.
#[derive(Args, Debug, Default)]
pub(crate) struct Launcher {
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

/// Which loss.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Criterion {
    /// Binary cross-entropy, mean over classes.
    Bce,
    /// Binary cross-entropy, sum over classes.
    BceSum,
    /// Cross-entropy of the softmax.
    CrossEntropy,
}

/// Train.
#[derive(Args, Debug)]
pub(crate) struct Train {
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) network: Network,
    /// a1, a2 or a3: sets all that the paper sets; each value can be changed by its flag.
    #[arg(long, env = "FOREBAY_RECIPE", default_value = "a3")]
    pub(crate) recipe: String,
    /// Folder of checkpoints, log, TensorBoard events and curves.
    #[arg(long, env = "FOREBAY_OUT", default_value = "run")]
    pub(crate) out: PathBuf,
    /// Go on from the newest checkpoint in the folder, bit for bit.
    #[arg(long)]
    pub(crate) resume: bool,
    /// The same if there is a checkpoint, else begin: for jobs that are started again and again.
    #[arg(long, env = "FOREBAY_AUTO_RESUME", conflicts_with = "resume")]
    pub(crate) auto_resume: bool,
    /// Seed of data, first weights and stochastic depth.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) data: Data,
    #[command(flatten)]
    pub(crate) change: Change,
    #[command(flatten)]
    pub(crate) place: Place,
    /// Evaluate each so many epochs, and at the end.
    #[arg(long, default_value_t = 1)]
    pub(crate) eval_epochs: u64,
    /// Write a checkpoint each so many steps; 0: at the end of each epoch only.
    #[arg(long, default_value_t = 0)]
    pub(crate) checkpoint_steps: u64,
    /// Stop after so many steps, with a checkpoint.
    #[arg(long)]
    pub(crate) stop_after: Option<u64>,
    /// Keep each microbatch as a safetensors file in this folder.
    #[arg(long)]
    pub(crate) dump: Option<PathBuf>,
}

/// Changes to the recipe on the service's side.
#[derive(Args, Debug)]
pub(crate) struct Data {
    /// Height and width of the images.
    #[arg(long)]
    pub(crate) image_size: Option<u32>,
    /// Samples of a step.
    #[arg(long)]
    pub(crate) batch: Option<u32>,
    /// Microbatches of a step. Each has its own batch statistics.
    #[arg(long)]
    pub(crate) microbatches: Option<u32>,
    /// Least and most part of an image that a crop takes, such as 0.35,1.
    #[arg(long, value_delimiter = ',')]
    pub(crate) crop_scale: Vec<f64>,
    /// Label smoothing.
    #[arg(long)]
    pub(crate) smoothing: Option<f64>,
    /// Any other change, as a TOML assignment such as `mix.mixup = 0.2`; can be given again.
    #[arg(long = "set", value_name = "ASSIGNMENT")]
    pub(crate) set: Vec<String>,
}

/// Changes to the recipe on the trainer's side.
#[derive(Args, Debug)]
pub(crate) struct Change {
    /// Epochs.
    #[arg(long)]
    pub(crate) epochs: Option<u64>,
    /// Highest learning rate. The recipes' are for a batch of 2048.
    #[arg(long)]
    pub(crate) lr: Option<f64>,
    /// Learning rate that the warm-up begins with.
    #[arg(long)]
    pub(crate) warmup_lr: Option<f64>,
    /// Learning rate that the cosine ends at.
    #[arg(long)]
    pub(crate) min_lr: Option<f64>,
    /// Epochs of warm-up.
    #[arg(long)]
    pub(crate) warmup_epochs: Option<u64>,
    /// Change the learning rate at each step, not each epoch.
    #[arg(long)]
    pub(crate) lr_by_step: bool,
    /// Weight decay; not for biases and batch norms.
    #[arg(long)]
    pub(crate) weight_decay: Option<f64>,
    /// Norm that gradients are clipped to; 0: not clipped.
    #[arg(long)]
    pub(crate) clip: Option<f64>,
    /// Chance of the last residual block to be left out.
    #[arg(long)]
    pub(crate) drop_path: Option<f64>,
    /// Which loss.
    #[arg(long, value_enum)]
    pub(crate) loss: Option<Criterion>,
    /// BCE's targets become 1 above it; negative: they stay as mixed.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) threshold: Option<f32>,
    /// Decay of a moving average of the model, such as 0.9998.
    #[arg(long)]
    pub(crate) average: Option<f64>,
}

/// Evaluate.
#[derive(Args, Debug)]
pub(crate) struct Evaluate {
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) network: Network,
}

/// Compare and time.
#[derive(Args, Debug)]
pub(crate) struct SelfTest {
    /// The GPU: cuda or cuda:N.
    #[arg(long, env = "FOREBAY_DEVICE", default_value = "cuda:0")]
    pub(crate) device: Device,
    /// Network that is timed.
    #[arg(long, env = "FOREBAY_MODEL", default_value = "resnet50")]
    pub(crate) model: String,
    /// Images of a microbatch that is timed.
    #[arg(long, default_value_t = 256)]
    pub(crate) batch: usize,
    /// Their height and width.
    #[arg(long, default_value_t = 224)]
    pub(crate) image_size: usize,
    /// Steps that are timed; 0: none, compare alone.
    #[arg(long, default_value_t = 20)]
    pub(crate) steps: u32,
}

/// Measure.
#[derive(Args, Debug)]
pub(crate) struct Bench {
    /// The network.
    #[arg(long, default_value = "resnet50")]
    pub(crate) model: String,
    /// Samples of a step.
    #[arg(long, default_value_t = 32)]
    pub(crate) batch: usize,
    /// Height and width of the images.
    #[arg(long, default_value_t = 224)]
    pub(crate) image_size: usize,
    /// Classes.
    #[arg(long, default_value_t = 1000)]
    pub(crate) classes: usize,
    /// Steps to measure, after one that is not.
    #[arg(long, default_value_t = 5)]
    pub(crate) steps: usize,
}
