//! `ColorJitter`, `RandomGrayscale` and `GaussianBlur`, bit-equal to torchvision on Pillow's images.
//!
//! Source: torchvision 0.29, `transforms/_functional_pil.py` and `_functional_tensor.py`; Pillow 12,
//! `ImageEnhance.py`, `src/libImaging/Convert.c` (`rgb2hsv_row`, `hsv2rgb`, `rgb2l`).

use super::blend::{self, luma};
use super::lookup::LookupTables;
use super::{Augmenter, measure};
use crate::geometry::Size;
use crate::jitter::ColorOp;
use crate::simd::kernel;

impl Augmenter {
    /// Applies color operations in order to `slot`, which holds RGB pixels of the given size.
    ///
    /// # Panics
    /// Panics if `slot` does not have exactly the size of the image, or if an image with fewer than 12 rows
    /// or columns is blurred.
    pub fn apply_color(&mut self, ops: &[ColorOp], slot: &mut [u8], size: Size) {
        assert_eq!(slot.len(), size.rgb_bytes(), "slot of a {size:?} image");
        if slot.is_empty() {
            return;
        }
        let simd = self.simd;
        let mut tables = LookupTables::default();
        for op in ops {
            if !matches!(op, ColorOp::Brightness(_)) {
                tables.flush(simd, slot);
            }
            match *op {
                ColorOp::Brightness(factor) => tables.then(|value| blend::mix(0, value, factor)),
                ColorOp::Contrast(factor) => {
                    let mean = measure::mean_luma(simd, slot);
                    tables.then(|value| blend::mix(mean, value, factor));
                }
                ColorOp::Saturation(factor) => blend::color(simd, slot, factor),
                ColorOp::Hue(part) => turn_hue(simd, slot, hue_steps(part)),
                ColorOp::Grayscale => grayscale(simd, slot),
                ColorOp::GaussianBlur(sigma) => {
                    self.copy_source(slot);
                    self.convolver.gaussian(simd, &self.source, size, sigma, slot);
                }
            }
        }
        tables.flush(simd, slot);
    }
}

kernel! {
    // Without AVX-512, as the other operation that spreads gray over three bytes.
    [avx2]
    fn grayscale(pixels: &mut [u8]) {
        for pixel in pixels.as_chunks_mut::<3>().0 {
            *pixel = [luma(*pixel); 3];
        }
    }
}

/// What is added to a hue of 8 bits, which wraps: the part of the circle in 255ths, truncated.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "NumPy wraps too")]
fn hue_steps(part: f64) -> u8 {
    (part * 255.0) as i32 as u8
}

kernel! {
    fn turn_hue(pixels: &mut [u8], steps: u8) {
        for pixel in pixels.as_chunks_mut::<3>().0 {
            let [hue, saturation, value] = to_hsv(*pixel);
            *pixel = to_rgb([hue.wrapping_add(steps), saturation, value]);
        }
    }
}

/// Hue, saturation and value, in single precision where Pillow rounds to it. Branches are selections, so
/// that the loop over pixels can be vectorized.
#[expect(clippy::inline_always, reason = "must take its caller's features")]
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "Pillow stores single precision")]
pub(super) fn to_hsv([red, green, blue]: [u8; 3]) -> [u8; 3] {
    let (most, least) = (red.max(green).max(blue), red.min(green).min(blue));
    // A gray pixel divides by zero and is overwritten.
    let range = f32::from(most - least);
    let saturation = range / f32::from(most);
    let [r, g, b] = [red, green, blue].map(|value| f32::from(most - value) / range);
    let hue = if red == most {
        b - g
    } else if green == most {
        (2.0 + f64::from(r) - f64::from(b)) as f32
    } else {
        (4.0 + f64::from(g) - f64::from(r)) as f32
    };
    // The remainder of a number from 5/6 to 11/6, which the subtraction does not round.
    let turned = f64::from(hue) / 6.0 + 1.0;
    let hue = (if turned < 1.0 { turned } else { turned - 1.0 }) as f32;
    if most == least { [0, 0, most] } else { [scaled(hue), scaled(saturation), most] }
}

/// A number from 0 to 1 in 255ths, truncated.
#[expect(clippy::inline_always, reason = "must take its caller's features")]
#[inline(always)]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..=255")]
fn scaled(part: f32) -> u8 {
    (f64::from(part) * 255.0) as u8
}

/// Red, green and blue, in double precision where Pillow computes in it.
#[expect(clippy::inline_always, reason = "must take its caller's features")]
#[inline(always)]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..=255")]
pub(super) fn to_rgb([hue, saturation, value]: [u8; 3]) -> [u8; 3] {
    // C rounds halves away from zero, and there is nothing below zero.
    let round = |number: f64| (number + 0.5) as u8;
    let turned = f64::from(hue) * 6.0 / 255.0;
    let sector = turned as u8;
    let rest = f64::from((turned - f64::from(sector)) as f32);
    let part = f64::from((f64::from(saturation) / 255.0) as f32);
    let full = f64::from(value);
    let p = round(full * (1.0 - part));
    let q = round(full * (1.0 - part * rest));
    let t = round(full * (1.0 - part * (1.0 - rest)));
    if saturation == 0 {
        return [value; 3];
    }
    match sector % 6 {
        0 => [value, t, p],
        1 => [q, value, p],
        2 => [p, value, t],
        3 => [p, q, value],
        4 => [t, p, value],
        _ => [value, p, q],
    }
}
