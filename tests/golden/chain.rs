//! Suite 04: crop, resize, flip and operations, from decoded pixels and from the JPEG itself.

use std::path::Path;

use forebay::augment::{Scratch, apply};
use forebay::decode::{Decoder, verify};
use forebay::resize::{Resample, Resizer};
use forebay::{Size, View};
use libtest_mimic::{Failed, Trial};

use crate::case::{self, Case};
use crate::randaug::FILL;

pub(crate) fn trials(folder: &Path) -> Vec<Trial> {
    let Some(cases) = case::read(folder, "04_chain") else { return Vec::new() };
    let from_pixels = case::trials(folder, "04_chain", &cases["cases"], |case| {
        let input = case.image("decoded_png");
        chain(case, View::new(&input.pixels, input.size).crop(case.rect()))
    });
    let from_jpeg = case::trials(folder, "04_chain/from_jpeg", &cases["cases"], |case| {
        let file = std::fs::read(case.path("jpeg"))?;
        let mut decoder = Decoder::default();
        let (_, entries) = verify(&file, &mut decoder)?;
        chain(case, decoder.decode(&file, case.rect(), &entries)?.crop(case.rect()))
    });
    from_pixels.into_iter().chain(from_jpeg).collect()
}

fn chain(case: &Case, source: View<'_>) -> Result<(), Failed> {
    let output = case.image("output");
    let size = Size::square(case.number("size"));
    let to = Resample {
        resized: size,
        window: size.whole(),
        filter: case.filter("crop_interpolation"),
        flip: case.flag("hflip"),
    };
    for simd in case::kernels() {
        let mut slot = vec![0; size.rgb_bytes()];
        Resizer::new(simd).resize(source, &to, &mut slot);
        apply(&case.ops(), &mut slot, size, FILL, &mut Scratch::new(simd));
        case::same(simd, &output, &slot)?;
    }
    Ok(())
}
