//! Records of any format: the verdict at index time, and decoding when they are served.

use forebay::decode::{self, DecodeError, Decoder, Format};
use forebay::{Simd, View};

use super::Input;
use super::region::clamp;

/// Pixel limit of the decoder, so that a run stays short.
const LIMIT: u64 = 1 << 18;

/// Whether one of forebay's own decoders panicked. The boundary around all decoders makes an error of it.
fn is_own_panic(error: &DecodeError) -> bool {
    let is_own = |format| !matches!(format, Format::WebP | Format::Tiff);
    matches!(error, DecodeError::Malformed { format, reason } if is_own(*format) && reason.contains("panicked"))
}

/// Any bytes are an error or an image. An accepted image has the size in its header, and any box of it equals the
/// same box of the whole image, with and without entry points.
///
/// Input: the box (4 x u16), the file.
pub fn picture(bytes: &[u8]) {
    let mut input = Input(bytes);
    let rect = input.rect();
    let file = input.0;
    let mut decoder = Decoder::new(Simd::detect(), LIMIT);
    let header = decode::probe(file);
    let verdict = decode::verify(file, &mut decoder);
    // A server decodes without a verdict if a file changes after indexing.
    let served = decoder.decode(file, rect, &[]).map(|_| ());
    for error in [verdict.as_ref().err(), served.as_ref().err()].into_iter().flatten() {
        assert!(!is_own_panic(error), "{error}");
    }
    let served = served.is_ok();
    assert!(!served || header.as_ref().is_ok_and(|header| rect.fits(header.size)));
    let Ok((judged, entries)) = verdict else { return };
    assert_eq!(header, Ok(judged), "probe and verdict return the same header");
    let size = judged.size;
    assert!(size.whole().area() <= LIMIT, "accepted beyond the limit");
    let whole = decoder.decode(file, size.whole(), &[]).expect("accepted");
    let whole = whole.crop(size.whole()).data().to_vec();
    let inside = clamp(rect, size);
    let expected = View::new(&whole, size).crop(inside);
    for entries in [&[], &entries[..]] {
        let part = decoder.decode(file, inside, entries).expect("accepted").crop(inside);
        assert!((0..inside.height).all(|y| part.row(y) == expected.row(y)), "{inside:?}");
    }
}
