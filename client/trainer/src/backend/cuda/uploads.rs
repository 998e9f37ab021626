//! Uploads a microbatch: pixels, targets and the stochastic-depth mask.
//!
//! ```text
//!   host        staging 0, 1, ..    filled while the GPU works
//!   copy lane   slot 0, slot 1      one copy for each microbatch, ahead of the kernels
//!   work lane   first tensor, targets of the microbatch in progress
//! ```
//!
//! A slot is free for the next copy once the kernels have read it, which is at the beginning of the forward pass. So the
//! copy of a microbatch overlaps all of the work on the one before, and the host waits for neither.

use std::ops::Range;

use forebay::Rect;
use forebay::gpu::{DeviceError, Gpu, Lane, Mark, Pinned, Staging};
use forebay::mix::{MIX_BYTES, mix_entry};
use forebay::plan::{MixKind, MixSample};
use forebay_client::Mix;

use super::memory_map::InputMap;
use crate::batch::{Batch, Pixels};
use crate::drop_path::DropPath;

/// Number of the copy lane; 0 is the work lane, and 1 that of the collectives.
const COPY_LANE: usize = 2;

/// Uploads in flight at once: one is read by the kernels while the next one is copied.
const SLOTS: usize = 2;

/// Maximum number of microbatches that the host may be ahead of their copies. Until then it does not wait.
const MAX_STAGED: usize = 8;

/// The way of microbatches to the GPU.
#[derive(Debug)]
pub(super) struct Uploads {
    map: InputMap,
    staging: Staging,
    /// Its memory has the slots.
    lane: Lane,
    /// Set after the kernels that read a slot.
    consumed: [Mark; SLOTS],
    /// Number of uploads so far.
    count: usize,
}

impl Uploads {
    pub(super) fn new(device: &Gpu, map: InputMap) -> Result<Self, DeviceError> {
        Ok(Self {
            staging: device.staging(map.bytes, MAX_STAGED),
            lane: device.lane(COPY_LANE, SLOTS * map.bytes)?,
            consumed: [device.mark()?, device.mark()?],
            count: 0,
            map,
        })
    }

    pub(super) const fn map(&self) -> &InputMap {
        &self.map
    }

    /// Number of page-locked buffers allocated so far.
    pub(super) fn buffers(&self) -> usize {
        self.staging.len()
    }

    /// Starts the copy of a microbatch, and makes the work lane wait for it. Returns its slot.
    pub(super) fn upload(
        &mut self,
        work: &Lane,
        batch: &Batch,
        drop_path: Option<(&DropPath, usize)>,
    ) -> Result<usize, DeviceError> {
        let slot = self.count % SLOTS;
        self.count += 1;
        let staging = self.staging.take()?;
        fill_targets(staging, &self.map, batch, drop_path);
        let end = fill_pixels(staging, &self.map, batch);
        self.lane.follow_mark(&self.consumed[slot])?;
        self.lane.upload(staging, 0..end, slot * self.map.bytes)?;
        work.follow(&self.lane)?;
        Ok(slot)
    }

    /// Copies the targets of a slot to the work lane, from byte `at` of its memory on.
    pub(super) fn copy_targets(
        &self,
        slot: usize,
        work: &Lane,
        at: usize,
    ) -> Result<(), DeviceError> {
        let (start, targets) = (slot * self.map.bytes, self.map.targets());
        work.copy_from(&self.lane, start + targets.start..start + targets.end, at)
    }

    /// Frees a slot for the next copy, once the work lane has done its work so far.
    pub(super) fn free(&self, slot: usize, work: &Lane) -> Result<(), DeviceError> {
        work.set_mark(&self.consumed[slot])
    }

    /// Address of a range of a slot.
    pub(super) fn address(&self, slot: usize, range: &Range<usize>) -> u64 {
        let start = slot * self.map.bytes;
        self.lane.address(start + range.start..start + range.end)
    }
}

impl Drop for Uploads {
    /// The slots are freed on the copy lane, after the kernels that read them. A lane that cannot follow has failed, and then
    /// that error was returned.
    fn drop(&mut self) {
        for consumed in &self.consumed {
            self.lane.follow_mark(consumed).ok();
        }
    }
}

/// Writes the pixels, and how each sample is mixed if the server did not. Returns where the pixels end.
fn fill_pixels(staging: &mut Pinned, map: &InputMap, batch: &Batch) -> usize {
    if let Pixels::Unmixed(_, mix) = &batch.pixels {
        let entries = staging[map.mix.clone()].as_chunks_mut::<MIX_BYTES>().0.iter_mut();
        entries.zip(mix).for_each(|(to, mix)| *to = mix_entry(mix_sample(*mix)));
    }
    let to = &mut staging[map.pixels.start..];
    let len = match &batch.pixels {
        Pixels::Bytes(bytes) | Pixels::Unmixed(bytes, _) => {
            to[..bytes.len()].copy_from_slice(bytes);
            bytes.len()
        }
        Pixels::Floats(floats) => {
            write_words(to, floats.iter().map(|float| float.to_le_bytes()));
            floats.len() * 4
        }
    };
    map.pixels.start + len
}

fn fill_targets(
    staging: &mut Pinned,
    map: &InputMap,
    batch: &Batch,
    drop_path: Option<(&DropPath, usize)>,
) {
    for (range, labels) in [(&map.label_a, &batch.label_a), (&map.label_b, &batch.label_b)] {
        write_words(&mut staging[range.clone()], labels.iter().map(|label| label.to_le_bytes()));
    }
    let lambda = batch.lambda.iter().map(|lambda| lambda.to_le_bytes());
    write_words(&mut staging[map.lambda.clone()], lambda);
    if let Some((drop_path, max_samples)) = drop_path {
        let to = &mut staging[map.drop_path.clone()];
        write_mask(to, drop_path, max_samples, batch.samples());
    }
}

fn write_words(to: &mut [u8], words: impl Iterator<Item = [u8; 4]>) {
    to.as_chunks_mut::<4>().0.iter_mut().zip(words).for_each(|(to, word)| *to = word);
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
        #[expect(clippy::cast_possible_truncation, reason = "as the kernels take it")]
        let scales = drop_path.block(block)[..samples].iter().map(|scale| *scale as f32);
        write_words(to, scales.map(f32::to_le_bytes));
    }
}
