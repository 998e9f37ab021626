//! The hyperparameters of A1, A2 and A3 of "ResNet strikes back", as the files in presets/ hold them. The server's recipes
//! of the same names hold the other half: batch size, image size and augmentation.
//!
//! Sources: the configurations of the paper in mmpretrain and PaddleClas, and timm's releases. The
//! paper's text does not confirm the BCE threshold, the first learning rate of the warm-up (1e-4) and
//! the last of the cosine (1e-6).

use serde::Deserialize;

use crate::Error;
use crate::lamb::Lamb;
use crate::loss::{Criterion, Loss};
use crate::schedule::{Decay, Schedule};
use crate::training_loop::TrainConfig;

/// The presets by name: settings of `train`, as in a file for `--config`.
pub(crate) const PRESETS: [(&str, &str); 3] = [
    ("a1", include_str!("presets/a1.toml")),
    ("a2", include_str!("presets/a2.toml")),
    ("a3", include_str!("presets/a3.toml")),
];

/// The settings that every preset has.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Preset {
    epochs: u64,
    opt: OptimizerName,
    lr: f64,
    weight_decay: f64,
    sched: Decay,
    warmup_epochs: u64,
    warmup_lr: f64,
    min_lr: f64,
    loss: Criterion,
    bce_target_thresh: f32,
    drop_path: f64,
}

/// The optimizer of all presets.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum OptimizerName {
    Lamb,
}

impl TrainConfig {
    /// The hyperparameters of a preset (`a1`, `a2` or `a3`), whose learning rate is for a batch of 2048.
    /// The label smoothing and the sizes come from the dataset's description.
    ///
    /// # Errors
    /// [`Error::Setting`] if the preset does not exist.
    pub fn preset(
        name: &str,
        smoothing: f64,
        steps_per_epoch: u64,
        microbatches: u32,
    ) -> Result<Self, Error> {
        let Some((_, text)) = PRESETS.iter().find(|(preset, _)| *preset == name) else {
            let problem = format!("unknown preset {name:?}: expected \"a1\", \"a2\" or \"a3\"");
            return Err(Error::Setting { setting: "--hyperparameters", problem });
        };
        let preset: Preset =
            toml::from_str(text).expect("a file of this crate, which a test reads");
        let OptimizerName::Lamb = preset.opt;
        let schedule = Schedule {
            lr: preset.lr,
            warmup_lr: preset.warmup_lr,
            min_lr: preset.min_lr,
            epochs: preset.epochs,
            warmup_epochs: preset.warmup_epochs,
            on_updates: false,
            decay: preset.sched,
            cooldown_epochs: 0,
            warmup_prefix: false,
        };
        let target_threshold = Some(preset.bce_target_thresh);
        Ok(Self {
            loss: Loss { criterion: preset.loss, smoothing, target_threshold },
            optimizer: Lamb { weight_decay: preset.weight_decay, ..Lamb::default() }.into(),
            clip_grad: None,
            schedule,
            drop_path: preset.drop_path,
            model_ema_decay: None,
            seed: 0,
            steps_per_epoch,
            microbatches,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_have_the_hyperparameters_of_the_paper() {
        for (name, epochs, lr, weight_decay, drop_path) in [
            ("a1", 600, 5e-3, 0.01, 0.05),
            ("a2", 300, 5e-3, 0.02, 0.05),
            ("a3", 100, 8e-3, 0.02, 0.0),
        ] {
            let config = TrainConfig::preset(name, 0.0, 1, 1).unwrap();
            let Schedule { warmup_lr, min_lr, warmup_epochs, .. } = config.schedule;
            assert_eq!((config.schedule.epochs, warmup_epochs), (epochs, 5), "{name}");
            let found = [config.schedule.lr, warmup_lr, min_lr, config.drop_path];
            assert_eq!(found.map(f64::to_bits), [lr, 1e-4, 1e-6, drop_path].map(f64::to_bits));
            assert_eq!(config.optimizer, Lamb { weight_decay, ..Lamb::default() }.into());
            assert_eq!(config.loss.target_threshold, Some(0.2));
        }
    }
}
