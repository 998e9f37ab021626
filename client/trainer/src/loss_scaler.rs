//! The loss scale of training in f16, as torch.amp.GradScaler changes it, with its defaults.
//!
//! f16 has no values between 0 and 6e-8, where many gradients are. So the loss is multiplied by a scale, and the gradients
//! are divided by it before the update. If one of them is not finite, the scale was too large: the update is skipped, and
//! the scale is halved. After 2000 updates in a row it is doubled.
//!
//! The GPU decides this, so that the host does not wait for it (backend/cuda/kernels/lamb.cu). As in torch, a skipped
//! update does not count for the bias correction of the optimizer, but does for the schedule and the model's average.

/// The state of the loss scale.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LossScaler {
    /// Factor of the loss, and so of all gradients.
    pub scale: f32,
    /// Updates since the scale last changed.
    pub growth: u32,
    /// Number of updates that were skipped.
    pub skipped: u64,
}

/// A scale below which no gradient that is finite in f16 helps: training has diverged.
pub(crate) const MIN_SCALE: f32 = 1.0 / (1 << 20) as f32;

impl Default for LossScaler {
    fn default() -> Self {
        Self { scale: 65536.0, growth: 0, skipped: 0 }
    }
}

/// Updates in a row after which the scale is doubled, the same as in lamb.cu.
const GROWTH_INTERVAL: u32 = 2000;

impl LossScaler {
    /// Checks a state that was read from a file. With a scale that is infinite or no number, training would skip every update
    /// without end, and with a tiny one every gradient would be zero in f16.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Self { scale, growth, .. } = self;
        if !(scale.is_finite() && *scale >= MIN_SCALE) {
            return Err(format!(
                "its loss scale is {scale}, expected a number of at least {MIN_SCALE:e}"
            ));
        }
        if *growth >= GROWTH_INTERVAL {
            return Err(format!(
                "it counts {growth} updates since the loss scale changed, expected fewer than {GROWTH_INTERVAL}"
            ));
        }
        Ok(())
    }
}

/// Bytes of the state on a GPU: `Scaler` of kernels/prelude.cuh.
#[cfg(feature = "cuda")]
pub(crate) const BYTES: usize = 32;

#[cfg(feature = "cuda")]
impl LossScaler {
    /// The state on a GPU, where `updates` were applied or skipped so far. `None` is a scale of 1 that does not change.
    pub(crate) fn to_bytes(scaler: Option<Self>, updates: u64) -> [u8; BYTES] {
        let own = scaler.unwrap_or(Self { scale: 1.0, growth: 0, skipped: 0 });
        let words = [updates.saturating_sub(own.skipped), own.skipped].map(u64::to_le_bytes);
        let dynamic = u32::from(scaler.is_some());
        let halves = [own.scale.to_bits(), own.growth, dynamic, 0].map(u32::to_le_bytes);
        let mut bytes = [0; BYTES];
        bytes[..16].copy_from_slice(words.as_flattened());
        bytes[16..].copy_from_slice(halves.as_flattened());
        bytes
    }

    /// The state from a GPU, and whether it skipped the last update.
    pub(crate) fn from_bytes(bytes: [u8; BYTES]) -> (Self, bool) {
        let half = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let skipped = u64::from_le_bytes(std::array::from_fn(|i| bytes[8 + i]));
        let own = Self { scale: f32::from_bits(half(16)), growth: half(20), skipped };
        (own, half(28) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_from_which_training_does_not_go_on_are_refused() {
        let check = |scale, growth| LossScaler { scale, growth, skipped: 3 }.check();
        for (scale, growth) in [(65536.0, 0), (MIN_SCALE, 1999), (3e38, 7)] {
            assert_eq!(check(scale, growth), Ok(()));
        }
        for scale in [0.0, -2.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-9] {
            let error = check(scale, 0).unwrap_err();
            assert!(error.contains(&format!("loss scale is {scale},")), "{error}");
        }
        assert!(check(1.0, 2000).unwrap_err().contains("2000 updates"));
    }
}
