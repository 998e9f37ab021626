//! Uploads a microbatch: pixels, targets and the stochastic-depth mask.

use forebay::Rect;
use forebay::mix::{MIX_BYTES, mix_entry};
use forebay::plan::{MixKind, MixSample};
use forebay_client::Mix;

use super::CudaBackend;
use crate::Error;
use crate::batch::{Batch, Pixels};
use crate::drop_path::DropPath;

impl CudaBackend {
    /// Uploads a microbatch, which must have been checked, for a forward pass.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn load_batch(
        &mut self,
        batch: &Batch,
        train: bool,
        drop_path: Option<&DropPath>,
    ) -> Result<(), Error> {
        self.uploads += 1;
        self.load_images(batch, train)?;
        if train { self.load_targets(batch, drop_path) } else { Ok(()) }
    }

    /// Uploads images, mixes them if the server did not, and normalizes them into the first tensor.
    fn load_images(&mut self, batch: &Batch, train: bool) -> Result<(), Error> {
        let input = self.input.clone();
        let staging = &mut self.staging[self.uploads % 2];
        let to = &mut staging[input.pixels.start..];
        let len = match &batch.pixels {
            Pixels::Bytes(bytes) | Pixels::Unmixed(bytes, _) => {
                to[..bytes.len()].copy_from_slice(bytes);
                bytes.len()
            }
            Pixels::Floats(floats) => {
                for (to, float) in to.as_chunks_mut::<4>().0.iter_mut().zip(floats) {
                    *to = float.to_le_bytes();
                }
                floats.len() * 4
            }
        };
        let start = input.pixels.start;
        let mut pixels = self.memory.input.start + start;
        self.lane.upload(staging, start..start + len, pixels)?;
        if let Pixels::Unmixed(_, mix) = &batch.pixels {
            let staged = staging[input.mix.clone()].as_chunks_mut::<MIX_BYTES>().0.iter_mut();
            staged.zip(mix).for_each(|(to, mix)| *to = mix_entry(mix_sample(*mix)));
            let end = input.mix.start + mix.len() * MIX_BYTES;
            let entries = self.memory.input.start + input.mix.start;
            self.lane.upload(staging, input.mix.start..end, entries)?;
            self.launcher().mix(batch, pixels, entries)?;
            pixels = self.memory.mixed.start;
        }
        let (graph, x) = (&self.plan(train).graph, self.value_address(train, 0));
        self.launcher().images(batch, graph, pixels, x)?;
        Ok(())
    }

    /// Uploads targets and the stochastic-depth mask in one copy, because they are adjacent in memory.
    fn load_targets(&mut self, batch: &Batch, drop_path: Option<&DropPath>) -> Result<(), Error> {
        let input = &self.input;
        let staging = &mut self.staging[self.uploads % 2];
        let words = |labels: &[u32]| labels.iter().map(|l| l.to_le_bytes()).collect::<Vec<_>>();
        let lambda = batch.lambda.iter().map(|l| l.to_le_bytes()).collect();
        for (range, words) in [
            (&input.label_a, words(&batch.label_a)),
            (&input.label_b, words(&batch.label_b)),
            (&input.lambda, lambda),
        ] {
            let to = staging[range.clone()].as_chunks_mut::<4>().0.iter_mut();
            to.zip(words).for_each(|(to, word)| *to = word);
        }
        let mut end = input.lambda.end;
        if let Some(drop_path) = drop_path {
            let to = &mut staging[input.drop_path.clone()];
            write_mask(to, drop_path, self.training.batch, batch.samples());
            end = input.drop_path.end;
        }
        let start = input.label_a.start;
        self.lane.upload(staging, start..end, self.memory.input.start + start)?;
        Ok(())
    }
}

/// How the kernel mixes a sample's pixels. The weights of the labels are part of the targets.
const fn mix_sample(mix: Mix) -> MixSample {
    match mix {
        Mix::Keep => MixSample::UNMIXED,
        Mix::MixUp { lambda, partner_lambda } => {
            let weights = [lambda, partner_lambda];
            MixSample { kind: MixKind::Mixup, weights, ..MixSample::UNMIXED }
        }
        Mix::CutMix { top, left, height, width } => {
            let rect = Rect { top, left, height, width };
            MixSample { kind: MixKind::Cutmix(rect), ..MixSample::UNMIXED }
        }
    }
}

/// Writes the factors of each block. Blocks are `max_samples` factors apart.
fn write_mask(to: &mut [u8], drop_path: &DropPath, max_samples: usize, samples: usize) {
    for (block, to) in to.chunks_exact_mut(max_samples * 4).enumerate() {
        let scales = drop_path.block(block)[..samples].iter();
        for (to, scale) in to.as_chunks_mut::<4>().0.iter_mut().zip(scales) {
            #[expect(clippy::cast_possible_truncation, reason = "as the kernels take it")]
            let scale = *scale as f32;
            *to = scale.to_le_bytes();
        }
    }
}
