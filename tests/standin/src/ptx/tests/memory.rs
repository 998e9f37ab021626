//! Tests of state spaces, widths, vectors, parameters and calls.

use super::device::{Device, Number};
use super::{in_both_orders, marked, run};
use crate::engine::{Launch, Memory as _, Module as _, Order};
use crate::ptx::Loaded;

const CU: &str = include_str!("../../../ptx/memory.cu");
const PTX: &str = include_str!("../../../ptx/memory.ptx");

/// `struct Inner` of the kernels.
fn inner(scale: [f32; 3], flag: u8, bias: u16) -> Vec<u8> {
    let mut bytes: Vec<u8> = scale.iter().flat_map(|value| value.bytes()).collect();
    bytes.extend([flag, 0xee]);
    bytes.extend(bias.to_le_bytes());
    bytes
}

#[test]
fn a_struct_by_value_is_read_by_a_computed_index() {
    let input: Vec<u8> = (0..100).collect();
    for flag in [0, 1] {
        in_both_orders(|order| {
            let device = Device::default();
            let mut args = 100_u64.bytes();
            args.extend(inner([0.5, 2.0, 3.0], flag, 500));
            args.extend(device.upload(&input).bytes());
            args.extend([0xfd, 0, 0, 0, 0, 0, 0, 0]);
            let out = device.alloc(400);
            run(PTX, "by_value", 16)
                .grid(2, 1, 1)
                .bytes(args)
                .pointer(out)
                .on(&device, order)
                .unwrap();
            for (i, found) in device.download::<f32>(out, 100).into_iter().enumerate() {
                let value = f32::from(input[i]) * [0.5, 2.0, 3.0][i % 3] + 500.0;
                let expected = if flag == 1 { value - 3.0 } else { -value };
                assert!(found.to_bits() == expected.to_bits(), "{i}: {found}");
            }
        });
    }
}

#[test]
fn a_table_of_pointers_in_the_parameters() {
    let tensors: Vec<Vec<f32>> =
        (1..7_u8).map(|n| (0..n).map(|i| f32::from(n * i)).collect()).collect();
    in_both_orders(|order| {
        let device = Device::default();
        let mut table: Vec<u8> =
            tensors.iter().flat_map(|values| device.upload(values).bytes()).collect();
        table.extend((1..7_u32).flat_map(Number::bytes));
        let out = device.alloc(24);
        run(PTX, "sums", 1).grid(6, 1, 1).bytes(table).pointer(out).on(&device, order).unwrap();
        let expected: Vec<f32> = tensors.iter().map(|values| values.iter().sum()).collect();
        assert_eq!(device.download::<f32>(out, 6), expected);
    });
}

#[test]
fn a_kernel_tells_its_parameters_and_limits() {
    let module = Loaded::new(PTX).unwrap();
    let kernel = module.kernel("by_value").unwrap();
    assert_eq!(
        (kernel.params, kernel.max_threads, kernel.local_bytes),
        (vec![40, 8], Some(128), 40)
    );
    let kernel = module.kernel("calls").unwrap();
    assert_eq!(
        (kernel.params, kernel.max_threads, kernel.shared_bytes),
        (vec![8, 8, 16], None, 16)
    );
    assert!(module.kernel("nothing").is_none());
}

#[test]
fn variables_of_the_module_start_with_their_values_and_live_on() {
    let device = Device::default();
    let (out, words) = (device.alloc(8 * 4), device.alloc(8 * 4));
    let module = Loaded::new(PTX).unwrap();
    let params = [out.bytes(), words.bytes()];
    for counter in [7.0, 8.0] {
        let launch = Launch {
            kernel: "globals",
            grid: [1; 3],
            block: [8, 1, 1],
            shared_bytes: 0,
            params: &params,
            order: Order::Reverse,
        };
        module.launch(&launch, &device).unwrap();
        let bytes = [1.0, 2.0, 3.0, 4.0, 250.0];
        let table = [1.0, 2.0, 3.5, -1.0];
        let expected: Vec<f32> = (0..8).map(|i| table[i & 3] + bytes[i % 5] + counter).collect();
        assert_eq!(device.download::<f32>(out, 8), expected);
    }
    // Each thread adds what it just wrote into a variable that starts as zero.
    let expected: Vec<u32> = (0..8).map(|i| 1000 + 2 * i).collect();
    assert_eq!(device.download::<u32>(words, 8), expected);
}

#[test]
fn sixteen_bytes_are_loaded_and_stored_at_once() {
    let input: Vec<u32> = (0..400).map(|i| i * 7919).collect();
    in_both_orders(|order| {
        let device = Device::default();
        let out = device.alloc(1600);
        let launch =
            run(PTX, "vectors", 32).grid(2, 1, 1).pointer(device.upload(&input)).pointer(out);
        launch.int(100).on(&device, order).unwrap();
        let expected: Vec<u32> =
            input.chunks(4).flat_map(|v| [v[3], v[2] + 1, v[1], v[0]]).collect();
        assert_eq!(device.download::<u32>(out, 400), expected);
    });
}

#[test]
fn loads_and_stores_of_every_width() {
    let n = 8;
    let input: Vec<u8> = (0..n * 16).map(|i| u8::try_from(i * 37 % 256).unwrap()).collect();
    in_both_orders(|order| {
        let device = Device::default();
        let out = device.alloc(38 * n);
        let launch = run(PTX, "widths", 8).pointer(device.upload(&input)).pointer(out);
        launch.int(n).on(&device, order).unwrap();
        let found: Vec<u8> =
            [(0, 4 * n), (4 * n, 8 * n), (16 * n, 16 * n), (32 * n, 2 * n), (34 * n, 4 * n)]
                .into_iter()
                .flat_map(|(at, size)| device.download::<u8>(out + at as u64, size))
                .collect();
        let signed = |at: usize| i32::from(input[at].cast_signed());
        let short = |at: usize| i64::from(i16::from_le_bytes([input[at], input[at + 1]]));
        let mut expected = Vec::new();
        (0..n).for_each(|i| expected.extend((signed(2 * i) + signed(2 * i + 1)).to_le_bytes()));
        (0..n).for_each(|i| expected.extend((short(8 * i) + short(8 * i + 6)).to_le_bytes()));
        for i in 0..n {
            expected.extend(&input[16 * i + 8..16 * i + 16]);
            expected.extend(&input[16 * i..16 * i + 8]);
        }
        expected.extend(&input[..2 * n]);
        (0..n).for_each(|i| expected.extend(&input[16 * i + 4..16 * i + 8]));
        assert_eq!(found, expected);
    });
}

#[test]
fn bytes_that_a_widened_load_does_not_need_may_be_unwritten() {
    let device = Device::default();
    let (input, out) = (device.alloc(128), device.alloc(38 * 8));
    // Only the last two bytes of the second half of each eight are used; the compiler loads all of them.
    for i in 0..16_u64 {
        let value = [u8::try_from(i).unwrap(); 2];
        for at in [0, 6] {
            device.write(input + 8 * i + at, &value).unwrap();
        }
    }
    let fault =
        run(PTX, "widths", 1).pointer(input).pointer(out).int(8).on(&device, Order::Forward);
    // The doubles after the vector of shorts need every byte.
    assert_eq!(fault.unwrap_err().line, marked(CU, "doubles"));
}

#[test]
fn arrays_with_computed_indices_live_in_local_memory() {
    let input: Vec<u32> = (0..13).map(|i| i * 5 + 2).collect();
    in_both_orders(|order| {
        let device = Device::default();
        let out = device.alloc(64 * 4);
        let launch = run(PTX, "locals", 64).pointer(device.upload(&input)).pointer(out);
        launch.int(13).on(&device, order).unwrap();
        let expected = |t: usize| {
            let mut window: Vec<u32> = (0..8).map(|i| input[(t + i) % 13]).collect();
            let mut at = input[t % 13];
            for i in 0..5 {
                window[at as usize & 7] += i;
                at = window[(at + i) as usize & 7];
            }
            at
        };
        assert_eq!(device.download::<u32>(out, 64), (0..64).map(expected).collect::<Vec<_>>());
    });
}

fn ackermann(m: u32, n: u32) -> u32 {
    match (m, n) {
        (0, n) => n + 1,
        (m, 0) => ackermann(m - 1, 1),
        (m, n) => ackermann(m - 1, ackermann(m, n - 1)),
    }
}

#[test]
fn functions_take_pointers_structs_and_call_themselves() {
    in_both_orders(|order| {
        let device = Device::default();
        let (out, words) = (device.alloc(64 * 4), device.alloc(32 * 4));
        let launch =
            run(PTX, "calls", 32).pointer(out).pointer(words).bytes(inner([1.0, 2.0, 3.0], 1, 9));
        launch.on(&device, order).unwrap();
        let expected: Vec<u32> = (0..32).map(|i| ackermann(2, i & 7)).collect();
        assert_eq!(device.download::<u32>(words, 32), expected);
        let step = |t: usize| {
            let tables = [[0.0, 1.0, 2.0, 3.0], [1.0, 2.0, 4.0, t as f32], [1.0, 2.0, 3.5, -1.0]];
            let table = if t & 1 == 1 { tables[0] } else { tables[2 - (t >> 1 & 1)] };
            (0..t).fold(t as f32, |x, i| x.mul_add(1.5, table[i & 3]))
        };
        let grown = |t: usize| [1.0, 2.0, 3.0][t % 3] * t as f32 + 10.0;
        let expected: Vec<f32> = (0..32).map(step).chain((0..32).map(grown)).collect();
        assert_eq!(device.download::<f32>(out, 64), expected);
    });
}

#[test]
fn generic_addresses_know_their_space() {
    in_both_orders(|order| {
        let device = Device::default();
        let (input, out) = (device.upload(&[7_u32]), device.alloc(12 * 4));
        run(PTX, "spaces", 4).pointer(input).pointer(out).on(&device, order).unwrap();
        for row in device.download::<u32>(out, 12).chunks(3) {
            // Global is bit 0, shared bit 1, local bit 2. A constant sets none of them.
            assert_eq!(row, [0x0421, 7 + 40 + 1 + 1000, 40]);
        }
    });
}

#[test]
fn special_registers_say_where_a_thread_is() {
    let (grid, block) = ([2, 3, 2], [4, 5, 3]);
    in_both_orders(|order| {
        let device = Device::default();
        let threads = 60;
        let out = device.alloc(12 * threads * 6 * 4);
        let launch = run(PTX, "specials", 1).grid(2, 3, 2).block(4, 5, 3);
        launch.pointer(out).on(&device, order).unwrap();
        let found: Vec<u32> = device.download(out, 12 * threads * 6);
        let packed = |[x, y, z]: [u32; 3]| x | y << 8 | z << 16;
        let split = |i: u32, [x, y, _]: [u32; 3]| packed([i % x, i / x % y, i / x / y]);
        for (row, i) in found.chunks(6).zip(0..) {
            let (b, t) = (i / 60, i % 60);
            let expected = [
                split(t, block),
                split(b, grid),
                (t % 32) | ((t / 32) << 8),
                packed(grid),
                (1 << (t % 32)) - 1,
                1,
            ];
            assert_eq!(row, expected, "thread {t} of block {b}");
        }
    });
}
