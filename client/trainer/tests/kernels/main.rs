//! Compares every CUDA kernel of the trainer with its twin in Rust, bit for bit, with activations in bf16, f16 and f32. Runs on
//! the GPU or stand-in that `FOREBAY_TEST_DEVICE` names; without the variable, the comparisons are not selected.

#![expect(clippy::unwrap_used, reason = "a test")]

mod data;
#[path = "../../src/backend/cuda/kernels.rs"]
mod kernels;
mod lamb;
mod loss;
mod norm;
mod optimizers;
mod pool;
mod precision;
mod rig;
#[path = "../../src/backend/cuda/twin/mod.rs"]
mod twin;

use std::collections::BTreeSet;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};

use precision::Precision;
use rig::Rig;

fn main() {
    let tests = [norm::TESTS, pool::TESTS, loss::TESTS, lamb::TESTS, optimizers::TESTS].concat();
    let names: Vec<&str> = tests.iter().map(|(name, _)| *name).collect();
    let mut trials =
        vec![Trial::test("every_kernel_has_a_test", move || check_all_have_tests(&names))];
    if let Some(device) = std::env::var_os("FOREBAY_TEST_DEVICE") {
        let device = device.to_str().unwrap();
        let number = device.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        let number = number
            .unwrap_or_else(|| panic!("invalid FOREBAY_TEST_DEVICE={device}: expected cuda:N"));
        let rig = Arc::new(Rig::open(number).unwrap_or_else(|error| panic!("{error}")));
        for (name, [bf16, f16, f32]) in tests {
            for (format, test) in [("bf16", bf16), ("f16", f16), ("f32", f32)] {
                let rig = Arc::clone(&rig);
                trials.push(Trial::test(format!("{device}/{name}/{format}"), move || test(&rig)));
            }
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn check_all_have_tests(tests: &[&str]) -> Result<(), Failed> {
    let sources = [
        include_str!("../../src/backend/cuda/kernels/norm.cu"),
        include_str!("../../src/backend/cuda/kernels/pool.cu"),
        include_str!("../../src/backend/cuda/kernels/loss.cu"),
        include_str!("../../src/backend/cuda/kernels/lamb.cu"),
    ];
    // What follows `__launch_bounds__(256)` or `__launch_bounds__(256, 4)`.
    let kernels = sources.iter().flat_map(|source| source.split("__launch_bounds__(256").skip(1));
    let kernels = kernels.filter_map(|text| text.split_once(')'));
    let kernels: BTreeSet<&str> =
        kernels.map(|(_, text)| text.trim_start().split('(').next().unwrap_or(text)).collect();
    let globals: usize = sources.iter().map(|source| source.matches("__global__").count()).sum();
    assert_eq!(kernels.len(), globals, "{kernels:?}");
    let tests: BTreeSet<&str> = tests.iter().copied().collect();
    if kernels == tests {
        Ok(())
    } else {
        Err(format!("kernels {kernels:?}, but tests {tests:?}").into())
    }
}
