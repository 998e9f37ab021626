//! Training on the GPU or stand-in that `FOREBAY_TEST_DEVICE` names: it follows the CPU, and resuming and
//! distributing it change no bit. Without a GPU there are no tests.
#![cfg_attr(feature = "cuda", expect(clippy::unwrap_used, reason = "a test"))]

use libtest_mimic::{Arguments, Trial};

#[cfg(feature = "cuda")]
mod convolutions;
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(feature = "cuda")]
mod host;
#[cfg(feature = "cuda")]
mod lost_rank;
#[cfg(feature = "cuda")]
mod microbatches;

fn main() {
    #[cfg(feature = "cuda")]
    let trials: Vec<Trial> = gpu::trials();
    #[cfg(not(feature = "cuda"))]
    let trials: Vec<Trial> = Vec::new();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
