//! 03_randaug: each of the fifteen operations with explicit arguments; arguments by magnitude.

use std::path::Path;

use forebay::augment::{Scratch, apply};
use libtest_mimic::{Failed, Trial};

use crate::case::{self, Case};

/// What timm fills with: the mean of ImageNet.
pub(crate) const FILL: [u8; 3] = [124, 116, 104];

pub(crate) fn trials(folder: &Path) -> Vec<Trial> {
    let Some(cases) = case::read(folder, "03_randaug") else { return Vec::new() };
    case::trials(folder, "03_randaug", &cases["cases"], operation)
}

fn operation(case: &Case) -> Result<(), Failed> {
    let (input, output) = (case.picture("input"), case.picture("output"));
    for simd in case::kernels() {
        let mut slot = input.pixels.clone();
        apply(&[case.op()], &mut slot, input.size, FILL, &mut Scratch::new(simd));
        case::same(simd, &output, &slot)?;
    }
    Ok(())
}
