//! Tests of integer instructions against Rust.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "bits are looked at as signed and unsigned"
)]

use super::device::{Device, Number};
use super::{in_both_orders, run};

const PTX: &str = include_str!("../../../ptx/integer.ptx");

const WORDS: [u32; 14] = [
    0,
    1,
    2,
    5,
    31,
    255,
    0x7fff,
    0x8000,
    0xffff_ffff,
    0x7fff_ffff,
    0x8000_0000,
    0x1234_5678,
    0xfedc_ba98,
    0x00ff_00ff,
];

/// All pairs of values.
fn pairs<T: Copy>(values: &[T]) -> (Vec<T>, Vec<T>) {
    let pairs = values.iter().flat_map(|&a| values.iter().map(move |&b| (a, b)));
    pairs.unzip()
}

/// Runs a kernel with parameters (a, b, out, n) and compares its rows.
fn compare<T: Number + PartialEq + std::fmt::LowerHex>(
    kernel: &str,
    (a, b): (Vec<T>, Vec<T>),
    rows: &[fn(T, T) -> T],
) {
    in_both_orders(|order| {
        let device = Device::default();
        let n = a.len();
        let out = device.alloc(n * rows.len() * T::SIZE);
        let threads = u32::try_from(n).unwrap();
        let launch =
            run(PTX, kernel, threads).pointer(device.upload(&a)).pointer(device.upload(&b));
        launch.pointer(out).int(n).on(&device, order).unwrap();
        let found: Vec<T> = device.download(out, n * rows.len());
        for (row, expected) in rows.iter().enumerate() {
            for i in 0..n {
                let (found, expected) = (found[row * n + i], expected(a[i], b[i]));
                assert!(
                    found == expected,
                    "row {row} of {kernel}: {:#x}, {:#x} -> {found:#x}, not {expected:#x}",
                    a[i],
                    b[i]
                );
            }
        }
    });
}

fn s(x: u32) -> i32 {
    x as i32
}

fn signed24(x: u32) -> i32 {
    s(x << 8) >> 8
}

fn permuted(x: u32, y: u32, selector: u32) -> u32 {
    let all = (u64::from(x) | u64::from(y) << 32).to_le_bytes();
    let bytes = [0, 4, 8, 12].map(|at| {
        let byte = all[(selector >> at & 7) as usize];
        if selector >> at & 8 > 0 { ((byte as i8) >> 7) as u8 } else { byte }
    });
    u32::from_le_bytes(bytes)
}

fn dot(x: u32, y: u32, z: u32) -> u32 {
    let products = x.to_le_bytes().into_iter().zip(y.to_le_bytes());
    products.fold(z, |sum, (a, b)| sum.wrapping_add(u32::from(a) * u32::from(b)))
}

fn signed_dot(x: u32, y: u32, z: u32) -> u32 {
    let products = x.to_le_bytes().into_iter().zip(y.to_le_bytes());
    products
        .fold(z, |sum, (a, b)| sum.wrapping_add((i32::from(a as i8) * i32::from(b as i8)) as u32))
}

fn saturating_bytes(x: u32, y: u32) -> u32 {
    let mut bytes = x.to_le_bytes();
    bytes.iter_mut().zip(y.to_le_bytes()).for_each(|(a, b)| *a = a.saturating_add(b));
    u32::from_le_bytes(bytes)
}

#[test]
fn words_equal_those_of_rust() {
    compare::<u32>(
        "words",
        pairs(&WORDS),
        &[
            |x, y| x.wrapping_add(y),
            |x, y| x.wrapping_sub(y),
            |x, y| x.wrapping_mul(y),
            |x, y| ((u64::from(x) * u64::from(y)) >> 32) as u32,
            |x, y| ((i64::from(s(x)) * i64::from(s(y))) >> 32) as u32,
            |x, y| x.checked_div(y).unwrap_or(7),
            |x, y| x.checked_rem(y).unwrap_or(7),
            |x, y| if y == 0 || s(y) == -1 { 7 } else { (s(x) / s(y)) as u32 },
            |x, y| if y == 0 || s(y) == -1 { 7 } else { (s(x) % s(y)) as u32 },
            |x, y| x << (y & 31),
            |x, y| x >> (y & 31),
            |x, y| (s(x) >> (y & 31)) as u32,
            |x, y| s(x).min(s(y)) as u32,
            |x, y| x.max(y),
            |x, _| s(x).unsigned_abs(),
            |x, _| x.count_ones(),
            |x, _| x.leading_zeros(),
            |x, _| x.reverse_bits(),
            |x, _| if x == 0 { 0 } else { x.trailing_zeros() + 1 },
            |x, y| permuted(x, y, 0x4721 ^ (y & 0x7777)),
            |x, y| ((u64::from(y) << 32 | u64::from(x)) << (x >> 3 & 31) >> 32) as u32,
            |x, y| ((u64::from(y) << 32 | u64::from(x)) >> (y >> 5 & 31)) as u32,
            |x, y| signed_dot(x, y, x ^ y),
            |x, y| dot(x, y, x),
            |x, y| (x & y) ^ (!x & x.wrapping_add(y)),
            |x, _| x >> 7 & 0x3ff,
            |x, _| (s(x << 9) >> 21) as u32,
            |x, y| s(x).abs_diff(s(y)).wrapping_add(x),
            |x, y| signed24(x).wrapping_mul(signed24(y)) as u32,
            |x, y| ((i64::from(s(x)) + i64::from(s(y))) >> 1) as u32,
            saturating_bytes,
        ],
    );
}

/// `length` bits of `x` from `position` on, by the loop of the manual.
fn field(x: u32, position: u32, length: u32, signed: bool) -> u32 {
    let bit = |at: u32| if at < 32 { x >> at & 1 } else { 0 };
    let sign = if signed && length > 0 { bit((position + length - 1).min(31)) } else { 0 };
    let pick = |i: u32| if i < length && position + i <= 31 { bit(position + i) } else { sign };
    (0..32).fold(0, |all, i| all | pick(i) << i)
}

fn inserted(a: u32, b: u32, position: u32, length: u32) -> u32 {
    (0..32).fold(b, |all, i| {
        if i >= position && i - position < length {
            all & !(1 << i) | (a >> (i - position) & 1) << i
        } else {
            all
        }
    })
}

fn leading(x: u32) -> u32 {
    x.checked_ilog2().unwrap_or(u32::MAX)
}

#[test]
fn bit_fields_and_permutations_follow_the_manual() {
    compare::<u32>(
        "asm_words",
        pairs(&WORDS),
        &[
            |x, y| field(x, y & 63, y >> 8 & 63, false),
            |x, y| field(x, y & 63, y >> 8 & 63, true),
            |x, y| inserted(x, y, y & 63, x >> 8 & 63),
            // The table 0xe8 is the majority function.
            |x, y| {
                let z = x.wrapping_mul(3);
                x & y | x & z | y & z
            },
            |x, _| leading(x),
            |x, _| leading(if s(x) < 0 { !x } else { x }),
            |x, _| if x == 0 { u32::MAX } else { x.leading_zeros() },
            |x, y| ((u64::from(y) << 32 | u64::from(x)) << (y & 63).min(32) >> 32) as u32,
            |x, y| ((u64::from(y) << 32 | u64::from(x)) >> (y & 63).min(32)) as u32,
            |x, y| permuted(x, y, [0x3210, 0x4321, 0x5432, 0x6543][y as usize & 3]),
            |x, y| permuted(x, y, y >> 4),
            |x, y| x.checked_shl(y & 63).unwrap_or(0),
            |x, y| (s(x) >> (y & 63).min(31)) as u32,
            |x, y| s(x).saturating_add(s(y)) as u32,
            |x, y| if s(y.wrapping_mul(5)) >= 0 { x } else { y },
            |x, y| x.wrapping_add(y),
            |x, y| u32::from(x.checked_add(y).is_none()),
        ],
    );
}

const LONGS: [u64; 12] = [
    0,
    1,
    3,
    224,
    0xffff_ffff,
    0x1_0000_0000,
    u64::MAX,
    i64::MAX as u64,
    i64::MIN as u64,
    0x0123_4567_89ab_cdef,
    0xfedc_ba98_7654_3210,
    1_000_000_007,
];

#[test]
fn longs_equal_those_of_rust() {
    compare::<u64>(
        "longs",
        pairs(&LONGS),
        &[
            |x, y| x.wrapping_add(y),
            |x, y| x.wrapping_mul(y),
            |x, y| ((u128::from(x) * u128::from(y)) >> 64) as u64,
            |x, y| ((i128::from(x as i64) * i128::from(y as i64)) >> 64) as u64,
            |x, y| x.checked_div(y).unwrap_or(7),
            |x, y| x.checked_rem(y).unwrap_or(7),
            |x, y| if y == 0 || y == u64::MAX { 7 } else { (x as i64 / y as i64) as u64 },
            |x, y| if y == 0 || y == u64::MAX { 7 } else { (x as i64 % y as i64) as u64 },
            |x, y| x << (y & 63),
            |x, y| (x as i64 >> (y & 63)) as u64,
            |x, y| (x as i64).min(y as i64) as u64,
            |x, y| x.max(y),
            |x, _| u64::from(x.count_ones()),
            |x, _| u64::from(x.leading_zeros()),
            |x, _| x.reverse_bits(),
            |x, y| (x & 0xffff_ffff).wrapping_mul(y & 0xffff_ffff).wrapping_add(x),
            |x, y| (i64::from(x as i32) * i64::from(y as i32)) as u64,
            |x, _| x / 1000,
            |x, _| (x as i64 % 224) as u64,
            |x, y| (x & 0xffff) * (y & 0xffff),
            |x, y| i64::from(i32::from(x as i16) * i32::from(y as i16)) as u64,
            |x, _| i64::from(x as i8) as u64,
            |x, y| {
                let (sum, first) = x.overflowing_add(y);
                sum.wrapping_add(x).wrapping_add(u64::from(first))
            },
            |x, y| {
                let (sum, first) = x.overflowing_add(y);
                let second = u128::from(sum) + u128::from(x) + u128::from(first);
                y.wrapping_add((second >> 64) as u64)
            },
            |x, y| (u128::from(x) * u128::from(y) + u128::from(y)) as u64,
            |x, y| ((u128::from(x) * u128::from(y) + u128::from(y)) >> 64) as u64,
            |x, y| x.wrapping_sub(y),
            |x, y| if x < y { u64::MAX } else { 0 },
        ],
    );
}

#[test]
fn comparisons_tell_signed_from_unsigned() {
    compare::<u32>(
        "compares",
        pairs(&WORDS),
        &[
            |x, y| {
                let bits = [
                    x < y,
                    x <= y,
                    s(x) < s(y),
                    s(x) >= s(y),
                    x == y,
                    x != y && s(x) > 5,
                    x > 100 || s(y) < -7,
                    (x > y) ^ (s(x) > s(y)),
                    (x as u16) < y as u16,
                    (x as i16) < y as i16,
                ];
                bits.iter().enumerate().fold(0, |all, (i, &bit)| all | u32::from(bit) << i)
            },
            |x, y| if s(x) > 0 { y } else { x.wrapping_add(1) },
        ],
    );
}
