//! Tests of f32 and f64: each rounding against exact numbers, library functions against f64.

#![expect(clippy::float_cmp, reason = "results are exact")]

use super::device::Device;
use super::exact::{Exact, assert_rounded};
use super::{in_both_orders, marked, run};
use crate::engine::Order;
use crate::ptx::Loaded;

const CU: &str = include_str!("../../../ptx/float.cu");
const PTX: &str = include_str!("../../../ptx/float.ptx");

/// Numbers with full fractions and exponents of -12..12, so that exact results fit; and their negatives.
fn plain() -> Vec<f32> {
    let mut state = 1_u32;
    let mut values: Vec<f32> = (0..10)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let exponent = 127 - 12 + (i * 7) % 24;
            f32::from_bits(exponent << 23 | state >> 9)
        })
        .collect();
    values.extend([1.0, 0.5, 3.0]);
    let negative: Vec<f32> = values.iter().map(|value| -value).collect();
    values.extend(negative);
    values
}

const SPECIAL: [f32; 14] = [
    0.0,
    -0.0,
    1.0,
    -1.5,
    2.5,
    0.3,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    f32::MAX,
    f32::MIN_POSITIVE,
    1e-40,
    -1e-40,
    1e30,
];

/// All pairs of values, each with a third value.
fn triples(values: &[f32]) -> [Vec<f32>; 3] {
    let all = || values.iter().flat_map(|&a| values.iter().map(move |&b| (a, b)));
    let third = |i: usize| values[(i * 7 + 3) % values.len()];
    [
        all().map(|(a, _)| a).collect(),
        all().map(|(_, b)| b).collect(),
        (0..values.len() * values.len()).map(third).collect(),
    ]
}

/// Runs a kernel with parameters (inputs..., out, n) and returns its rows.
fn rows(kernel: &str, inputs: &[Vec<f32>], count: usize) -> Vec<Vec<f32>> {
    let n = inputs[0].len();
    let [forward, reverse] = [Order::Forward, Order::Reverse].map(|order| {
        let device = Device::default();
        let out = device.alloc(n * count * 4);
        let mut launch = run(PTX, kernel, u32::try_from(n).unwrap());
        for input in inputs {
            launch = launch.pointer(device.upload(input));
        }
        launch.pointer(out).int(n).on(&device, order).unwrap();
        device.download::<u32>(out, n * count)
    });
    assert_eq!(forward, reverse);
    let row = |row: &[u32]| row.iter().map(|&bits| f32::from_bits(bits)).collect();
    forward.chunks(n).map(row).collect()
}

/// The expected row.
type Triple = fn(f32, f32, f32) -> f32;
type Truth = fn(f64, f64) -> f64;

/// Whether two values are equal, or both NaN.
fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

/// The minimum, where -0 is below +0.
fn least(x: f32, y: f32) -> f32 {
    match x == y {
        true if x.is_sign_negative() => x,
        true => y,
        false => x.min(y),
    }
}

fn greatest(x: f32, y: f32) -> f32 {
    -least(-x, -y)
}

#[test]
fn each_rounding_is_exact() {
    let inputs = triples(&plain());
    let rows = rows("exact", &inputs, 36);
    let exact = |value: f32| Exact::of(f64::from(value));
    let of = |value: f64| Exact::of(value);
    for i in 0..inputs[0].len() {
        let [x, y, z] = [0, 1, 2].map(|k| inputs[k][i]);
        let root = x.abs();
        let check = |row: usize, mode: char, side: &dyn Fn(f64) -> std::cmp::Ordering| {
            let found = rows[row][i];
            let (down, up) = (f64::from(found.next_down()), f64::from(found.next_up()));
            let side = |value: f64| side(value);
            assert_rounded(
                f64::from(found),
                down,
                up,
                mode,
                &side,
                &format!("row {row} of {x:e} {y:e} {z:e}"),
            );
        };
        let product = exact(x).times(exact(y));
        let sum = exact(x).plus(exact(y));
        for (k, mode) in ['n', 'z', 'd', 'u'].into_iter().enumerate() {
            check(k, mode, &|r| of(r).order(sum));
            check(4 + k, mode, &|r| of(r).order(product));
            check(8 + k, mode, &|r| of(r).order(product.plus(exact(z))));
            // r compares to x / y as r * y to x, in reverse for a negative y.
            check(12 + k, mode, &|r| {
                let order = of(r).times(exact(y)).order(exact(x));
                if y < 0.0 { order.reverse() } else { order }
            });
        }
        for (row, mode) in [(16, 'n'), (17, 'z'), (18, 'u')] {
            check(row, mode, &|r| of(r).times(of(r)).order(exact(root)));
        }
        for (row, mode) in [(19, 'n'), (20, 'd')] {
            check(row, mode, &|r| {
                let order = of(r).times(exact(x)).order(of(1.0));
                if x < 0.0 { order.reverse() } else { order }
            });
        }
        check(21, 'n', &|r| of(r).order(exact(x).plus(exact(y).negative())));
    }
}

#[test]
fn what_ptxas_may_fuse_is_noticed() {
    let module = Loaded::new(PTX).unwrap();
    let of = |kernel: &str| module.programs[kernel].codes[0].fusible.clone();
    assert_eq!(of("fusible"), [marked(CU, "fusible").unwrap()]);
    assert_eq!(of("separate"), [0_u32; 0]);
    assert_eq!(of("exact"), [0_u32; 0]);
}

#[test]
fn special_values_are_those_of_ieee() {
    let inputs = triples(&SPECIAL);
    let rows = rows("exact", &inputs, 36);
    let truth = |test: bool| if test { 1.0 } else { 0.0 };
    let expected: [(usize, Triple); 16] = [
        (0, |x, y, _| x + y),
        (4, |x, y, _| x * y),
        (8, |x, y, z| x.mul_add(y, z)),
        (12, |x, y, _| x / y),
        (16, |x, _, _| x.abs().sqrt()),
        (19, |x, _, _| 1.0 / x),
        (22, |x, y, _| least(x, y)),
        (23, |x, y, _| greatest(x, y)),
        (24, |x, y, _| x.copysign(y)),
        (25, |x, _, _| x.floor()),
        (26, |x, _, _| x.ceil()),
        (27, |x, _, _| x.trunc()),
        (28, |x, _, _| x.round_ties_even()),
        (29, |x, _, _| -x.abs()),
        (30, |x, _, _| if x > 0.0 { x.min(1.0) } else { 0.0 }),
        (31, |x, y, z| if x < y { z } else { x }),
    ];
    for i in 0..inputs[0].len() {
        let [x, y, z] = [0, 1, 2].map(|k| inputs[k][i]);
        for (row, f) in &expected {
            let (found, expected) = (rows[*row][i], f(x, y, z));
            assert!(
                same(found, expected),
                "row {row} of {x:e} {y:e} {z:e}: {found:e}, not {expected:e}"
            );
            assert!(
                *row > 21 || !found.is_nan() || found.to_bits() == 0x7fff_ffff,
                "a single NaN: row {row}"
            );
        }
        let differ = x != y;
        let kind = if x.is_nan() {
            1.0
        } else if x.is_infinite() {
            2.0
        } else {
            3.0
        };
        let tests = [
            truth(differ),
            truth(x >= y || z > x),
            kind,
            truth(x.partial_cmp(&y).is_none_or(std::cmp::Ordering::is_gt)),
        ];
        for (row, expected) in (32..).zip(tests) {
            assert!(same(rows[row][i], expected), "row {row} of {x:e} {y:e} {z:e}");
        }
    }
}

#[test]
fn flushed_and_saturated_results() {
    let inputs = triples(&SPECIAL);
    let rows = rows("flushed", &inputs, 10);
    let flush = |x: f32| if x.is_subnormal() { 0.0_f32.copysign(x) } else { x };
    for i in 0..inputs[0].len() {
        let [x, y, z] = [0, 1, 2].map(|k| inputs[k][i]);
        let [fx, fy, fz] = [x, y, z].map(flush);
        let nan = |value: f32| if x.is_nan() || y.is_nan() { f32::NAN } else { value };
        let clamped = if x + y > 0.0 { (x + y).min(1.0) } else { 0.0 };
        let expected = [
            flush(fx + fy),
            flush(fx * fy),
            flush(fx.mul_add(fy, fz)),
            greatest(fx, fy),
            nan(greatest(x, y)),
            nan(least(x, y)),
            f32::from(u8::from(fx > 0.0)),
            clamped,
        ];
        let more = [f32::from(u8::from(x.is_subnormal())), if z >= 0.0 { x } else { y }];
        for (row, expected) in expected.into_iter().chain(more).enumerate() {
            let found = rows[row][i];
            assert!(
                same(found, expected),
                "row {row} of {x:e} {y:e} {z:e}: {found:e}, not {expected:e}"
            );
        }
    }
}

#[test]
fn doubles_equal_those_of_rust() {
    let values = [0.0, 1.0, -1.5, 0.1, 1e300, -3e-300, 12_345.678, -0.7];
    let all = || values.iter().flat_map(|&a| values.iter().map(move |&b| (a, b)));
    let a: Vec<f64> = all().map(|pair| pair.0).collect();
    let b: Vec<f64> = all().map(|pair| pair.1).collect();
    let c: Vec<f64> = (0..a.len()).map(|i| values[(i * 5 + 1) % 8]).collect();
    in_both_orders(|order| {
        let device = Device::default();
        let (n, count) = (a.len(), 16);
        let out = device.alloc(n * count * 8);
        let launch = run(PTX, "doubles", 64).pointer(device.upload(&a)).pointer(device.upload(&b));
        launch.pointer(device.upload(&c)).pointer(out).int(n).on(&device, order).unwrap();
        let found: Vec<f64> = device.download(out, n * count);
        for i in 0..n {
            let (x, y, z) = (a[i], b[i], c[i]);
            #[expect(clippy::cast_possible_truncation, reason = "as the kernel does")]
            let (single, whole) = (f64::from(x as f32), y as i64 as f64);
            let sum_error = (x - ((x + y) - ((x + y) - x))) + (y - ((x + y) - x));
            let toward_zero = match (x + y, sum_error) {
                (sum, error) if sum > 0.0 && error < 0.0 => sum.next_down(),
                (sum, error) if sum < 0.0 && error > 0.0 => sum.next_up(),
                (sum, _) => sum,
            };
            let product_error = x.mul_add(y, -(x * y));
            let upward = if product_error > 0.0 { (x * y).next_up() } else { x * y };
            let expected = [
                x + y,
                x * y,
                x.mul_add(y, z),
                x / y,
                x.abs().sqrt(),
                x.min(y),
                x.max(z),
                x.floor(),
                single,
                whole,
                if x < y { z } else { -x },
                1.0 / y,
                toward_zero,
                upward,
                x.round_ties_even(),
                x.copysign(z),
            ];
            for (row, expected) in expected.into_iter().enumerate() {
                let found = found[row * n + i];
                let equal = found == expected || (found.is_nan() && expected.is_nan());
                assert!(equal, "row {row} of {x:e} {y:e} {z:e}: {found:e}, not {expected:e}");
            }
        }
    });
}

/// The error bounds of library functions: in units in the last place of an f32, and absolute near zero.
#[test]
fn library_functions_are_close_to_the_truth() {
    let x: Vec<f32> = (0..200_u16).map(|i| (f32::from(i) - 99.5) * 0.11).collect();
    let y: Vec<f32> = (0..200_u16).map(|i| 0.3 + f32::from(i % 17) * 0.21).collect();
    let rows = rows("library", &[x.clone(), y.clone()], 28);
    let expected: [(f64, Truth); 28] = [
        (2.0, |x, _| x.exp()),
        (1.0, |x, _| x.abs().ln()),
        (2.0, |x, _| x.abs().ln_1p()),
        (2.0, |x, _| x.exp_m1()),
        (2.0, |x, _| 1.0 / x.abs().sqrt()),
        (3.0, |x, _| x.tanh()),
        (9.0, |x, y| x.abs().powf(y)),
        (2.0, |x, _| x.sin()),
        (2.0, |x, _| f64::from(single(x) * 1000.0).cos()),
        (2.0, |x, _| x.exp2()),
        (1.0, |x, _| x.abs().log2()),
        (1.0, |x, _| x.cbrt()),
        (3.0, erf),
        (0.0, |x, y| x % y),
        (3.0, |x, y| x.hypot(y)),
        (40.0, |x, _| x.exp()),
        (8.0, |x, _| x.abs().ln()),
        (2.0, |x, y| x / y),
        (40.0, |x, _| 1.0 / (1.0 + (-x).exp())),
        (0.0, |x, _| x.round()),
        (3.0, |x, y| x.atan2(y)),
        (2.0, |x, y| x.abs().sqrt() / (y + 2.0)),
        (0.0, |x, _| x * 8.0),
        (1e9, |x, _| x.sin()),
        (1e9, |x, _| x.cos()),
        (80.0, |x, y| x.abs().powf(y)),
        (1.0, |x, _| x.abs().ln()),
        (1.0, |x, _| x.exp()),
    ];
    for (row, (ulps, truth)) in expected.into_iter().enumerate() {
        for i in 0..x.len() {
            let expected = truth(f64::from(x[i]), f64::from(y[i]));
            let found = f64::from(rows[row][i]);
            let size = single(expected).abs();
            let ulp = f64::from(size.next_up() - size);
            let allowed = (ulps * ulp).max(if ulps > 0.0 { 4e-7 } else { 0.0 });
            let allowed = if ulps >= 1e9 { 1e-5 } else { allowed };
            let off = (found - expected).abs();
            assert!(off <= allowed, "row {row} of {}, {}: {found:e}, not {expected:e}", x[i], y[i]);
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "it was one")]
fn single(x: f64) -> f32 {
    x as f32
}

/// erf by a series of positive terms. Above 6 it is 1.
fn erf(x: f64, _: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    sum * (-x * x).exp() * std::f64::consts::FRAC_2_SQRT_PI
}
