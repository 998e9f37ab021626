//! Learning-rate schedule: linear warm-up, then half a cosine. The same as timm 1.0.31,
//! `scheduler/cosine_lr.py`, with `k_decay` 1 and one cycle.

use std::f64::consts::PI;

/// The learning rate as a function of the step.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Schedule {
    /// Peak learning rate.
    pub lr: f64,
    /// Learning rate at the start of the warm-up.
    pub warmup_lr: f64,
    /// Learning rate at the end of the cosine.
    pub min_lr: f64,
    /// Epochs of training.
    pub epochs: u64,
    /// Epochs of warm-up. The cosine starts at epoch 0, underneath the warm-up, and is not shifted by it.
    pub warmup_epochs: u64,
    /// Whether the rate changes at every update; otherwise it is constant within an epoch.
    pub on_updates: bool,
}

impl Schedule {
    /// The learning rate of a step.
    pub fn lr(&self, epoch: u64, step: u64, steps_per_epoch: u64) -> f64 {
        let (now, unit) = if self.on_updates {
            (epoch * steps_per_epoch + step, steps_per_epoch)
        } else {
            (epoch, 1)
        };
        let (warmup, total) = (self.warmup_epochs * unit, self.epochs * unit);
        if now < warmup {
            return self.warmup_lr + now as f64 * ((self.lr - self.warmup_lr) / warmup as f64);
        }
        if now >= total {
            return self.min_lr;
        }
        let cosine = libm::cos(PI * now as f64 / total as f64);
        self.min_lr + 0.5 * (self.lr - self.min_lr) * (1.0 + cosine)
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
        };
        assert!((schedule.lr(0, 7, 10) - 1e-4).abs() < 1e-15);
        assert!((schedule.lr(1, 0, 10) - 0.00168).abs() < 1e-12);
        assert!((schedule.lr(100, 0, 10) - 1e-6).abs() < 1e-15);
        schedule.on_updates = true;
        assert!(schedule.lr(0, 7, 10) > schedule.lr(0, 6, 10));
        assert!(schedule.lr(60, 7, 10) < schedule.lr(60, 6, 10));
    }
}
