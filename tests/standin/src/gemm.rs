//! Matrix multiplication in f32, on which cuBLAS and the convolutions are built.
//!
//! Each element is summed in the order of k, in blocks of `depth` whose sums are added in order, with a rounding after each product
//! and each sum. The result therefore depends on `depth` only: not on the machine, nor on the other sizes.

/// A strided matrix: element (i, j) is `data[i * step[0] + j * step[1]]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) step: [usize; 2],
}

/// The number of rows and columns of the block that is computed at once, in registers.
const ROWS: usize = 4;
const COLUMNS: usize = 16;

/// The usual `depth`.
pub(crate) const DEPTH: usize = 256;

/// Adds the product of `a` (m x k) and `b` (k x n) to `c`, a row-major m x n matrix.
pub(crate) fn add_product(
    [m, n, k]: [usize; 3],
    a: Matrix<'_>,
    b: Matrix<'_>,
    c: &mut [f32],
    depth: usize,
) {
    let mut a_block = vec![0.0; depth * ROWS];
    let mut b_block = vec![0.0; depth * n.next_multiple_of(COLUMNS)];
    for from in (0..k).step_by(depth) {
        let depth = depth.min(k - from);
        for column in (0..n).step_by(COLUMNS) {
            let block = &mut b_block[column * depth..][..depth * COLUMNS];
            let at = from * b.step[0] + column * b.step[1];
            gather(&b.data[at..], b.step, (n - column).min(COLUMNS), COLUMNS, block);
        }
        for row in (0..m).step_by(ROWS) {
            let at = row * a.step[0] + from * a.step[1];
            let (rows, step) = ((m - row).min(ROWS), [a.step[1], a.step[0]]);
            gather(&a.data[at..], step, rows, ROWS, &mut a_block[..depth * ROWS]);
            for column in (0..n).step_by(COLUMNS) {
                let block = &b_block[column * depth..][..depth * COLUMNS];
                let sums = products(&a_block[..depth * ROWS], block);
                let columns = (n - column).min(COLUMNS);
                for (i, sums) in sums[..rows].iter().enumerate() {
                    let to = &mut c[(row + i) * n + column..][..columns];
                    to.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
                }
            }
        }
    }
}

/// Packs a panel line by line. Each line has `width` values: the first `filled` come from `data`, the others are 0.
fn gather(data: &[f32], step: [usize; 2], filled: usize, width: usize, to: &mut [f32]) {
    for (line, to) in to.chunks_exact_mut(width).enumerate() {
        let (there, missing) = to.split_at_mut(filled);
        let from = &data[line * step[0]..];
        if step[1] == 1 {
            there.copy_from_slice(&from[..filled]);
        } else {
            there.iter_mut().enumerate().for_each(|(i, to)| *to = from[i * step[1]]);
        }
        missing.fill(0.0);
    }
}

type Sums = [[f32; COLUMNS]; ROWS];

fn products(a: &[f32], b: &[f32]) -> Sums {
    if std::is_x86_feature_detected!("avx2") {
        // SAFETY: AVX2 was detected.
        unsafe { products_avx2(a, b) }
    } else {
        products_scalar(a, b)
    }
}

/// The same code, compiled for wider registers. It has no fused multiply-add, so the bits are equal.
#[target_feature(enable = "avx2")]
fn products_avx2(a: &[f32], b: &[f32]) -> Sums {
    products_scalar(a, b)
}

#[expect(clippy::inline_always, reason = "so that it is compiled with the features of its caller")]
#[inline(always)]
fn products_scalar(a: &[f32], b: &[f32]) -> Sums {
    let mut sums = [[0.0; COLUMNS]; ROWS];
    for (a, b) in a.as_chunks::<ROWS>().0.iter().zip(b.as_chunks::<COLUMNS>().0) {
        for i in 0..ROWS {
            for j in 0..COLUMNS {
                sums[i][j] += a[i] * b[j];
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 97) as f32 / 48.5 - 1.0).collect()
    }

    #[test]
    fn products_are_right_for_any_size_and_stride() {
        for [m, n, k] in [[1, 1, 1], [4, 16, 8], [5, 17, 300], [33, 3, 70], [2, 40, 257]] {
            let (a, b) = (values(m * k, 1), values(k * n, 2));
            let at = Matrix { data: &a, step: [1, m] };
            let bt = Matrix { data: &b, step: [1, k] };
            let mut c = values(m * n, 3);
            let expected: Vec<f64> = (0..m * n)
                .map(|at| {
                    let (i, j) = (at / n, at % n);
                    let products =
                        (0..k).map(|l| f64::from(a[l * m + i]) * f64::from(b[j * k + l]));
                    f64::from(c[at]) + products.sum::<f64>()
                })
                .collect();
            add_product([m, n, k], at, bt, &mut c, DEPTH);
            for (found, expected) in c.iter().zip(&expected) {
                assert!(
                    (f64::from(*found) - expected).abs() < 1e-4,
                    "{m}x{n}x{k}: {found} {expected}"
                );
            }
        }
    }

    #[test]
    fn wide_registers_give_the_same_bits() {
        let (a, b) = (values(300 * ROWS, 1), values(300 * COLUMNS, 2));
        assert_eq!(products(&a, &b), products_scalar(&a, &b));
    }
}
