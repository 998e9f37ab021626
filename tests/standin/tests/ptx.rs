//! Checks that the PTX that the interpreter is tested with is what NVRTC compiles from the kernels next to it.
//!
//! `tests/standin/run.sh --ptx cargo test -p forebay-standin --features run --test ptx`. Without the real NVRTC there is nothing
//! to compare with, and no test. If a text differs, it is overwritten and the test fails: review it, and commit.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    let trials = if real_nvrtc() { trials() } else { Vec::new() };
    if trials.is_empty() {
        println!("NVRTC is not here, or is the stand-in's: see tests/standin/run.sh --ptx");
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn real_nvrtc() -> bool {
    // SAFETY: loads the library, if it exists.
    #[expect(unsafe_code, reason = "cudarc's way to ask")]
    let present = unsafe { cudarc::nvrtc::sys::is_culib_present() };
    present
        && compile("extern \"C\" __global__ void k() {}", "/k.cu", "compute_80")
            .contains("NVIDIA NVVM Compiler")
}

fn compile(source: &str, name: &str, arch: &'static str) -> String {
    let options = CompileOptions {
        arch: Some(arch),
        options: vec!["-lineinfo".to_owned()],
        name: Some(name.to_owned()),
        ..CompileOptions::default()
    };
    compile_ptx_with_opts(source, options).unwrap().to_src()
}

fn trials() -> Vec<Trial> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("ptx");
    let mut files: Vec<PathBuf> =
        folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let sources = files.into_iter().filter(|file| file.extension().is_some_and(|of| of == "cu"));
    let trial = |file: PathBuf| {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        Trial::test(name.clone(), move || check(&file, &name))
    };
    sources.map(trial).collect()
}

/// The text without the target, and without a variable of NVRTC that only one of the targets has.
fn instructions(ptx: &str) -> Vec<&str> {
    let other =
        |line: &&str| !line.starts_with(".target") && !line.contains("__nv_atomic_triv_cp_helper");
    ptx.lines().filter(other).collect()
}

fn check(file: &Path, name: &str) -> Result<(), Failed> {
    let source = std::fs::read_to_string(file).unwrap();
    let fresh = compile(&source, &format!("/{name}"), "compute_80");
    let hopper = compile(&source, &format!("/{name}"), "compute_90");
    if instructions(&hopper) != instructions(&fresh) {
        return Err(format!("{name} is not the same for sm_90").into());
    }
    let ptx = file.with_extension("ptx");
    if std::fs::read_to_string(&ptx).unwrap_or_default() == fresh {
        return Ok(());
    }
    std::fs::write(&ptx, fresh).unwrap();
    Err(format!("{} was out of date and has been overwritten: review and commit it", ptx.display())
        .into())
}
