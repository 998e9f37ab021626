//! Copies and fills.
//!
//! Host memory is accessed at the times of "API synchronization behavior". Pageable memory may be staged during the call, so it is
//! read then, and a copy to it has finished when the call returns. Pinned memory is accessed when the copy runs.

use std::ffi::c_void;

use super::context_of;
use super::counts::{Count, count};
use crate::code::{Answer, Code};
use crate::machine::{Machine, call};
use crate::memory::{Access, Allocation};
use crate::report::log;
use crate::table::Handle;

/// Host memory of a caller.
#[derive(Clone, Copy)]
struct Host {
    start: usize,
    bytes: usize,
}

impl Host {
    /// # Safety
    /// The pointer is null, or valid for `bytes` bytes; for a copy to the host, until the copy has finished.
    unsafe fn new(start: *const c_void, bytes: usize) -> Self {
        Self { start: start.expose_provenance(), bytes }
    }

    fn read(self) -> Vec<u8> {
        let start = std::ptr::with_exposed_provenance::<u8>(self.start);
        // SAFETY: the caller of `new` guarantees it.
        unsafe { std::slice::from_raw_parts(start, self.bytes) }.to_vec()
    }

    fn write(self, from: &[u8]) {
        let start = std::ptr::with_exposed_provenance_mut::<u8>(self.start);
        // SAFETY: the caller of `new` guarantees it, and the copy is as long as the host memory.
        unsafe { start.copy_from_nonoverlapping(from.as_ptr(), self.bytes) };
    }

    /// Whether the memory is pinned. Device memory and freed pinned memory are errors.
    fn is_pinned(self, machine: &Machine) -> Answer<bool> {
        let start = self.start as u64;
        if self.start == 0 {
            return Err(Code::INVALID_VALUE);
        }
        if !machine.space.holds(start) {
            return Ok(false);
        }
        known(machine, start, self.bytes)?;
        let pinned =
            machine.space.known(start, self.bytes as u64).is_some_and(Allocation::is_pinned);
        if pinned { Ok(true) } else { Err(Code::INVALID_VALUE) }
    }
}

/// Checks that an address range is within an allocation when the call is made.
pub(super) fn known(machine: &Machine, address: u64, bytes: usize) -> Answer {
    if machine.space.known(address, bytes as u64).is_some() {
        return Ok(());
    }
    log(&machine.space.describe(address, bytes as u64));
    Err(Code::INVALID_VALUE)
}

fn to_device(machine: &mut Machine, to: u64, host: Host, stream: Handle) -> Answer {
    if host.bytes == 0 {
        return Ok(());
    }
    known(machine, to, host.bytes)?;
    let what = format!("copy of {} bytes to the device", host.bytes);
    if host.is_pinned(machine)? {
        let (from, bytes) = (host.start as u64, host.bytes as u64);
        let work = move |machine: &mut Machine| machine.space.copy_within(to, from, bytes);
        machine.queue_touching(stream, what, (from, bytes, Access::Reads), work);
    } else {
        let staged = host.read();
        let work = move |machine: &mut Machine| machine.space.copy_in(to, &staged);
        machine.queue(stream, what, work);
    }
    Ok(())
}

fn to_host(machine: &mut Machine, host: Host, from: u64, stream: Handle) -> Answer {
    if host.bytes == 0 {
        return Ok(());
    }
    known(machine, from, host.bytes)?;
    let bytes = host.bytes as u64;
    let what = format!("copy of {bytes} bytes to the host");
    if host.is_pinned(machine)? {
        let to = host.start as u64;
        let work = move |machine: &mut Machine| {
            machine.space.copy_out(from, bytes)?;
            machine.space.copy_within(to, from, bytes)
        };
        machine.queue_touching(stream, what, (to, bytes, Access::Writes), work);
        return Ok(());
    }
    let work = move |machine: &mut Machine| {
        host.write(machine.space.copy_out(from, bytes)?);
        Ok(())
    };
    count(Count::Waits);
    machine.not_captured(stream, "a copy to pageable memory", Code::STREAM_CAPTURE_UNSUPPORTED)?;
    let op = machine.queue(stream, what, work);
    machine.run_until(op);
    machine.check_usable(machine.queues.stream(stream).context)
}

fn within(machine: &mut Machine, to: u64, from: u64, bytes: usize, stream: Handle) -> Answer {
    if bytes == 0 {
        return Ok(());
    }
    known(machine, to, bytes)?;
    known(machine, from, bytes)?;
    let work = move |machine: &mut Machine| machine.space.copy_within(to, from, bytes as u64);
    machine.queue(stream, format!("copy of {bytes} bytes on the device"), work);
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
    machine.queue(stream, "fill", work);
    Ok(())
}

/// The functions with `Async` enqueue on a stream.
fn queued(stream: Handle, body: impl FnOnce(&mut Machine, Handle) -> Answer) -> u32 {
    call(|machine| {
        let stream = machine.resolve(stream)?;
        body(machine, stream)
    })
}

/// The functions without `Async` run on the NULL stream and have finished when the call returns.
fn now(body: impl FnOnce(&mut Machine, Handle) -> Answer) -> u32 {
    call(|machine| {
        count(Count::Waits);
        machine.safe_in_capture("a copy that waits")?;
        let stream = machine.resolve(0)?;
        body(machine, stream)?;
        machine.finish(stream)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    bytes: usize,
    stream: usize,
) -> u32 {
    // SAFETY: the caller guarantees that the pointer is valid.
    let host = unsafe { Host::new(from, bytes) };
    queued(stream, |machine, stream| to_device(machine, to, host, stream))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> u32 {
    // SAFETY: the caller guarantees that the pointer is valid.
    let host = unsafe { Host::new(from, bytes) };
    now(|machine, stream| to_device(machine, to, host, stream))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    bytes: usize,
    stream: usize,
) -> u32 {
    // SAFETY: the caller guarantees that the pointer is valid.
    let host = unsafe { Host::new(to, bytes) };
    queued(stream, |machine, stream| to_host(machine, host, from, stream))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> u32 {
    // SAFETY: the caller guarantees that the pointer is valid.
    let host = unsafe { Host::new(to, bytes) };
    now(|machine, stream| to_host(machine, host, from, stream))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize) -> u32 {
    queued(stream, |machine, stream| within(machine, to, from, bytes, stream))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> u32 {
    now(|machine, stream| within(machine, to, from, bytes, stream))
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
    queued(stream, |machine, stream| {
        context_of(to_context, machine.contexts.len())?;
        context_of(from_context, machine.contexts.len())?;
        within(machine, to, from, bytes, stream)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: usize) -> u32 {
    queued(stream, |machine, stream| fill(machine, to, &[value], count, stream))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8_v2(to: u64, value: u8, count: usize) -> u32 {
    now(|machine, stream| fill(machine, to, &[value], count, stream))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD16Async(to: u64, value: u16, count: usize, stream: usize) -> u32 {
    queued(stream, |machine, stream| fill(machine, to, &value.to_le_bytes(), count, stream))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD32Async(to: u64, value: u32, count: usize, stream: usize) -> u32 {
    queued(stream, |machine, stream| fill(machine, to, &value.to_le_bytes(), count, stream))
}
