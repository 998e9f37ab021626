//! Training on the GPU or stand-in that `FOREBAY_TEST_DEVICE` names: it follows the CPU, and resuming and
//! distributing it change no bit. Without a GPU there are no tests.
#![cfg_attr(feature = "cuda", expect(clippy::unwrap_used, reason = "a test"))]

use libtest_mimic::{Arguments, Trial};

#[cfg(feature = "cuda")]
mod convolutions;
#[cfg(feature = "cuda")]
mod fused;
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(feature = "cuda")]
mod host;
#[cfg(feature = "cuda")]
mod lost_rank;
#[cfg(feature = "cuda")]
mod microbatches;
#[cfg(feature = "cuda")]
mod standin;

#[cfg(feature = "cuda")]
fn trials() -> Vec<Trial> {
    let Some(forebay::mix::Device::Cuda(device)) = forebay_tests::gpu() else { return Vec::new() };
    let is_open = |number: u32| forebay::gpu::Gpu::open(number).is_ok();
    let mut tests = [gpu::TESTS, convolutions::TESTS, fused::TESTS, host::TESTS].concat();
    if is_open(device) && standin::is_standin() {
        tests.extend([host::STANDIN_TESTS, convolutions::STANDIN_TESTS].concat());
    }
    if is_open(device + 1) {
        tests.extend([gpu::PAIRS, lost_rank::PAIRS].concat());
    }
    let trial = |(name, test): (&str, gpu::Test)| {
        Trial::test(format!("cuda:{device}/{name}"), move || {
            test(device);
            Ok(())
        })
    };
    tests.into_iter().map(trial).collect()
}

#[cfg(not(feature = "cuda"))]
const fn trials() -> Vec<Trial> {
    Vec::new()
}

fn main() {
    libtest_mimic::run(&Arguments::from_args(), trials()).exit();
}
