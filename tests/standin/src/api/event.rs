//! Events.

use std::time::Instant;

use super::counts::{Count, count};
use super::{Out, put};
use crate::code::{Answer, Code};
use crate::machine::{Event, Machine, call};

const DISABLE_TIMING: u32 = 2;

#[unsafe(no_mangle)]
extern "C" fn cuEventCreate(out: Out<'_, usize>, flags: u32) -> u32 {
    call(|machine| {
        let context = machine.current()?;
        if flags > 7 {
            return Err(Code::INVALID_VALUE);
        }
        let handle = machine.new_handle();
        let timed = flags & DISABLE_TIMING == 0;
        machine
            .events
            .insert(handle, Event { context, timed, recorded: None, at: None, captured: None });
        put(out, handle)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(event: usize) -> u32 {
    call(|machine| machine.events.remove(&event).map(|_| ()).ok_or(Code::INVALID_HANDLE))
}

/// The event and the stream must belong to the same context.
#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(event: usize, stream: usize) -> u32 {
    call(|machine| {
        let stream = machine.resolve(stream)?;
        if find(machine, event)?.context != machine.queues.stream(stream).context {
            return Err(Code::INVALID_HANDLE);
        }
        let work = move |machine: &mut Machine| {
            if let Some(event) = machine.events.get_mut(&event) {
                event.at = Some(Instant::now());
            }
            Ok(())
        };
        let captured = (machine.capture_status(stream) != 0).then_some(stream);
        let op = machine.queue(stream, "event", work);
        if let Some(event) = machine.events.get_mut(&event) {
            event.captured = captured;
            // In a capture the record is a node, and no work of the stream completes the event.
            event.recorded = if captured.is_some() { event.recorded } else { Some(op) };
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(event: usize) -> u32 {
    call(|machine| {
        count(Count::Waits);
        not_captured(machine, event)?;
        let (context, op) = (find(machine, event)?.context, find(machine, event)?.recorded);
        if let Some(op) = op {
            machine.run_until(op);
        }
        machine.check_usable(context)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventQuery(event: usize) -> u32 {
    call(|machine| {
        not_captured(machine, event)?;
        let (context, op) = (find(machine, event)?.context, find(machine, event)?.recorded);
        machine.check_usable(context)?;
        op.map_or(Ok(()), |op| machine.poll(op))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime(out: Out<'_, f32>, from: usize, to: usize) -> u32 {
    call(|machine| {
        let time = |event| {
            let found = find(machine, event)?;
            let op = found.recorded.filter(|_| found.timed).ok_or(Code::INVALID_HANDLE)?;
            found.at.filter(|_| machine.queues.is_done(op)).ok_or(Code::NOT_READY)
        };
        let (from, to) = (time(from)?, time(to)?);
        let elapsed = to.saturating_duration_since(from).as_secs_f32()
            - from.saturating_duration_since(to).as_secs_f32();
        put(out, elapsed * 1e3)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime_v2(out: Out<'_, f32>, from: usize, to: usize) -> u32 {
    cuEventElapsedTime(out, from, to)
}

/// An event that a captured stream recorded cannot be waited for or asked for.
fn not_captured(machine: &mut Machine, event: usize) -> Answer {
    match find(machine, event)?.captured {
        Some(stream) => machine.not_captured(stream, "waiting for an event", Code::CAPTURED_EVENT),
        None => Ok(()),
    }
}

fn find(machine: &Machine, event: usize) -> Answer<&Event> {
    machine.events.get(&event).ok_or(Code::INVALID_HANDLE)
}
