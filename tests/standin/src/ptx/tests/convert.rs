//! Tests of conversions against the `half` crate and Rust, and of arithmetic on halves against exact numbers.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::float_cmp,
    reason = "conversions are the subject"
)]

use half::{bf16, f16};

use super::device::{Device, Number};
use super::{in_both_orders, run};

const PTX: &str = include_str!("../../../ptx/convert.ptx");

/// Runs a kernel with parameters (inputs..., out, n) and passes its rows to `check`.
fn rows<A: Number, B: Number>(
    kernel: &str,
    inputs: &[&[A]],
    count: usize,
    check: impl Fn(&[&[B]]),
) {
    in_both_orders(|order| {
        let device = Device::default();
        let n = inputs[0].len();
        let out = device.alloc(n * count * B::SIZE);
        let mut launch = run(PTX, kernel, u32::try_from(n).unwrap());
        for input in inputs {
            launch = launch.pointer(device.upload(input));
        }
        launch.pointer(out).int(n).on(&device, order).unwrap();
        let found: Vec<B> = device.download(out, n * count);
        check(&found.chunks(n).collect::<Vec<_>>());
    });
}

/// Values that the narrow formats represent, their neighbors, and values in between.
fn floats() -> Vec<f32> {
    let near = [
        0.0_f32,
        0.5,
        1.0,
        1.5,
        2.5,
        127.5,
        254.5,
        255.5,
        256.0,
        1e-7,
        6e-8,
        3e-8,
        6.1e-5,
        65_504.0,
        65_519.9,
        65_520.0,
        1e5,
        3e9,
        5e9,
        1e20,
        3.39e38,
        f32::MAX,
        1e-39,
        1e-45,
    ];
    let around = near.iter().flat_map(|&x: &f32| [x.next_down(), x, x.next_up(), -x, -x.next_up()]);
    // Values halfway between two of bf16 and of f16.
    let halves = [0x3f80_8000, 0x3f81_8000, 0x3f80_8001, 0x3f80_1000, 0x3f80_3000, 0x3f80_3001]
        .map(f32::from_bits);
    let special = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    around.chain(halves).chain(special).collect()
}

/// Whether `found` is the f16 next to x on one side.
fn is_directed(found: u32, x: f32, up: bool) -> bool {
    let nearest = f16::from_f32(x);
    let value = nearest.to_f32();
    let step = |outward: bool| {
        let bits = nearest.to_bits();
        f16::from_bits(if outward { bits + 1 } else { bits - 1 })
    };
    let expected = if value == x || x.is_nan() || x.is_infinite() {
        nearest
    } else if up && value < x {
        if nearest == f16::ZERO { f16::from_bits(1) } else { step(value > 0.0) }
    } else if !up && value > x {
        if nearest == f16::ZERO { f16::from_bits(0x8001) } else { step(value < 0.0) }
    } else {
        nearest
    };
    // Above the largest finite value, rounding away from infinity stays finite.
    let expected = match (expected.is_infinite() && x.is_finite(), up == (x > 0.0)) {
        (true, false) => f16::MAX.copysign(f16::from_f32(x)),
        _ => expected,
    };
    found == u32::from(expected.to_bits()) || (x.is_nan() && found == 0x7fff)
}

#[test]
fn floats_to_narrower_floats_round_in_each_mode() {
    let x = floats();
    rows::<f32, u32>("from_float", &[&x], 23, |rows| {
        for (i, &x) in x.iter().enumerate() {
            let row = |row: usize| rows[row][i];
            let nan = |bits: u16| u32::from(if x.is_nan() { 0x7fff } else { bits });
            let brain = nan(bf16::from_f32(x).to_bits());
            let half = nan(f16::from_f32(x).to_bits());
            assert_eq!(row(0), brain, "bf16 of {x:e}");
            let cut = (x.to_bits() >> 16) as u16;
            assert_eq!(row(1), nan(cut), "bf16 of {x:e} toward zero");
            assert_eq!(row(2), half, "f16 of {x:e}");
            assert!(is_directed(row(3), x, x < 0.0), "f16 of {x:e} toward zero: {:#x}", row(3));
            assert!(is_directed(row(4), x, false), "f16 of {x:e} down: {:#x}", row(4));
            assert!(is_directed(row(5), x, true), "f16 of {x:e} up: {:#x}", row(5));
            let positive = if x.is_nan() {
                0x7fff
            } else {
                u32::from(bf16::from_f32(x.max(0.0)).to_bits()) & 0x7fff
            };
            assert_eq!(row(13), positive, "bf16 of {x:e}, not negative");
            let packed = brain << 16 | nan(bf16::from_f32(-x).to_bits());
            assert_eq!(row(20), packed, "two bf16 of {x:e}");
            let low = x * 3.0;
            let low = if low.is_nan() { 0x7fff } else { u32::from(f16::from_f32(low).to_bits()) };
            assert_eq!(row(21), half << 16 | low, "two f16 of {x:e}");
            let tf32 = (x.to_bits() + 0x1000) & !0x1fff;
            assert!(x.is_nan() || row(14) == tf32, "tf32 of {x:e}");
            assert_eq!(row(19), x.to_bits() >> 16);
            assert!(x.is_nan() || row(22) == brain, "bf16 of {x:e} by bits");
        }
    });
}

#[test]
fn floats_to_integers_round_and_saturate() {
    let x = floats();
    rows::<f32, u32>("from_float", &[&x], 23, |rows| {
        for (i, &x) in x.iter().enumerate() {
            let expected = [
                (6, x.round_ties_even() as i32 as u32),
                (7, x as i32 as u32),
                (8, x.floor() as i32 as u32),
                (9, x.ceil() as i32 as u32),
                (10, x.round_ties_even() as u32),
                (11, u32::from(x.round_ties_even() as u8)),
                (12, u32::from(x as u16)),
                (15, u32::from(x.clamp(0.0, 255.0).max(0.0) as u8)),
                (16, x.round_ties_even() as i32 as u32),
                (17, ((if x.is_nan() { 1 << 63 } else { x as u64 }) >> 8) as u32),
                (18, ((if x.is_nan() { i64::MIN } else { x as i64 }) >> 8) as u32),
            ];
            for (row, expected) in expected {
                assert_eq!(rows[row][i], expected, "row {row} of {x:e}");
            }
        }
    });
}

/// Rounds `value` to f32, toward zero, up or down.
fn directed(value: i128, mode: char) -> f32 {
    let nearest = value as f32;
    match (mode, (nearest as i128).cmp(&value)) {
        ('z' | 'd', std::cmp::Ordering::Greater) => nearest.next_down(),
        ('u', std::cmp::Ordering::Less) => nearest.next_up(),
        _ => nearest,
    }
}

#[test]
fn integers_and_halves_to_floats() {
    let mut x: Vec<u32> =
        vec![0, 1, 0xff, 0x80, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x0100_0001, 0x7c00_7c00];
    x.extend((0..200).map(|i: u32| i.wrapping_mul(2_654_435_761) ^ 0x3c00));
    rows::<u32, f32>("to_float", &[&x], 17, |rows| {
        for (i, &x) in x.iter().enumerate() {
            let wide = u64::from(x) << 21 ^ u64::from(x);
            let expected = [
                x as f32,
                x as i32 as f32,
                directed(i128::from(x), 'z'),
                directed(i128::from(x), 'u'),
                directed(i128::from(x as i32), 'd'),
                f32::from(x as u8),
                f32::from(x as i8),
                f32::from(x as u16),
                wide as f32,
                directed(i128::from(wide), 'z'),
                (wide << 9) as i64 as f32,
                f16::from_bits(x as u16).to_f32(),
                f32::from_bits(x << 16),
                (wide as f64 * 0.5) as f32,
                f16::from_bits((x >> 16) as u16).to_f32(),
                ((x << 8) as i32 >> 24) as f32,
                ((x & 255) as f32 - 128.0).exp2(),
            ];
            for (row, expected) in expected.into_iter().enumerate() {
                let found = rows[row][i];
                // ex2.approx.ftz: powers of two are exact, subnormal ones are flushed.
                let expected = if row == 16 && expected.is_subnormal() { 0.0 } else { expected };
                let same =
                    found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
                assert!(same, "row {row} of {x:#x}: {found:e}, not {expected:e}");
            }
        }
    });
}

#[test]
fn arithmetic_on_halves_is_rounded_once() {
    let bits = |i: u32, k: u32| i.wrapping_mul(2_654_435_761).wrapping_mul(k) ^ i << 7;
    let [x, y, z] = [3, 5, 7].map(|k| (1..250).map(|i| bits(i, k)).collect::<Vec<u32>>());
    rows::<u32, u32>("halves", &[&x, &y, &z], 12, |rows| {
        for i in 0..x.len() {
            let [x, y, z] = [x[i], y[i], z[i]];
            let brain = |f: &dyn Fn(f64, f64, f64) -> f64| {
                both(
                    x,
                    y,
                    z,
                    |bits| f64::from(bf16::from_bits(bits)),
                    |v| round(v, &bf16_candidates(v)),
                    f,
                )
            };
            let half = |f: &dyn Fn(f64, f64, f64) -> f64| {
                both(
                    x,
                    y,
                    z,
                    |bits| f64::from(f16::from_bits(bits)),
                    |v| round(v, &f16_candidates(v)),
                    f,
                )
            };
            let nan = |a: f64, b: f64, value: f64| {
                if a.is_nan() || b.is_nan() { f64::NAN } else { value }
            };
            let low = |packed: u32| packed & 0xffff;
            let value = |bits: u32| f16::from_bits(bits as u16);
            let expected = [
                brain(&|a, b, c| fused(a, b, c)),
                half(&|a, b, c| fused(a, b, c)),
                half(&|a, b, _| a + b),
                half(&|a, b, _| a * b),
                brain(&|a, b, _| if a == b && a == 0.0 { -(-a).min(-b) } else { a.max(b) }),
                half(&|a, b, _| nan(a, b, a.min(b))),
                low(half(&|a, b, _| a - b)),
                low(brain(&|a, b, c| fused(a, b, c))),
                x ^ 0x8000_8000,
                x & 0x7fff_7fff,
                half(&|a, b, c| {
                    let r = fused(a, b, c);
                    if r.is_nan() { r } else { r.max(0.0) }
                }),
                u32::from(value(x) < value(x >> 16)),
            ];
            for (row, expected) in expected.into_iter().enumerate() {
                let found = rows[row][i];
                assert_eq!(
                    found, expected,
                    "row {row} of {x:#x} {y:#x} {z:#x}: {found:#x}, not {expected:#x}"
                );
            }
        }
    });
}

/// a * b + c in f64, rounded to odd: rounding it again to a half equals rounding once.
fn fused(a: f64, b: f64, c: f64) -> f64 {
    let product = a * b;
    let sum = product + c;
    let part = sum - product;
    let missing = (product - (sum - part)) + (c - part);
    let even = sum.to_bits() & 1 == 0;
    match missing.partial_cmp(&0.0) {
        Some(std::cmp::Ordering::Less) if even && sum.is_finite() => sum.next_down(),
        Some(std::cmp::Ordering::Greater) if even && sum.is_finite() => sum.next_up(),
        _ => sum,
    }
}

fn both(
    x: u32,
    y: u32,
    z: u32,
    value: impl Fn(u16) -> f64,
    bits: impl Fn(f64) -> u16,
    f: &dyn Fn(f64, f64, f64) -> f64,
) -> u32 {
    let one = |at: u32| {
        u32::from(bits(f(
            value((x >> at) as u16),
            value((y >> at) as u16),
            value((z >> at) as u16),
        )))
    };
    one(0) | one(16) << 16
}

/// The bits and the values of a first guess and its neighbors.
fn bf16_candidates(value: f64) -> Vec<(u16, f64)> {
    let guess = bf16::from_f64(value).to_bits();
    let near = [guess, guess ^ 1, guess.wrapping_add(1), guess.wrapping_sub(1)];
    near.iter().map(|&bits| (bits, f64::from(bf16::from_bits(bits)))).collect()
}

fn f16_candidates(value: f64) -> Vec<(u16, f64)> {
    let guess = f16::from_f64(value).to_bits();
    let near = [guess, guess ^ 1, guess.wrapping_add(1), guess.wrapping_sub(1)];
    near.iter().map(|&bits| (bits, f64::from(f16::from_bits(bits)))).collect()
}

/// The candidate nearest to `value`, ties to even.
fn round(value: f64, candidates: &[(u16, f64)]) -> u16 {
    if value.is_nan() {
        return 0x7fff;
    }
    let (guess, at) = candidates[0];
    if at == value || !at.is_finite() {
        return guess;
    }
    let same_sign =
        |&&(bits, other): &&(u16, f64)| (bits ^ guess) & 0x8000 == 0 && other.is_finite();
    let far = |(bits, other): &(u16, f64)| ((other - value).abs(), bits & 1);
    let nearest =
        candidates.iter().filter(same_sign).min_by(|a, b| far(a).partial_cmp(&far(b)).unwrap());
    nearest.unwrap().0
}
