//! The job of a mixer: pixels, plan and output format.

use std::ops::Range;

use forebay_types::{DType, Layout, MixedBy, PixelFormat};

use super::normalize::NormalizeTable;
use crate::geometry::Size;
use crate::plan::{MixKind, MixPlan, MixSample};
use crate::recipe::Recipe;

/// A batch of unmixed pixels, u8 in NHWC, and the format that they are to be delivered in.
///
/// The unmixed pixels of a sample are written to the end of the place that its payload takes, so that a
/// buffer has the size of the payload, whatever the format:
///
/// ```text
///   u8               [ sample 0 ][ sample 1 ][ ...
///   f16, bf16        [ .......... | sample 0 ][ .......... | sample 1 ][ ...
/// ```
#[derive(Clone, Copy, Debug)]
pub struct MixJob<'a> {
    /// Height and width of each sample.
    pub size: Size,
    /// One entry for each sample. Applied if the server mixes.
    pub plan: &'a MixPlan,
    /// Format of the payload.
    pub format: PixelFormat,
    /// Applied unless the payload is u8.
    pub normalize: &'a NormalizeTable,
}

/// Bytes of the payload of `samples` of a size, and of the buffer in which they are mixed.
pub(crate) fn payload_bytes(samples: u64, size: Size, format: PixelFormat) -> u64 {
    let sample = (size.rgb_bytes() * format.dtype.bytes()) as u64;
    samples.saturating_mul(sample)
}

/// Whether microbatches of a recipe may need mixing or conversion.
pub(crate) fn needs_mixer(recipe: &Recipe, format: PixelFormat) -> bool {
    !is_in_place(format) || recipe.mixes() && format.mixed_by == MixedBy::Server
}

/// Whether a payload needs no conversion: u8 in NHWC.
pub(super) const fn is_in_place(format: PixelFormat) -> bool {
    matches!((format.dtype, format.layout), (DType::U8, Layout::Nhwc))
}

/// The unmixed pixels of a sample, in the place of its payload.
pub(super) fn unmixed_mut(slot: &mut [u8], sample_bytes: usize) -> &mut [u8] {
    let at = slot.len() - sample_bytes;
    &mut slot[at..]
}

impl MixJob<'_> {
    /// Bytes of the payload, and of the buffer.
    pub fn payload_bytes(&self) -> usize {
        self.plan.samples.len() * self.slot_bytes()
    }

    /// Bytes of the payload of a sample.
    pub fn slot_bytes(&self) -> usize {
        self.size.rgb_bytes() * self.format.dtype.bytes()
    }

    /// Bytes of the unmixed pixels.
    pub fn unmixed_bytes(&self) -> usize {
        self.plan.samples.len() * self.size.rgb_bytes()
    }

    /// Where in the buffer the unmixed pixels of a sample are.
    pub fn unmixed(&self, sample: usize) -> Range<usize> {
        let end = (sample + 1) * self.slot_bytes();
        end - self.size.rgb_bytes()..end
    }

    /// The places of the unmixed pixels in a buffer, sample by sample.
    pub fn unmixed_slots<'b>(
        &self,
        buffer: &'b mut [u8],
    ) -> impl Iterator<Item = &'b mut [u8]> + use<'b> {
        let (slot, sample) = (self.slot_bytes(), self.size.rgb_bytes());
        buffer.chunks_exact_mut(slot).map(move |slot| unmixed_mut(slot, sample))
    }

    /// Whether the payload needs no conversion: u8 in NHWC.
    pub fn is_in_place(&self) -> bool {
        is_in_place(self.format)
    }

    /// Whether any sample is to be mixed.
    pub fn is_mixed(&self) -> bool {
        let mixed = |sample: &MixSample| sample.kind != MixKind::None;
        self.format.mixed_by == MixedBy::Server && self.plan.samples.iter().any(mixed)
    }
}
