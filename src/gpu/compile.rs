//! Compiles kernels by NVRTC.
//!
//! NVRTC compiles for the architecture of the GPU, and the driver loads its machine code (a cubin) as it is: what runs is what
//! the registers, spills and loads of `tests/kernels` were counted in. If NVRTC is older than the architecture of the GPU, it
//! compiles to PTX for the newest one that it knows, and the driver compiles that for the GPU.

#![expect(unsafe_code, reason = "calls of NVRTC")]

use std::ffi::{CStr, CString, c_char, c_int};

use cudarc::nvrtc::{Ptx, result, result::NvrtcError, sys};

/// What NVRTC compiles to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Machine code for this compute capability, as major * 10 + minor.
    Cubin(i32),
    /// PTX for this compute capability, which the driver compiles.
    Ptx(i32),
}

impl Target {
    /// Chooses by the compute capability of the GPU, the capabilities that NVRTC knows, and the versions of CUDA of NVRTC and of the
    /// driver. The error says which of the two to replace.
    pub(super) fn choose(
        capability: i32,
        known: &[i32],
        nvrtc: Option<(u32, u32)>,
        driver: Option<(u32, u32)>,
    ) -> Result<Self, String> {
        // Machine code runs on later minor versions of its architecture.
        let older = || known.iter().copied().filter(|it| *it <= capability);
        if let Some(same) = older().filter(|it| it / 10 == capability / 10).max() {
            return Ok(Self::Cubin(same));
        }
        let text = |version: Option<(u32, u32)>| {
            version.map_or_else(|| "?".to_owned(), |(major, minor)| format!("{major}.{minor}"))
        };
        let (of_nvrtc, of_driver) = (text(nvrtc), text(driver));
        let Some(newest) = older().max() else {
            return Err(format!(
                "NVRTC {of_nvrtc} no longer compiles for sm_{capability}: install the one of CUDA 12"
            ));
        };
        // A driver compiles the PTX of its own version of CUDA and of earlier ones.
        if nvrtc > driver && driver.is_some() {
            return Err(format!(
                "NVRTC {of_nvrtc} does not know sm_{capability}, and the driver, of CUDA {of_driver}, does not compile the PTX \
                 of NVRTC {of_nvrtc}: install a newer driver, or an NVRTC that knows sm_{capability}"
            ));
        }
        Ok(Self::Ptx(newest))
    }

    /// The name of the architecture in NVRTC's options.
    fn architecture(self) -> String {
        match self {
            Self::Cubin(capability) => format!("sm_{capability}"),
            Self::Ptx(capability) => format!("compute_{capability}"),
        }
    }
}

/// The compute capabilities that NVRTC knows.
pub(super) fn known_capabilities() -> Result<Vec<i32>, NvrtcError> {
    let mut count: c_int = 0;
    // SAFETY: the pointer is valid.
    unsafe { sys::nvrtcGetNumSupportedArchs(&raw mut count) }.result()?;
    let mut known = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: room for the number of results that was returned.
    unsafe { sys::nvrtcGetSupportedArchs(known.as_mut_ptr()) }.result()?;
    Ok(known)
}

/// A program, which is destroyed on drop.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the program was created once and is destroyed once. A failure has no consequence here.
        unsafe { result::destroy_program(self.0) }.ok();
    }
}

/// Compiles a file. The error is the compiler's log.
pub(super) fn compile(file: &str, source: &str, target: Target) -> Result<Ptx, String> {
    let text = |text: &str| CString::new(text).map_err(|nul| nul.to_string());
    let (source, name) = (text(source)?, text(file)?);
    let program = result::create_program(&source, Some(&name)).map_err(|e| e.to_string())?;
    let program = Program(program);
    // Without contraction to fused multiply-adds, as the twins on the CPU.
    let architecture = format!("--gpu-architecture={}", target.architecture());
    let options = [architecture.as_str(), "--fmad=false", "--std=c++17"];
    // SAFETY: a live program, as for the calls below.
    unsafe { result::compile_program(program.0, &options) }.map_err(|error| {
        // SAFETY: as above.
        let log = unsafe { result::get_program_log(program.0) }.unwrap_or_default();
        let log = log_text(&log);
        if log.trim().is_empty() { error.to_string() } else { log }
    })?;
    let compiled = match target {
        Target::Cubin(_) => cubin(&program).map(Ptx::from_binary),
        Target::Ptx(_) => {
            // SAFETY: a live program.
            let text = unsafe { result::get_ptx(program.0) };
            text.map(|text| Ptx::from_src(log_text(&text)))
        }
    };
    compiled.map_err(|error| error.to_string())
}

fn cubin(program: &Program) -> Result<Vec<u8>, NvrtcError> {
    let mut size = 0;
    // SAFETY: a live program, and a valid pointer.
    unsafe { sys::nvrtcGetCUBINSize(program.0, &raw mut size) }.result()?;
    let mut cubin = vec![0_u8; size];
    // SAFETY: a live program, and room for the size that was returned.
    unsafe { sys::nvrtcGetCUBIN(program.0, cubin.as_mut_ptr().cast()) }.result()?;
    Ok(cubin)
}

/// The text before the NUL at its end.
fn log_text(text: &[c_char]) -> String {
    let bytes: Vec<u8> = text.iter().map(|c| c.to_ne_bytes()[0]).collect();
    CStr::from_bytes_until_nul(&bytes)
        .map_or_else(|_no_nul| String::new(), |text| text.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [i32; 4] = [75, 80, 90, 100];

    #[test]
    fn a_known_gpu_gets_machine_code_whatever_the_versions_are() {
        for (nvrtc, driver) in [((12, 9), (12, 4)), ((12, 9), (13, 0))] {
            let target = |capability| Target::choose(capability, &KNOWN, Some(nvrtc), Some(driver));
            assert_eq!(target(90), Ok(Target::Cubin(90)));
            // The architecture is known, and only its minor version is not.
            assert_eq!(target(103), Ok(Target::Cubin(100)));
            assert_eq!(target(89), Ok(Target::Cubin(80)));
        }
    }

    #[test]
    fn a_newer_gpu_gets_ptx_of_the_newest_known_architecture_below_it() {
        let versions = (Some((12, 9)), Some((13, 0)));
        assert_eq!(Target::choose(120, &KNOWN, versions.0, versions.1), Ok(Target::Ptx(100)));
        assert_eq!(Target::choose(120, &KNOWN[..3], versions.0, versions.1), Ok(Target::Ptx(90)));
    }

    #[test]
    fn errors_say_what_to_replace() {
        let newer = Target::choose(110, &KNOWN, Some((13, 1)), Some((13, 0))).unwrap_err();
        assert!(newer.contains("NVRTC 13.1 does not know sm_110"), "{newer}");
        assert!(newer.contains("install a newer driver"), "{newer}");
        let old = Target::choose(70, &KNOWN, Some((13, 0)), Some((13, 0))).unwrap_err();
        assert!(old.contains("no longer compiles for sm_70"), "{old}");
    }
}
