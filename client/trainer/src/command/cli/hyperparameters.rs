//! Options that change hyperparameters.

use clap::{Args, ValueEnum};
use forebay_types::settings::{Number, finite, non_negative, positive, probability};

use super::numbers::Epochs;

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
