//! Golden suites: outputs of Pillow, timm and torch, one test a case. The folder is
//! `FOREBAY_GOLDENS`, or the repository's own small set; a suite that the folder lacks has no tests.

mod arrays;
mod droppath;
mod loss;
mod model;
mod optim;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let folder = forebay_tests::goldens();
    let trials: Vec<Trial> = [
        optim::trials(&folder),
        loss::trials(&folder),
        model::trials(&folder),
        droppath::trials(&folder),
    ]
    .into_iter()
    .flatten()
    .collect();
    assert!(folder.is_dir(), "no golden data at {}", folder.display());
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
