//! A microbatch on its way into the first tensor.

use forebay::gpu::DeviceError;

use super::CudaBackend;
use crate::batch::{Batch, Pixels};
use crate::drop_path::DropPath;

impl CudaBackend {
    /// Uploads a microbatch, which must have been checked, for a forward pass: mixes its images if the server did
    /// not, and normalizes them into the first tensor.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn load_batch(
        &mut self,
        batch: &Batch,
        train: bool,
        drop_path: Option<&DropPath>,
    ) -> Result<(), DeviceError> {
        let drop_path = drop_path.map(|drop_path| (drop_path, self.training.batch));
        let slot = self.uploads.upload(&self.lane, batch, drop_path)?;
        let map = self.uploads.map();
        let mut pixels = self.uploads.address(slot, &map.pixels);
        if let Pixels::Unmixed(..) = &batch.pixels {
            self.launcher().mix(batch, pixels, self.uploads.address(slot, &map.mix))?;
            pixels = self.lane.address(self.memory.mixed.clone());
        }
        let (graph, x) = (&self.plan(train).graph, self.value_address(train, 0));
        self.launcher().images(batch, graph, pixels, x)?;
        if train {
            self.uploads.copy_targets(slot, &self.lane, self.memory.targets.start)?;
        }
        self.uploads.free(slot, &self.lane)
    }
}
