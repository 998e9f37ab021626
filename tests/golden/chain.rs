//! `04_chain`: box, resize, flip and operations in a row, from decoded pixels.

use std::path::Path;

use forebay::augment::{Scratch, apply};
use forebay::resize::{Resample, Resizer};
use forebay::{Size, View};
use libtest_mimic::{Failed, Trial};

use crate::case::{self, Case};
use crate::randaug::FILL;

pub(crate) fn trials(folder: &Path) -> Vec<Trial> {
    let Some(cases) = case::read(folder, "04_chain") else { return Vec::new() };
    case::trials(folder, "04_chain", &cases["cases"], chain)
}

fn chain(case: &Case) -> Result<(), Failed> {
    let (input, output) = (case.picture("decoded_png"), case.picture("output"));
    let size = Size::square(case.number("size"));
    let to = Resample {
        resized: size,
        window: size.whole(),
        filter: case.filter("crop_interpolation"),
        flip: case.flag("hflip"),
    };
    for simd in case::kernels() {
        let mut slot = vec![0; size.rgb_bytes()];
        let source = View::new(&input.pixels, input.size).crop(case.rect());
        Resizer::new(simd).resize(source, &to, &mut slot);
        apply(&case.ops(), &mut slot, size, FILL, &mut Scratch::new(simd));
        case::same(simd, &output, &slot)?;
    }
    Ok(())
}
