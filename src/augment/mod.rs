//! Operations of augmentation policies, in place on a slot of the batch, bit-equal to timm on Pillow.
//!
//! Source: timm 1.0.31, `timm/data/auto_augment.py`; Pillow 12, `ImageOps`, `ImageEnhance`,
//! `Image.rotate` and the C code beneath, named in each module.
//!
//! ```text
//!   Posterize, Solarize, AutoContrast, ..  lookup.rs   a table of 256 values for each channel
//!   Color, Sharpness                       blend.rs    a blend with a degenerate image
//!   GaussianBlur                           blur.rs     three box blurs along each axis
//!   Rotate, Shear*, Translate*             affine.rs   an affine transform, done by warp.rs
//!   ColorJitter, gray, GaussianBlur        jitter.rs   those of torchvision
//! ```
//!
//! Lookup tables of consecutive operations are composed, so that one pass over the pixels applies
//! all of them.

mod affine;
mod angle;
mod blend;
mod blur;
mod convolve;
mod jitter;
mod lookup;
#[cfg(target_arch = "x86_64")]
mod lookup_avx512;
mod measure;
mod mixture;
mod nearest;
#[cfg(target_arch = "x86_64")]
mod rotate_avx2;
mod sampler;
#[cfg(test)]
mod tests;
mod transform;
mod warp;

use crate::geometry::{Size, View};
use crate::ops::{Effect, Mixture, MixtureKind, Op};
use crate::scratch::{bytes_of, fit};
use crate::simd::Simd;
use convolve::Convolver;
use lookup::LookupTables;
use mixture::MixtureBuffers;
use warp::WarpBuffers;

/// The most memory that augmenting an image takes: copies of it in bytes, one of them shifted, and in
/// floats, and those of a mixture, each with a margin.
pub(crate) const fn scratch_bytes(size: Size) -> usize {
    const MARGIN: usize = 8;
    let pixels = (size.height as usize + MARGIN) * (size.width as usize + MARGIN);
    (3 + 3 + 16 + MixtureBuffers::BYTES) * pixels
        + 512 * (size.height as usize + size.width as usize + 64)
}

/// Applies operations to images one after another and reuses its memory. Each worker has one.
#[derive(Debug, Default)]
pub struct Augmenter {
    simd: Simd,
    /// The pixels before an operation that cannot work in place.
    source: Vec<u8>,
    buffers: WarpBuffers,
    convolver: Convolver,
    mixture: MixtureBuffers,
}

impl Augmenter {
    /// An augmenter that uses the given instruction set.
    pub fn new(simd: Simd) -> Self {
        Self { simd, ..Self::default() }
    }

    /// The bytes that it keeps, without those of single rows.
    pub(crate) fn held_bytes(&self) -> usize {
        bytes_of(&self.source) + self.buffers.held_bytes() + self.mixture.held_bytes()
    }

    /// Applies operations in order to `slot`, which holds RGB pixels of the given size. Geometric
    /// operations set pixels from outside the image to `fill`.
    ///
    /// # Panics
    /// Panics if `slot` does not have exactly the size of the image.
    pub fn apply(&mut self, ops: &[Op], slot: &mut [u8], size: Size, fill: [u8; 3]) {
        assert_eq!(slot.len(), size.rgb_bytes(), "slot of a {size:?} image");
        if slot.is_empty() {
            return;
        }
        let simd = self.simd;
        let mut tables = LookupTables::default();
        for effect in ops.iter().map(Op::effect) {
            // Composes a table with the waiting ones, or applies those and works on the pixels.
            match *effect {
                Effect::Invert => tables.then(|value| 255 - value),
                Effect::Posterize(bits) => tables.then(|value| lookup::posterize(value, bits)),
                Effect::Solarize(threshold) => {
                    tables.then(|value| lookup::solarize(value, threshold));
                }
                Effect::SolarizeAdd(add) => tables.then(|value| lookup::solarize_add(value, add)),
                Effect::Brightness(factor) => tables.then(|value| blend::mix(0, value, factor)),
                Effect::Contrast(factor) => {
                    tables.flush(simd, slot);
                    let mean = measure::mean_luma(simd, slot);
                    tables.then(|value| blend::mix(mean, value, factor));
                }
                Effect::AutoContrast => {
                    tables.flush(simd, slot);
                    let extremes = measure::extremes(simd, slot);
                    tables.then_each(&extremes.map(lookup::auto_contrast));
                }
                Effect::Equalize => {
                    tables.flush(simd, slot);
                    tables.then_each(&measure::histograms(slot).map(|h| lookup::equalize(&h)));
                }
                Effect::Color(factor) => {
                    tables.flush(simd, slot);
                    blend::color(simd, slot, factor);
                }
                Effect::Sharpness(factor) => {
                    tables.flush(simd, slot);
                    self.copy_source(slot);
                    blend::sharpness(simd, &self.source, size, slot, factor);
                }
                Effect::GaussianBlur(radius) => {
                    tables.flush(simd, slot);
                    fit(&mut self.source, slot.len(), 0);
                    let line = &mut self.buffers.line;
                    blur::gaussian(simd, [slot, &mut self.source], line, size, radius);
                }
                Effect::Rotate(..)
                | Effect::ShearX(..)
                | Effect::ShearY(..)
                | Effect::TorchShearX(..)
                | Effect::TorchShearY(..)
                | Effect::TranslateX(..)
                | Effect::TranslateY(..)
                | Effect::TranslateXRel(..)
                | Effect::TranslateYRel(..) => {
                    tables.flush(simd, slot);
                    self.copy_source(slot);
                    let source = View::new(&self.source, size);
                    affine::apply(simd, effect, source, fill, slot, &mut self.buffers);
                }
            }
        }
        tables.flush(simd, slot);
    }

    /// Applies the chains of a mixture to `slot`, and mixes them with it.
    ///
    /// # Panics
    /// Panics if `slot` does not have exactly the size of the image.
    pub fn mix(&mut self, plan: &Mixture, slot: &mut [u8], size: Size, fill: [u8; 3]) {
        let simd = self.simd;
        // Taken, because a chain needs the rest of the augmenter.
        let mut buffers = std::mem::take(&mut self.mixture);
        let MixtureBuffers { image, sum, blended } = &mut buffers;
        mixture::copy(image, slot);
        match plan.kind {
            MixtureKind::Summed => {
                fit(sum, slot.len(), 0.0);
                sum.fill(0.0);
                for chain in &plan.chains {
                    slot.copy_from_slice(image);
                    self.apply(&chain.ops, slot, size, fill);
                    mixture::add(simd, chain.weight, slot, sum);
                }
                mixture::blend_sum(simd, plan.weight, image, sum, slot);
            }
            MixtureKind::Blended => {
                mixture::copy(blended, slot);
                for (chain, factor) in plan.chains.iter().zip(plan.blend_factors()) {
                    slot.copy_from_slice(image);
                    self.apply(&chain.ops, slot, size, fill);
                    blend::blend(simd, factor, blended, slot);
                }
                slot.copy_from_slice(blended);
            }
        }
        self.mixture = buffers;
    }

    fn copy_source(&mut self, slot: &[u8]) {
        fit(&mut self.source, slot.len(), 0);
        self.source.copy_from_slice(slot);
    }
}
