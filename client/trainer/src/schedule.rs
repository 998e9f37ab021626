//! The learning rate: linear warm-up, then a half cosine. timm 1.0.31 `scheduler/cosine_lr.py`, with
//! `k_decay` 1 and one cycle, by epoch or by update.

use std::f64::consts::PI;

/// Learning rates over a whole training.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Schedule {
    /// Highest rate.
    pub rate: f64,
    /// Rate of the first epoch (or update) of the warm-up.
    pub warmup_rate: f64,
    /// Rate that the cosine ends at.
    pub min_rate: f64,
    /// Epochs of the training.
    pub epochs: u64,
    /// Epochs of them that warm up. The cosine runs under the warm-up and is not shifted by it.
    pub warmup_epochs: u64,
    /// Changes at each update; else it stays the same within an epoch.
    pub by_update: bool,
}

impl Schedule {
    /// The rate of a step of an epoch of `steps` steps.
    pub fn rate(&self, epoch: u64, step: u64, steps: u64) -> f64 {
        let unit = if self.by_update { steps } else { 1 };
        let now = if self.by_update { epoch * steps + step } else { epoch };
        let (warmup, whole) = (self.warmup_epochs * unit, self.epochs * unit);
        if now < warmup {
            return self.warmup_rate
                + now as f64 * ((self.rate - self.warmup_rate) / warmup as f64);
        }
        if now >= whole {
            return self.min_rate;
        }
        self.min_rate
            + 0.5 * (self.rate - self.min_rate) * (1.0 + libm::cos(PI * now as f64 / whole as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_falls_and_ends() {
        let mut schedule = Schedule {
            rate: 0.008,
            warmup_rate: 1e-4,
            min_rate: 1e-6,
            epochs: 100,
            warmup_epochs: 5,
            by_update: false,
        };
        assert!((schedule.rate(0, 7, 10) - 1e-4).abs() < 1e-15);
        assert!((schedule.rate(1, 0, 10) - 0.00168).abs() < 1e-12);
        assert!((schedule.rate(100, 0, 10) - 1e-6).abs() < 1e-15);
        schedule.by_update = true;
        assert!(schedule.rate(0, 7, 10) > schedule.rate(0, 6, 10));
        assert!(schedule.rate(60, 7, 10) < schedule.rate(60, 6, 10));
    }
}
