//! RandAugment's operations, in place on a slot, bit-equal to timm on Pillow.
//!
//! Source: timm 1.0.31, `timm/data/auto_augment.py`; Pillow 12, `ImageOps`, `ImageEnhance`,
//! `Image.rotate` and the C code beneath, named in each module.
//!
//! ```text
//!   op -> a table of 256 values a channel    table.rs      neighbours are joined, one pass for all
//!      -> a blend with a degenerate image    blend.rs      Color, Sharpness
//!      -> an affine transform                geometry.rs   estimate.rs makes it fast
//! ```

mod angle;
mod blend;
mod estimate;
mod geometry;
#[cfg(target_arch = "x86_64")]
mod lookup;
mod measure;
#[cfg(target_arch = "x86_64")]
mod rotate;
mod sampler;
mod table;
#[cfg(test)]
mod tests;

use crate::op::Op;
use crate::sample::{Size, View};
use crate::simd::Simd;
use estimate::Warp;
use table::Tables;

/// Memory of one worker that operations need beside the slot.
#[derive(Debug, Default)]
pub struct Scratch {
    simd: Simd,
    /// The slot as it was before the operation.
    source: Vec<u8>,
    warp: Warp,
}

impl Scratch {
    /// Scratch whose operations run the given kernels.
    pub fn new(simd: Simd) -> Self {
        Self { simd, ..Self::default() }
    }
}

/// Applies operations in order to `slot`, RGB pixels of the given size. What geometric operations
/// take from outside the image is `fill`.
///
/// # Panics
/// When `slot` does not hold exactly the image.
pub fn apply(ops: &[Op], slot: &mut [u8], size: Size, fill: [u8; 3], scratch: &mut Scratch) {
    assert_eq!(slot.len(), size.rgb_bytes(), "slot of a {size:?} image");
    if slot.is_empty() {
        return;
    }
    let simd = scratch.simd;
    let mut tables = Tables::default();
    for op in ops {
        match *op {
            Op::Invert => tables.then(|value| 255 - value),
            Op::Posterize(bits) => tables.then(|value| table::posterize(value, bits)),
            Op::Solarize(threshold) => tables.then(|value| table::solarize(value, threshold)),
            Op::SolarizeAdd(add) => tables.then(|value| table::solarize_add(value, add)),
            Op::Brightness(factor) => tables.then(|value| blend::mix(0, value, factor)),
            Op::Contrast(factor) => {
                tables.flush(simd, slot);
                let mean = measure::mean_luma(simd, slot);
                tables.then(|value| blend::mix(mean, value, factor));
            }
            Op::AutoContrast => {
                tables.flush(simd, slot);
                let extremes = measure::extremes(simd, slot);
                tables.then_each(&extremes.map(table::auto_contrast));
            }
            Op::Equalize => {
                tables.flush(simd, slot);
                tables.then_each(&measure::histograms(slot).map(|h| table::equalize(&h)));
            }
            Op::Color(factor) => {
                tables.flush(simd, slot);
                blend::color(simd, slot, factor);
            }
            Op::Sharpness(factor) => {
                tables.flush(simd, slot);
                scratch.source.clear();
                scratch.source.extend_from_slice(slot);
                blend::sharpness(simd, &scratch.source, size, slot, factor);
            }
            Op::Rotate(..)
            | Op::ShearX(..)
            | Op::ShearY(..)
            | Op::TranslateXRel(..)
            | Op::TranslateYRel(..) => {
                tables.flush(simd, slot);
                scratch.source.clear();
                scratch.source.extend_from_slice(slot);
                let source = View::new(&scratch.source, size);
                geometry::apply(simd, op, source, fill, slot, &mut scratch.warp);
            }
        }
    }
    tables.flush(simd, slot);
}
