//! MixUp and CutMix of u8 batches on the CPU, in place, and the conversion to the requested format.
//!
//! A sample's partner is its mirror in the microbatch, so samples i and n - 1 - i depend on each other
//! only: both are mixed together, row by row, with a copy of one row. Pairs are independent,
//! and spread over the rayon pool of the calling thread.
//!
//! Pixels that are converted lie where their payload goes (see [`MixJob`]). So a worker copies the two
//! samples of a pair, mixes the copies, and converts them into place while they are in its cache.

use std::time::Duration;

use forebay_types::process::CpuTimer;
use rayon::prelude::*;

use super::job::{MixJob, unmixed_mut};
use super::normalize::convert;
use crate::geometry::Size;
use crate::plan::{MixKind, MixPlan, MixSample};
use crate::simd::{Simd, kernel};

/// Mixes and converts the samples of a buffer in place, by at most `workers` threads if that takes copies;
/// returns the CPU time that it took.
pub(super) fn mix_and_convert(buffer: &mut [u8], job: &MixJob<'_>, workers: usize) -> Duration {
    if job.is_in_place() {
        return if job.is_mixed() { mix(buffer, job.size, job.plan) } else { Duration::ZERO };
    }
    let (n, slot) = (job.plan.samples.len(), job.slot_bytes());
    let (front, back) = buffer.split_at_mut(n / 2 * slot);
    let (middle, back) = back.split_at_mut(n % 2 * slot);
    let pairs = front.par_chunks_exact_mut(slot).zip(back.par_rchunks_exact_mut(slot));
    let pairs = pairs.enumerate().with_min_len((n / 2).div_ceil(workers));
    let converted = pairs.map_init(Copies::default, |copies, (i, (a, b))| {
        let mut timer = CpuTimer::start();
        copies.mix_and_convert(job, [i, n - 1 - i], a, b);
        timer.lap()
    });
    let time: Duration = converted.sum();
    let mut timer = CpuTimer::start();
    if !middle.is_empty() {
        // It has no partner.
        let pixels = unmixed_mut(middle, job.size.rgb_bytes()).to_vec();
        convert(&pixels, job.format, job.normalize, middle);
    }
    time + timer.lap()
}

/// Copies of the unmixed pixels of a pair, and of a row.
#[derive(Default)]
struct Copies {
    a: Vec<u8>,
    b: Vec<u8>,
    row: Vec<u8>,
}

impl Copies {
    /// Mixes and converts two samples, given by their numbers and the places of their payloads.
    fn mix_and_convert(
        &mut self,
        job: &MixJob<'_>,
        numbers: [usize; 2],
        slot_a: &mut [u8],
        slot_b: &mut [u8],
    ) {
        let Self { a, b, row } = self;
        for (copy, slot) in [(&mut *a, &mut *slot_a), (&mut *b, &mut *slot_b)] {
            copy.clear();
            copy.extend_from_slice(unmixed_mut(slot, job.size.rgb_bytes()));
        }
        if job.is_mixed() {
            row.resize(job.size.width as usize * 3, 0);
            let plan = numbers.map(|number| job.plan.samples[number]);
            mix_pair(Simd::detect(), a, b, job.size, plan, row);
        }
        convert(a, job.format, job.normalize, slot_a);
        convert(b, job.format, job.normalize, slot_b);
    }
}

/// Mixes a microbatch in place: u8 pixels in NHWC, one sample after the other. Returns the CPU time
/// that it took.
///
/// # Panics
/// When the pixels are not those of as many samples of the size as the plan has.
pub fn mix(pixels: &mut [u8], size: Size, plan: &MixPlan) -> Duration {
    let (n, sample) = (plan.samples.len(), size.rgb_bytes());
    assert_eq!(pixels.len(), n * sample);
    let simd = Simd::detect();
    let (front, back) = pixels.split_at_mut(n / 2 * sample);
    let pairs = front.par_chunks_exact_mut(sample).zip(back.par_rchunks_exact_mut(sample));
    let new_row = || vec![0; size.width as usize * 3];
    let mixed = pairs.enumerate().map_init(new_row, |row, (i, (a, b))| {
        let mut timer = CpuTimer::start();
        mix_pair(simd, a, b, size, [plan.samples[i], plan.samples[n - 1 - i]], row);
        timer.lap()
    });
    mixed.sum()
}

/// Mixes a sample and its partner, each by its own entry of the plan. `row` is scratch for one row.
pub fn mix_pair(
    simd: Simd,
    a: &mut [u8],
    b: &mut [u8],
    size: Size,
    plan: [MixSample; 2],
    row: &mut [u8],
) {
    if plan.iter().all(|sample| sample.kind == MixKind::Mixup) {
        blend_both(simd, a, b, plan.map(|sample| sample.weights));
        return;
    }
    let width = size.width as usize * 3;
    for (y, (row_a, row_b)) in (0..).zip(a.chunks_exact_mut(width).zip(b.chunks_exact_mut(width))) {
        row.copy_from_slice(row_a);
        mix_row(simd, row_a, row_b, y, plan[0]);
        mix_row(simd, row_b, row, y, plan[1]);
    }
}

fn mix_row(simd: Simd, own: &mut [u8], partner: &[u8], y: u32, sample: MixSample) {
    match sample.kind {
        MixKind::None => {}
        MixKind::Mixup => blend(simd, own, partner, sample.weights),
        MixKind::Cutmix(cut) => {
            if (cut.top..cut.top + cut.height).contains(&y) {
                let columns = cut.left as usize * 3..(cut.left + cut.width) as usize * 3;
                own[columns.clone()].copy_from_slice(&partner[columns]);
            }
        }
    }
}

/// `np.rint(own * weights[0] + partner * weights[1])` in f32, for weights that add up to 1.
///
/// Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves it in the low bits.
#[expect(clippy::inline_always, reason = "must take its caller's features")]
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the low bits are the integer")]
fn blended(own: u8, partner: u8, weights: [f32; 2]) -> u8 {
    let sum = f32::from(own) * weights[0] + f32::from(partner) * weights[1];
    (sum + 12_582_912.0).to_bits() as u8
}

kernel! {
    fn blend(own: &mut [u8], partner: &[u8], weights: [f32; 2]) {
        for (own, partner) in own.iter_mut().zip(partner) {
            *own = blended(*own, *partner, weights);
        }
    }
}

kernel! {
    /// Both samples of a pair in one pass, each with its own weights.
    fn blend_both(a: &mut [u8], b: &mut [u8], weights: [[f32; 2]; 2]) {
        for (a, b) in a.iter_mut().zip(b) {
            (*a, *b) = (blended(*a, *b, weights[0]), blended(*b, *a, weights[1]));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::mixup_f64;

    proptest! {
        #[test]
        fn vectors_and_scalars_blend_alike(
            pixels in prop::collection::vec(any::<[u8; 2]>(), 0..200), lambdas: [u16; 2],
        ) {
            let weights = lambdas.map(|lambda| mixup_f64(f64::from(lambda) / 65_535.0).weights);
            let pixels: (Vec<u8>, Vec<u8>) = pixels.into_iter().map(<(u8, u8)>::from).unzip();
            let mix = |simd| {
                let (mut a, mut b) = pixels.clone();
                blend_both(simd, &mut a, &mut b, weights);
                let mut own = pixels.0.clone();
                blend(simd, &mut own, &pixels.1, weights[0]);
                (a, b, own)
            };
            let plain = mix(Simd::SCALAR);
            prop_assert_eq!(&plain.0, &plain.2);
            for simd in Simd::all() {
                prop_assert_eq!(&mix(simd), &plain, "{:?}", simd);
            }
        }
    }

    #[test]
    fn rounding_is_to_even_as_in_numpy() {
        let mut own = [1, 2, 3, 255, 0];
        blend(Simd::SCALAR, &mut own, &[2, 3, 4, 254, 1], [0.5, 0.5]);
        assert_eq!(own, [2, 2, 4, 254, 0]);
    }
}
