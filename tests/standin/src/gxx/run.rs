//! Loads a compiled module and runs its kernels.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::engine::{BadAccess, Fault, FaultKind, Kernel, Launch, Memory, Module, Order};
use crate::signal::{Exit, guarded};

/// `standin::Kernel` of `cuda_run.h`.
#[repr(C)]
struct RawKernel {
    name: *const c_char,
    call: *const c_void,
    sizes: *const usize,
    params: usize,
    max_threads: usize,
}

/// `standin::Launch` of `cuda_run.h`.
#[repr(C)]
struct RawLaunch {
    grid: [u32; 3],
    block: [u32; 3],
    params: *const *const u128,
    shared: *mut u8,
    shared_bytes: usize,
    reverse: c_int,
    fault: c_int,
    address: usize,
    instruction: usize,
    line: u32,
    at_block: [u32; 3],
    at_thread: [u32; 3],
    what: [u8; 256],
}

/// A module that g++ has compiled.
pub(super) struct Native {
    library: PathBuf,
    kernels: Vec<(&'static RawKernel, String, Kernel)>,
    start: unsafe extern "C" fn(*const RawKernel, *mut RawLaunch),
    exit: Exit,
}

// SAFETY: the raw kernels are constants of the library, which is never unloaded.
unsafe impl Send for Native {}

impl Native {
    /// Loads a library. `shared` has the static shared memory of each kernel.
    pub(super) fn open(library: &Path, shared: &[(String, u32)]) -> Result<Self, String> {
        let path =
            CString::new(library.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
        // SAFETY: `build` created the library, and loading it only initializes constants of kernels.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            // SAFETY: after a failure, dlerror returns text that is terminated by NUL.
            return Err(unsafe { CStr::from_ptr(libc::dlerror()) }.to_string_lossy().into_owned());
        }
        let symbol = |name: &CStr| {
            // SAFETY: the handle is open, and the name is terminated by NUL.
            let found = unsafe { libc::dlsym(handle, name.as_ptr()) };
            if found.is_null() {
                Err(format!("{}: no {name:?}", library.display()))
            } else {
                Ok(found)
            }
        };
        let (start, escape) = (symbol(c"standin_launch")?, symbol(c"standin_escape")?);
        let (stack, table) = (symbol(c"standin_escape_stack")?, symbol(c"standin_kernels")?);
        // SAFETY: cuda_run.h declares these symbols with these types, and the table ends with an empty entry.
        unsafe {
            let stack: extern "C" fn() -> *mut c_char = std::mem::transmute(stack);
            let exit = Exit { entry: escape.addr(), stack: stack().addr() };
            let table: *const RawKernel = table.cast();
            let raw = (0..).map(|at| &*table.add(at)).take_while(|raw| !raw.name.is_null());
            let kernels = raw.map(|raw| describe(raw, shared)).collect();
            Ok(Self {
                library: library.to_owned(),
                kernels,
                start: std::mem::transmute::<
                    *mut c_void,
                    unsafe extern "C" fn(*const RawKernel, *mut RawLaunch),
                >(start),
                exit,
            })
        }
    }

    /// The source line of an instruction, from binutils.
    fn line_of(&self, instruction: usize) -> Option<u32> {
        // SAFETY: dladdr fills `info` if it succeeds.
        let base = unsafe {
            let mut info: libc::Dl_info = std::mem::zeroed();
            let known = libc::dladdr(std::ptr::without_provenance(instruction), &raw mut info);
            if known == 0 {
                return None;
            }
            info.dli_fbase.addr()
        };
        let offset = format!("{:#x}", instruction - base);
        let output =
            Command::new("addr2line").arg("-e").arg(&self.library).arg(offset).output().ok()?;
        let place = String::from_utf8(output.stdout).ok()?;
        let line = place.split(':').nth(1)?;
        line.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }

    fn fault(&self, raw: &RawLaunch, memory: &dyn Memory) -> Fault {
        let text = raw.what.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = String::from_utf8_lossy(text).into_owned();
        let (kind, what, line) = match raw.fault {
            1 => {
                let place = memory.read(raw.address as u64, &mut [0]);
                let what = match place {
                    Err(BadAccess::Illegal(what)) => what,
                    // A misaligned vector access, or a division that traps.
                    _ => "an access that is not aligned, or an arithmetic trap".to_owned(),
                };
                (FaultKind::IllegalAddress, what, self.line_of(raw.instruction))
            }
            2 => (FaultKind::MisalignedAddress, format!("{text} at {:#x}", raw.address), None),
            3 => (FaultKind::Assert, text, None),
            4 | 5 => (FaultKind::LaunchFailed, text, None),
            _ => (FaultKind::OnlyHere, text, None),
        };
        let line = line.or(Some(raw.line)).filter(|line| *line != 0);
        Fault { kind, what, at: Some((raw.at_block, raw.at_thread)), line }
    }
}

/// # Safety
/// `raw` is an entry of the table of a module.
unsafe fn describe(
    raw: &'static RawKernel,
    shared: &[(String, u32)],
) -> (&'static RawKernel, String, Kernel) {
    // SAFETY: the name is terminated by NUL, and the entry has the number of sizes.
    let (name, params) = unsafe {
        let name = CStr::from_ptr(raw.name).to_string_lossy().into_owned();
        (name, std::slice::from_raw_parts(raw.sizes, raw.params).to_vec())
    };
    let shared_bytes = shared.iter().find(|(of, _)| *of == name).map_or(0, |(_, bytes)| *bytes);
    let max_threads = u32::try_from(raw.max_threads).ok().filter(|max| *max > 0);
    (raw, name, Kernel { params, shared_bytes, max_threads, ..Kernel::default() })
}

impl Module for Native {
    fn kernel(&self, name: &str) -> Option<Kernel> {
        self.kernels.iter().find(|(_, known, _)| known == name).map(|(_, _, kernel)| kernel.clone())
    }

    fn native(&self) -> bool {
        true
    }

    fn launch(&self, launch: &Launch<'_>, memory: &dyn Memory) -> Result<(), Fault> {
        let found = self.kernels.iter().find(|(_, name, _)| name == launch.kernel);
        let (kernel, ..) =
            found.ok_or_else(|| Fault::new(FaultKind::LaunchFailed, "no such kernel"))?;
        // Parameters are aligned as structures with vectors require.
        let params: Vec<Vec<u128>> = launch.params.iter().map(|value| aligned(value)).collect();
        let pointers: Vec<*const u128> = params.iter().map(Vec::as_ptr).collect();
        let mut shared = Shared::new(launch.shared_bytes as usize);
        let mut raw = RawLaunch {
            grid: launch.grid,
            block: launch.block,
            params: pointers.as_ptr(),
            shared: shared.start(),
            shared_bytes: launch.shared_bytes.next_multiple_of(16) as usize,
            reverse: c_int::from(launch.order == Order::Reverse),
            fault: 0,
            address: 0,
            instruction: 0,
            line: 0,
            at_block: [0; 3],
            at_thread: [0; 3],
            what: [0; 256],
        };
        // SAFETY: the parameters have the sizes of this kernel, and invalid accesses of the kernel lead to the exit. Launches are
        // sequential, because `Machine` is locked.
        guarded(self.exit, || unsafe { (self.start)(*kernel, &raw mut raw) });
        if raw.fault == 0 { Ok(()) } else { Err(self.fault(&raw, memory)) }
    }
}

fn aligned(value: &[u8]) -> Vec<u128> {
    let word = |chunk: &[u8]| {
        let mut bytes = [0; 16];
        bytes[..chunk.len()].copy_from_slice(chunk);
        u128::from_le_bytes(bytes)
    };
    value.chunks(16).map(word).collect()
}

/// The dynamic shared memory of a launch, which ends at a protected page.
struct Shared {
    pages: *mut u8,
    len: usize,
    bytes: usize,
}

impl Shared {
    const PAGE: usize = 4096;

    fn new(bytes: usize) -> Self {
        let bytes = bytes.next_multiple_of(16);
        let len = bytes.next_multiple_of(Self::PAGE) + Self::PAGE;
        let (open, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, whose last page is protected.
        let pages = unsafe {
            let pages = libc::mmap(std::ptr::null_mut(), len, open, flags, -1, 0);
            assert_ne!(pages, libc::MAP_FAILED, "no memory for {bytes} bytes of shared memory");
            libc::mprotect(pages.byte_add(len - Self::PAGE), Self::PAGE, libc::PROT_NONE);
            pages.cast()
        };
        Self { pages, len, bytes }
    }

    fn start(&mut self) -> *mut u8 {
        // SAFETY: the bytes are before the protected page.
        unsafe { self.pages.add(self.len - Self::PAGE - self.bytes) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: this is the mapping of `new`.
        unsafe { libc::munmap(self.pages.cast(), self.len) };
    }
}
