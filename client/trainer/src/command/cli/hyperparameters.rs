//! Options that change hyperparameters.

use clap::{ArgAction, Args, ValueEnum};
use forebay_types::settings::{boolean, finite, probability};

/// Changes to the hyperparameters.
#[derive(Args, Debug)]
#[command(next_help_heading = "Changes to the hyperparameters")]
pub(crate) struct HyperparameterChanges {
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

/// Replaces a value if there is another one.
pub(crate) fn set<T>(value: &mut T, change: Option<T>) {
    if let Some(change) = change {
        *value = change;
    }
}
