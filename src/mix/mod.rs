//! MixUp, CutMix, normalisation, dtype and layout: from a batch of u8 pixels to what the trainer asked
//! for.
//!
//! Sources: timm 1.0.31 `timm/data/mixup.py` (`FastCollateMixup`: u8, before normalisation) and
//! `timm/data/loader.py` (`PrefetchLoader`: `(x - 255 * mean) / (255 * std)` in f32).
//!
//! [`cpu`] and [`convert`] are the truth. The kernels of kernels/*.cu do both in one pass on a GPU and
//! give the same bits; twin.rs is them in Rust. [`open`] chooses.

pub mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod device;
#[cfg(test)]
mod twin;

use half::{bf16, f16};

use crate::geometry::Size;
use crate::recipe::Recipe;

#[cfg(feature = "cuda")]
pub use cuda::{Cuda, MIX_BYTES, MIX_KERNELS, mix_entry};
pub use device::{DEVICE_BYTES, Device, Mixer, Times, Work, open};

/// Type of a pixel's channel values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// 0 to 255, not normalised.
    U8,
    /// Normalised, rounded from f32 to nearest even.
    F16,
    /// Normalised, rounded from f32 to nearest even.
    Bf16,
    /// Normalised.
    F32,
}

impl DType {
    /// Bytes of one value.
    pub const fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

/// Order of the dimensions of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Sample, row, column, channel.
    Nhwc,
    /// Sample, channel, row, column.
    Nchw,
}

/// What the trainer asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// Type of the values.
    pub dtype: DType,
    /// Order of the dimensions.
    pub layout: Layout,
    /// Whether MixUp and CutMix are applied; if not, the trainer applies the plan.
    pub mixed: bool,
}

impl Output {
    /// Mixed u8 pixels in NHWC: what a GPU trainer wants on the wire.
    pub const U8: Self = Self { dtype: DType::U8, layout: Layout::Nhwc, mixed: true };

    /// Whether pixels stay where they are, as u8 in NHWC.
    pub const fn in_place(self) -> bool {
        matches!((self.dtype, self.layout), (DType::U8, Layout::Nhwc))
    }

    /// The four dimensions of a batch of n samples of a size.
    pub const fn shape(self, n: u32, size: Size) -> [u32; 4] {
        match self.layout {
            Layout::Nhwc => [n, size.height, size.width, 3],
            Layout::Nchw => [n, 3, size.height, size.width],
        }
    }
}

/// The normalised value of each channel's 256 values, as little-endian bytes of the dtype.
#[derive(Clone, Debug)]
pub struct Normalise {
    f32: [[f32; 256]; 3],
}

impl Normalise {
    /// By the recipe's mean and standard deviation, in the arithmetic of timm's `PrefetchLoader`.
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

    /// The f32 value of each of a channel's 256 values.
    pub const fn channel(&self, channel: usize) -> &[f32; 256] {
        &self.f32[channel]
    }

    /// The bytes of a dtype of each channel's 256 values; nothing for u8, which is not normalised.
    #[cfg(feature = "cuda")]
    fn table(&self, dtype: DType) -> Vec<u8> {
        let values = self.f32.as_flattened().iter();
        match dtype {
            DType::U8 => Vec::new(),
            DType::F16 => values.flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
            DType::Bf16 => values.flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
            DType::F32 => values.flat_map(|value| value.to_le_bytes()).collect(),
        }
    }

    fn bytes<const N: usize>(&self, to: impl Fn(f32) -> [u8; N]) -> [[[u8; N]; 256]; 3] {
        self.f32.map(|table| table.map(&to))
    }
}

/// Writes one sample, u8 in NHWC, as another dtype or layout.
///
/// # Panics
/// When the lengths do not fit each other.
pub fn convert(pixels: &[u8], output: Output, normalise: &Normalise, to: &mut [u8]) {
    let identity = std::array::from_fn(|_| {
        std::array::from_fn(|value| [u8::try_from(value).expect("256 values")])
    });
    match output.dtype {
        DType::U8 => layout(pixels, output.layout, &identity, to),
        DType::F16 => {
            let table = normalise.bytes(|value| f16::from_f32(value).to_le_bytes());
            layout(pixels, output.layout, &table, to);
        }
        DType::Bf16 => {
            let table = normalise.bytes(|value| bf16::from_f32(value).to_le_bytes());
            layout(pixels, output.layout, &table, to);
        }
        DType::F32 => layout(pixels, output.layout, &normalise.bytes(f32::to_le_bytes), to),
    }
}

fn layout<const N: usize>(
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

/// The dense target that a sparse one stands for, as timm's `mixup_target` makes it: weight lambda on
/// label a and the rest on label b, each smoothed over all classes.
///
/// # Panics
/// When a label is not below the number of classes.
pub fn dense_target(labels: [u32; 2], lambda: f64, smoothing: f64, classes: usize) -> Vec<f32> {
    assert!(labels.iter().all(|&label| (label as usize) < classes), "{labels:?} of {classes}");
    let [on, off] = smoothed(smoothing, classes);
    let weights = weights_of(lambda);
    let one_hot = |label: u32, class: usize| if class == label as usize { on } else { off };
    (0..classes)
        .map(|class| {
            one_hot(labels[0], class) * weights[0] + one_hot(labels[1], class) * weights[1]
        })
        .collect()
}

/// What smoothing leaves of 1 and makes of 0.
#[expect(clippy::cast_possible_truncation, reason = "targets are f32")]
fn smoothed(smoothing: f64, classes: usize) -> [f32; 2] {
    let off = smoothing / classes as f64;
    [(1.0 - smoothing + off) as f32, off as f32]
}

/// The weights of a target's two labels.
#[expect(clippy::cast_possible_truncation, reason = "targets are f32")]
const fn weights_of(lambda: f64) -> [f32; 2] {
    [lambda as f32, (1.0 - lambda) as f32]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::RecipeSpec;

    #[test]
    fn layouts_and_types_hold_the_same_values() {
        let recipe = RecipeSpec::preset("a2").resolve().unwrap();
        let normalise = Normalise::new(&recipe);
        let pixels: Vec<u8> = (0..5 * 7 * 3).map(|i| u8::try_from(i * 37 % 256).unwrap()).collect();
        let output = |dtype: DType, layout| {
            let mut to = vec![0; pixels.len() * dtype.bytes()];
            convert(&pixels, Output { dtype, layout, mixed: true }, &normalise, &mut to);
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
                let expected = normalise.channel(channel)[usize::from(value)];
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
