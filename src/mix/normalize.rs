//! Normalization, dtype and layout of one sample.

use forebay_types::{DType, Layout, PixelFormat};
use half::{bf16, f16};

use crate::recipe::Recipe;

/// The normalized value of each of the 256 values of each channel.
#[derive(Clone, Debug)]
pub struct NormalizeTable {
    f32: [[f32; 256]; 3],
}

impl NormalizeTable {
    /// The table of a recipe's mean and standard deviation, in the arithmetic of timm's
    /// `PrefetchLoader`.
    #[expect(clippy::cast_possible_truncation, reason = "torch holds them as f32")]
    pub fn new(recipe: &Recipe) -> Self {
        let mut table = [[0.0; 256]; 3];
        for ((table, mean), std) in table.iter_mut().zip(recipe.mean).zip(recipe.std) {
            let (mean, std) = ((mean * 255.0) as f32, (std * 255.0) as f32);
            for (value, to) in (0_u8..=255).zip(table) {
                *to = (f32::from(value) - mean) / std;
            }
        }
        Self { f32: table }
    }

    /// The normalized values of a channel, in f32.
    pub const fn channel(&self, channel: usize) -> &[f32; 256] {
        &self.f32[channel]
    }

    /// The table in the little-endian bits of a dtype, channel by channel. Empty for u8, which is not
    /// normalized.
    #[cfg(feature = "cuda")]
    pub(super) fn to_bytes(&self, dtype: DType) -> Vec<u8> {
        let values = self.f32.as_flattened().iter();
        match dtype {
            DType::U8 => Vec::new(),
            DType::F16 => values.flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
            DType::Bf16 => values.flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
            DType::F32 => values.flat_map(|value| value.to_le_bytes()).collect(),
        }
    }

    fn encode<const N: usize>(&self, encode: impl Fn(f32) -> [u8; N]) -> [[[u8; N]; 256]; 3] {
        self.f32.map(|table| table.map(&encode))
    }
}

/// Writes one sample, u8 in NHWC, in another dtype or layout.
///
/// # Panics
/// When `to` does not have the length of the converted sample.
pub fn convert(pixels: &[u8], format: PixelFormat, normalize: &NormalizeTable, to: &mut [u8]) {
    let identity = std::array::from_fn(|_| {
        std::array::from_fn(|value| [u8::try_from(value).expect("256 values")])
    });
    match format.dtype {
        DType::U8 => look_up(pixels, format.layout, &identity, to),
        DType::F16 => {
            let table = normalize.encode(|value| f16::from_f32(value).to_le_bytes());
            look_up(pixels, format.layout, &table, to);
        }
        DType::Bf16 => {
            let table = normalize.encode(|value| bf16::from_f32(value).to_le_bytes());
            look_up(pixels, format.layout, &table, to);
        }
        DType::F32 => look_up(pixels, format.layout, &normalize.encode(f32::to_le_bytes), to),
    }
}

fn look_up<const N: usize>(
    pixels: &[u8],
    layout: Layout,
    table: &[[[u8; N]; 256]; 3],
    to: &mut [u8],
) {
    assert_eq!(to.len(), pixels.len() * N);
    let pixels = pixels.as_chunks::<3>().0;
    match layout {
        Layout::Nhwc => {
            for (rgb, to) in pixels.iter().zip(to.as_chunks_mut::<N>().0.as_chunks_mut::<3>().0) {
                *to = std::array::from_fn(|channel| table[channel][usize::from(rgb[channel])]);
            }
        }
        Layout::Nchw => {
            for (channel, plane) in to.chunks_exact_mut(pixels.len() * N).enumerate() {
                for (rgb, to) in pixels.iter().zip(plane.as_chunks_mut::<N>().0) {
                    *to = table[channel][usize::from(rgb[channel])];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use forebay_types::MixedBy;

    use super::*;
    use crate::recipe::RecipeSpec;

    #[test]
    fn layouts_and_types_hold_the_same_values() {
        let recipe = RecipeSpec::preset("a2").resolve().unwrap();
        let normalize = NormalizeTable::new(&recipe);
        let pixels: Vec<u8> = (0..5 * 7 * 3).map(|i| u8::try_from(i * 37 % 256).unwrap()).collect();
        let output = |dtype: DType, layout| {
            let mut to = vec![0; pixels.len() * dtype.bytes()];
            convert(
                &pixels,
                PixelFormat { dtype, layout, mixed_by: MixedBy::Server },
                &normalize,
                &mut to,
            );
            to
        };
        assert_eq!(output(DType::U8, Layout::Nhwc), pixels);
        let f32s = |bytes: Vec<u8>| -> Vec<f32> {
            bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
        };
        let (nhwc, nchw) =
            (f32s(output(DType::F32, Layout::Nhwc)), f32s(output(DType::F32, Layout::Nchw)));
        let (f16s, bf16s) = (output(DType::F16, Layout::Nhwc), output(DType::Bf16, Layout::Nchw));
        for (i, pixel) in pixels.chunks(3).enumerate() {
            for (channel, &value) in pixel.iter().enumerate() {
                let expected = normalize.channel(channel)[usize::from(value)];
                assert_eq!(nhwc[i * 3 + channel].to_bits(), expected.to_bits());
                assert_eq!(nchw[channel * 35 + i].to_bits(), expected.to_bits());
                let at = (i * 3 + channel) * 2;
                assert_eq!(f16s[at..at + 2], f16::from_f32(expected).to_le_bytes());
                let at = (channel * 35 + i) * 2;
                assert_eq!(bf16s[at..at + 2], bf16::from_f32(expected).to_le_bytes());
            }
        }
    }
}
