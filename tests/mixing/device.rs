//! Tests of GPUs alone: batches pass in parts through memory of a fixed size; the self-test.

use std::process::Command;
use std::thread;

use forebay::gpu::DeviceError;
use forebay::mix::{MixJob, Mixer};
use forebay::{DType, Error, Layout, MixedBy, PixelFormat, Size};
use libtest_mimic::{Failed, Trial};

use crate::batch::{expected, normalize, pixels, plan, same};

pub(crate) fn trials(mixer: &Mixer) -> Vec<Trial> {
    let device = mixer.device();
    let with = |name: &str, test: fn(&Mixer) -> Result<(), Failed>| {
        let mixer = mixer.clone();
        Trial::test(format!("{device}/{name}"), move || test(&mixer))
    };
    vec![
        with("a_batch_larger_than_the_device_memory_is_mixed_in_parts", parts),
        with("the_error_for_two_samples_that_do_not_fit_names_the_flag", too_large),
        with("more_memory_than_the_gpu_has_is_refused", no_memory),
        with("batches_of_several_threads_do_not_interfere", threads),
        with("the_self_test_passes", self_test),
        with("a_compiler_that_is_older_than_the_gpu_compiles_to_ptx", older_compiler),
    ]
}

/// Device memory that a mixer needs in addition to pixels, on both lanes.
const OVERHEAD: usize = 2 * (3072 + 4096 * 32 + 256);

fn parts(mixer: &Mixer) -> Result<(), Failed> {
    let (size, normalize) = (Size { height: 21, width: 33 }, normalize());
    for (dtype, at_once) in [(DType::U8, 2), (DType::Bf16, 3), (DType::F32, 5)] {
        let bytes = at_once * size.rgb_bytes() * (1 + dtype.bytes());
        let small = Mixer::open(mixer.device(), OVERHEAD + 2 * bytes)?;
        for n in [1, 2, 5, 6, 9, 16] {
            let (unmixed, plan) = (pixels(n, size), plan("elem", n, size));
            for layout in [Layout::Nhwc, Layout::Nchw] {
                let format = PixelFormat { dtype, layout, mixed_by: MixedBy::Server };
                let job = MixJob { size, plan: &plan, format, normalize: &normalize };
                same(&small.apply(&unmixed, &job)?, &expected(&unmixed, &job), &job)?;
            }
        }
    }
    Ok(())
}

fn too_large(mixer: &Mixer) -> Result<(), Failed> {
    let (size, normalize) = (Size::square(100), normalize());
    let (unmixed, plan) = (pixels(2, size), plan("elem", 2, size));
    let format = PixelFormat { dtype: DType::F32, layout: Layout::Nhwc, mixed_by: MixedBy::Server };
    let job = MixJob { size, plan: &plan, format, normalize: &normalize };
    let need = 2 * size.rgb_bytes() * 5;
    let small = Mixer::open(mixer.device(), OVERHEAD + 2 * need - 2)?;
    let error = small.apply(&unmixed, &job).unwrap_err();
    let Error::Device(DeviceError::Memory { need, .. }) = error else {
        return Err(format!("refused with {error}").into());
    };
    assert!(error.to_string().contains("--device-bytes"), "{error}");
    let enough = Mixer::open(mixer.device(), 2 * usize::try_from(need)?)?;
    same(&enough.apply(&unmixed, &job)?, &expected(&unmixed, &job), &job)
}

fn no_memory(mixer: &Mixer) -> Result<(), Failed> {
    let error = Mixer::open(mixer.device(), 1 << 50).unwrap_err().to_string();
    let device = mixer.device().to_string();
    let words = [&device, "OUT_OF_MEMORY", "bytes are needed", "are free"];
    if words.iter().all(|word| error.contains(word)) {
        // The device still works after the error.
        return threads(mixer);
    }
    Err(error.into())
}

fn threads(mixer: &Mixer) -> Result<(), Failed> {
    let (size, normalize) = (Size { height: 32, width: 20 }, &normalize());
    let one = |n: usize| -> Result<(), String> {
        let (unmixed, plan) = (pixels(n, size), plan("elem", n, size));
        let format =
            PixelFormat { dtype: DType::F16, layout: Layout::Nchw, mixed_by: MixedBy::Server };
        let job = MixJob { size, plan: &plan, format, normalize };
        for _ in 0..5 {
            let got = mixer.apply(&unmixed, &job).map_err(|error| error.to_string())?;
            let same = same(&got, &expected(&unmixed, &job), &job);
            same.map_err(|failed| failed.message().unwrap_or("they differ").to_owned())?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (2..6).map(|n| scope.spawn(move || one(n))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })?;
    Ok(())
}

fn self_test(mixer: &Mixer) -> Result<(), Failed> {
    let device = mixer.device().to_string();
    let output = Command::new(forebay_tests::program(env!("CARGO_BIN_EXE_quickstart")))
        .args(["forebay", "gpu-selftest", "--device", &device, "--images", "4", "--size", "32"])
        .output()?;
    let report = String::from_utf8(output.stdout)?;
    assert!(output.status.success(), "{report} {}", String::from_utf8_lossy(&output.stderr));
    for part in ["bit-identical", "bf16 NHWC", "kernel", "libnvrtc"] {
        assert!(report.contains(part), "{report}");
    }
    Ok(())
}

/// A compiler that does not know the GPU compiles for the newest architecture that it knows, and the driver does the rest, unless it is
/// older than the compiler. Only the stand-in's own compiler can be told what it knows.
fn older_compiler(mixer: &Mixer) -> Result<(), Failed> {
    let real = std::env::var_os("FOREBAY_STANDIN_NVRTC").is_some();
    if real || !mixer.description()?.contains("stand-in") {
        return Ok(());
    }
    let device = mixer.device().to_string();
    let run = |nvrtc: &str| {
        Command::new(env!("CARGO_BIN_EXE_quickstart"))
            .args(["forebay", "gpu-selftest", "--device", &device, "--images", "1", "--size", "8"])
            .env("FOREBAY_STANDIN_NVRTC_ARCHS", "75,80")
            .env("FOREBAY_STANDIN_NVRTC_VERSION", nvrtc)
            .output()
    };
    let output = run("13.0")?;
    let report = String::from_utf8(output.stdout)?;
    assert!(
        report.contains("bit-identical"),
        "{report} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let output = run("13.1")?;
    let error = String::from_utf8(output.stderr)?;
    assert!(error.contains("NVRTC 13.1 does not know sm_90"), "{error}");
    Ok(())
}
