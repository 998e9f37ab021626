//! Streams.

use std::ffi::{c_int, c_void};

use super::counts::{Count, count};
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
        machine.not_captured(stream, "cuStreamDestroy", Code::STREAM_CAPTURE_UNSUPPORTED)?;
        machine.queues.destroy(stream);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(stream: usize) -> u32 {
    call(|machine| {
        count(Count::Waits);
        let stream = machine.resolve(stream)?;
        machine.not_captured(stream, "cuStreamSynchronize", Code::STREAM_CAPTURE_UNSUPPORTED)?;
        machine.finish(stream)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamQuery(stream: usize) -> u32 {
    call(|machine| {
        let stream = machine.resolve(stream)?;
        machine.not_captured(stream, "cuStreamQuery", Code::STREAM_CAPTURE_UNSUPPORTED)?;
        machine.queues.last_of(stream).map_or(Ok(()), |last| machine.poll(last))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(stream: usize, event: usize, _flags: u32) -> u32 {
    call(|machine| {
        let stream = machine.resolve(stream)?;
        let event = machine.events.get(&event).ok_or(Code::INVALID_HANDLE)?;
        // An event that was never recorded counts as complete.
        let (captured, recorded) = (event.captured, event.recorded);
        if captured == Some(stream) {
            // The nodes of a graph run in the order of their stream.
            return Ok(());
        }
        if let Some(captured) = captured {
            let what = "another stream waiting for an event";
            return machine.not_captured(captured, what, Code::STREAM_CAPTURE_UNSUPPORTED);
        }
        if let Some(op) = recorded {
            let what = "waiting for an event of uncaptured work";
            machine.not_captured(stream, what, Code::STREAM_CAPTURE_ISOLATION)?;
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
        machine.queue(stream, "host function", work);
        Ok(())
    })
}
