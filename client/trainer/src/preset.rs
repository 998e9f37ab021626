//! What A1, A2 and A3 of "ResNet strikes back" set on the trainer's side; the service's recipes of the
//! same names hold the data's side (batch 2048 in 8 microbatches, sizes, augmentation).
//!
//! Sources: mmpretrain's and PaddleClas' configurations of the paper, timm's releases. Not confirmed
//! by the paper's text: the BCE threshold, the warm-up's first rate (1e-4) and the last (1e-6).

use crate::Error;
use crate::lamb::Lamb;
use crate::loss::{Criterion, Loss};
use crate::schedule::Schedule;
use crate::train::Training;

/// The settings of a recipe: of a training of `steps` an epoch, with the smoothing that the service
/// says. Rates are for a batch of 2048.
pub fn training(
    recipe: &str,
    smoothing: f64,
    steps: u64,
    microbatches: u32,
) -> Result<Training, Error> {
    let (epochs, rate, weight_decay, drop_path) = match recipe {
        "a1" => (600, 5e-3, 0.01, 0.05),
        "a2" => (300, 5e-3, 0.02, 0.05),
        "a3" => (100, 8e-3, 0.02, 0.0),
        _ => {
            let problem = format!(
                "there is no recipe {recipe}; there are a1, a2 and a3, and every value has a flag"
            );
            return Err(Error::Setting { setting: "--recipe", problem });
        }
    };
    let schedule = Schedule {
        rate,
        warmup_rate: 1e-4,
        min_rate: 1e-6,
        epochs,
        warmup_epochs: 5,
        by_update: false,
    };
    let lamb = Lamb { weight_decay, ..Lamb::default() };
    let loss = Loss { criterion: Criterion::Bce, smoothing, threshold: Some(0.2) };
    Ok(Training { loss, lamb, schedule, drop_path, average: None, seed: 0, steps, microbatches })
}
