//! Tests of barriers, shared memory and atomics.

use super::device::Device;
use super::{in_both_orders, run};

const PTX: &str = include_str!("../../../ptx/block.ptx");

#[test]
fn a_transpose_through_dynamic_shared_memory() {
    let (rows, cols) = (37, 21);
    let input: Vec<f32> = (0..777_u16).map(f32::from).collect();
    in_both_orders(|order| {
        let device = Device::default();
        let out = device.alloc(rows * cols * 4);
        let launch = run(PTX, "transpose", 1).grid(2, 3, 1).block(16, 16, 1).shared(16 * 17 * 4);
        let launch = launch.pointer(device.upload(&input)).pointer(out);
        launch.int(rows).int(cols).on(&device, order).unwrap();
        let found: Vec<f32> = device.download(out, rows * cols);
        let expected: Vec<f32> =
            (0..rows * cols).map(|i| input[i % rows * cols + i / rows]).collect();
        assert_eq!(found, expected);
    });
}

#[test]
fn a_scan_with_a_barrier_in_its_loop() {
    let input: Vec<i32> = (0..128).map(|i| i * 31 % 57 - 20).collect();
    in_both_orders(|order| {
        let device = Device::default();
        let out = device.alloc(512);
        run(PTX, "scan", 128)
            .pointer(device.upload(&input))
            .pointer(out)
            .on(&device, order)
            .unwrap();
        let sums = input.iter().scan(0, |sum, value| {
            *sum += value;
            Some(*sum)
        });
        assert_eq!(device.download::<i32>(out, 128), sums.collect::<Vec<_>>());
    });
}

#[test]
fn barriers_count_and_combine_predicates() {
    for (values, expected) in [
        ((0..50).collect::<Vec<i32>>(), 25 + 1000 + 10_000),
        ((6..56).collect(), 25 + 10_000),
        (vec![-1; 50], 50),
    ] {
        in_both_orders(|order| {
            let device = Device::default();
            let out = device.alloc(200);
            let launch = run(PTX, "counted", 50).pointer(device.upload(&values)).pointer(out);
            launch.on(&device, order).unwrap();
            assert_eq!(device.download::<i32>(out, 50), [expected; 50]);
        });
    }
}

#[test]
fn some_warps_meet_at_a_barrier_of_their_own() {
    in_both_orders(|order| {
        let device = Device::default();
        let out = device.alloc(512);
        run(PTX, "named", 128).pointer(out).on(&device, order).unwrap();
        let expected = |t: i32| if t < 64 { (63 - t) * (63 - t) } else { -1 };
        assert_eq!(device.download::<i32>(out, 128), (0..128).map(expected).collect::<Vec<_>>());
    });
}

#[test]
fn atomics_of_every_kind() {
    let input: Vec<u32> = (0..96).map(|i| i * 7 % 64 + 1).collect();
    in_both_orders(|order| {
        let device = Device::default();
        let mut words = vec![0, 1000, 0, u32::MAX, 0, 0, 0, 5, 1000, 1, 99_999, 0, 0];
        words.resize(16 + 96, 0);
        let words = device.upload(&words);
        let longs = device.upload(&[0_u64, 0]);
        let (floats, doubles) = (device.upload(&[0.0_f32]), device.upload(&[0.0_f64]));
        let launch =
            run(PTX, "atomics", 32).grid(3, 1, 1).pointer(device.upload(&input)).pointer(words);
        launch.pointer(longs).pointer(floats).pointer(doubles).on(&device, order).unwrap();
        let sum: u32 = input.iter().sum();
        let odd: u32 = input.iter().filter(|value| *value & 1 == 1).sum();
        let found: Vec<u32> = device.download(words, 16 + 96);
        let fold = |f: fn(u32, u32) -> u32, start: u32| {
            input.iter().fold(start, |all, &value| f(all, value))
        };
        assert_eq!(
            found[..6],
            [
                sum,
                1,
                0,
                fold(|all, value| all & (value | 0xff00), u32::MAX),
                fold(|all, value| all | 1 << (value & 31), 0),
                fold(|all, value| all ^ value, 0),
            ]
        );
        // 96 increments that wrap after 10, and decrements that wrap from 0 to 5.
        assert_eq!(
            found[6..9],
            [96 % 11, (5_i32 - 96).rem_euclid(11).cast_unsigned(), 1000 - 2 * 96]
        );
        assert!(found[10] < 32, "the last one exchanged");
        assert_eq!(found[11..13], [sum - odd, odd]);
        assert!(found[16..].iter().all(|&seen| seen == 1), "no value is exchanged twice");
        assert_eq!(device.download::<u64>(longs, 2), [(u64::from(sum) << 32) + 96, 64 << 40]);
        assert_eq!(device.download::<f32>(floats, 1), [0.5 * sum as f32]);
        assert_eq!(device.download::<f64>(doubles, 1), [0.25 * f64::from(sum)]);
    });
}
