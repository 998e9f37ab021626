//! NVRTC, as far as cudarc calls it: "compiles" a source to the text that engine A loads.
//!
//! Error numbers are those of nvrtc.h 12.8. A source that g++ does not compile is a compilation error, with the messages of g++ as
//! the log.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Out;
use crate::config::Config;
use crate::gxx;

const INVALID_INPUT: u32 = 3;
const INVALID_PROGRAM: u32 = 4;
const INVALID_OPTION: u32 = 5;
const COMPILATION: u32 = 6;

#[derive(Debug, Default)]
struct Program {
    name: String,
    source: String,
    ptx: CString,
    log: CString,
}

static PROGRAMS: Mutex<BTreeMap<usize, Program>> = Mutex::new(BTreeMap::new());

fn programs() -> MutexGuard<'static, BTreeMap<usize, Program>> {
    PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn status(result: Result<(), u32>) -> u32 {
    result.map_or_else(|code| code, |()| 0)
}

fn put<T>(out: Out<'_, T>, value: T) -> Result<(), u32> {
    out.ok_or(INVALID_INPUT)?.write(value);
    Ok(())
}

/// # Safety
/// The pointer is null, or points to text that is terminated by NUL.
unsafe fn text(pointer: *const c_char) -> Option<String> {
    // SAFETY: the caller guarantees it.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcVersion(major: Out<'_, c_int>, minor: Out<'_, c_int>) -> u32 {
    status(put(major, 12).and_then(|()| put(minor, 8)))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcCreateProgram(
    out: Out<'_, usize>,
    source: *const c_char,
    name: *const c_char,
    headers: c_int,
    _texts: *const *const c_char,
    _names: *const *const c_char,
) -> u32 {
    // SAFETY: both are text that is terminated by NUL, or null.
    let (source, name) = unsafe { (text(source), text(name)) };
    status(source.filter(|_| headers == 0).ok_or(INVALID_INPUT).and_then(|source| {
        let name =
            name.filter(|name| !name.is_empty()).unwrap_or_else(|| "default_program".to_owned());
        let mut programs = programs();
        let handle = programs.keys().next_back().map_or(0x10, |last| last + 0x10);
        programs.insert(handle, Program { name, source, ..Program::default() });
        put(out, handle)
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcCompileProgram(
    program: usize,
    count: c_int,
    options: *const *const c_char,
) -> u32 {
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: the caller passes `count` texts.
    let options: Vec<String> =
        (0..count).filter_map(|at| unsafe { text(*options.add(at)) }).collect();
    status((|| {
        let cache = Config::from_env().map_err(|_what| INVALID_INPUT)?.cache;
        let (name, source) = {
            let programs = programs();
            let program = programs.get(&program).ok_or(INVALID_PROGRAM)?;
            (program.name.clone(), program.source.clone())
        };
        let ptx = gxx::wrap(&name, &options, &source);
        let result = gxx::check_options(&options).map_err(|what| (INVALID_OPTION, what));
        let result =
            result.and_then(|()| gxx::compile(&ptx, &cache).map_err(|what| (COMPILATION, what)));
        let mut programs = programs();
        let program = programs.get_mut(&program).ok_or(INVALID_PROGRAM)?;
        match result {
            Ok(_library) => program.ptx = CString::new(ptx).map_err(|_nul| INVALID_INPUT)?,
            Err((code, log)) => {
                program.log = CString::new(log).unwrap_or_default();
                return Err(code);
            }
        }
        Ok(())
    })())
}

fn with<T>(program: usize, body: impl FnOnce(&Program) -> Result<T, u32>) -> Result<T, u32> {
    programs().get(&program).ok_or(INVALID_PROGRAM).and_then(body)
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetPTXSize(program: usize, size: Out<'_, usize>) -> u32 {
    status(with(program, |program| put(size, program.ptx.as_bytes_with_nul().len())))
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetProgramLogSize(program: usize, size: Out<'_, usize>) -> u32 {
    status(with(program, |program| put(size, program.log.as_bytes_with_nul().len())))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetPTX(program: usize, out: *mut c_char) -> u32 {
    // SAFETY: the caller's buffer has the size that was returned for it.
    status(with(program, |program| unsafe { copy(&program.ptx, out) }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetProgramLog(program: usize, out: *mut c_char) -> u32 {
    // SAFETY: the caller's buffer has the size that was returned for it.
    status(with(program, |program| unsafe { copy(&program.log, out) }))
}

/// # Safety
/// `out` is null, or has room for the text and its NUL.
unsafe fn copy(text: &CStr, out: *mut c_char) -> Result<(), u32> {
    if out.is_null() {
        return Err(INVALID_INPUT);
    }
    let bytes = text.to_bytes_with_nul();
    // SAFETY: the caller guarantees it.
    unsafe { out.copy_from_nonoverlapping(bytes.as_ptr().cast(), bytes.len()) };
    Ok(())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcDestroyProgram(program: Option<&mut usize>) -> u32 {
    let handle = program.map_or(0, std::mem::take);
    status(programs().remove(&handle).map(|_| ()).ok_or(INVALID_PROGRAM))
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetErrorString(code: u32) -> *const c_char {
    let text = match code {
        0 => c"NVRTC_SUCCESS",
        INVALID_INPUT => c"NVRTC_ERROR_INVALID_INPUT",
        INVALID_PROGRAM => c"NVRTC_ERROR_INVALID_PROGRAM",
        INVALID_OPTION => c"NVRTC_ERROR_INVALID_OPTION",
        COMPILATION => c"NVRTC_ERROR_COMPILATION",
        _ => c"NVRTC_ERROR unknown",
    };
    text.as_ptr()
}
