//! Primary contexts. Other contexts are not supported: cudarc uses the primary one of a device.

use std::ffi::c_int;

use super::counts::{Count, count};
use super::{Out, context_handle, context_of, put};
use crate::code::Code;
use crate::machine::{CURRENT, call};
use crate::report::log;

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRetain(out: Out<'_, usize>, device: c_int) -> u32 {
    call(|machine| {
        let index = usize::try_from(device).map_err(|_negative| Code::INVALID_DEVICE)?;
        let context = machine.contexts.get_mut(index).ok_or(Code::INVALID_DEVICE)?;
        context.retained += 1;
        put(out, context_handle(index))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> u32 {
    call(|machine| {
        let index = usize::try_from(device).map_err(|_negative| Code::INVALID_DEVICE)?;
        let context = machine.contexts.get_mut(index).ok_or(Code::INVALID_DEVICE)?;
        context.retained = context.retained.checked_sub(1).ok_or(Code::INVALID_CONTEXT)?;
        if context.retained == 0 {
            machine.drain(index);
            let leaked = machine.space.free_all(index);
            if leaked > 0 && machine.contexts[index].broken.is_none() {
                log(&format!("device {index}: {leaked} allocations were never freed"));
            }
            machine.contexts[index].broken = None;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetCurrent(out: Out<'_, usize>) -> u32 {
    call(|_| put(out, CURRENT.get().map_or(0, context_handle)))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(handle: usize) -> u32 {
    call(|machine| {
        let context = match handle {
            0 => None,
            handle => Some(context_of(handle, machine.contexts.len())?),
        };
        if context.is_some_and(|context| machine.contexts[context].retained == 0) {
            return Err(Code::INVALID_CONTEXT);
        }
        CURRENT.set(context);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetDevice(out: Out<'_, c_int>) -> u32 {
    call(|machine| put(out, c_int::try_from(machine.current()?).unwrap_or(c_int::MAX)))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSynchronize() -> u32 {
    call(|machine| {
        count(Count::Waits);
        machine.safe_in_capture("cuCtxSynchronize")?;
        let context = machine.current()?;
        machine.drain(context);
        machine.check_usable(context)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetFlags(flags: u32) -> u32 {
    call(|machine| {
        let context = machine.current()?;
        machine.contexts[context].flags = flags;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetFlags(out: Out<'_, u32>) -> u32 {
    call(|machine| put(out, machine.contexts[machine.current()?].flags))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetStreamPriorityRange(least: Out<'_, c_int>, greatest: Out<'_, c_int>) -> u32 {
    call(|machine| {
        machine.current()?;
        put(least, 0)?;
        put(greatest, -5)
    })
}

/// Every device can access the memory of its peers.
#[unsafe(no_mangle)]
extern "C" fn cuCtxEnablePeerAccess(peer: usize, flags: u32) -> u32 {
    call(|machine| {
        machine.current()?;
        context_of(peer, machine.contexts.len())?;
        if flags == 0 { Ok(()) } else { Err(Code::INVALID_VALUE) }
    })
}
