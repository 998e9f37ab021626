//! Operations that map the values of each channel through a lookup table.
//!
//! Source: Pillow 12, `ImageOps.py` (`autocontrast`, `equalize`, `posterize`, `solarize`); timm's
//! `solarize_add`.

use crate::simd::Simd;

/// A lookup table for each channel: the composition of all operations that are not applied yet.
#[derive(Debug)]
pub(super) struct LookupTables {
    channels: [[u8; 256]; 3],
    identity: bool,
}

/// The table that maps each value to itself.
const IDENTITY: [u8; 256] = {
    let mut table = [0; 256];
    let mut value = 0;
    while value < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        {
            table[value] = value as u8;
        }
        value += 1;
    }
    table
};

impl Default for LookupTables {
    fn default() -> Self {
        Self { channels: [IDENTITY; 3], identity: true }
    }
}

impl LookupTables {
    /// Composes with an operation that maps all channels alike.
    pub(super) fn then(&mut self, map: impl Fn(u8) -> u8) {
        self.then_each(&[IDENTITY.map(map); 3]);
    }

    /// Composes with an operation that has a table for each channel.
    pub(super) fn then_each(&mut self, next: &[[u8; 256]; 3]) {
        for (channel, next) in self.channels.iter_mut().zip(next) {
            for value in channel.iter_mut() {
                *value = next[usize::from(*value)];
            }
        }
        self.identity = false;
    }

    /// Applies the tables to the pixels and resets them to the identity.
    pub(super) fn flush(&mut self, simd: Simd, pixels: &mut [u8]) {
        if self.identity {
            return;
        }
        #[cfg(target_arch = "x86_64")]
        let pixels = match simd.avx512() {
            Some(avx512) => super::lookup_avx512::map(avx512, &self.channels, pixels),
            None => pixels,
        };
        let [red, green, blue] = &self.channels;
        for [r, g, b] in pixels.as_chunks_mut().0 {
            *r = red[usize::from(*r)];
            *g = green[usize::from(*g)];
            *b = blue[usize::from(*b)];
        }
        *self = Self::default();
    }
}

/// Keeps the given number of upper bits.
pub(super) fn posterize(value: u8, bits: u8) -> u8 {
    value & !(0xff_u8.checked_shr(u32::from(bits)).unwrap_or(0))
}

/// Inverts values at or above the threshold.
pub(super) fn solarize(value: u8, threshold: u16) -> u8 {
    if u16::from(value) < threshold { value } else { 255 - value }
}

/// Adds to values below 128, and saturates.
pub(super) fn solarize_add(value: u8, add: u8) -> u8 {
    if value < 128 { value.saturating_add(add) } else { value }
}

/// Stretches the values between the extremes to the range from 0 to 255.
pub(super) fn auto_contrast((low, high): (u8, u8)) -> [u8; 256] {
    if high <= low {
        return IDENTITY;
    }
    let scale = 255.0 / f64::from(high - low);
    let offset = -f64::from(low) * scale;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the saturating cast is Pillow's clipping"
    )]
    IDENTITY.map(|value| (f64::from(value) * scale + offset) as u8)
}

/// Flattens the histogram as far as a mapping of whole values can.
pub(super) fn equalize(histogram: &[u32; 256]) -> [u8; 256] {
    let total: u64 = histogram.iter().map(|count| u64::from(*count)).sum();
    let last =
        histogram.iter().rev().find(|count| **count > 0).map_or(0, |count| u64::from(*count));
    // An image of a single value has a step of zero too.
    let step = (total - last) / 255;
    if step == 0 {
        return IDENTITY;
    }
    let mut below = step / 2;
    let mut table = [0; 256];
    for (to, count) in table.iter_mut().zip(histogram) {
        *to = u8::try_from(below / step).unwrap_or(u8::MAX);
        below += u64::from(*count);
    }
    table
}
