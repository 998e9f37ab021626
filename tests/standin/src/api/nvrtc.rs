//! NVRTC, as far as cudarc and forebay call it: "compiles" a source to the text that engine A loads.
//!
//! Error numbers are those of nvrtc.h 13.0. A source that g++ does not compile is a compilation error, with the messages of g++ as
//! the log.
//!
//! With `FOREBAY_STANDIN_NVRTC`, which engine B sets, all functions forward to the real NVRTC. Only its machine code is replaced: by its
//! PTX, which engine B can run.

mod real;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int};
use std::mem::MaybeUninit;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Out;
use crate::config::Config;
use crate::gxx;
use crate::image::{self, Version};
use real::forward;

const INVALID_INPUT: u32 = 3;
const INVALID_PROGRAM: u32 = 4;
const INVALID_OPTION: u32 = 5;
const COMPILATION: u32 = 6;

#[derive(Debug, Default)]
struct Program {
    name: String,
    source: String,
    ptx: CString,
    /// Empty if the program was compiled for a virtual architecture.
    cubin: CString,
    log: CString,
}

/// The architectures for which the programs of the real NVRTC were compiled.
static ARCHITECTURES: Mutex<BTreeMap<usize, String>> = Mutex::new(BTreeMap::new());

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

const fn c_name(name: &str) -> &CStr {
    match CStr::from_bytes_with_nul(name.as_bytes()) {
        Ok(name) => name,
        Err(_) => panic!("a name that ends with NUL"),
    }
}

fn config() -> Result<Config, u32> {
    Config::from_env().map_err(|_what| INVALID_INPUT)
}

/// The value of the option that selects the architecture. NVRTC's default is `compute_75`.
fn architecture(options: &[String]) -> String {
    let names = ["--gpu-architecture", "-arch"];
    let mut options = options.iter();
    while let Some(option) = options.next() {
        if names.contains(&option.as_str()) {
            return options.next().cloned().unwrap_or_default();
        }
        let value = option.split_once('=').filter(|(name, _)| names.contains(name));
        if let Some((_, value)) = value {
            return value.to_owned();
        }
    }
    "compute_75".to_owned()
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcVersion(major: Out<'_, c_int>, minor: Out<'_, c_int>) -> u32 {
    forward!(nvrtcVersion(major => Out<'_, c_int>, minor => Out<'_, c_int>));
    status(config().and_then(|config| {
        let Version(of_major, of_minor) = config.nvrtc_version;
        put(major, of_major).and_then(|()| put(minor, of_minor))
    }))
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetNumSupportedArchs(count: Out<'_, c_int>) -> u32 {
    forward!(nvrtcGetNumSupportedArchs(count => Out<'_, c_int>));
    status(config().and_then(|config| {
        put(count, c_int::try_from(config.nvrtc_architectures.len()).unwrap_or(c_int::MAX))
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetSupportedArchs(out: *mut c_int) -> u32 {
    forward!(nvrtcGetSupportedArchs(out => *mut c_int));
    status(config().and_then(|config| {
        if out.is_null() {
            return Err(INVALID_INPUT);
        }
        let known = config.nvrtc_architectures;
        // SAFETY: the caller's array has room for the number that was returned for it.
        unsafe { out.copy_from_nonoverlapping(known.as_ptr(), known.len()) };
        Ok(())
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcCreateProgram(
    out: Out<'_, usize>,
    source: *const c_char,
    name: *const c_char,
    headers: c_int,
    texts: *const *const c_char,
    names: *const *const c_char,
) -> u32 {
    forward!(nvrtcCreateProgram(
        out => Out<'_, usize>,
        source => *const c_char,
        name => *const c_char,
        headers => c_int,
        texts => *const *const c_char,
        names => *const *const c_char
    ));
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
    given: c_int,
    pointers: *const *const c_char,
) -> u32 {
    let count = usize::try_from(given).unwrap_or(0);
    // SAFETY: the caller passes `count` texts.
    let options: Vec<String> =
        (0..count).filter_map(|at| unsafe { text(*pointers.add(at)) }).collect();
    let architecture = architecture(&options);
    ARCHITECTURES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(program, architecture.clone());
    forward!(nvrtcCompileProgram(
        program => usize,
        given => c_int,
        pointers => *const *const c_char
    ));
    status((|| {
        let Config { cache, nvrtc_version, nvrtc_architectures, .. } = config()?;
        let (name, source) = {
            let programs = programs();
            let program = programs.get(&program).ok_or(INVALID_PROGRAM)?;
            (program.name.clone(), program.source.clone())
        };
        let text = gxx::wrap(&name, &options, &source);
        let known = |Version(major, minor)| nvrtc_architectures.contains(&(major * 10 + minor));
        let result = if Version::of_architecture(&architecture).is_some_and(known) {
            gxx::check_options(&options)
        } else {
            Err(format!("nvrtc: error: invalid value for --gpu-architecture: {architecture}"))
        };
        let result = result.map_err(|what| (INVALID_OPTION, what));
        let result =
            result.and_then(|()| gxx::compile(&text, &cache).map_err(|what| (COMPILATION, what)));
        let mut programs = programs();
        let program = programs.get_mut(&program).ok_or(INVALID_PROGRAM)?;
        match result {
            Ok(_library) => {
                let new = |text| CString::new(text).map_err(|_nul| INVALID_INPUT);
                let virtual_one = architecture.replace("sm_", "compute_");
                program.ptx = new(image::ptx(nvrtc_version, &virtual_one, &text))?;
                if architecture.starts_with("sm_") {
                    program.cubin = new(image::cubin(&architecture, &text))?;
                }
            }
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
    forward!(nvrtcGetPTXSize(program => usize, size => Out<'_, usize>));
    status(with(program, |program| put(size, program.ptx.as_bytes_with_nul().len())))
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetProgramLogSize(program: usize, size: Out<'_, usize>) -> u32 {
    forward!(nvrtcGetProgramLogSize(program => usize, size => Out<'_, usize>));
    status(with(program, |program| put(size, program.log.as_bytes_with_nul().len())))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetPTX(program: usize, out: *mut c_char) -> u32 {
    forward!(nvrtcGetPTX(program => usize, out => *mut c_char));
    // SAFETY: the caller's buffer has the size that was returned for it.
    status(with(program, |program| unsafe { copy(&program.ptx, out) }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetProgramLog(program: usize, out: *mut c_char) -> u32 {
    forward!(nvrtcGetProgramLog(program => usize, out => *mut c_char));
    // SAFETY: the caller's buffer has the size that was returned for it.
    status(with(program, |program| unsafe { copy(&program.log, out) }))
}

/// The machine code of a program: for the real NVRTC, what stands for it.
fn machine_code(program: usize) -> Result<CString, u32> {
    if real::symbol(c"nvrtcGetCUBINSize").is_none() {
        return with(program, |program| Ok(program.cubin.clone()));
    }
    let architectures = ARCHITECTURES.lock().unwrap_or_else(PoisonError::into_inner);
    let architecture = architectures.get(&program).cloned().ok_or(INVALID_PROGRAM)?;
    drop(architectures);
    let mut bytes = MaybeUninit::new(0);
    // That there is machine code shows that the real compiler accepts the program to the end.
    let found = real_cubin_size(program, &mut bytes);
    // SAFETY: it was initialized.
    if found != 0 || unsafe { bytes.assume_init() } == 0 {
        return if found == 0 { Ok(CString::default()) } else { Err(found) };
    }
    let mut size = MaybeUninit::new(0);
    let mut found = nvrtcGetPTXSize(program, Some(&mut size));
    // SAFETY: it was initialized.
    let mut ptx = vec![0_u8; unsafe { size.assume_init() }];
    if found == 0 {
        // SAFETY: room for the size that was returned.
        found = unsafe { nvrtcGetPTX(program, ptx.as_mut_ptr().cast()) };
    }
    let text = CStr::from_bytes_until_nul(&ptx).map_err(|_none| found.max(INVALID_INPUT))?;
    CString::new(image::cubin(&architecture, &text.to_string_lossy())).map_err(|_nul| INVALID_INPUT)
}

fn real_cubin_size(program: usize, size: &mut MaybeUninit<usize>) -> u32 {
    forward!(nvrtcGetCUBINSize(program => usize, size => &mut MaybeUninit<usize>));
    INVALID_INPUT
}

/// The size is 0 for a virtual architecture.
#[unsafe(no_mangle)]
extern "C" fn nvrtcGetCUBINSize(program: usize, size: Out<'_, usize>) -> u32 {
    let bytes = |code: &CString| if code.is_empty() { 0 } else { code.as_bytes_with_nul().len() };
    status(machine_code(program).and_then(|code| put(size, bytes(&code))))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetCUBIN(program: usize, out: *mut c_char) -> u32 {
    let code = machine_code(program);
    let code = code.and_then(|code| if code.is_empty() { Err(INVALID_PROGRAM) } else { Ok(code) });
    // SAFETY: the caller's buffer has the size that was returned for it.
    status(code.and_then(|code| unsafe { copy(&code, out) }))
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
    forward!(nvrtcDestroyProgram(program => Option<&mut usize>));
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
