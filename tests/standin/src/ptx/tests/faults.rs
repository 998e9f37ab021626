//! Tests of mistakes, each of which is reported with its line.

use super::device::Device;
use super::{Run, run};
use crate::engine::{Fault, FaultKind, Order};

const CU: &str = include_str!("../../../ptx/faults.cu");
const PTX: &str = include_str!("../../../ptx/faults.ptx");

fn marked(name: &str) -> Option<u32> {
    super::marked(CU, name)
}

fn fault(launch: &Run<'_>, device: &Device, order: Order) -> Fault {
    launch.on(device, order).unwrap_err()
}

/// A launch with 64 floats as input and 64 as output.
fn on_floats(kernel: &'static str, order: Order) -> Fault {
    let device = Device::default();
    let (input, out) = (device.upload(&[1.0_f32; 64]), device.alloc(256));
    fault(&run(PTX, kernel, 64).pointer(input).pointer(out), &device, order)
}

#[test]
fn a_write_past_the_end_names_the_thread_and_the_line() {
    let device = Device::default();
    let out = device.alloc(40);
    let launch = run(PTX, "past_end", 4).grid(3, 1, 1).pointer(out).int(10);
    let fault = fault(&launch, &device, Order::Forward);
    assert_eq!(
        fault.to_string(),
        format!(
            "block (2,0,0) thread (2,0,0): line {}: {:#x} is outside, by a write",
            marked("past_end").unwrap(),
            out + 40
        )
    );
    assert_eq!(fault.kind, FaultKind::IllegalAddress);
}

#[test]
fn a_read_before_the_start_is_illegal() {
    let fault = on_floats("before_start", Order::Reverse);
    assert_eq!((fault.kind, fault.line), (FaultKind::IllegalAddress, marked("before_start")));
    assert_eq!(fault.at, Some(([0; 3], [0; 3])));
}

#[test]
fn a_vector_must_lie_at_a_multiple_of_its_size() {
    let device = Device::default();
    let launch =
        run(PTX, "unaligned", 4).pointer(device.upload(&[1.0_f32; 64])).pointer(device.alloc(64));
    let fault = fault(&launch, &device, Order::Forward);
    assert_eq!((fault.kind, fault.line), (FaultKind::MisalignedAddress, marked("unaligned")));
    assert!(fault.what.contains("is not a multiple of the 16 bytes"), "{fault}");
}

#[test]
fn threads_at_different_barriers_never_go_on() {
    for order in [Order::Forward, Order::Reverse] {
        let device = Device::default();
        let fault = fault(&run(PTX, "divergent", 64).pointer(device.alloc(256)), &device, order);
        assert_eq!((fault.kind, fault.line), (FaultKind::LaunchFailed, marked("divergent")));
        let other = marked("other_barrier").unwrap();
        let expected = format!(
            "20 threads wait here, but thread 20 of the block waits at a barrier in line {other}"
        );
        assert!(fault.what.contains(&expected), "{fault}");
    }
}

#[test]
fn threads_that_returned_early_are_missed_at_a_barrier() {
    let device = Device::default();
    let launch = run(PTX, "early", 64).pointer(device.alloc(256)).int(40);
    let fault = fault(&launch, &device, Order::Forward);
    assert_eq!((fault.kind, fault.line), (FaultKind::LaunchFailed, marked("early")));
    assert_eq!(fault.what, "divergent barrier: 40 threads wait here, 24 have ended");
}

#[test]
fn a_missing_barrier_shows_in_both_orders() {
    for order in [Order::Forward, Order::Reverse] {
        let fault = on_floats("missing_barrier", order);
        assert_eq!((fault.kind, fault.line), (FaultKind::OnlyHere, marked("missing_barrier")));
        assert!(fault.what.contains("shared memory never written"), "{fault}");
    }
}

#[test]
fn a_second_missing_barrier_is_a_race_although_every_byte_was_written() {
    for order in [Order::Forward, Order::Reverse] {
        let fault = on_floats("missing_second_barrier", order);
        assert_eq!(
            (fault.kind, fault.line),
            (FaultKind::OnlyHere, marked("missing_second_barrier"))
        );
        assert!(fault.what.contains("shared memory race"), "{fault}");
    }
}

#[test]
fn shared_memory_ends_where_the_launch_says() {
    let device = Device::default();
    let launch = run(PTX, "shared_past_end", 64).shared(64 * 4 - 4).pointer(device.alloc(256));
    let fault = fault(&launch, &device, Order::Forward);
    assert_eq!((fault.kind, fault.line), (FaultKind::IllegalAddress, marked("shared_past_end")));
    assert!(fault.what.contains("of shared memory"), "{fault}");
}

#[test]
fn reading_device_memory_never_written_is_seen() {
    let device = Device::default();
    let launch = run(PTX, "unwritten", 8).pointer(device.alloc(32)).pointer(device.alloc(32));
    let fault = fault(&launch, &device, Order::Forward);
    assert_eq!((fault.kind, fault.line), (FaultKind::OnlyHere, marked("unwritten")));
}

#[test]
fn a_shuffle_waits_for_every_lane_that_it_names() {
    for order in [Order::Forward, Order::Reverse] {
        let device = Device::default();
        let fault = fault(&run(PTX, "absent_lane", 32).pointer(device.alloc(128)), &device, order);
        assert_eq!((fault.kind, fault.line), (FaultKind::LaunchFailed, marked("absent_lane")));
        let expected = format!("waits at a barrier in line {}", marked("where_they_are").unwrap());
        assert!(
            fault.what.contains("lanes 0xffffffff") && fault.what.ends_with(&expected),
            "{fault}"
        );
    }
}

#[test]
fn a_shuffle_must_not_read_a_lane_that_ended() {
    let device = Device::default();
    let fault =
        fault(&run(PTX, "ended_lane", 32).pointer(device.alloc(128)), &device, Order::Reverse);
    assert_eq!((fault.kind, fault.line), (FaultKind::LaunchFailed, marked("ended_lane")));
    assert_eq!(fault.what, "a shuffle in lane 0 reads lane 16, which does not participate");
}

#[test]
fn a_loop_without_end_is_a_fault() {
    let device = Device::default();
    let fault =
        fault(&run(PTX, "endless", 1).pointer(device.upload(&[0_u32, 0])), &device, Order::Forward);
    assert_eq!((fault.kind, fault.line), (FaultKind::LaunchFailed, marked("endless")));
}

#[test]
fn local_memory_has_an_end() {
    let device = Device::default();
    let fault = fault(
        &run(PTX, "local_past_end", 1).pointer(device.alloc(4)).int(4),
        &device,
        Order::Forward,
    );
    assert_eq!((fault.kind, fault.line), (FaultKind::IllegalAddress, marked("local_past_end")));
    assert!(fault.what.contains("of local memory"), "{fault}");
}

#[test]
fn integers_are_not_divided_by_zero() {
    let device = Device::default();
    let out = device.alloc(4);
    run(PTX, "divided", 1).pointer(out).int(7).on(&device, Order::Forward).unwrap();
    assert_eq!(device.download::<u32>(out, 1), [14 + 2]);
    let fault = fault(&run(PTX, "divided", 1).pointer(out).int(0), &device, Order::Forward);
    assert_eq!((fault.kind, fault.line), (FaultKind::OnlyHere, marked("divided")));
}

#[test]
fn a_trap_is_a_fault_of_its_thread() {
    let device = Device::default();
    let fault = fault(&run(PTX, "trapped", 8).pointer(device.alloc(32)), &device, Order::Reverse);
    assert_eq!((fault.kind, fault.at), (FaultKind::Assert, Some(([0; 3], [5, 0, 0]))));
}

#[test]
fn an_unsupported_instruction_is_a_fault_when_a_thread_reaches_it() {
    let device = Device::default();
    let launch = run(PTX, "no_instruction", 1).pointer(device.alloc(4)).pointer(device.alloc(4));
    let fault = fault(&launch, &device, Order::Forward);
    assert_eq!((fault.kind, fault.line), (FaultKind::IllegalInstruction, marked("no_instruction")));
    assert_eq!(fault.what, "no such instruction here: `cp.async.ca.shared.global`");
}

#[test]
fn parameters_of_the_wrong_size_are_an_error() {
    let device = Device::default();
    let fault = fault(&run(PTX, "trapped", 1).int(3), &device, Order::Forward);
    assert_eq!(fault.to_string(), "parameters of [4] bytes: the kernel expects [8]");
}
