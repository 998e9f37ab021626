//! The kernels of kernels/mix.cu in Rust, with the same names and the same order of operations. They
//! explain the kernels, and let tests find a wrong index without a GPU.

use forebay_types::{DType, Layout, MixedBy, PixelFormat};
use half::{bf16, f16};
use proptest::prelude::*;

use super::cpu;
use super::normalize::{NormalizeTable, convert};
use crate::geometry::{Rect, Size};
use crate::plan::{MixKind, MixPlan, MixSample, cutmix_f32, mixup_f32};
use crate::recipe::RecipeSpec;

/// The mixing of one sample.
#[derive(Clone, Copy)]
struct Mix {
    kind: Kind,
    top: u32,
    bottom: u32,
    left: u32,
    right: u32,
    weights: [f32; 2],
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    None,
    Mixup,
    Cutmix,
}

#[derive(Clone, Copy)]
struct Batch {
    n: u32,
    pixels: u32,
    row_bytes: u32,
}

type Bytes = [u8; 16];

/// The bits of a value of the payload.
trait Value: Copy + Default {
    fn lookup(table: &[Self], value: u8) -> Self;
}

impl Value for u8 {
    fn lookup(_: &[Self], value: u8) -> Self {
        value
    }
}

impl Value for u16 {
    fn lookup(table: &[Self], value: u8) -> Self {
        table[usize::from(value)]
    }
}

impl Value for u32 {
    fn lookup(table: &[Self], value: u8) -> Self {
        table[usize::from(value)]
    }
}

fn to_float(byte: u8) -> f32 {
    f32::from_bits(0x4b00_0000 | u32::from(byte)) - 8_388_608.0
}

fn blend(own: u8, partner: u8, weights: [f32; 2]) -> u8 {
    let sum = to_float(own) * weights[0] + to_float(partner) * weights[1];
    (sum + 12_582_912.0).to_bits().to_le_bytes()[0]
}

fn load(from: &[u8], at: u32, count: u32) -> Bytes {
    let mut bytes = [0; 16];
    let (at, count) = (at as usize, count as usize);
    bytes[..count].copy_from_slice(&from[at..at + count]);
    bytes
}

fn mix16(own: Bytes, partner: Bytes, mix: Mix, at: u32, row_bytes: u32) -> Bytes {
    match mix.kind {
        Kind::None => own,
        Kind::Mixup => std::array::from_fn(|k| blend(own[k], partner[k], mix.weights)),
        Kind::Cutmix => {
            let (mut row, mut column) = (at / row_bytes, at % row_bytes);
            std::array::from_fn(|k| {
                let inside =
                    (mix.top..mix.bottom).contains(&row) && (mix.left..mix.right).contains(&column);
                column += 1;
                if column == row_bytes {
                    (row, column) = (row + 1, 0);
                }
                if inside { partner[k] } else { own[k] }
            })
        }
    }
}

fn store<T: Value>(to: &mut [T], at: u32, values: [T; 16], count: u32) {
    let (at, count) = (at as usize, count as usize);
    to[at..at + count].copy_from_slice(&values[..count]);
}

fn write_nhwc<T: Value>(to: &mut [T], mixed: Bytes, table: &[T], at: u32, count: u32) {
    let channels: [&[T]; 3] =
        std::array::from_fn(|k| &table[256 * ((at as usize + k) % 3)..][..256]);
    store(to, at, std::array::from_fn(|k| T::lookup(channels[k % 3], mixed[k])), count);
}

fn write_nchw<T: Value>(
    to: &mut [T],
    mixed: [Bytes; 3],
    table: &[T],
    at: u32,
    pixels: u32,
    count: u32,
) {
    for channel in 0..3 {
        let value = |k: usize| {
            let byte = 3 * k + channel;
            T::lookup(&table[256 * channel..][..256], mixed[byte / 16][byte % 16])
        };
        let plane = u32::try_from(channel).unwrap() * pixels;
        store(to, plane + at, std::array::from_fn(value), count);
    }
}

/// Samples i and j, which are each other's partners or the same, and their mixing.
struct Pair {
    first: usize,
    second: usize,
    mix_first: Mix,
    mix_second: Mix,
    same: bool,
}

fn pair_of(i: u32, mixes: &[Mix], batch: Batch) -> Pair {
    let (i, j) = (i as usize, (batch.n - 1 - i) as usize);
    let sample = 3 * batch.pixels as usize;
    let (mut mix_first, mix_second) = (mixes[i], mixes[j]);
    if i == j {
        mix_first.kind = Kind::None;
    }
    Pair { first: i * sample, second: j * sample, mix_first, mix_second, same: i == j }
}

fn mix_nhwc<T: Value>(pixels: &[u8], out: &mut [T], mixes: &[Mix], table: &[T], batch: Batch) {
    let sample = 3 * batch.pixels;
    for i in 0..batch.n.div_ceil(2) {
        let pair = pair_of(i, mixes, batch);
        for chunk in 0..sample.div_ceil(16) {
            let at = 16 * chunk;
            let count = (sample - at).min(16);
            let a = load(&pixels[pair.first..], at, count);
            let b = load(&pixels[pair.second..], at, count);
            let first = mix16(a, b, pair.mix_first, at, batch.row_bytes);
            write_nhwc(&mut out[pair.first..], first, table, at, count);
            if pair.same {
                continue;
            }
            let second = mix16(b, a, pair.mix_second, at, batch.row_bytes);
            write_nhwc(&mut out[pair.second..], second, table, at, count);
        }
    }
}

fn mix_nchw<T: Value>(pixels: &[u8], out: &mut [T], mixes: &[Mix], table: &[T], batch: Batch) {
    let sample = 3 * batch.pixels;
    for i in 0..batch.n.div_ceil(2) {
        let pair = pair_of(i, mixes, batch);
        for chunk in 0..batch.pixels.div_ceil(16) {
            let at = 16 * chunk;
            let count = (batch.pixels - at).min(16);
            let (mut first, mut second) = ([[0; 16]; 3], [[0; 16]; 3]);
            for (k, byte) in (3 * at..).step_by(16).take(3).enumerate() {
                let valid = (sample.max(byte) - byte).min(16);
                let byte = byte.min(sample);
                let a = load(&pixels[pair.first..], byte, valid);
                let b = load(&pixels[pair.second..], byte, valid);
                first[k] = mix16(a, b, pair.mix_first, byte, batch.row_bytes);
                second[k] = mix16(b, a, pair.mix_second, byte, batch.row_bytes);
            }
            write_nchw(&mut out[pair.first..], first, table, at, batch.pixels, count);
            if !pair.same {
                write_nchw(&mut out[pair.second..], second, table, at, batch.pixels, count);
            }
        }
    }
}

fn mixes(plan: &MixPlan) -> Vec<Mix> {
    let mix = |sample: &MixSample| {
        let (kind, cut) = match sample.kind {
            MixKind::None => (Kind::None, Rect { top: 0, left: 0, height: 0, width: 0 }),
            MixKind::Mixup => (Kind::Mixup, Rect { top: 0, left: 0, height: 0, width: 0 }),
            MixKind::Cutmix(cut) => (Kind::Cutmix, cut),
        };
        let (bottom, right) = (cut.top + cut.height, 3 * (cut.left + cut.width));
        Mix { kind, top: cut.top, bottom, left: 3 * cut.left, right, weights: sample.weights }
    };
    plan.samples.iter().map(mix).collect()
}

/// Runs a kernel; returns the payload's bytes.
fn run<T: Value, const N: usize>(
    (pixels, size, plan): (&[u8], Size, &MixPlan),
    layout: Layout,
    table: &[T],
    bytes: fn(T) -> [u8; N],
) -> Vec<u8> {
    let batch = Batch {
        n: u32::try_from(plan.samples.len()).unwrap(),
        pixels: size.height * size.width,
        row_bytes: 3 * size.width,
    };
    let mut out = vec![T::default(); pixels.len()];
    match layout {
        Layout::Nhwc => mix_nhwc(pixels, &mut out, &mixes(plan), table, batch),
        Layout::Nchw => mix_nchw(pixels, &mut out, &mixes(plan), table, batch),
    }
    out.into_iter().flat_map(bytes).collect()
}

proptest! {
    #[test]
    fn the_kernels_equal_mixing_and_then_converting(
        height in 1_u32..24, width in 1_u32..24, n in 1_usize..8, seed: u64,
        lambdas in prop::collection::vec(0.0_f32..=1.0, 8), kinds in prop::collection::vec(0..3, 8),
    ) {
        let size = Size { height, width };
        let samples = (0..n).map(|i| match kinds[i] {
            0 => MixSample::UNMIXED,
            1 => mixup_f32(lambdas[i]),
            _ => cutmix_f32(lambdas[i], (height / 2, width / 3), size),
        });
        let plan = MixPlan { samples: samples.collect() };
        let mut state = seed;
        let pixels: Vec<u8> = (0..n * size.rgb_bytes()).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        }).collect();
        let mut mixed = pixels.clone();
        cpu::mix(&mut mixed, size, &plan);

        let normalize = NormalizeTable::new(&RecipeSpec::preset("a2").resolve().unwrap());
        let floats: Vec<f32> = (0..3).flat_map(|channel| *normalize.channel(channel)).collect();
        let (as_f16, as_bf16): (Vec<u16>, Vec<u16>) = floats
            .iter()
            .map(|&v| (f16::from_f32(v).to_bits(), bf16::from_f32(v).to_bits()))
            .unzip();
        let as_f32: Vec<u32> = floats.iter().map(|value| value.to_bits()).collect();
        let batch = (&pixels[..], size, &plan);
        for layout in [Layout::Nhwc, Layout::Nchw] {
            for (dtype, got) in [
                (DType::U8, run(batch, layout, &[0_u8; 768], u8::to_le_bytes)),
                (DType::F16, run(batch, layout, &as_f16, u16::to_le_bytes)),
                (DType::Bf16, run(batch, layout, &as_bf16, u16::to_le_bytes)),
                (DType::F32, run(batch, layout, &as_f32, u32::to_le_bytes)),
            ] {
                let format = PixelFormat { dtype, layout, mixed_by: MixedBy::Server };
                let expected: Vec<u8> = mixed.chunks(size.rgb_bytes()).flat_map(|sample| {
                    let mut to = vec![0; sample.len() * dtype.bytes()];
                    convert(sample, format, &normalize, &mut to);
                    to
                }).collect();
                prop_assert_eq!(got, expected, "{:?} {:?}", dtype, layout);
            }
        }
    }
}
