//! The hyperparameters of A1, A2 and A3 of "ResNet strikes back". The server's recipes of the same
//! names hold the other half: batch size, image size and augmentation.
//!
//! Sources: the configurations of the paper in mmpretrain and PaddleClas, and timm's releases. The
//! paper's text does not confirm the BCE threshold, the first learning rate of the warm-up (1e-4) and
//! the last of the cosine (1e-6).

use crate::Error;
use crate::lamb::Lamb;
use crate::loss::{Criterion, Loss};
use crate::schedule::Schedule;
use crate::training_loop::TrainConfig;

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
        let (epochs, lr, weight_decay, drop_path) = match name {
            "a1" => (600, 5e-3, 0.01, 0.05),
            "a2" => (300, 5e-3, 0.02, 0.05),
            "a3" => (100, 8e-3, 0.02, 0.0),
            _ => {
                let problem = format!("unknown preset {name:?}: expected \"a1\", \"a2\" or \"a3\"");
                return Err(Error::Setting { setting: "--hyperparameters", problem });
            }
        };
        let schedule = Schedule {
            lr,
            warmup_lr: 1e-4,
            min_lr: 1e-6,
            epochs,
            warmup_epochs: 5,
            on_updates: false,
        };
        Ok(Self {
            loss: Loss { criterion: Criterion::Bce, smoothing, target_threshold: Some(0.2) },
            optimizer: Lamb { weight_decay, ..Lamb::default() },
            schedule,
            drop_path,
            model_ema_decay: None,
            seed: 0,
            steps_per_epoch,
            microbatches,
        })
    }
}
