//! Streams.

use std::ffi::{c_int, c_void};

use super::{Out, put};
use crate::code::Code;
use crate::machine::call;

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreate(out: Out<'_, usize>, flags: u32) -> u32 {
    cuStreamCreateWithPriority(out, flags, 0)
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreateWithPriority(out: Out<'_, usize>, flags: u32, priority: c_int) -> u32 {
    call(|machine| {
        let context = machine.current()?;
        if flags > 1 {
            return Err(Code::INVALID_VALUE);
        }
        put(out, machine.new_stream(context, flags, priority.clamp(-5, 0)))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(stream: usize) -> u32 {
    call(|machine| {
        // The streams of CUDA itself cannot be destroyed.
        if stream <= 2 {
            return Err(Code::INVALID_HANDLE);
        }
        let stream = machine.resolve(stream)?;
        machine.queues.destroy(stream);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(stream: usize) -> u32 {
    call(|machine| {
        let stream = machine.resolve(stream)?;
        machine.finish(stream)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamQuery(stream: usize) -> u32 {
    call(|machine| {
        let stream = machine.resolve(stream)?;
        machine.queues.last_of(stream).map_or(Ok(()), |last| machine.poll(last))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(stream: usize, event: usize, _flags: u32) -> u32 {
    call(|machine| {
        let stream = machine.resolve(stream)?;
        let event = machine.events.get(&event).ok_or(Code::INVALID_HANDLE)?;
        // An event that was never recorded counts as complete.
        if let Some(op) = event.recorded {
            machine.wait_for(stream, op);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamGetFlags(stream: usize, flags: Out<'_, u32>) -> u32 {
    call(|machine| {
        let stream = machine.resolve(stream)?;
        put(flags, machine.queues.stream(stream).flags)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamGetPriority(stream: usize, priority: Out<'_, c_int>) -> u32 {
    call(|machine| {
        let stream = machine.resolve(stream)?;
        put(priority, machine.queues.stream(stream).priority)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamIsCapturing(stream: usize, status: Out<'_, u32>) -> u32 {
    call(|machine| {
        machine.resolve(stream)?;
        put(status, 0)
    })
}

/// The host function must not call CUDA. Such calls return `NOT_PERMITTED`.
#[unsafe(no_mangle)]
extern "C" fn cuLaunchHostFunc(
    stream: usize,
    function: Option<unsafe extern "C" fn(*mut c_void)>,
    data: *mut c_void,
) -> u32 {
    let data = data.expose_provenance();
    call(|machine| {
        let stream = machine.resolve(stream)?;
        let function = function.ok_or(Code::INVALID_VALUE)?;
        let work = move |_: &mut _| {
            // SAFETY: the caller guarantees that the function accepts this pointer, on any thread.
            unsafe { function(std::ptr::with_exposed_provenance_mut(data)) };
            Ok(())
        };
        machine.queue(stream, "host function", Box::new(work));
        Ok(())
    })
}
