//! Chroma upsampling, bit-equal to libjpeg-turbo's: "fancy" (a triangle filter) where a component
//! has half the rows, half the columns or both; plain repetition for other ratios, and for
//! components of at most two columns where columns are halved.
//!
//! The nearer neighbor counts 3/4, the farther 1/4. The rounding constants alternate, so that
//! rounding adds no drift: hence 1 and 2 over 4, 8 and 7 over 16. Beyond an edge of the image the
//! edge itself is the neighbor.

use crate::simd::kernel;

/// The method that brings the samples of a component to the resolution of the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Upsampling {
    /// Output columns for each sample column.
    pub(super) across: u32,
    /// Output rows for each sample row.
    pub(super) down: u32,
    /// Whether columns are interpolated.
    pub(super) fancy_across: bool,
    /// Whether rows are interpolated.
    pub(super) fancy_down: bool,
}

impl Upsampling {
    /// The upsampling of a component of `width` columns.
    pub(super) const fn new(across: u32, down: u32, width: u32) -> Self {
        let fancy_across = across == 2 && down <= 2 && width > 2;
        let fancy_down = down == 2 && (across == 1 || fancy_across);
        Self { across, down, fancy_across, fancy_down }
    }
}

kernel! {
    [avx2]
    /// Writes twice as many columns. `samples` has one sample more than `out` needs at either end.
    pub(super) fn across(samples: &[u8], out: &mut [u8]) {
        let pairs = out.as_chunks_mut::<2>().0;
        let n = pairs.len();
        let neighbors = samples[..n].iter().zip(&samples[1..=n]).zip(&samples[2..n + 2]);
        for (pair, ((&left, &here), &right)) in pairs.iter_mut().zip(neighbors) {
            let (left, here, right) = (u16::from(left), 3 * u16::from(here), u16::from(right));
            *pair = [((here + left + 1) >> 2) as u8, ((here + right + 2) >> 2) as u8];
        }
    }
}

kernel! {
    [avx2]
    /// Writes the row a quarter of the way from `near` to `far`. `bias` is 1 where it is the upper
    /// one of the two output rows next to `near`, and 2 where it is the lower one.
    pub(super) fn down(near: &[u8], far: &[u8], bias: u16, out: &mut [u8]) {
        for (out, (&near, &far)) in out.iter_mut().zip(near.iter().zip(far)) {
            *out = ((3 * u16::from(near) + u16::from(far) + bias) >> 2) as u8;
        }
    }
}

kernel! {
    [avx2]
    /// Writes twice as many columns of the row a quarter of the way from `near` to `far`, both of
    /// which have one sample more than `out` needs at either end. `sums` is as long as they are.
    pub(super) fn both(near: &[u8], far: &[u8], sums: &mut [u16], out: &mut [u8]) {
        for (sum, (&near, &far)) in sums.iter_mut().zip(near.iter().zip(far)) {
            *sum = 3 * u16::from(near) + u16::from(far);
        }
        let pairs = out.as_chunks_mut::<2>().0;
        let n = pairs.len();
        let neighbors = sums[..n].iter().zip(&sums[1..=n]).zip(&sums[2..n + 2]);
        for (pair, ((&left, &here), &right)) in pairs.iter_mut().zip(neighbors) {
            *pair = [((3 * here + left + 8) >> 4) as u8, ((3 * here + right + 7) >> 4) as u8];
        }
    }
}

/// Writes each sample `times` times.
pub(super) fn repeat(samples: &[u8], times: usize, out: &mut [u8]) {
    for (out, &sample) in out.chunks_exact_mut(times).zip(samples) {
        out.fill(sample);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Simd;

    /// A row of `width` samples, with its edges repeated once at either end.
    fn row(width: usize, seed: usize) -> Vec<u8> {
        let inner: Vec<u8> = (0..width).map(|x| (x * x * 37 + seed * 91) as u8).collect();
        [&inner[..1], &inner, &inner[width - 1..]].concat()
    }

    /// The output a quarter of the way from a sample to its neighbor.
    fn mixed(here: u16, neighbor: u16, bias: u16, shift: u32) -> u8 {
        ((3 * here + neighbor + bias) >> shift) as u8
    }

    /// All widths up to a few vectors, at every level of this CPU.
    fn cases() -> impl Iterator<Item = (Simd, usize)> {
        Simd::all().flat_map(|simd| (1..=100).map(move |width| (simd, width)))
    }

    #[test]
    fn columns_are_interpolated_up_to_the_edges() {
        for (simd, width) in cases() {
            let samples = row(width, 1);
            let mut out = vec![0; 2 * width];
            across(simd, &samples, &mut out);
            for x in 0..width {
                let [left, here, right] = [0, 1, 2].map(|i| u16::from(samples[x + i]));
                assert_eq!(out[2 * x], mixed(here, left, 1, 2), "{x} of {width}, {simd:?}");
                assert_eq!(out[2 * x + 1], mixed(here, right, 2, 2), "{x} of {width}, {simd:?}");
            }
            // The outermost columns are the outermost samples.
            assert_eq!([out[0], out[2 * width - 1]], [samples[1], samples[width]]);
        }
    }

    #[test]
    fn rows_and_columns_are_interpolated_together() {
        for (simd, width) in cases() {
            let (near, far) = (row(width, 1), row(width, 2));
            let (mut sums, mut out) = (vec![0; width + 2], vec![0; 2 * width]);
            both(simd, &near, &far, &mut sums, &mut out);
            let sum = |x: usize| 3 * u16::from(near[x]) + u16::from(far[x]);
            for x in 0..width {
                let (left, right) = (sum(x), sum(x + 2));
                assert_eq!(out[2 * x], mixed(sum(x + 1), left, 8, 4), "{x} of {width}, {simd:?}");
                assert_eq!(out[2 * x + 1], mixed(sum(x + 1), right, 7, 4), "{x} of {width}");
            }
        }
    }

    #[test]
    fn rows_are_interpolated() {
        for (simd, width) in cases() {
            let (near, far) = (row(width, 1), row(width, 2));
            for bias in [1, 2] {
                let mut out = vec![0; width];
                down(simd, &near[..width], &far[..width], bias, &mut out);
                for x in 0..width {
                    assert_eq!(out[x], mixed(near[x].into(), far[x].into(), bias, 2), "{simd:?}");
                }
            }
        }
    }
}
