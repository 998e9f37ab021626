//! Chroma upsampling, bit-equal to libjpeg-turbo's: "fancy" (a triangle filter) where a component
//! has half the rows, half the columns or both; plain repetition for other ratios, and for
//! components of at most two columns where columns are halved.
//!
//! The nearer neighbour counts 3/4, the farther 1/4. Rounding alternates, so that it does not
//! drift: that is what the odd constants are. At the image's edges the neighbour outside is the
//! edge itself. The loops are plain, and compiled once more for AVX2.

/// Calls a loop as compiled for the machine.
macro_rules! dispatch {
    ($name:ident($($argument:ident),*)) => {{
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            return avx2::$name($($argument),*);
        }
        $name($($argument),*)
    }};
}
/// How the samples of a component become as many as the image has pixels.
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
    /// Of a component of `width` columns.
    pub(super) const fn new(across: u32, down: u32, width: u32) -> Self {
        let fancy_across = across == 2 && down <= 2 && width > 2;
        let fancy_down = down == 2 && (across == 1 || fancy_across);
        Self { across, down, fancy_across, fancy_down }
    }
}

/// Twice as many columns. `samples` has one sample more than `out` needs at either end.
pub(super) fn across(samples: &[u8], out: &mut [u8]) {
    dispatch!(across_loop(samples, out));
}

/// The row a quarter of the way from `near` to `far`, where the output row is the upper
/// (`bias` 1) or lower (2) one of two.
pub(super) fn down(near: &[u8], far: &[u8], bias: u16, out: &mut [u8]) {
    dispatch!(down_loop(near, far, bias, out));
}

/// Twice as many columns of the row a quarter of the way from `near` to `far`, both of which have
/// one sample more than `out` needs at either end. `sums` has as many elements as they.
pub(super) fn both(near: &[u8], far: &[u8], sums: &mut [u16], out: &mut [u8]) {
    dispatch!(both_loop(near, far, sums, out));
}

/// Each sample `times` times.
pub(super) fn repeat(samples: &[u8], times: usize, out: &mut [u8]) {
    for (out, &sample) in out.chunks_exact_mut(times).zip(samples) {
        out.fill(sample);
    }
}

#[inline(always)]
fn across_loop(samples: &[u8], out: &mut [u8]) {
    let pairs = out.as_chunks_mut::<2>().0;
    let n = pairs.len();
    let neighbours = samples[..n].iter().zip(&samples[1..=n]).zip(&samples[2..n + 2]);
    for (pair, ((&left, &here), &right)) in pairs.iter_mut().zip(neighbours) {
        let here = 3 * u16::from(here);
        *pair =
            [((here + u16::from(left) + 1) >> 2) as u8, ((here + u16::from(right) + 2) >> 2) as u8];
    }
}

#[inline(always)]
fn down_loop(near: &[u8], far: &[u8], bias: u16, out: &mut [u8]) {
    for (out, (&near, &far)) in out.iter_mut().zip(near.iter().zip(far)) {
        *out = ((3 * u16::from(near) + u16::from(far) + bias) >> 2) as u8;
    }
}

#[inline(always)]
fn both_loop(near: &[u8], far: &[u8], sums: &mut [u16], out: &mut [u8]) {
    for (sum, (&near, &far)) in sums.iter_mut().zip(near.iter().zip(far)) {
        *sum = 3 * u16::from(near) + u16::from(far);
    }
    let pairs = out.as_chunks_mut::<2>().0;
    let n = pairs.len();
    let neighbours = sums[..n].iter().zip(&sums[1..=n]).zip(&sums[2..n + 2]);
    for (pair, ((&left, &here), &right)) in pairs.iter_mut().zip(neighbours) {
        *pair = [((3 * here + left + 8) >> 4) as u8, ((3 * here + right + 7) >> 4) as u8];
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "calls of functions compiled for AVX2")]
mod avx2 {
    macro_rules! compile {
        ($name:ident($($argument:ident: $type:ty),*)) => {
            /// To be called where the machine has AVX2.
            pub(super) fn $name($($argument: $type),*) {
                #[target_feature(enable = "avx2")]
                fn compiled($($argument: $type),*) {
                    super::$name($($argument),*);
                }
                // SAFETY: the caller found AVX2.
                unsafe { compiled($($argument),*) }
            }
        };
    }
    compile!(across_loop(samples: &[u8], out: &mut [u8]));
    compile!(down_loop(near: &[u8], far: &[u8], bias: u16, out: &mut [u8]));
    compile!(both_loop(near: &[u8], far: &[u8], sums: &mut [u16], out: &mut [u8]));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of `width` samples, with their edges once more at either end.
    fn row(width: usize, seed: usize) -> Vec<u8> {
        let inner: Vec<u8> = (0..width).map(|x| (x * x * 37 + seed * 91) as u8).collect();
        [&inner[..1], &inner, &inner[width - 1..]].concat()
    }

    /// One column between a sample and its neighbour, at the sample's quarter.
    fn mixed(here: u16, neighbour: u16, bias: u16, shift: u32) -> u8 {
        ((3 * here + neighbour + bias) >> shift) as u8
    }

    #[test]
    fn columns_are_interpolated_up_to_the_edges() {
        for width in 1..=33 {
            let samples = row(width, 1);
            let mut out = vec![0; 2 * width];
            across(&samples, &mut out);
            for x in 0..width {
                let [left, here, right] = [0, 1, 2].map(|i| u16::from(samples[x + i]));
                assert_eq!(out[2 * x], mixed(here, left, 1, 2), "{x} of {width}");
                assert_eq!(out[2 * x + 1], mixed(here, right, 2, 2), "{x} of {width}");
            }
            // The outermost columns are the outermost samples.
            assert_eq!([out[0], out[2 * width - 1]], [samples[1], samples[width]]);
        }
    }

    #[test]
    fn rows_and_columns_are_interpolated_together() {
        for width in 1..=33 {
            let (near, far) = (row(width, 1), row(width, 2));
            let (mut sums, mut out) = (vec![0; width + 2], vec![0; 2 * width]);
            both(&near, &far, &mut sums, &mut out);
            let sum = |x: usize| 3 * u16::from(near[x]) + u16::from(far[x]);
            for x in 0..width {
                assert_eq!(out[2 * x], mixed(sum(x + 1), sum(x), 8, 4), "{x} of {width}");
                assert_eq!(out[2 * x + 1], mixed(sum(x + 1), sum(x + 2), 7, 4), "{x} of {width}");
            }
        }
    }

    #[test]
    fn rows_are_interpolated() {
        for width in 1..=33 {
            let (near, far) = (row(width, 1), row(width, 2));
            for bias in [1, 2] {
                let mut out = vec![0; width];
                down(&near[..width], &far[..width], bias, &mut out);
                for x in 0..width {
                    assert_eq!(out[x], mixed(near[x].into(), far[x].into(), bias, 2));
                }
            }
        }
    }

    #[test]
    fn compiled_twice_to_the_same() {
        let (near, far) = (row(100, 3), row(100, 4));
        let (mut sums, mut fast, mut plain) = (vec![0; 102], vec![0; 200], vec![0; 200]);
        both(&near, &far, &mut sums, &mut fast);
        both_loop(&near, &far, &mut sums, &mut plain);
        assert_eq!(fast, plain);
        across(&near, &mut fast);
        across_loop(&near, &mut plain);
        assert_eq!(fast, plain);
        down(&near[..100], &far[..100], 1, &mut fast);
        down_loop(&near[..100], &far[..100], 1, &mut plain);
        assert_eq!(fast, plain);
    }
}
