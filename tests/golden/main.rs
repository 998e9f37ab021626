//! Golden suites: outputs of Pillow, timm and torch, one test per case. The data is in the folder
//! `FOREBAY_GOLDENS`, or in the repository's own small set. A suite that the folder lacks has no tests.

mod arrays;
mod case;
mod chain;
mod colors;
mod crop;
mod decode;
mod drop_path;
mod jpeg_exact;
mod loss;
mod mixup;
mod model;
mod net;
mod odd;
mod optim;
mod policy;
mod randaug;
mod sampler;
mod stats;
mod transforms;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let folder = forebay_tests::goldens();
    assert!(folder.is_dir(), "no golden data at {}", folder.display());
    let suites = [
        decode::trials,
        jpeg_exact::trials,
        crop::trials,
        randaug::trials,
        policy::trials,
        chain::trials,
        mixup::trials,
        stats::trials,
        sampler::trials,
        optim::trials,
        loss::trials,
        model::trials,
        drop_path::trials,
        odd::trials,
        transforms::trials,
        colors::trials,
    ];
    let trials: Vec<Trial> = suites.iter().flat_map(|suite| suite(&folder)).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
