//! Memory: allocating, freeing, copying, filling.

use std::ffi::c_void;

use super::{Out, context_of, put};
use crate::code::{Answer, Code};
use crate::engine::{Fault, FaultKind};
use crate::machine::{Handle, Machine, call};
use crate::memory::Access;
use crate::report::say;

/// Memory is there when the call returns.
#[unsafe(no_mangle)]
extern "C" fn cuMemAlloc_v2(out: Out<'_, u64>, bytes: usize) -> u32 {
    call(|machine| {
        let context = machine.current()?;
        if bytes == 0 {
            return Err(Code::INVALID_VALUE);
        }
        let start = reserve(machine, context, bytes)?;
        machine.space.open(start);
        put(out, start)
    })
}

/// Memory is there when the stream comes to it. Nothing at all has no address.
#[unsafe(no_mangle)]
extern "C" fn cuMemAllocAsync(out: Out<'_, u64>, bytes: usize, stream: usize) -> u32 {
    call(|machine| {
        let stream = machine.resolve(stream)?;
        if bytes == 0 {
            return put(out, 0);
        }
        let context = machine.queues.stream(stream).context;
        let start = reserve(machine, context, bytes)?;
        let work = move |machine: &mut Machine| {
            machine.space.open(start);
            Ok(())
        };
        machine.queue(stream, format!("allocate {bytes} bytes"), Box::new(work));
        put(out, start)
    })
}

fn reserve(machine: &mut Machine, device: usize, bytes: usize) -> Answer<u64> {
    machine.space.reserve(device, bytes as u64).or_else(|_full| {
        // Frees that are queued may make room.
        machine.drain(device);
        machine.sound(device)?;
        machine.space.reserve(device, bytes as u64)
    })
}

/// Waits for everything first.
#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(start: u64) -> u32 {
    call(|machine| {
        let context = machine.current()?;
        machine.drain(context);
        machine.sound(context)?;
        if start == 0 { Ok(()) } else { freed(machine, start) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeAsync(start: u64, stream: usize) -> u32 {
    call(|machine| {
        let stream = machine.resolve(stream)?;
        if start == 0 {
            return Ok(());
        }
        known(machine, start, 1)?;
        let work = move |machine: &mut Machine| {
            let what = || machine_says(machine, start);
            let illegal = what();
            machine.space.free(start).map_err(|_code| illegal)
        };
        machine.queue(stream, "free", Box::new(work));
        Ok(())
    })
}

fn machine_says(machine: &Machine, start: u64) -> Fault {
    Fault::new(FaultKind::IllegalAddress, machine.space.describe(start, 0))
}

fn freed(machine: &mut Machine, start: u64) -> Answer {
    machine
        .space
        .free(start)
        .inspect_err(|_code| say(&format!("free: {}", machine.space.describe(start, 0))))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostAlloc(out: Out<'_, usize>, bytes: usize, flags: u32) -> u32 {
    call(|machine| {
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

/// A copy that is queued would use what is freed: refused aloud.
#[unsafe(no_mangle)]
extern "C" fn cuMemFreeHost(pointer: usize) -> u32 {
    call(|machine| {
        machine.current()?;
        let in_flight = machine.space.unpin(pointer as u64)?;
        if in_flight > 0 {
            say(&format!("pinned memory was freed while {in_flight} queued copies use it"));
            return Err(Code::UNKNOWN);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostGetDevicePointer_v2(out: Out<'_, u64>, pointer: usize, _flags: u32) -> u32 {
    call(|machine| {
        machine.current()?;
        let pinned = machine.space.known(pointer as u64, 1).is_some_and(|found| found.is_pinned());
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

/// A device address must be good when the call is made, whatever happens until the copy runs.
fn known(machine: &Machine, address: u64, bytes: usize) -> Answer {
    if machine.space.known(address, bytes as u64).is_some() {
        return Ok(());
    }
    say(&machine.space.describe(address, bytes as u64));
    Err(Code::INVALID_VALUE)
}

/// Whether host memory is pinned. Memory of a device, and pinned memory that was freed, is no host memory.
fn is_pinned(machine: &Machine, host: u64, bytes: usize) -> Answer<bool> {
    if !machine.space.holds(host) {
        return Ok(false);
    }
    known(machine, host, bytes)?;
    let pinned = machine.space.known(host, bytes as u64).is_some_and(|found| found.is_pinned());
    if pinned { Ok(true) } else { Err(Code::INVALID_VALUE) }
}

/// Pageable memory is read now ("API synchronization behavior": it may be staged), pinned memory when the copy runs.
unsafe fn to_device(
    machine: &mut Machine,
    to: u64,
    host: *const c_void,
    bytes: usize,
    stream: Handle,
) -> Answer {
    if bytes == 0 {
        return Ok(());
    }
    if host.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    known(machine, to, bytes)?;
    let from = host.addr() as u64;
    let what = format!("copy of {bytes} bytes to the device");
    if is_pinned(machine, from, bytes)? {
        let work = move |machine: &mut Machine| {
            let staged = machine.space.copy_out(from, bytes as u64)?.to_vec();
            machine.space.copy_in(to, &staged)
        };
        let touched = (from, bytes as u64, Access::Reads);
        machine.queue_touching(stream, what, touched, Box::new(work));
    } else {
        // SAFETY: the caller has so many bytes there.
        let staged = unsafe { std::slice::from_raw_parts(host.cast::<u8>(), bytes) }.to_vec();
        let work = move |machine: &mut Machine| machine.space.copy_in(to, &staged);
        machine.queue(stream, what, Box::new(work));
    }
    Ok(())
}

/// Pageable memory is written before the call returns, pinned memory when the copy runs.
unsafe fn to_host(
    machine: &mut Machine,
    host: *mut c_void,
    from: u64,
    bytes: usize,
    stream: Handle,
) -> Answer {
    if bytes == 0 {
        return Ok(());
    }
    if host.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    known(machine, from, bytes)?;
    let to = host.expose_provenance() as u64;
    let what = format!("copy of {bytes} bytes to the host");
    if is_pinned(machine, to, bytes)? {
        let work = move |machine: &mut Machine| {
            let bytes = machine.space.copy_out(from, bytes as u64)?.to_vec();
            machine.space.copy_in(to, &bytes)
        };
        machine.queue_touching(stream, what, (to, bytes as u64, Access::Writes), Box::new(work));
        return Ok(());
    }
    let target = host.expose_provenance();
    let work = move |machine: &mut Machine| {
        let found = machine.space.copy_out(from, bytes as u64)?;
        let target = std::ptr::with_exposed_provenance_mut::<u8>(target);
        // SAFETY: the caller has so many bytes there until its call returns, which is after this.
        unsafe { target.copy_from_nonoverlapping(found.as_ptr(), bytes) };
        Ok(())
    };
    let op = machine.queue(stream, what, Box::new(work));
    machine.run_until(op);
    machine.sound(machine.queues.stream(stream).context)
}

fn within(machine: &mut Machine, to: u64, from: u64, bytes: usize, stream: Handle) -> Answer {
    if bytes == 0 {
        return Ok(());
    }
    known(machine, to, bytes)?;
    known(machine, from, bytes)?;
    let work = move |machine: &mut Machine| machine.space.copy_within(to, from, bytes as u64);
    machine.queue(stream, format!("copy of {bytes} bytes on the device"), Box::new(work));
    Ok(())
}

fn fill(machine: &mut Machine, to: u64, pattern: &[u8], count: usize, stream: Handle) -> Answer {
    if count == 0 {
        return Ok(());
    }
    if !to.is_multiple_of(pattern.len() as u64) {
        return Err(Code::INVALID_VALUE);
    }
    known(machine, to, count.checked_mul(pattern.len()).ok_or(Code::INVALID_VALUE)?)?;
    let pattern = pattern.to_vec();
    let work = move |machine: &mut Machine| machine.space.fill(to, &pattern, count as u64);
    machine.queue(stream, "fill", Box::new(work));
    Ok(())
}

/// Without `Async`: on the NULL stream, and over when the call returns.
fn now(machine: &mut Machine, body: impl FnOnce(&mut Machine, Handle) -> Answer) -> Answer {
    let stream = machine.resolve(0)?;
    body(machine, stream)?;
    machine.finish(stream)
}

fn queued(
    machine: &mut Machine,
    stream: Handle,
    body: impl FnOnce(&mut Machine, Handle) -> Answer,
) -> Answer {
    let stream = machine.resolve(stream)?;
    body(machine, stream)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    bytes: usize,
    stream: usize,
) -> u32 {
    // SAFETY: the caller's pointer is good for so many bytes.
    call(|machine| {
        queued(machine, stream, |machine, stream| unsafe {
            to_device(machine, to, from, bytes, stream)
        })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> u32 {
    // SAFETY: the caller's pointer is good for so many bytes.
    call(|machine| {
        now(machine, |machine, stream| unsafe { to_device(machine, to, from, bytes, stream) })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    bytes: usize,
    stream: usize,
) -> u32 {
    // SAFETY: the caller's pointer is good for so many bytes.
    call(|machine| {
        queued(machine, stream, |machine, stream| unsafe {
            to_host(machine, to, from, bytes, stream)
        })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> u32 {
    // SAFETY: the caller's pointer is good for so many bytes.
    call(|machine| {
        now(machine, |machine, stream| unsafe { to_host(machine, to, from, bytes, stream) })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize) -> u32 {
    call(|machine| {
        queued(machine, stream, |machine, stream| within(machine, to, from, bytes, stream))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> u32 {
    call(|machine| now(machine, |machine, stream| within(machine, to, from, bytes, stream)))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyPeerAsync(
    to: u64,
    to_context: usize,
    from: u64,
    from_context: usize,
    bytes: usize,
    stream: usize,
) -> u32 {
    call(|machine| {
        context_of(to_context, machine.contexts.len())?;
        context_of(from_context, machine.contexts.len())?;
        queued(machine, stream, |machine, stream| within(machine, to, from, bytes, stream))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: usize) -> u32 {
    call(|machine| {
        queued(machine, stream, |machine, stream| fill(machine, to, &[value], count, stream))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8_v2(to: u64, value: u8, count: usize) -> u32 {
    call(|machine| now(machine, |machine, stream| fill(machine, to, &[value], count, stream)))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD16Async(to: u64, value: u16, count: usize, stream: usize) -> u32 {
    let pattern = value.to_le_bytes();
    call(|machine| {
        queued(machine, stream, |machine, stream| fill(machine, to, &pattern, count, stream))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD32Async(to: u64, value: u32, count: usize, stream: usize) -> u32 {
    let pattern = value.to_le_bytes();
    call(|machine| {
        queued(machine, stream, |machine, stream| fill(machine, to, &pattern, count, stream))
    })
}
