//! Learning-rate schedules: linear warm-up, then a decay. The same as the schedulers of timm 1.0.31 (`scheduler/*_lr.py`)
//! with `k_decay` 1, one cycle and no noise, as its `create_scheduler_v2` makes them.

use std::f64::consts::PI;

/// The learning rate as a function of the step.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Schedule {
    /// Peak learning rate.
    pub lr: f64,
    /// Learning rate at the start of the warm-up.
    pub warmup_lr: f64,
    /// Learning rate at the end of a cosine or a polynomial.
    pub min_lr: f64,
    /// Epochs of training, without the cooldown and a warm-up that comes before them.
    pub epochs: u64,
    /// Epochs of warm-up.
    pub warmup_epochs: u64,
    /// Whether the rate changes at every update; otherwise it is constant within an epoch.
    pub on_updates: bool,
    /// How the rate decays.
    #[serde(default, skip_serializing_if = "Decay::is_cosine")]
    pub decay: Decay,
    /// Epochs at `min_lr` after a cosine or a polynomial; a decay by steps has none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cooldown_epochs: u64,
    /// Whether the warm-up comes before the epochs. Otherwise the decay starts at epoch 0, underneath the warm-up, and is
    /// not shifted by it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub warmup_prefix: bool,
}

/// How the learning rate decays.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// Half a cosine to `min_lr`.
    #[default]
    Cosine,
    /// A multiplication by `rate` every `epochs`.
    Step {
        /// Epochs between two multiplications.
        epochs: u64,
        /// The factor.
        rate: f64,
    },
    /// A multiplication by `rate` at each milestone.
    Multistep {
        /// The epochs before which it happens: the epochs are counted from 1, as in timm and unlike in torch.
        milestones: Milestones,
        /// The factor.
        rate: f64,
    },
    /// A power of the share that is left, to `min_lr`. A power of 1 is a line.
    Poly {
        /// The power.
        power: f64,
    },
}

impl Decay {
    /// Whether it is a cosine, which older checkpoints do not name.
    const fn is_cosine(&self) -> bool {
        matches!(self, Self::Cosine)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Ascending epochs.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "Vec<u32>", into = "Vec<u32>")]
pub struct Milestones([u32; Self::MAX]);

impl Milestones {
    /// Maximum number of milestones.
    pub const MAX: usize = 8;

    /// What follows the last milestone: an epoch that no training reaches.
    const NEVER: u32 = u32::MAX;

    /// The milestones up to and including an epoch.
    fn passed(&self, epoch: u64) -> usize {
        self.0.partition_point(|milestone| u64::from(*milestone) <= epoch)
    }
}

impl TryFrom<Vec<u32>> for Milestones {
    type Error = String;

    fn try_from(epochs: Vec<u32>) -> Result<Self, String> {
        let max = Self::MAX;
        if epochs.len() > max || !epochs.is_sorted() || epochs.contains(&Self::NEVER) {
            return Err(format!("{epochs:?}: expected at most {max} epochs in ascending order"));
        }
        Ok(Self(std::array::from_fn(|i| epochs.get(i).copied().unwrap_or(Self::NEVER))))
    }
}

impl From<Milestones> for Vec<u32> {
    fn from(milestones: Milestones) -> Self {
        milestones.0.into_iter().filter(|epoch| *epoch != Milestones::NEVER).collect()
    }
}

impl Schedule {
    /// Epochs of the whole training.
    pub const fn total_epochs(&self) -> u64 {
        let warmup = if self.warmup_prefix { self.warmup_epochs } else { 0 };
        let cooldown = match self.decay {
            Decay::Cosine | Decay::Poly { .. } => self.cooldown_epochs,
            Decay::Step { .. } | Decay::Multistep { .. } => 0,
        };
        self.epochs + warmup + cooldown
    }

    /// The learning rate of a step.
    pub fn lr(&self, epoch: u64, step: u64, steps_per_epoch: u64) -> f64 {
        let (now, unit) = if self.on_updates {
            (epoch * steps_per_epoch + step, steps_per_epoch)
        } else {
            (epoch, 1)
        };
        let warmup = self.warmup_epochs * unit;
        if now < warmup {
            return self.warmup_lr + now as f64 * ((self.lr - self.warmup_lr) / warmup as f64);
        }
        let now = if self.warmup_prefix { now - warmup } else { now };
        let total = self.epochs * unit;
        let range = self.lr - self.min_lr;
        match self.decay {
            Decay::Cosine | Decay::Poly { .. } if now >= total => self.min_lr,
            Decay::Cosine => {
                let cosine = libm::cos(PI * now as f64 / total as f64);
                self.min_lr + 0.5 * range * (1.0 + cosine)
            }
            Decay::Poly { power } => {
                self.min_lr + range * libm::pow(1.0 - now as f64 / total as f64, power)
            }
            Decay::Step { epochs, rate } => {
                self.lr * libm::pow(rate, (now / (epochs.max(1) * unit)) as f64)
            }
            Decay::Multistep { milestones, rate } => {
                self.lr * libm::pow(rate, milestones.passed((now + 1) / unit) as f64)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_warms_up_decays_and_ends_at_the_minimum() {
        let mut schedule = Schedule {
            lr: 0.008,
            warmup_lr: 1e-4,
            min_lr: 1e-6,
            epochs: 100,
            warmup_epochs: 5,
            on_updates: false,
            decay: Decay::Cosine,
            cooldown_epochs: 0,
            warmup_prefix: false,
        };
        assert!((schedule.lr(0, 7, 10) - 1e-4).abs() < 1e-15);
        assert!((schedule.lr(1, 0, 10) - 0.00168).abs() < 1e-12);
        assert!((schedule.lr(100, 0, 10) - 1e-6).abs() < 1e-15);
        schedule.on_updates = true;
        assert!(schedule.lr(0, 7, 10) > schedule.lr(0, 6, 10));
        assert!(schedule.lr(60, 7, 10) < schedule.lr(60, 6, 10));
    }
    #[test]
    fn a_schedule_of_an_older_checkpoint_is_a_cosine_without_cooldown() {
        let old = serde_json::json!({
            "lr": 0.005, "warmup_lr": 1e-4, "min_lr": 1e-6, "epochs": 300, "warmup_epochs": 5, "on_updates": false
        });
        let schedule: Schedule = serde_json::from_value(old.clone()).unwrap();
        assert_eq!((schedule.decay, schedule.total_epochs()), (Decay::Cosine, 300));
        assert_eq!(serde_json::to_value(schedule).unwrap(), old, "and is written as before");
    }

    #[test]
    fn milestones_are_ascending_and_few() {
        let parsed: Result<Milestones, _> = serde_json::from_str("[30, 60]");
        assert_eq!(Vec::from(parsed.unwrap()), [30, 60]);
        for wrong in ["[60, 30]", "[1,2,3,4,5,6,7,8,9]", "[-1]"] {
            let parsed: Result<Milestones, _> = serde_json::from_str(wrong);
            parsed.unwrap_err();
        }
    }
}
