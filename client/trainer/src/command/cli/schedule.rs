//! Options of the learning-rate schedule, with the names and the meaning of timm's.

use anyhow::Context as _;
use clap::{ArgAction, Args, ValueEnum};
use forebay_types::settings::{Number, boolean, non_negative, positive};

use super::hyperparameters::set;
use super::numbers::Epochs;
use crate::schedule::{Decay, Milestones, Schedule};

/// A schedule by timm's name.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ScheduleName {
    /// Half a cosine.
    Cosine,
    /// Decays by a factor every n epochs.
    Step,
    /// Decays by a factor at each milestone.
    Multistep,
    /// A power of the share of epochs that is left.
    Poly,
    /// `poly` with a power of 1.
    Linear,
}

/// Changes to the learning-rate schedule.
#[derive(Args, Debug)]
#[command(next_help_heading = "Changes to the hyperparameters")]
pub(crate) struct ScheduleChanges {
    /// Epochs of training, at most 1000000.
    #[arg(long, value_name = "N")]
    pub(crate) epochs: Option<Epochs>,
    /// Schedule of the learning rate, after a linear warm-up: cosine, step, multistep, poly, a polynomial with the power
    /// --decay-rate, or linear, which is poly with a power of 1.
    #[arg(
        long,
        value_name = "cosine|step|multistep|poly|linear",
        value_enum,
        hide_possible_values = true
    )]
    pub(crate) sched: Option<ScheduleName>,
    /// Peak learning rate. The presets' values are for a batch of 2048.
    #[arg(long, value_parser = positive)]
    pub(crate) lr: Option<f64>,
    /// Learning rate at the start of the warm-up.
    #[arg(long, value_name = "LR", value_parser = non_negative)]
    pub(crate) warmup_lr: Option<f64>,
    /// Learning rate at the end of cosine, poly and linear.
    #[arg(long, value_name = "LR", value_parser = non_negative)]
    pub(crate) min_lr: Option<f64>,
    /// Epochs of warm-up; 0 disables it.
    #[arg(long, value_name = "N")]
    pub(crate) warmup_epochs: Option<Number<0, 1_000_000>>,
    /// Warm up in epochs before those of --epochs, instead of in the first of them.
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = boolean,
        action = ArgAction::Set
    )]
    pub(crate) warmup_prefix: Option<bool>,
    /// Epochs at the lowest learning rate after those of --epochs, with cosine, poly and linear.
    #[arg(long, value_name = "N")]
    pub(crate) cooldown_epochs: Option<Number<0, 1_000_000>>,
    /// With step, epochs between two multiplications by --decay-rate.
    #[arg(long, value_name = "N", default_value = "90")]
    pub(crate) decay_epochs: Epochs,
    /// With multistep, the epochs of which each begins with a multiplication by --decay-rate, counted from 1.
    #[arg(long, value_name = "N,...", default_value = "90,180,270", value_delimiter = ',')]
    pub(crate) decay_milestones: Vec<Epochs>,
    /// Factor of step and multistep, power of poly.
    #[arg(long, value_name = "RATE", default_value_t = 0.1, value_parser = positive)]
    pub(crate) decay_rate: f64,
    /// Change the learning rate at every step instead of every epoch.
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = boolean,
        action = ArgAction::Set
    )]
    pub(crate) sched_on_updates: Option<bool>,
}

impl ScheduleChanges {
    /// Overrides the preset by the options.
    pub(crate) fn apply(&self, schedule: &mut Schedule) -> anyhow::Result<()> {
        set(&mut schedule.epochs, self.epochs.map(Number::get));
        set(&mut schedule.lr, self.lr);
        set(&mut schedule.warmup_lr, self.warmup_lr);
        set(&mut schedule.min_lr, self.min_lr);
        set(&mut schedule.warmup_epochs, self.warmup_epochs.map(Number::get));
        set(&mut schedule.warmup_prefix, self.warmup_prefix);
        set(&mut schedule.cooldown_epochs, self.cooldown_epochs.map(Number::get));
        set(&mut schedule.on_updates, self.sched_on_updates);
        let (rate, epochs) = (self.decay_rate, self.decay_epochs.get());
        let decay = match self.sched {
            None => None,
            Some(ScheduleName::Cosine) => Some(Decay::Cosine),
            Some(ScheduleName::Step) => Some(Decay::Step { epochs, rate }),
            Some(ScheduleName::Multistep) => {
                let milestones = self.decay_milestones.iter().map(|epochs| epochs.as_u32());
                let milestones: Vec<u32> = milestones.collect();
                let milestones = Milestones::try_from(milestones)
                    .map_err(anyhow::Error::msg)
                    .context("invalid --decay-milestones")?;
                Some(Decay::Multistep { milestones, rate })
            }
            Some(ScheduleName::Poly) => Some(Decay::Poly { power: rate }),
            Some(ScheduleName::Linear) => Some(Decay::Poly { power: 1.0 }),
        };
        set(&mut schedule.decay, decay);
        Ok(())
    }
}
