//! Every device mixes to the same bits: the CPU, and the GPU or stand-in that `FOREBAY_TEST_DEVICE` names.
//! Without the variable tests of a GPU are not selected.

#![expect(clippy::unwrap_used, reason = "a test")]

mod batch;
mod device;
mod server;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let mixers = forebay_tests::mixers();
    let mut trials: Vec<Trial> = mixers.iter().flat_map(batch::trials).collect();
    trials.extend(mixers.iter().flat_map(server::trials));
    trials.extend(mixers.iter().skip(1).flat_map(device::trials));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
