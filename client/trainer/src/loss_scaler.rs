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
