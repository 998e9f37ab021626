//! Mixing, and copying images into the first tensor: mix.cu and pool.cu.

use forebay::gpu::{Arg, DeviceError};

use super::{Launcher, THREADS, to_u32, u32_arg};
use crate::batch::{Batch, Pixels};
use crate::model::Graph;

impl Launcher<'_> {
    /// Mixes every image of a batch with its mirror. `pixels` and `entries` are addresses of the uploaded
    /// images and of how each sample is mixed.
    pub(crate) fn mix(&self, batch: &Batch, pixels: u64, entries: u64) -> Result<(), DeviceError> {
        let ((height, width), samples) = (batch.size, batch.samples());
        let sizes = [samples, height * width, width * 3].map(to_u32).map(u32_arg);
        let [samples_arg, pixels_arg, row] = sizes;
        let to = Arg::Address(self.lane.address(self.memory.mixed.clone()));
        let [pixels, entries] = [pixels, entries].map(Arg::Address);
        let table = self.address(&self.memory.normalization, 0);
        let args = [pixels, to, entries, table, samples_arg, pixels_arg, row];
        // A thread mixes four pieces of 16 bytes, of a sample and of its mirror.
        let pieces = (height * width * 3).div_ceil(16);
        self.run(self.mix_kernel, [pieces.div_ceil(4 * THREADS), samples.div_ceil(2)], &args)
    }

    /// Normalizes the images of a batch, which are at the address `pixels`, into the first tensor.
    pub(crate) fn images(
        &self,
        batch: &Batch,
        graph: &Graph,
        pixels: u64,
        x: u64,
    ) -> Result<(), DeviceError> {
        let ((height, width), pad) = (graph.image, graph.pad);
        // A thread stores all channels of a pixel.
        let padded = batch.samples() * graph.tensors[0].pixels();
        let pixels = Arg::Address(pixels);
        let sizes = [height, width, pad, padded].map(to_u32).map(u32_arg);
        let [height, width, pad, count] = sizes;
        if matches!(batch.pixels, Pixels::Floats(_)) {
            let args = [pixels, Arg::Address(x), height, width, pad, count];
            return self.each(&self.kernels.images_floats, padded, &args);
        }
        let table = self.address(&self.memory.normalization, 0);
        let args = [pixels, table, Arg::Address(x), height, width, pad, count];
        self.each(&self.kernels.images_bytes, padded, &args)
    }
}
