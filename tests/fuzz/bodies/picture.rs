//! Records of any format: the verdict at index time, and what serving does with it.

use forebay::View;
use forebay::decode::{self, DecodeError, Decoder, JpegError};

use super::Input;
use super::region::clamp;

/// The most pixels that the body's decoder takes, so that a run stays short.
const LIMIT: u64 = 1 << 18;

/// Any bytes are an error or a picture. A picture that was found good has the size of its header,
/// and any box of it, with its entry points or without, is the same box of the whole.
///
/// Input: the box (4 x u16), the file.
pub fn picture(bytes: &[u8]) {
    let mut input = Input(bytes);
    let rect = input.rect();
    let file = input.0;
    let mut decoder = Decoder::new(LIMIT);
    let header = decode::probe(file);
    let verdict = decode::verify(file, &mut decoder);
    // What serving does, should a file change behind the index.
    let served = decoder.decode(file, rect, &[]).is_ok();
    assert!(!served || header.as_ref().is_ok_and(|header| rect.fits(header.size)));
    let (judged, entries) = match verdict {
        Ok(good) => good,
        // The verdict comes first, and refuses what Pillow refuses.
        Err(DecodeError::Jpeg(
            error @ (JpegError::Malformed { .. } | JpegError::Truncated { .. }),
        )) => panic!("what Pillow's verdict lets pass: {error}"),
        Err(_) => return,
    };
    assert_eq!(header, Ok(judged), "one header for all");
    let size = judged.size;
    assert!(size.whole().area() <= LIMIT, "found good, and over the limit");
    let whole = decoder.decode(file, size.whole(), &[]).expect("found good");
    let whole = whole.crop(size.whole()).data().to_vec();
    let inside = clamp(rect, size);
    let expected = View::new(&whole, size).crop(inside);
    for entries in [&[], &entries[..]] {
        let part = decoder.decode(file, inside, entries).expect("found good").crop(inside);
        assert!((0..inside.height).all(|y| part.row(y) == expected.row(y)), "{inside:?}");
    }
}
