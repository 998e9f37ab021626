//! Snappy's raw format: literals, and copies of what was decompressed before.
//!
//! The `snap` crate decompresses whole buffers only. Here decompression can begin at any byte of a literal
//! and ends where the caller has enough, so that a record inside a large page costs its own bytes.

/// A literal or a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dataset) struct Element {
    /// Bytes that are decompressed before it.
    pub(in crate::dataset) output: u32,
    /// A literal's first byte in the compressed bytes; the byte behind a copy.
    pub(in crate::dataset) input: u32,
    /// The distance that a copy looks back; 0 for a literal.
    pub(in crate::dataset) back: u32,
}

/// Output per compressed byte, at most: a copy of 64 bytes takes 3.
const MAX_RATIO: usize = 22;

/// The length of the decompressed bytes, and the number of bytes that state it.
pub(in crate::dataset) fn preamble(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0_u64;
    for (index, &byte) in bytes.iter().take(5).enumerate() {
        length |= u64::from(byte & 0x7F) << (7 * index);
        if byte < 0x80 {
            return Some((u32::try_from(length).ok()? as usize, index + 1));
        }
    }
    None
}

/// Decompresses a whole buffer, and hands each element to `note`. `None` if it is malformed.
pub(in crate::dataset) fn decompress(
    bytes: &[u8],
    output: &mut Vec<u8>,
    mut note: impl FnMut(Element),
) -> Option<()> {
    let (length, start) = preamble(bytes)?;
    let end = run(bytes, start, length, output, &mut note)?;
    (end == bytes.len()).then_some(())
}

/// Decompresses `length` bytes from a place: the rest of a literal, of `literal` bytes, and the elements
/// behind it. `None` if they are malformed or look back beyond the place.
pub(in crate::dataset) fn expand(
    bytes: &[u8],
    literal: usize,
    length: usize,
    output: &mut Vec<u8>,
) -> Option<()> {
    output.clear();
    output.extend_from_slice(bytes.get(..literal.min(length))?);
    continue_run(bytes, literal, length, output, &mut |_| {})?;
    Some(())
}

fn run(
    bytes: &[u8],
    at: usize,
    length: usize,
    output: &mut Vec<u8>,
    note: &mut impl FnMut(Element),
) -> Option<usize> {
    output.clear();
    continue_run(bytes, at, length, output, note)
}

/// Decompresses elements from `at` until the output has `length` bytes. Returns the byte behind them.
fn continue_run(
    bytes: &[u8],
    mut at: usize,
    length: usize,
    output: &mut Vec<u8>,
    note: &mut impl FnMut(Element),
) -> Option<usize> {
    // A hostile length must not allocate what its bytes cannot hold.
    if length > bytes.len().saturating_mul(MAX_RATIO) {
        return None;
    }
    output.reserve_exact(length.saturating_sub(output.len()));
    while output.len() < length {
        let tag = *bytes.get(at)?;
        at += 1;
        let little_endian = |at: usize, count: usize| {
            let bytes = bytes.get(at..at.checked_add(count)?)?;
            Some(bytes.iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte)))
        };
        let high = usize::from(tag >> 2);
        let (count, back) = match tag & 3 {
            0 => {
                let extra = high.saturating_sub(59);
                let count = if extra == 0 { high } else { little_endian(at, extra)? };
                at += extra;
                (count.checked_add(1)?, 0)
            }
            1 => {
                let low = little_endian(at, 1)?;
                at += 1;
                (4 + (high & 7), (high >> 3) << 8 | low)
            }
            kind => {
                let width = if kind == 2 { 2 } else { 4 };
                let back = little_endian(at, width)?;
                at += width;
                (high + 1, back)
            }
        };
        let is_copy = tag & 3 != 0;
        note(Element {
            output: u32::try_from(output.len()).ok()?,
            input: u32::try_from(at).ok()?,
            back: u32::try_from(back).ok()?,
        });
        let count = count.min(length - output.len());
        if is_copy {
            let from = output.len().checked_sub(back).filter(|_| back > 0)?;
            copy(output, from, count);
        } else {
            output.extend_from_slice(bytes.get(at..at.checked_add(count)?)?);
            at += count;
        }
    }
    Some(at)
}

/// Appends `count` bytes from `from`, which may overlap the bytes that are appended.
fn copy(output: &mut Vec<u8>, from: usize, count: usize) {
    if from + count <= output.len() {
        output.extend_from_within(from..from + count);
    } else {
        for index in from..from + count {
            output.push(output[index]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use snap::raw::{Decoder, Encoder};

    use super::*;

    #[test]
    fn each_kind_of_element_is_decompressed() {
        // A literal of 4, a copy of 4 from 4 back, a copy of 3 from 1 back, one of 2 with a long distance.
        let bytes =
            [13, 3 << 2, b'a', b'b', b'c', b'd', 1, 4, 2 | 2 << 2, 1, 0, 3 | 1 << 2, 11, 0, 0, 0];
        let (mut output, mut elements) = (Vec::new(), Vec::new());
        decompress(&bytes, &mut output, |element| elements.push(element)).unwrap();
        assert_eq!(
            output,
            b"abcdabcdddd\0\0"[..11].iter().chain(b"ab").copied().collect::<Vec<_>>()
        );
        let element = |output, input, back| Element { output, input, back };
        let expected = [element(0, 2, 0), element(4, 8, 4), element(8, 11, 1), element(11, 16, 11)];
        assert_eq!(elements, expected);
        // From the third byte of the literal, only copies that stay behind it are possible.
        assert!(expand(&bytes[4..], 2, 2, &mut output).is_some());
        assert_eq!(output, b"cd");
        assert!(expand(&bytes[4..], 2, 6, &mut output).is_none());
    }

    #[test]
    fn literals_of_every_length_are_read() {
        for length in [1, 59, 60, 61, 255, 256, 257, 65_535, 65_536, 65_537, 200_000_usize] {
            let input: Vec<u8> = (0..length).map(|i| ((i * i) >> 7).to_le_bytes()[0]).collect();
            let packed = Encoder::new().compress_vec(&input).unwrap();
            let mut output = Vec::new();
            decompress(&packed, &mut output, |_| {}).unwrap();
            assert!(output == input, "{length}");
        }
    }

    #[test]
    fn a_hostile_length_allocates_nothing() {
        let mut output = Vec::new();
        assert!(decompress(&[0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 0, 1], &mut output, |_| {}).is_none());
        assert!(expand(&[0, 1], 1, 1 << 31, &mut output).is_none());
        assert!(output.capacity() < 100);
    }

    proptest! {
        #[test]
        fn what_snap_compresses_is_decompressed(parts in prop::collection::vec((any::<u8>(), 1..300_usize, any::<bool>()), 0..40)) {
            let mut input = Vec::new();
            for (seed, length, repeats) in parts {
                let byte = |i: usize| if repeats { seed } else { (i * 97 + usize::from(seed)).to_le_bytes()[0] ^ (i >> 3).to_le_bytes()[0] };
                input.extend((0..length).map(byte));
            }
            let packed = Encoder::new().compress_vec(&input).unwrap();
            let mut output = Vec::new();
            let unpacked = decompress(&packed, &mut output, |_| {});
            prop_assert_eq!(unpacked, Some(()));
            prop_assert_eq!(output, input);
        }

        #[test]
        fn hostile_bytes_are_decompressed_as_snap_does_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut output = Vec::new();
            let ours = decompress(&bytes, &mut output, |_| {}).map(|()| output);
            if let Ok(theirs) = Decoder::new().decompress_vec(&bytes) {
                prop_assert_eq!(ours, Some(theirs));
            }
        }
    }
}
