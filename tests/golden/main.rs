//! Golden suites: outputs of Pillow, timm and torch, one test a case. The folder is
//! `FOREBAY_GOLDENS`, or the repository's own small set; a suite that the folder lacks has no tests.

mod jpeg_exact;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let folder = forebay_tests::goldens();
    let mut trials: Vec<Trial> = Vec::new();
    trials.extend(jpeg_exact::trials(&folder));
    assert!(folder.is_dir(), "no golden data at {}", folder.display());
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
