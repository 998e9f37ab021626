//! Initialization, versions, errors and devices.

use std::ffi::{c_char, c_int};

use super::{Out, put};
use crate::code::{Answer, Code};
use crate::config::Config;
use crate::image::Version;
use crate::machine::{Machine, call, start};
use crate::report::log;

#[unsafe(no_mangle)]
extern "C" fn cuInit(flags: u32) -> u32 {
    if flags == 0 { start() } else { Code::INVALID_VALUE.0 }
}

#[unsafe(no_mangle)]
extern "C" fn cuDriverGetVersion(version: Out<'_, c_int>) -> u32 {
    let known = Config::from_env().map_err(|_what| Code::INVALID_VALUE);
    let answer = known.and_then(|config| {
        let Version(major, minor) = config.driver_version;
        put(version, major * 1000 + minor * 10)
    });
    answer.map_or_else(|code| code.0, |()| 0)
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorName(error: u32, text: Out<'_, *const c_char>) -> u32 {
    text_of(error, text, |texts| texts.0)
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorString(error: u32, text: Out<'_, *const c_char>) -> u32 {
    text_of(error, text, |texts| texts.1)
}

fn text_of(
    error: u32,
    text: Out<'_, *const c_char>,
    which: fn((&'static str, &'static str)) -> &'static str,
) -> u32 {
    let answer = match Code(error).texts() {
        Some(texts) => put(text, which(texts).as_ptr().cast()),
        None => Err(Code::INVALID_VALUE),
    };
    answer.map_or_else(|code| code.0, |()| 0)
}

fn device(machine: &Machine, ordinal: c_int) -> Answer<usize> {
    let found = usize::try_from(ordinal).ok().filter(|ordinal| *ordinal < machine.contexts.len());
    found.ok_or(Code::INVALID_DEVICE)
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetCount(count: Out<'_, c_int>) -> u32 {
    call(|machine| put(count, c_int::try_from(machine.contexts.len()).unwrap_or(c_int::MAX)))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGet(out: Out<'_, c_int>, ordinal: c_int) -> u32 {
    call(|machine| {
        device(machine, ordinal)?;
        put(out, ordinal)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, len: c_int, ordinal: c_int) -> u32 {
    call(|machine| {
        device(machine, ordinal)?;
        let (major, minor) = machine.config.capability;
        // As on a machine with several GPUs of one model, the name is the same for all.
        let text = format!("forebay stand-in (sm_{major}{minor})\0");
        let len = usize::try_from(len).unwrap_or(0);
        if name.is_null() || len < text.len() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the caller's buffer has `len` bytes, which are enough.
        unsafe { name.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len()) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetUuid_v2(uuid: Out<'_, [u8; 16]>, ordinal: c_int) -> u32 {
    call(|machine| {
        let mut bytes = *b"forebay-standin\0";
        bytes[15] = u8::try_from(device(machine, ordinal)?).unwrap_or(u8::MAX);
        put(uuid, bytes)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetUuid(uuid: Out<'_, [u8; 16]>, ordinal: c_int) -> u32 {
    cuDeviceGetUuid_v2(uuid, ordinal)
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceTotalMem_v2(bytes: Out<'_, usize>, ordinal: c_int) -> u32 {
    call(|machine| {
        device(machine, ordinal)?;
        put(bytes, usize::try_from(machine.config.memory).unwrap_or(usize::MAX))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceCanAccessPeer(can: Out<'_, c_int>, one: c_int, other: c_int) -> u32 {
    call(|machine| {
        let differ = device(machine, one)? != device(machine, other)?;
        put(can, c_int::from(differ))
    })
}

/// The shared memory of a block, by default and at most. CUDA programming guide, "Compute capabilities".
pub(super) fn shared_limits(capability: (i32, i32)) -> (i32, i32) {
    let max = match capability {
        (8, 0 | 7) => 163,
        (8 | 12, _) => 99,
        (9 | 10, _) => 227,
        _ => 64,
    };
    (48 << 10, max << 10)
}

/// The attributes that do not depend on the settings. They are those of an H100, but for its L2 cache of 50 MiB: measurements
/// clear twice its size before each run.
const ATTRIBUTES: [(u32, c_int); 37] = [
    (1, 1024),       // MAX_THREADS_PER_BLOCK
    (2, 1024),       // MAX_BLOCK_DIM_X
    (3, 1024),       // MAX_BLOCK_DIM_Y
    (4, 64),         // MAX_BLOCK_DIM_Z
    (5, c_int::MAX), // MAX_GRID_DIM_X
    (6, 65_535),     // MAX_GRID_DIM_Y
    (7, 65_535),     // MAX_GRID_DIM_Z
    (9, 65_536),     // TOTAL_CONSTANT_MEMORY
    (10, 32),        // WARP_SIZE
    (12, 65_536),    // MAX_REGISTERS_PER_BLOCK
    (13, 1_755_000), // CLOCK_RATE, kHz
    (15, 1),         // GPU_OVERLAP
    (16, 132),       // MULTIPROCESSOR_COUNT
    (17, 0),         // KERNEL_EXEC_TIMEOUT
    (18, 0),         // INTEGRATED
    (19, 1),         // CAN_MAP_HOST_MEMORY
    (20, 0),         // COMPUTE_MODE
    (31, 1),         // CONCURRENT_KERNELS
    (32, 1),         // ECC_ENABLED
    (33, 0),         // PCI_BUS_ID
    (34, 0),         // PCI_DEVICE_ID
    (36, 2_619_000), // MEMORY_CLOCK_RATE, kHz
    (37, 5120),      // GLOBAL_MEMORY_BUS_WIDTH
    (38, 1 << 20),   // L2_CACHE_SIZE
    (39, 2048),      // MAX_THREADS_PER_MULTIPROCESSOR
    (40, 3),         // ASYNC_ENGINE_COUNT
    (41, 1),         // UNIFIED_ADDRESSING
    (50, 0),         // PCI_DOMAIN_ID
    (78, 1),         // STREAM_PRIORITIES_SUPPORTED
    (82, 65_536),    // MAX_REGISTERS_PER_MULTIPROCESSOR
    (83, 0),         // MANAGED_MEMORY
    (84, 0),         // MULTI_GPU_BOARD
    (88, 0),         // PAGEABLE_MEMORY_ACCESS
    (95, 0),         // COOPERATIVE_LAUNCH
    (106, 32),       // MAX_BLOCKS_PER_MULTIPROCESSOR
    (111, 1024),     // RESERVED_SHARED_MEMORY_PER_BLOCK
    (115, 1),        // MEMORY_POOLS_SUPPORTED
];

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetAttribute(value: Out<'_, c_int>, attribute: u32, ordinal: c_int) -> u32 {
    call(|machine| {
        device(machine, ordinal)?;
        let (major, minor) = machine.config.capability;
        let (shared, max_shared) = shared_limits((major, minor));
        let found = match attribute {
            8 => shared,             // MAX_SHARED_MEMORY_PER_BLOCK
            75 => major,             // COMPUTE_CAPABILITY_MAJOR
            76 => minor,             // COMPUTE_CAPABILITY_MINOR
            81 => max_shared + 1024, // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
            97 => max_shared,        // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
            _ => {
                let found = ATTRIBUTES.iter().find(|(known, _)| *known == attribute);
                let Some((_, found)) = found else {
                    log(&format!("device attribute {attribute} is not supported by the stand-in"));
                    return Err(Code::INVALID_VALUE);
                };
                *found
            }
        };
        put(value, found)
    })
}
