//! Modules and functions.

use std::ffi::{CStr, c_char, c_int, c_void};

use super::device::shared_limits;
use super::{Out, put};
use crate::code::{Answer, Code};
use crate::image::{self, Version};
use crate::machine::{Function, Loaded, Machine, call};
use crate::module;
use crate::report::log;

/// The image must be one of `image`. Real cubins and fatbins need a real GPU.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoadData(out: Out<'_, usize>, image: *const c_void) -> u32 {
    call(|machine| {
        let context = machine.current()?;
        if image.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: an image begins with four bytes of a magic number, or is text that is terminated by NUL.
        let text = unsafe {
            if image.cast::<[u8; 4]>().read_unaligned() == *b"\x7fELF" {
                return Err(Code::NO_BINARY_FOR_GPU);
            }
            CStr::from_ptr(image.cast())
        };
        put(out, load(machine, context, text.to_bytes())?)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoad(out: Out<'_, usize>, path: *const c_char) -> u32 {
    call(|machine| {
        let context = machine.current()?;
        if path.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the path is terminated by NUL.
        let path = unsafe { CStr::from_ptr(path) }.to_string_lossy();
        let text = std::fs::read(&*path).map_err(|_unread| Code::FILE_NOT_FOUND)?;
        put(out, load(machine, context, &text)?)
    })
}

fn load(machine: &mut Machine, context: usize, text: &[u8]) -> Answer<usize> {
    machine.safe_in_capture("loading a module")?;
    let text = str::from_utf8(text).map_err(|_binary| Code::NO_BINARY_FOR_GPU)?;
    let (major, minor) = machine.config.capability;
    let text = image::check(text, Version(major, minor), machine.config.driver_version)?;
    let module = module::load(text, &machine.config.cache)?;
    let handle = machine.new_handle();
    machine.modules.insert(handle, Loaded { context, module });
    Ok(handle)
}

/// Unloading a module whose kernels are queued is a mistake. Here the queue runs first, as it may on a GPU.
#[unsafe(no_mangle)]
extern "C" fn cuModuleUnload(module: usize) -> u32 {
    call(|machine| {
        let context = machine.modules.get(&module).ok_or(Code::INVALID_HANDLE)?.context;
        machine.drain(context);
        machine.modules.remove(&module);
        machine.functions.retain(|_, function| function.module != module);
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetFunction(
    out: Out<'_, usize>,
    module: usize,
    name: *const c_char,
) -> u32 {
    call(|machine| {
        machine.current()?;
        if name.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the name is terminated by NUL.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        let loaded = machine.modules.get(&module).ok_or(Code::INVALID_HANDLE)?;
        let kernel = loaded.module.kernel(&name).ok_or(Code::NOT_FOUND)?;
        let max_dynamic = (48u32 << 10).saturating_sub(kernel.shared_bytes);
        let handle = machine.new_handle();
        machine.functions.insert(handle, Function { module, name, kernel, max_dynamic });
        put(out, handle)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetGlobal_v2(
    _out: Out<'_, u64>,
    _bytes: Out<'_, usize>,
    module: usize,
    _name: *const c_char,
) -> u32 {
    call(|machine| {
        machine.modules.get(&module).ok_or(Code::INVALID_HANDLE)?;
        log("variables of a module are not supported by the stand-in: pass a buffer to the kernel");
        Err(Code::NOT_SUPPORTED)
    })
}

const MAX_DYNAMIC_SHARED: u32 = 8;

#[unsafe(no_mangle)]
extern "C" fn cuFuncGetAttribute(value: Out<'_, c_int>, attribute: u32, function: usize) -> u32 {
    call(|machine| {
        let (major, minor) = machine.config.capability;
        let function = machine.functions.get(&function).ok_or(Code::INVALID_HANDLE)?;
        let found = match attribute {
            0 => function.kernel.max_threads.unwrap_or(1024),
            1 => function.kernel.shared_bytes,
            3 => function.kernel.local_bytes,
            4 => function.kernel.registers,
            5 | 6 => (major * 10 + minor).unsigned_abs(),
            // The bytes of constant memory, and whether global memory is cached in L1.
            2 | 7 => 0,
            MAX_DYNAMIC_SHARED => function.max_dynamic,
            _ => return Err(Code::INVALID_VALUE),
        };
        put(value, c_int::try_from(found).unwrap_or(c_int::MAX))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncSetAttribute(function: usize, attribute: u32, value: c_int) -> u32 {
    call(|machine| {
        let (_, max) = shared_limits(machine.config.capability);
        let function = machine.functions.get_mut(&function).ok_or(Code::INVALID_HANDLE)?;
        match attribute {
            MAX_DYNAMIC_SHARED => {
                let value = u32::try_from(value).map_err(|_negative| Code::INVALID_VALUE)?;
                if value + function.kernel.shared_bytes > max.unsigned_abs() {
                    return Err(Code::INVALID_VALUE);
                }
                function.max_dynamic = value;
                Ok(())
            }
            // A hint about how to divide shared memory and cache, which has no effect.
            9 => Ok(()),
            _ => Err(Code::INVALID_VALUE),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncSetCacheConfig(function: usize, _config: u32) -> u32 {
    call(|machine| machine.functions.get(&function).map(|_| ()).ok_or(Code::INVALID_HANDLE))
}

/// By threads and shared memory only, because the number of registers of a kernel is not known.
#[unsafe(no_mangle)]
extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: Out<'_, c_int>,
    function: usize,
    threads: c_int,
    dynamic: usize,
) -> u32 {
    call(|machine| {
        let (_, max) = shared_limits(machine.config.capability);
        let function = machine.functions.get(&function).ok_or(Code::INVALID_HANDLE)?;
        let warps = u32::try_from(threads).ok().filter(|threads| (1..=1024).contains(threads));
        let threads = warps.ok_or(Code::INVALID_VALUE)?.next_multiple_of(32);
        let shared = dynamic as u64 + u64::from(function.kernel.shared_bytes) + 1024;
        let by_shared = (u64::from(max.unsigned_abs()) + 1024) / shared;
        let found = by_shared.min(u64::from(2048 / threads)).min(32);
        put(blocks, c_int::try_from(found).expect("at most 32"))
    })
}
