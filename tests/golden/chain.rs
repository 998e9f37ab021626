//! Suite 04: crop, resize, flip and operations, from decoded pixels and from the JPEG itself.

use std::path::Path;

use forebay::decode::{Decoder, PIXEL_LIMIT, verify};
use forebay::testing::{Augmenter, Resample, Resizer};
use forebay::{Simd, Size, View};
use libtest_mimic::{Failed, Trial};

use crate::case::{self, Case};
use crate::randaug::FILL;

pub(crate) fn trials(folder: &Path) -> Vec<Trial> {
    let Some(cases) = case::read(folder, "04_chain") else { return Vec::new() };
    let from_pixels = case::trials(folder, "04_chain", &cases["cases"], |case| {
        let input = case.image("decoded_png");
        let source = View::new(&input.pixels, input.size).crop(case.rect());
        Simd::all().try_for_each(|simd| chain(case, simd, source))
    });
    let from_jpeg = case::trials(folder, "04_chain/from_jpeg", &cases["cases"], |case| {
        let file = std::fs::read(case.path("jpeg"))?;
        Simd::all().try_for_each(|simd| {
            let mut decoder = Decoder::new(simd, PIXEL_LIMIT);
            let (_, entries) = verify(&file, &mut decoder)?;
            chain(case, simd, decoder.decode(&file, case.rect(), &entries)?.crop(case.rect()))
        })
    });
    from_pixels.into_iter().chain(from_jpeg).collect()
}

fn chain(case: &Case, simd: Simd, source: View<'_>) -> Result<(), Failed> {
    let output = case.image("output");
    let size = Size::square(case.number("size"));
    let whole = Resample::whole(size, case.resize_filter("crop_interpolation"));
    let to = Resample { flip: case.flag("hflip"), ..whole };
    let mut slot = vec![0; size.rgb_bytes()];
    Resizer::new(simd).resize(source, &to, &mut slot);
    Augmenter::new(simd).apply(&case.ops(), &mut slot, size, FILL);
    case::same(simd, &output, &slot)
}
