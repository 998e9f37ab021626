//! RandAugment's operations, in place on a slot of the batch, bit-equal to timm on Pillow.
//!
//! Source: timm 1.0.31, `timm/data/auto_augment.py`; Pillow 12, `ImageOps`, `ImageEnhance`,
//! `Image.rotate` and the C code beneath, named in each module.
//!
//! ```text
//!   Posterize, Solarize, AutoContrast, ..  lookup.rs   a table of 256 values for each channel
//!   Color, Sharpness                       blend.rs    a blend with a degenerate image
//!   Rotate, Shear*, Translate*             affine.rs   an affine transform, done by warp.rs
//!   ColorJitter, gray, GaussianBlur        jitter.rs   those of torchvision
//! ```
//!
//! Lookup tables of consecutive operations are composed, so that one pass over the pixels applies
//! all of them.

mod affine;
mod angle;
mod blend;
mod convolve;
mod jitter;
mod lookup;
#[cfg(target_arch = "x86_64")]
mod lookup_avx512;
mod measure;
mod nearest;
#[cfg(target_arch = "x86_64")]
mod rotate_avx2;
mod sampler;
#[cfg(test)]
mod tests;
mod transform;
mod warp;

use crate::geometry::{Size, View};
use crate::randaugment::Op;
use crate::scratch::{bytes_of, fit};
use crate::simd::Simd;
use convolve::Convolver;
use lookup::LookupTables;
use warp::WarpBuffers;

/// The most memory that augmenting an image takes: copies of it in bytes, one of them shifted, and in
/// floats, each with a margin.
pub(crate) const fn scratch_bytes(size: Size) -> usize {
    const MARGIN: usize = 8;
    let pixels = (size.height as usize + MARGIN) * (size.width as usize + MARGIN);
    (3 + 3 + 16) * pixels + 512 * (size.height as usize + size.width as usize + 64)
}

/// Applies operations to images one after another and reuses its memory. Each worker has one.
#[derive(Debug, Default)]
pub struct Augmenter {
    simd: Simd,
    /// The pixels before an operation that cannot work in place.
    source: Vec<u8>,
    buffers: WarpBuffers,
    convolver: Convolver,
}

impl Augmenter {
    /// An augmenter that uses the given instruction set.
    pub fn new(simd: Simd) -> Self {
        Self { simd, ..Self::default() }
    }

    /// The bytes that it keeps, without those of single rows.
    pub(crate) fn held_bytes(&self) -> usize {
        bytes_of(&self.source) + self.buffers.held_bytes()
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
        for op in ops {
            // Composes a table with the waiting ones, or applies those and works on the pixels.
            match *op {
                Op::Invert => tables.then(|value| 255 - value),
                Op::Posterize(bits) => tables.then(|value| lookup::posterize(value, bits)),
                Op::Solarize(threshold) => tables.then(|value| lookup::solarize(value, threshold)),
                Op::SolarizeAdd(add) => tables.then(|value| lookup::solarize_add(value, add)),
                Op::Brightness(factor) => tables.then(|value| blend::mix(0, value, factor)),
                Op::Contrast(factor) => {
                    tables.flush(simd, slot);
                    let mean = measure::mean_luma(simd, slot);
                    tables.then(|value| blend::mix(mean, value, factor));
                }
                Op::AutoContrast => {
                    tables.flush(simd, slot);
                    let extremes = measure::extremes(simd, slot);
                    tables.then_each(&extremes.map(lookup::auto_contrast));
                }
                Op::Equalize => {
                    tables.flush(simd, slot);
                    tables.then_each(&measure::histograms(slot).map(|h| lookup::equalize(&h)));
                }
                Op::Color(factor) => {
                    tables.flush(simd, slot);
                    blend::color(simd, slot, factor);
                }
                Op::Sharpness(factor) => {
                    tables.flush(simd, slot);
                    self.copy_source(slot);
                    blend::sharpness(simd, &self.source, size, slot, factor);
                }
                Op::Rotate(..)
                | Op::ShearX(..)
                | Op::ShearY(..)
                | Op::TranslateXRel(..)
                | Op::TranslateYRel(..) => {
                    tables.flush(simd, slot);
                    self.copy_source(slot);
                    let source = View::new(&self.source, size);
                    affine::apply(simd, op, source, fill, slot, &mut self.buffers);
                }
            }
        }
        tables.flush(simd, slot);
    }

    fn copy_source(&mut self, slot: &[u8]) {
        fit(&mut self.source, slot.len(), 0);
        self.source.copy_from_slice(slot);
    }
}
