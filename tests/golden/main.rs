//! Golden suites: outputs of Pillow, timm and torch, one test a case. The folder is
//! `FOREBAY_GOLDENS`, or the repository's own small set; a suite that the folder lacks has no tests.

mod case;
mod chain;
mod crop;
mod randaug;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let folder = forebay_tests::goldens();
    assert!(folder.is_dir(), "no golden data at {}", folder.display());
    let mut trials: Vec<Trial> = Vec::new();
    trials.extend(crop::trials(&folder));
    trials.extend(randaug::trials(&folder));
    trials.extend(chain::trials(&folder));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
