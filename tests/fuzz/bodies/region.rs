//! The region decoder: any file, any box, any entry points.

use std::num::NonZeroU16;

use forebay::decode::jpeg::{self, Image, Scratch};
use forebay::{Rect, Size, View};

use super::Input;

/// Larger images are decoded box by box only, so that a run stays short.
const WHOLE: u64 = 1 << 18;

/// A box may lie outside, entry points may be forged, the file may be noise: an error or pixels.
/// Where the decoder finds the file good, a box is the same box of the whole, from any entry point.
///
/// Input: the box (4 x u16), MCUs between entry points (u16), forged entry points (number of bytes
/// u8, and the bytes), changes of the true ones (4 times where u16, what u8), the file.
pub fn region(bytes: &[u8]) {
    let mut input = Input(bytes);
    let anywhere = input.rect();
    let every = NonZeroU16::new(input.u16()).unwrap_or(NonZeroU16::MIN);
    let forged = usize::from(input.u8());
    let forged = input.take(forged);
    let changes = [(); 4].map(|()| (usize::from(input.u16()), input.u8()));
    let Ok(image) = jpeg::parse(input.0) else { return };
    let size = image.size();
    let mut scratch = Scratch::default();

    let inside = clamp(anywhere, size);
    for rect in [anywhere, inside] {
        for entries in [None, Some(forged)] {
            any_pixels(&image, rect, entries, &mut scratch);
        }
    }
    let Ok(entries) = image.entry_points(every, &mut scratch) else { return };
    let mut damaged = entries.clone();
    for (at, change) in changes {
        let at = at % damaged.len().max(1);
        damaged.get_mut(at..=at).into_iter().for_each(|part| part[0] ^= change);
    }
    any_pixels(&image, inside, Some(&damaged), &mut scratch);
    if size.whole().area() > WHOLE {
        return;
    }
    let whole = image.decode(size.whole(), None, &mut scratch).expect("found good");
    let whole = whole.data().to_vec();
    let expected = View::new(&whole, size).crop(inside);
    for entries in [None, Some(&entries[..])] {
        let part = image.decode(inside, entries, &mut scratch).expect("found good");
        for y in 0..inside.height {
            assert!(part.row(y) == expected.row(y), "row {y} of {inside:?}");
        }
    }
}

/// An error, or pixels of the size asked for; an error where the box does not fit.
fn any_pixels(image: &Image<'_>, rect: Rect, entries: Option<&[u8]>, scratch: &mut Scratch) {
    if rect.fits(image.size()) && rect.area() > WHOLE {
        return;
    }
    if let Ok(pixels) = image.decode(rect, entries, scratch) {
        assert!(rect.fits(image.size()) && pixels.size() == rect.size());
    }
}

/// A box inside, from any numbers.
pub(super) fn clamp(rect: Rect, size: Size) -> Rect {
    let (top, left) = (rect.top % size.height, rect.left % size.width);
    let height = 1 + rect.height % (size.height - top);
    let width = 1 + rect.width % (size.width - left);
    Rect { top, left, height, width }
}
