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
