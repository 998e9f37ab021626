//! Downloads losses and gradient norms from the GPU for the training loop.

use forebay::gpu::{DeviceError, Gpu, Pinned};

use super::memory_map::OUTCOME;
use crate::backend::UpdateReport;
use crate::loss_scaler::{BYTES, LossScaler};

/// Page-locked buffers for downloads, which are reused.
#[derive(Debug)]
pub(super) struct PinnedPool {
    device: Gpu,
    /// Size of each buffer.
    bytes: usize,
    free: Vec<Pinned>,
    allocated: usize,
}

impl PinnedPool {
    /// An empty pool, whose buffers each hold the losses of a batch, or the outcome of an update.
    pub(super) const fn new(device: Gpu, batch: usize) -> Self {
        let bytes = if batch * 4 < OUTCOME { OUTCOME } else { batch * 4 };
        Self { device, bytes, free: Vec::new(), allocated: 0 }
    }

    pub(super) fn take(&mut self) -> Result<Pinned, DeviceError> {
        if let Some(buffer) = self.free.pop() {
            return Ok(buffer);
        }
        self.allocated += 1;
        self.device.pinned(self.bytes)
    }

    fn give_back(&mut self, buffer: Pinned) {
        self.free.push(buffer);
    }

    pub(super) const fn allocated(&self) -> usize {
        self.allocated
    }
}

/// The losses of a microbatch's samples.
#[derive(Debug)]
pub(super) struct PendingLosses {
    pub(super) bytes: Pinned,
    pub(super) samples: usize,
    /// Divisor of the sum of the losses.
    pub(super) terms: f64,
}

impl PendingLosses {
    /// Waits for the download. Returns the loss of the microbatch.
    pub(super) fn wait(&mut self) -> Result<f64, DeviceError> {
        self.bytes.wait()?;
        let losses = self.bytes[..self.samples * 4].as_chunks::<4>().0.iter();
        let sum: f64 = losses.map(|bytes| f64::from(f32::from_le_bytes(*bytes))).sum();
        Ok(sum / self.terms)
    }
}

/// The report of an update.
#[derive(Debug)]
pub(super) struct PendingReport {
    pub(super) losses: Vec<PendingLosses>,
    /// As [`MemoryMap::outcome`](super::memory_map::MemoryMap::outcome).
    pub(super) outcome: Pinned,
    /// Whether the loss scale changes.
    pub(super) is_scaled: bool,
}

impl PendingReport {
    /// Waits for the downloads, and gives their buffers back to the pool.
    pub(super) fn wait(mut self, pool: &mut PinnedPool) -> Result<UpdateReport, DeviceError> {
        let mut losses = Vec::with_capacity(self.losses.len());
        for mut pending in self.losses {
            losses.push(pending.wait()?);
            pool.give_back(pending.bytes);
        }
        self.outcome.wait()?;
        let grad_norm = f64::from_le_bytes(self.outcome[..8].try_into().expect("8 bytes"));
        let scaler = self.outcome[OUTCOME - BYTES..OUTCOME].try_into().expect("its bytes");
        let loss_scaler = self.is_scaled.then(|| LossScaler::from_bytes(scaler));
        pool.give_back(self.outcome);
        Ok(UpdateReport { losses, grad_norm, loss_scaler })
    }
}
