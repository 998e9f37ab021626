//! Options of the optimizer, with the names and the meaning of timm's.

use clap::{Args, ValueEnum};
use forebay_types::settings::{non_negative, probability};

use super::hyperparameters::set;
use crate::lamb::Lamb;
use crate::optimizer::Optimizer;
use crate::optimizer::adamw::AdamW;
use crate::optimizer::clip::{ClipGrad, ClipMode};
use crate::optimizer::sgd::Sgd;
use crate::training_loop::TrainConfig;

/// An optimizer by timm's name.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum OptimizerName {
    /// LAMB.
    Lamb,
    /// SGD with Nesterov momentum.
    Sgd,
    /// SGD with classical momentum.
    Momentum,
    /// `AdamW`.
    #[value(name = "adamw")]
    AdamW,
}

/// Changes to the optimizer.
#[derive(Args, Debug)]
#[command(next_help_heading = "Changes to the hyperparameters")]
pub(crate) struct OptimizerChanges {
    /// Optimizer: lamb, sgd with Nesterov momentum, momentum, which is SGD with classical momentum, or adamw.
    #[arg(
        long,
        value_name = "lamb|sgd|momentum|adamw",
        value_enum,
        hide_possible_values = true,
        ignore_case = true
    )]
    pub(crate) opt: Option<OptimizerName>,
    /// Momentum of sgd and momentum, 0.9 by default; 0 trains without. Other optimizers ignore it.
    #[arg(long, value_name = "SHARE", value_parser = probability)]
    pub(crate) momentum: Option<f64>,
    /// Decay rates of the moments of lamb and adamw, 0.9 and 0.999 by default. Other optimizers ignore them.
    #[arg(long, num_args = 2, value_names = ["FIRST", "SECOND"], value_parser = probability)]
    pub(crate) opt_betas: Vec<f64>,
    /// Added to the root of the second moment by lamb, 1e-6 by default, and adamw, 1e-8. Other optimizers ignore it.
    #[arg(long, value_name = "EPSILON", value_parser = non_negative)]
    pub(crate) opt_eps: Option<f64>,
    /// Weight decay of all parameters except biases and batch norms; 0 disables it.
    #[arg(long, value_name = "DECAY", value_parser = non_negative)]
    pub(crate) weight_decay: Option<f64>,
    /// Clip gradients to this limit before the update; 0 disables it. --clip-mode says of what it is the limit.
    #[arg(long, value_name = "LIMIT", value_parser = non_negative)]
    pub(crate) clip_grad: Option<f64>,
    /// What --clip-grad limits: norm, that of all gradients; value, each value; or agc, the norm of the gradient of each
    /// output of a convolution, as a share of the norm of its weights.
    #[arg(
        long,
        value_name = "norm|value|agc",
        value_enum,
        hide_possible_values = true,
        default_value = "norm"
    )]
    pub(crate) clip_mode: ClipMode,
    /// Norm to which lamb itself clips the gradients, after --clip-grad, 1 by default; 0 disables it. Other optimizers
    /// ignore it.
    #[arg(long, value_name = "NORM", value_parser = non_negative)]
    pub(crate) max_grad_norm: Option<f64>,
}

impl OptimizerChanges {
    /// Overrides the preset by the options.
    pub(crate) fn apply(&self, config: &mut TrainConfig) {
        let weight_decay = self.weight_decay.unwrap_or_else(|| config.optimizer.weight_decay());
        let sgd = |nesterov| Optimizer::Sgd(Sgd { nesterov, ..Sgd::default() });
        match self.opt {
            Some(OptimizerName::Lamb) => config.optimizer = Lamb::default().into(),
            Some(OptimizerName::Sgd) => config.optimizer = sgd(true),
            Some(OptimizerName::Momentum) => config.optimizer = sgd(false),
            Some(OptimizerName::AdamW) => config.optimizer = Optimizer::AdamW(AdamW::default()),
            None => {}
        }
        let betas =
            if let [first, second] = self.opt_betas[..] { Some((first, second)) } else { None };
        match &mut config.optimizer {
            Optimizer::Sgd(sgd) => set(&mut sgd.momentum, self.momentum),
            Optimizer::AdamW(adamw) => {
                set(&mut adamw.betas, betas);
                set(&mut adamw.eps, self.opt_eps);
            }
            Optimizer::Lamb(lamb) => {
                set(&mut lamb.betas, betas);
                set(&mut lamb.eps, self.opt_eps);
                let norm = self.max_grad_norm.map(|norm| (norm > 0.0).then_some(norm));
                set(&mut lamb.max_grad_norm, norm);
            }
        }
        config.optimizer.set_weight_decay(weight_decay);
        let limit = self
            .clip_grad
            .map(|value| (value > 0.0).then_some(ClipGrad { value, mode: self.clip_mode }));
        set(&mut config.clip_grad, limit);
    }
}
