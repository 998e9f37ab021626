//! Tests of warp-level operations: shuffles, votes, matches, reductions.

use super::device::Device;
use super::{in_both_orders, run};

const PTX: &str = include_str!("../../../ptx/warp.ptx");

/// 64 values with repeats, all below 1000.
fn input() -> Vec<u32> {
    (0..64_u32).map(|i| i * 37 % 101).collect()
}

/// Runs a kernel with parameters (in, out) on two warps and passes the rows of each warp to `check`.
fn rows(kernel: &str, count: usize, check: impl Fn(&[u32], &[Vec<u32>])) {
    let input = input();
    in_both_orders(|order| {
        let device = Device::default();
        let out = device.alloc(count * 64 * 4);
        run(PTX, kernel, 64)
            .pointer(device.upload(&input))
            .pointer(out)
            .on(&device, order)
            .unwrap();
        let found: Vec<u32> = device.download(out, count * 64);
        for warp in 0..2 {
            let of_warp = |row: &[u32]| row[warp * 32..warp * 32 + 32].to_vec();
            let rows: Vec<Vec<u32>> = found.chunks(64).map(of_warp).collect();
            check(&input[warp * 32..warp * 32 + 32], &rows);
        }
    });
}

#[test]
fn shuffles_read_the_lanes_that_the_manual_says() {
    rows("shuffles", 10, |v, rows| {
        for lane in 0..32_usize {
            let segment = |width: usize| lane / width * width;
            let inside = |from: usize, from_segment: usize, width: usize| {
                let good = from >= from_segment && from < from_segment + width;
                v[if good { from } else { lane }]
            };
            let expected = [
                v[(lane * 7 + 3) & 31],
                v[if lane >= 3 { lane - 3 } else { lane }],
                v[if lane + 5 < 32 { lane + 5 } else { lane }],
                v[lane ^ 9],
                v[segment(8) + (lane + 1) % 8],
                v[if lane % 16 >= 1 { lane - 1 } else { lane }],
                inside(lane + 2, segment(4), 4),
                // The lane 17 away is in the other half, and only lanes of the upper half may read lower ones.
                if lane >= 16 { v[lane ^ 0x11] } else { v[lane] },
                u32::from(lane + 4 < 32),
                if lane < 16 { v[lane ^ 1] } else { v[lane] },
            ];
            for (row, expected) in expected.into_iter().enumerate() {
                assert_eq!(rows[row][lane], expected, "row {row}, lane {lane}");
            }
        }
    });
}

#[test]
fn votes_matches_and_reductions() {
    rows("votes", 11, |v, rows| {
        let mask = |test: &dyn Fn(u32) -> bool| {
            v.iter().enumerate().fold(0, |all, (lane, &value)| all | u32::from(test(value)) << lane)
        };
        let odd = v.iter().filter(|value| *value & 1 == 1);
        for lane in 0..32_usize {
            let expected = [
                mask(&|value| value & 1 == 1),
                u32::from(v.contains(&3)) | 2,
                32,
                mask(&|value| value & 3 == v[lane] & 3),
                u32::MAX,
                1,
                v.iter().sum(),
                *v.iter().min().unwrap(),
                v.iter().map(|&value| value.cast_signed() - 50).max().unwrap().cast_unsigned(),
                v.iter().fold(0, |all, value| all ^ value),
                if v[lane] & 1 == 1 {
                    odd.clone().fold(0, |all, value| all | value) & 1
                } else {
                    0
                },
            ];
            for (row, expected) in expected.into_iter().enumerate() {
                assert_eq!(rows[row][lane], expected, "row {row}, lane {lane}");
            }
        }
    });
}

#[test]
fn a_sum_of_squares_goes_through_lanes_and_warps() {
    let x: Vec<f32> = (0..1000_u16).map(|i| f32::from(i % 19) - 9.0).collect();
    let expected: f32 = x.iter().map(|x| x * x).sum();
    in_both_orders(|order| {
        let device = Device::default();
        let out = device.alloc(3 * 4);
        let launch = run(PTX, "sumsq", 128).grid(3, 1, 1).pointer(device.upload(&x)).pointer(out);
        launch.int(1000).on(&device, order).unwrap();
        // The values are whole numbers, so that any order of additions gives the same sum.
        assert_eq!(
            device.download::<f32>(out, 3).iter().sum::<f32>().to_bits(),
            expected.to_bits()
        );
    });
}
