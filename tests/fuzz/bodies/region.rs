//! The region decoder: any file, any box, any entry points.

use std::num::NonZeroU16;

use forebay::decode::jpeg::{self, Image, Workspace};
use forebay::{Rect, Size, View};

use super::Input;

/// Larger images are not decoded as a whole, so that a run stays short.
const WHOLE: u64 = 1 << 18;

/// The decoder returns an error or pixels, even if the box is outside of the image, entry points are forged or the
/// file is noise. If the decoder accepts the file, a box equals the same box of the whole image, from any entry point.
///
/// Input: the box (4 x u16), MCUs between entry points (u16), forged entry points (a u8 length and the bytes),
/// four changes of the correct entry points (a u16 offset and a u8 each), the file.
pub fn region(bytes: &[u8]) {
    let mut input = Input(bytes);
    let anywhere = input.rect();
    let every = NonZeroU16::new(input.u16()).unwrap_or(NonZeroU16::MIN);
    let forged = usize::from(input.u8());
    let forged = input.take(forged);
    let changes = [(); 4].map(|()| (usize::from(input.u16()), input.u8()));
    let Ok(image) = jpeg::parse(input.0) else { return };
    let size = image.size();
    let mut workspace = Workspace::default();

    let inside = clamp(anywhere, size);
    for rect in [anywhere, inside] {
        for entries in [None, Some(forged)] {
            any_pixels(&image, rect, entries, &mut workspace);
        }
    }
    let Ok(entries) = image.entry_points(every, &mut workspace) else { return };
    let mut damaged = entries.clone();
    for (at, change) in changes {
        let at = at % damaged.len().max(1);
        damaged.get_mut(at..=at).into_iter().for_each(|part| part[0] ^= change);
    }
    any_pixels(&image, inside, Some(&damaged), &mut workspace);
    if size.whole().area() > WHOLE {
        return;
    }
    let whole = image.decode(size.whole(), None, &mut workspace).expect("accepted");
    let whole = whole.data().to_vec();
    let expected = View::new(&whole, size).crop(inside);
    for entries in [None, Some(&entries[..])] {
        let part = image.decode(inside, entries, &mut workspace).expect("accepted");
        for y in 0..inside.height {
            assert!(part.row(y) == expected.row(y), "row {y} of {inside:?}");
        }
    }
}

/// Decodes a box: an error, or pixels of its size. A box that does not fit must be an error.
fn any_pixels(image: &Image<'_>, rect: Rect, entries: Option<&[u8]>, workspace: &mut Workspace) {
    if rect.fits(image.size()) && rect.area() > WHOLE {
        return;
    }
    if let Ok(pixels) = image.decode(rect, entries, workspace) {
        assert!(rect.fits(image.size()) && pixels.size() == rect.size());
    }
}

/// A box inside of an image, from any numbers.
pub(super) fn clamp(rect: Rect, size: Size) -> Rect {
    let (top, left) = (rect.top % size.height, rect.left % size.width);
    let height = 1 + rect.height % (size.height - top);
    let width = 1 + rect.width % (size.width - left);
    Rect { top, left, height, width }
}
