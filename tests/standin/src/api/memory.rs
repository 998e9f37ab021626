//! Allocation of memory. Copies are in `copy`.

use super::copy::known;
use super::counts::{Count, count};
use super::{Out, put};
use crate::code::{Answer, Code};
use crate::engine::{Fault, FaultKind};
use crate::machine::{Machine, call};
use crate::memory::Allocation;
use crate::report::log;

/// The memory is usable when the call returns.
#[unsafe(no_mangle)]
extern "C" fn cuMemAlloc_v2(out: Out<'_, u64>, bytes: usize) -> u32 {
    call(|machine| {
        machine.safe_in_capture("cuMemAlloc")?;
        count(Count::Allocations);
        let context = machine.current()?;
        if bytes == 0 {
            return Err(Code::INVALID_VALUE);
        }
        let start = reserve(machine, context, bytes)?;
        machine.space.open(start);
        put(out, start)
    })
}

/// The memory is usable once the stream has reached the allocation. An allocation of 0 bytes has no address.
#[unsafe(no_mangle)]
extern "C" fn cuMemAllocAsync(out: Out<'_, u64>, bytes: usize, stream: usize) -> u32 {
    call(|machine| {
        count(Count::Allocations);
        let stream = machine.resolve(stream)?;
        let what = "an allocation, which the stand-in does not support";
        machine.not_captured(stream, what, Code::STREAM_CAPTURE_UNSUPPORTED)?;
        if bytes == 0 {
            return put(out, 0);
        }
        let context = machine.queues.stream(stream).context;
        let start = reserve(machine, context, bytes)?;
        let work = move |machine: &mut Machine| {
            machine.space.open(start);
            Ok(())
        };
        machine.queue(stream, format!("allocate {bytes} bytes"), work);
        put(out, start)
    })
}

fn reserve(machine: &mut Machine, device: usize, bytes: usize) -> Answer<u64> {
    machine.space.reserve(device, bytes as u64).or_else(|_full| {
        // Queued frees may release memory.
        machine.drain(device);
        machine.check_usable(device)?;
        machine.space.reserve(device, bytes as u64)
    })
}

/// Waits for all work of the context first.
#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(start: u64) -> u32 {
    call(|machine| {
        count(Count::Waits);
        machine.safe_in_capture("cuMemFree")?;
        let context = machine.current()?;
        machine.drain(context);
        machine.check_usable(context)?;
        if start == 0 { Ok(()) } else { freed(machine, start) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeAsync(start: u64, stream: usize) -> u32 {
    call(|machine| {
        let stream = machine.resolve(stream)?;
        let what = "a free, which the stand-in does not support";
        machine.not_captured(stream, what, Code::STREAM_CAPTURE_UNSUPPORTED)?;
        if start == 0 {
            return Ok(());
        }
        known(machine, start, 1)?;
        let work = move |machine: &mut Machine| {
            let illegal = Fault::new(FaultKind::IllegalAddress, machine.space.describe(start, 0));
            machine.space.free(start).map_err(|_code| illegal)
        };
        machine.queue(stream, "free", work);
        Ok(())
    })
}

fn freed(machine: &mut Machine, start: u64) -> Answer {
    machine
        .space
        .free(start)
        .inspect_err(|_code| log(&format!("free: {}", machine.space.describe(start, 0))))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostAlloc(out: Out<'_, usize>, bytes: usize, flags: u32) -> u32 {
    call(|machine| {
        machine.safe_in_capture("cuMemHostAlloc")?;
        count(Count::Allocations);
        machine.current()?;
        if bytes == 0 || flags > 7 {
            return Err(Code::INVALID_VALUE);
        }
        put(out, usize::try_from(machine.space.pin(bytes as u64)?).expect("64 bits"))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocHost_v2(out: Out<'_, usize>, bytes: usize) -> u32 {
    cuMemHostAlloc(out, bytes, 0)
}

/// Freeing memory that a queued copy uses is an error, with a message.
#[unsafe(no_mangle)]
extern "C" fn cuMemFreeHost(pointer: usize) -> u32 {
    call(|machine| {
        machine.safe_in_capture("cuMemFreeHost")?;
        machine.current()?;
        let in_flight = machine.space.unpin(pointer as u64)?;
        if in_flight > 0 {
            log(&format!("pinned memory was freed while {in_flight} queued copies use it"));
            return Err(Code::UNKNOWN);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostGetDevicePointer_v2(out: Out<'_, u64>, pointer: usize, _flags: u32) -> u32 {
    call(|machine| {
        machine.current()?;
        let pinned = machine.space.known(pointer as u64, 1).is_some_and(Allocation::is_pinned);
        if pinned { put(out, pointer as u64) } else { Err(Code::INVALID_VALUE) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemGetInfo_v2(free: Out<'_, usize>, total: Out<'_, usize>) -> u32 {
    call(|machine| {
        let (left, all) = machine.space.info(machine.current()?);
        put(free, usize::try_from(left).expect("64 bits"))?;
        put(total, usize::try_from(all).expect("64 bits"))
    })
}
