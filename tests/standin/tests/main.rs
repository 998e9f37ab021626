//! The stand-in's own tests: right programs through unmodified cudarc in every order of work and threads, and each mistake seen.
//!
//! `cargo test -p forebay-standin --features run`. Each case is a process of its own, this program again with the case's name,
//! since the settings are the process's. Under `run.sh --ptx` the same cases run on engine B.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]
#![expect(clippy::cast_possible_truncation, reason = "small numbers")]
#![expect(unsafe_code, reason = "launches")]

mod gpu;
mod right;
mod wrong;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};

use gpu::{Failure, Gpu, Outcome};

struct Case {
    name: &'static str,
    body: fn(&Gpu) -> Outcome,
    /// None for a right program. Otherwise all these texts must be in what the case printed; `a|b` is either.
    says: Option<&'static [&'static str]>,
    /// `schedule order`, or nothing for all ten.
    only: &'static [&'static str],
}

macro_rules! right {
    ($($name:ident),* $(,)?) => {
        [$(Case { name: stringify!($name), body: right::$name, says: None, only: &[] }),*]
    };
}

macro_rules! wrong {
    ($($name:ident $(in $only:expr)? => $($says:literal),+;)*) => {
        [$(Case { name: stringify!($name), body: wrong::$name, says: Some(&[$($says),+]), only: only!($($only)?) }),*]
    };
}

macro_rules! only {
    () => {
        &["lazy forward", "eager forward", "1 reverse"]
    };
    ($only:expr) => {
        $only
    };
}

/// What C++ leaves undefined and PTX defines: seen where the source is compiled, and no mistake to engine B.
const ENGINE_A_ALONE: [&str; 2] = ["division_by_zero", "float_too_large_for_its_integer"];

const LAZY: &[&str] = &["lazy forward"];

fn cases() -> Vec<Case> {
    let right = right![
        overlap,
        shuffles_and_barriers,
        dynamic_shared_memory,
        votes,
        atomics,
        vectors_of_16_bytes,
        arithmetic_is_ieee,
        functions,
        inline_ptx,
        pageable_copies_are_taken_at_the_call,
        fills_and_copies_on_the_device,
        null_stream,
        blocking_streams,
        halves_of_pinned_memory,
        events_can_be_polled,
        threads_of_the_host,
        freed_memory_makes_room,
        two_devices,
        what_it_says_of_itself,
    ];
    let wrong = wrong! {
        past_the_end => "256 bytes from the start of a 256-byte allocation", "line 80", "ILLEGAL_ADDRESS";
        before_the_start => "8 bytes before the start of a 256-byte allocation|just before or behind a 256-byte allocation", "ILLEGAL_ADDRESS";
        far_away => "illegal address", "ILLEGAL_ADDRESS";
        into_the_slack => "behind a 65-byte allocation|65 bytes from the start of a 65-byte", "ILLEGAL_ADDRESS";
        half_is_never_written => "32 of 64 words copied to the host were never written", "CUDA_ERROR_UNKNOWN";
        divergent_barrier => "divergent barrier", "line 91", "LAUNCH_FAILED";
        two_barriers => "divergent barriers", "LAUNCH_FAILED";
        lanes_stay_away => "which do not come|divergent", "LAUNCH_FAILED";
        shuffle_with_a_lane_that_ended => "reads lane", "LAUNCH_FAILED";
        missing_barrier in &["lazy forward", "lazy reverse"] => "32 values are wrong|never written";
        past_a_shared_array => "index 64 is outside of its array|shared", "CUDA_ERROR_UNKNOWN|ILLEGAL_ADDRESS|LAUNCH_FAILED";
        past_dynamic_shared => "shared", "ILLEGAL_ADDRESS|LAUNCH_FAILED";
        misaligned => "misaligned", "MISALIGNED_ADDRESS";
        division_by_zero => "division by zero", "CUDA_ERROR_UNKNOWN";
        trap => "trap", "thread (3,0,0)", "CUDA_ERROR_ASSERT|ILLEGAL_INSTRUCTION";
        failed_assertion => "assert(threadIdx.x != 5)|line 153: the kernel trapped", "thread (5,0,0)", "CUDA_ERROR_ASSERT";
        float_too_large_for_its_integer => "line 156", "cannot hold it", "CUDA_ERROR_UNKNOWN";
        stack_overflow => "the stack", "LAUNCH_FAILED";
        no_event_between_streams in LAZY => "found 1 instead of 42";
        no_event_after_an_allocation in LAZY => "no event orders the two", "ILLEGAL_ADDRESS";
        empty_grid => "a dimension is 0", "INVALID_VALUE";
        threads_1056 => "1056 threads", "INVALID_VALUE";
        more_threads_than_launch_bounds => "512 threads, where 256", "INVALID_VALUE";
        too_much_shared_memory => "50000 bytes of dynamic shared memory", "INVALID_VALUE";
        pinned_read_before_its_event in LAZY => "the host reads pinned memory (byte 0 of 256) that a queued copy writes";
        pinned_written_too_early in LAZY => "the host writes pinned memory (byte 0 of 256) that a queued copy reads";
        pinned_freed_too_early in LAZY => "freed while 1 queued", "CUDA_ERROR_UNKNOWN";
        pinned_used_after_free => "0 bytes from the start of a 256-byte allocation, which was freed";
        kernel_uses_freed_memory => "12 bytes from the start of a 256-byte allocation, which was freed", "ILLEGAL_ADDRESS";
        copy_from_freed_memory => "which was freed", "INVALID_VALUE";
        freed_twice => "which was freed", "ILLEGAL_ADDRESS|INVALID_VALUE";
        copy_longer_than_the_allocation => "260 bytes at 0 bytes from the start of a 256-byte", "INVALID_VALUE";
        default_stream_without_context => "INVALID_CONTEXT", "never freed";
        errors_stick => "[Some(CUDA_ERROR_ILLEGAL_ADDRESS), Some(CUDA_ERROR_ILLEGAL_ADDRESS), Some(CUDA_ERROR_ILLEGAL_ADDRESS)]";
        out_of_memory => "OUT_OF_MEMORY";
        event_of_another_device => "INVALID_HANDLE";
        host_function_calls_cuda => "a host function of a stream called CUDA", "NOT_PERMITTED";
        source_with_an_error => "missing", "kernels.cu", "NVRTC_ERROR_COMPILATION";
        name_is_mangled => "extern \"C\"|NOT_FOUND";
        unknown_kernel => "NOT_FOUND";
    };
    right.into_iter().chain(wrong).collect()
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("--case") {
        return run_case(&arguments.next().unwrap());
    }
    let libraries = libraries();
    let mut trials = vec![Trial::test("driver_without_a_device", {
        let libraries = libraries.clone();
        move || no_device(libraries.as_deref())
    })];
    let engine_b = libraries.is_none() && nvrtc_is_real();
    for case in cases() {
        if engine_b && ENGINE_A_ALONE.contains(&case.name) {
            continue;
        }
        for schedule in ["lazy", "eager", "1", "2", "3"] {
            for order in ["forward", "reverse"] {
                let setting = format!("{schedule} {order}");
                if case.only.is_empty() || case.only.contains(&setting.as_str()) {
                    let libraries = libraries.clone();
                    let (name, says) = (case.name, case.says);
                    let check = move || check(name, says, schedule, order, libraries.as_deref());
                    trials.push(Trial::test(format!("{name} {setting}"), check));
                }
            }
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// The child: runs one case and prints how it ended.
fn run_case(name: &str) -> ExitCode {
    let outcome = match cases().into_iter().find(|case| case.name == name) {
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

fn no_device(libraries: Option<&Path>) -> Result<(), Failed> {
    let mut child = child("device_count", libraries);
    let output = child.env("FOREBAY_STANDIN_DEVICES", "0").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.contains("CUDA_ERROR_NO_DEVICE") { Ok(()) } else { Err(text.into()) }
}

fn check(
    name: &str,
    says: Option<&[&str]>,
    schedule: &str,
    order: &str,
    libraries: Option<&Path>,
) -> Result<(), Failed> {
    let mut child = child(name, libraries);
    child.env("FOREBAY_STANDIN_SCHED", schedule).env("FOREBAY_STANDIN_ORDER", order);
    let output = child.env("FOREBAY_STANDIN_DEVICES", "2").output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    match says {
        None if output.status.success() => Ok(()),
        None => Err(format!("{}: {text}", output.status).into()),
        Some(_) if output.status.success() => Err("the mistake was not seen".into()),
        Some(says) => {
            let missing = says.iter().find(|said| !said.split('|').any(|said| text.contains(said)));
            missing.map_or(Ok(()), |missing| Err(format!("no {missing:?} in: {text}").into()))
        }
    }
}

fn child(name: &str, libraries: Option<&Path>) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--case", name]).env("FOREBAY_STANDIN_MEMORY", "268435456");
    if let Some(folder) = libraries {
        child.env("LD_LIBRARY_PATH", folder).env("FOREBAY_STANDIN_CACHE", folder.join("kernels"));
    }
    child
}

/// The stand-in's NVRTC says that it is 12.8; `run.sh --ptx` takes 12.9.
fn nvrtc_is_real() -> bool {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both are good for an int.
    unsafe { cudarc::nvrtc::sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    (major, minor) != (12, 8)
}

/// A folder with the stand-in under the names of CUDA's libraries; none if `run.sh` made one already.
fn libraries() -> Option<PathBuf> {
    // SAFETY: loads the library, if there is one, which has no initialisers.
    if unsafe { cudarc::driver::sys::is_culib_present() } {
        return None;
    }
    // Cargo puts this program and the library that it was built with into one folder.
    let program = std::env::current_exe().unwrap();
    let library = program.with_file_name("libforebay_standin.so");
    assert!(library.exists(), "{} is not built", library.display());
    let folder = program.with_file_name("standin-tests");
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["libcuda.so", "libnvrtc.so"] {
        // Replaced at once, since another run may be using it.
        let (link, fresh) =
            (folder.join(name), folder.join(format!("{name}.{}", std::process::id())));
        std::os::unix::fs::symlink(&library, &fresh).unwrap();
        std::fs::rename(fresh, link).unwrap();
    }
    Some(folder)
}
