//! Images that the driver or the compiler refuses.

use std::ffi::CString;

use cudarc::nvrtc::sys::{nvrtcGetCUBIN, nvrtcGetCUBINSize};
use cudarc::nvrtc::{Ptx, result as nvrtc};

use crate::gpu::{Failure, Gpu, Outcome, compile};

/// The driver of this case is older than the compiler.
pub(crate) fn ptx_of_a_newer_compiler(gpu: &Gpu) -> Outcome {
    gpu.context.load_module(compile(SOURCE)?)?;
    Ok(())
}

const SOURCE: &str = "extern \"C\" __global__ void nothing() {}";

/// Compiles to machine code.
fn machine_code(architecture: &str) -> Result<Ptx, Failure> {
    let source = CString::new(SOURCE)?;
    let program = nvrtc::create_program(&source, None)?;
    let option = format!("--gpu-architecture={architecture}");
    let mut size = 0;
    // SAFETY: a program that is never destroyed, and valid pointers.
    let code = unsafe {
        nvrtc::compile_program(program, &[option.as_str()])?;
        nvrtcGetCUBINSize(program, &raw mut size).result()?;
        let mut code = vec![0_u8; size];
        nvrtcGetCUBIN(program, code.as_mut_ptr().cast()).result()?;
        code
    };
    Ok(Ptx::from_binary(code))
}

pub(crate) fn machine_code_of_another_gpu(gpu: &Gpu) -> Outcome {
    // That of this GPU loads.
    gpu.context.load_module(machine_code("sm_90")?)?;
    gpu.context.load_module(machine_code("sm_80")?)?;
    Ok(())
}

pub(crate) fn unknown_architecture(_gpu: &Gpu) -> Outcome {
    machine_code("sm_42")
        .map(drop)
        .map_err(|Failure(what)| Failure(format!("gpu-architecture: {what}")))
}
