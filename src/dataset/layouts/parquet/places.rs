//! Where an image begins and ends in the compressed bytes of its page.
//!
//! A Snappy page with a hundred photos is 99.9 % literals, because photos do not compress, and the encoders in
//! use start anew every 64 KiB. So the bytes of one photo can be decompressed without those before it,
//! from the first byte that its copies need, directly or through other copies:
//!
//! ```text
//!   elements   [ literal          ][copy][ literal              ][copy][ literal
//!   image                  |<--------------------------------------------->|
//!   range           |<---->|  the first copy looks back to here
//! ```
//!
//! An image in a single literal is a plain range of the file.

use super::page::{Compression, Page};
use crate::dataset::unpack::snappy::{self, Element};
use crate::dataset::unpack::{Codec, Packed};

/// Most decompressed bytes before an image that its copies may need, directly or through others. Encoders in use start
/// anew every 64 KiB, so that only pages of others have more; their images are decompressed from the start of the page.
const MAX_SKIP: usize = 128 << 10;

/// Where an image is in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) offset: u64,
    pub(super) length: u32,
    /// `None` if its bytes are stored as they are.
    pub(super) packed: Option<Packed>,
}

/// Finds the image of `length` bytes that begins at `start` of a page's decompressed bytes.
pub(super) fn find(page: &Page<'_>, start: usize, length: usize, check: &mut Vec<u8>) -> Image {
    let small = |number: usize| u32::try_from(number).expect("pages are bounded");
    let image = |offset: usize, packed: Option<Packed>| Image {
        offset: page.offset + offset as u64,
        length: small(length),
        packed,
    };
    let whole = |codec| {
        image(0, Some(Packed { codec, stored: small(page.stored.len()), skip: small(start) }))
    };
    let size = small(page.bytes.len());
    match page.compression {
        Compression::None => image(start, None),
        Compression::Gzip => whole(Codec::Gzip { page: size }),
        Compression::Zstd => whole(Codec::Zstd { page: size }),
        Compression::Snappy => {
            let place = match Place::find(page, start, length) {
                Some(place) if place.skip == 0 && place.literal >= length => {
                    return image(place.input, None);
                }
                Some(place) if place.is_right(page, start, length, check) => place,
                // From there the whole page was decompressed.
                _ => Place::first(page, start),
            };
            let packed = Packed {
                codec: Codec::Snappy { literal: small(place.literal) },
                stored: small(place.end - place.input),
                skip: small(place.skip),
            };
            image(place.input, Some(packed))
        }
    }
}

/// A range of the compressed bytes of a page that can be decompressed by itself.
#[derive(Debug)]
struct Place {
    /// Its first byte, which is in a literal, and the end.
    input: usize,
    end: usize,
    /// Bytes of the literal from there on.
    literal: usize,
    /// Decompressed bytes before the image.
    skip: usize,
}

impl Place {
    /// The last place from which an image can be decompressed; `None` if that is not near, or not known.
    fn find(page: &Page<'_>, start: usize, length: usize) -> Option<Self> {
        let end = start + length;
        let elements = page.elements;
        let after = elements.partition_point(|element| (element.output as usize) < end);
        if !page.has_all_elements || after == 0 {
            return None;
        }
        let last = after - 1;
        let mut place = start;
        let mut first = last;
        loop {
            let Element { output, back, .. } = elements[first];
            if back > 0 {
                place = place.min((output - back) as usize);
            }
            if start - place > MAX_SKIP {
                return None;
            }
            // A copy looks back, so that the first element that is needed is a literal.
            if output as usize <= place {
                break;
            }
            first -= 1;
        }
        let Element { output, input, .. } = elements[first];
        let inside = place - output as usize;
        let literal = output_end(page, first) - place;
        let Element { output, input: last_input, back } = elements[last];
        let taken = if back > 0 { 0 } else { end - output as usize };
        Some(Self {
            input: input as usize + inside,
            end: last_input as usize + taken,
            literal,
            skip: start - place,
        })
    }

    /// The start of the page.
    fn first(page: &Page<'_>, start: usize) -> Self {
        let input = page.elements.first().map_or(0, |element| element.input as usize);
        let literal = output_end(page, 0);
        Self { input, end: page.stored.len(), literal, skip: start }
    }

    /// Whether decompressing from the place gives the image.
    fn is_right(&self, page: &Page<'_>, start: usize, length: usize, check: &mut Vec<u8>) -> bool {
        let stored = page.stored.get(self.input..self.end);
        let expanded = stored
            .and_then(|stored| snappy::expand(stored, self.literal, self.skip + length, check));
        expanded.is_some() && check[self.skip..] == page.bytes[start..start + length]
    }
}

/// The end of an element's output.
fn output_end(page: &Page<'_>, element: usize) -> usize {
    page.elements.get(element + 1).map_or(page.bytes.len(), |next| next.output as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::page::Encoding;
    use super::*;

    /// Bytes that do not compress.
    fn noise(seed: usize, length: usize) -> Vec<u8> {
        let mut state = (seed as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let byte = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[7]
        };
        (0..length).map(byte).collect()
    }

    /// Finds each of the parts of a page that is compressed by Snappy, decompresses it from its range, and
    /// returns the lengths of the ranges.
    fn ranges(parts: &[Vec<u8>]) -> Vec<usize> {
        let bytes = parts.concat();
        let stored = snap::raw::Encoder::new().compress_vec(&bytes).unwrap();
        let (mut unpacked, mut elements) = (Vec::new(), Vec::new());
        snappy::decompress(&stored, &mut unpacked, |element| elements.push(element)).unwrap();
        assert_eq!(unpacked, bytes);
        let page = Page {
            is_dictionary: true,
            encoding: Encoding::Plain,
            present: None,
            rows: parts.len(),
            values: 0,
            bytes: &bytes,
            compression: Compression::Snappy,
            stored: &stored,
            offset: 1000,
            elements: &elements,
            has_all_elements: true,
        };
        let (mut start, mut check, mut lengths) = (0, Vec::new(), Vec::new());
        for part in parts {
            let image = find(&page, start, part.len(), &mut check);
            let at = usize::try_from(image.offset).unwrap() - 1000;
            match image.packed {
                None => {
                    assert_eq!(&stored[at..at + part.len()], part);
                    lengths.push(part.len());
                }
                Some(Packed { codec: Codec::Snappy { literal }, stored: length, skip }) => {
                    let range = &stored[at..at + length as usize];
                    let end = skip as usize + part.len();
                    snappy::expand(range, literal as usize, end, &mut check).unwrap();
                    assert_eq!(&check[skip as usize..], part);
                    lengths.push(length as usize);
                    // The start of the page is a place, too.
                    let first = Place::first(&page, start);
                    assert!(first.is_right(&page, start, part.len(), &mut check));
                }
                Some(packed) => unreachable!("{packed:?}"),
            }
            start += part.len();
        }
        lengths
    }

    #[test]
    fn an_image_costs_its_own_bytes_and_what_its_copies_need() {
        // Photos of one camera have the same tables at the front.
        let tables = noise(0, 600);
        let photo = |number: usize| {
            [tables.clone(), noise(number, 40_000 + 7919 * number % 90_000)].concat()
        };
        let photos: Vec<Vec<u8>> = (1..60).map(photo).collect();
        let lengths = ranges(&photos);
        for (length, photo) in lengths.iter().zip(&photos) {
            assert!(*length < photo.len() + (64 << 10), "{length} bytes for {}", photo.len());
        }
        let whole: usize = photos.iter().map(Vec::len).sum();
        let read: usize = lengths.iter().sum();
        assert!(read < whole * 5 / 4, "{read} bytes of {whole}");
    }

    #[test]
    fn small_images_are_plain_ranges_of_the_file() {
        let images: Vec<Vec<u8>> = (0..500).map(|number| noise(number, 700)).collect();
        let plain = ranges(&images).iter().filter(|length| **length == 700).count();
        assert!(plain > 480, "{plain}");
    }

    #[test]
    fn copies_that_look_back_without_end_are_not_followed_for_each_image() {
        // A literal of a byte, and copies of it: each needs all before it.
        let (length, mut stored, mut at) = (4_usize << 20, Vec::new(), 4_usize << 20);
        while at >= 128 {
            stored.push(0x80 | u8::try_from(at & 127).unwrap());
            at >>= 7;
        }
        stored.extend([u8::try_from(at).unwrap(), 0, 7]);
        let mut rest = length - 1;
        while rest > 0 {
            let count = rest.min(64);
            stored.extend([u8::try_from(count - 1).unwrap() << 2 | 2, 1, 0]);
            rest -= count;
        }
        let (mut bytes, mut elements) = (Vec::new(), Vec::new());
        snappy::decompress(&stored, &mut bytes, |element| elements.push(element)).unwrap();
        let page = Page {
            is_dictionary: false,
            encoding: Encoding::Plain,
            present: None,
            rows: 1,
            values: 0,
            bytes: &bytes,
            compression: Compression::Snappy,
            stored: &stored,
            offset: 0,
            elements: &elements,
            has_all_elements: true,
        };
        assert!(Place::find(&page, 1000, 10).is_some());
        assert!(Place::find(&page, length - 10, 10).is_none());
        let image = find(&page, length - 10, 10, &mut Vec::new());
        let packed = image.packed.unwrap();
        assert_eq!((packed.skip as usize, image.length), (length - 10, 10));
    }

    proptest! {
        #[test]
        fn images_that_compress_are_found(
            parts in prop::collection::vec((0..4_usize, 0..400_usize, 0..5_usize), 1..60),
        ) {
            let part = |(seed, length, repeats): &(usize, usize, usize)| {
                noise(*seed, *length / (repeats + 1)).repeat(repeats + 1)
            };
            ranges(&parts.iter().map(part).collect::<Vec<_>>());
        }
    }
}
