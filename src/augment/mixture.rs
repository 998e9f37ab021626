//! AugMix: chains of operations on copies of the image, and their sum or blends.
//!
//! Source: timm 1.0.31, `timm/data/auto_augment.py` (`AugMixAugment`), whose arrays are of single precision;
//! Pillow 12, `Image.blend`.

use super::blend;
use crate::scratch::{bytes_of, fit};
use crate::simd::kernel;

/// Memory of a mixture. An image takes `BYTES` a pixel of it.
#[derive(Debug, Default)]
pub(super) struct MixtureBuffers {
    /// The image before the mixture.
    pub(super) image: Vec<u8>,
    /// The sum of the chains.
    pub(super) sum: Vec<f32>,
    /// The image with the chains blended in so far.
    pub(super) blended: Vec<u8>,
}

impl MixtureBuffers {
    /// Bytes a pixel: the image, and a sum or the result of blends.
    pub(super) const BYTES: usize = 3 + 3 * size_of::<f32>();

    pub(super) const fn held_bytes(&self) -> usize {
        bytes_of(&self.image) + bytes_of(&self.sum) + bytes_of(&self.blended)
    }
}

/// Copies an image into memory that is used again.
pub(super) fn copy(to: &mut Vec<u8>, from: &[u8]) {
    fit(to, from.len(), 0);
    to.copy_from_slice(from);
}

kernel! {
    /// Adds a chain to the sum.
    pub(super) fn add(weight: f32, values: &[u8], sum: &mut [f32]) {
        for (sum, value) in sum.iter_mut().zip(values) {
            *sum += weight * f32::from(*value);
        }
    }
}

kernel! {
    /// Blends the image with the truncated sum of the chains.
    pub(super) fn blend_sum(factor: f32, image: &[u8], sum: &[f32], out: &mut [u8]) {
        for ((out, image), sum) in out.iter_mut().zip(image).zip(sum) {
            *out = blend::mix_single(*image, blend::truncate(*sum), factor);
        }
    }
}
