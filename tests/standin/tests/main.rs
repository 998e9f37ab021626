//! Tests of the stand-in: correct programs run through unmodified cudarc in every order of work and threads, and each mistake is
//! detected.
//!
//! `cargo test -p forebay-standin --features run`. Each case runs in a process of its own, this program with the name of the case,
//! because the settings are per process. Under `run.sh --ptx` the cases of kernels run on engine B.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]
#![expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "small numbers")]
#![expect(unsafe_code, reason = "launches")]

mod blas;
mod capture;
mod cases;
mod correct;
mod data;
mod dnn;
mod gpu;
mod mistakes;
mod modules;
mod nccl;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};

use cases::cases;
use gpu::{Failure, Gpu, Outcome};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("--case") {
        return run_case(&arguments.next().unwrap());
    }
    let libraries = libraries();
    let mut trials = vec![Trial::test("driver_without_a_device", {
        let libraries = libraries.clone();
        move || no_device(&libraries)
    })];
    let engine_b = std::env::var_os("FOREBAY_STANDIN_NVRTC").is_some();
    for case in cases(engine_b) {
        for schedule in ["lazy", "eager", "1", "2", "3"] {
            for order in ["forward", "reverse"] {
                let setting = format!("{schedule} {order}");
                if case.only.is_empty() || case.only.contains(&setting.as_str()) {
                    let libraries = libraries.clone();
                    let (name, expected) = (case.name, case.expected);
                    let check = move || check(name, expected, schedule, order, &libraries);
                    trials.push(Trial::test(format!("{name} {setting}"), check));
                }
            }
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Runs one case in the child process, and prints its outcome.
fn run_case(name: &str) -> ExitCode {
    let outcome = match cases(false).into_iter().find(|case| case.name == name) {
        Some(case) => Gpu::new(0).and_then(|gpu| (case.body)(&gpu)),
        None => CudaCount::print(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(what)) => {
            println!("{what}");
            ExitCode::FAILURE
        }
    }
}

struct CudaCount;

impl CudaCount {
    fn print() -> Outcome {
        println!("{} devices", cudarc::driver::CudaContext::device_count()?);
        Ok(())
    }
}

fn no_device(libraries: &Path) -> Result<(), Failed> {
    let mut child = child("device_count", libraries);
    let output = child.env("FOREBAY_STANDIN_DEVICES", "0").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.contains("CUDA_ERROR_NO_DEVICE") { Ok(()) } else { Err(text.into()) }
}

fn check(
    name: &str,
    expected: Option<&[&str]>,
    schedule: &str,
    order: &str,
    libraries: &Path,
) -> Result<(), Failed> {
    let mut child = child(name, libraries);
    child.env("FOREBAY_STANDIN_SCHED", schedule).env("FOREBAY_STANDIN_ORDER", order);
    // A short timeout for cases with a missing rank, and one that only a hang exceeds for all others.
    let missing = ["skipped", "missing_rank", "lost", "left", "before_the_abort"]
        .iter()
        .any(|part| name.contains(part));
    child.env("FOREBAY_STANDIN_NCCL_TIMEOUT", if missing { "5" } else { "300" });
    let output = child.env("FOREBAY_STANDIN_DEVICES", "2").output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    match expected {
        None if output.status.success() => Ok(()),
        None => Err(format!("{}: {text}", output.status).into()),
        Some(_) if output.status.success() => Err("the mistake was not detected".into()),
        Some(expected) => {
            let printed = |texts: &&str| texts.split('|').any(|one| text.contains(one));
            let missing = expected.iter().find(|texts| !printed(texts));
            missing.map_or(Ok(()), |missing| Err(format!("no {missing:?} in: {text}").into()))
        }
    }
}

fn child(name: &str, libraries: &Path) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--case", name]).env("FOREBAY_STANDIN_MEMORY", "268435456");
    child.env("LD_LIBRARY_PATH", libraries).env("FOREBAY_STANDIN_CACHE", libraries.join("kernels"));
    if name.contains("newer_compiler") {
        child.env("FOREBAY_STANDIN_DRIVER_VERSION", "12.0");
    }
    child
}

/// A folder with the stand-in under the names that cudarc asks for first. `run.sh` has no `libnccl.so`, which cudarc asks for and
/// forebay does not.
fn libraries() -> PathBuf {
    // Cargo puts this program and the library that it was built with into the same folder.
    let program = std::env::current_exe().unwrap();
    let library = program.with_file_name("libforebay_standin.so");
    assert!(library.exists(), "{} is not built", library.display());
    let folder = program.with_file_name("standin-tests");
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["libcuda.so", "libnvrtc.so", "libcudnn.so", "libcublas.so", "libnccl.so"] {
        // Replaced atomically, because another run may be using it.
        let (link, fresh) =
            (folder.join(name), folder.join(format!("{name}.{}", std::process::id())));
        std::os::unix::fs::symlink(&library, &fresh).unwrap();
        std::fs::rename(fresh, link).unwrap();
    }
    folder
}
