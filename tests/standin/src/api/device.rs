//! Initialisation, versions, errors, devices.

use std::ffi::{c_char, c_int};

use super::{Out, put};
use crate::code::{Answer, Code};
use crate::machine::{Machine, call, start};
use crate::report::say;

#[unsafe(no_mangle)]
extern "C" fn cuInit(flags: u32) -> u32 {
    if flags == 0 { start() } else { Code::INVALID_VALUE.0 }
}

#[unsafe(no_mangle)]
extern "C" fn cuDriverGetVersion(version: Out<'_, c_int>) -> u32 {
    put(version, 12080).map_or_else(|code| code.0, |()| 0)
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorName(error: u32, text: Out<'_, *const c_char>) -> u32 {
    tell(error, text, |texts| texts.0)
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorString(error: u32, text: Out<'_, *const c_char>) -> u32 {
    tell(error, text, |texts| texts.1)
}

fn tell(
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
        let device = device(machine, ordinal)?;
        let (major, minor) = machine.config.capability;
        let text = format!("forebay stand-in {device} (sm_{major}{minor})\0");
        let len = usize::try_from(len).unwrap_or(0);
        if name.is_null() || len < text.len() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the caller has `len` bytes there, which are enough.
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

/// Dynamic shared memory that a kernel may ask for, and all that a block may have. CUDA programming guide, "Compute capabilities".
pub(super) fn shared_limits(capability: (i32, i32)) -> (i32, i32) {
    let most = match capability {
        (8, 0 | 7) => 163,
        (8 | 12, _) => 99,
        (9 | 10, _) => 227,
        _ => 64,
    };
    (48 << 10, most << 10)
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetAttribute(value: Out<'_, c_int>, attribute: u32, ordinal: c_int) -> u32 {
    call(|machine| {
        device(machine, ordinal)?;
        let (major, minor) = machine.config.capability;
        let (shared, most_shared) = shared_limits((major, minor));
        let found = match attribute {
            1 | 2 | 3 => 1024, // threads of a block; its x and y
            4 => 64,           // its z
            5 => c_int::MAX,   // blocks in x
            6 | 7 => 65_535,   // in y and z
            8 => shared,
            10 => 32,          // warp
            12 | 82 => 65_536, // registers of a block, of a multiprocessor
            13 => 1_755_000,   // clock, kHz
            15 => 1,           // copies overlap
            16 => 132,         // multiprocessors
            31 | 41 => 1,      // kernels beside each other, unified addressing
            36 => 2_619_000,   // memory clock, kHz
            37 => 5120,        // bus, bits
            38 => 50 << 20,    // second level cache
            39 => 2048,        // threads of a multiprocessor
            40 => 3,           // copy engines
            75 => major,
            76 => minor,
            78 => 1,                        // stream priorities
            81 | 111 => most_shared + 1024, // of a multiprocessor
            97 => most_shared,
            95 => 0,   // cooperative launch
            106 => 32, // blocks of a multiprocessor
            115 => 1,  // stream-ordered allocation
            17 | 18 | 19 | 20 | 32 | 35 | 83 | 88 | 89 | 96 => 0,
            unknown => {
                say(&format!("device attribute {unknown} is not known here"));
                return Err(Code::INVALID_VALUE);
            }
        };
        put(value, found)
    })
}
