//! The check of the compressed data of a strip or a tile, as libtiff decompresses it. Nothing is kept of it.

use flate2::{Decompress, FlushDecompress};

const LZW: u16 = 5;
const DEFLATE: [u16; 2] = [8, 32_946];
const PACK_BITS: u16 = 32_773;
/// The compression schemes that lose nothing: none, and the above.
pub(super) const LOSSLESS: [u16; 5] = [1, LZW, DEFLATE[0], DEFLATE[1], PACK_BITS];

const TRUNCATED: &str = "truncated";
const DAMAGED: &str = "damaged";

/// Checks data that decompresses to `wanted` bytes. More of it is ignored, as by libtiff. `None` is data that is not
/// whole in the file, which matters only where it is compressed.
///
/// # Errors
/// When libtiff refuses the data.
pub(super) fn check(
    compression: u16,
    data: Option<&[u8]>,
    wanted: usize,
) -> Result<(), &'static str> {
    if compression == 1 {
        return Ok(());
    }
    let data = data.ok_or(TRUNCATED)?;
    match compression {
        LZW => lzw(data, wanted),
        PACK_BITS => pack_bits(data, wanted),
        _ if DEFLATE.contains(&compression) => deflate(data, wanted),
        _ => Ok(()),
    }
}

fn deflate(data: &[u8], wanted: usize) -> Result<(), &'static str> {
    // Deflate makes at most 1032 bytes of one. So a short file allocates little.
    if wanted / 1032 > data.len() {
        return Err(TRUNCATED);
    }
    let mut inflate = Decompress::new(true);
    match inflate.decompress(data, &mut vec![0; wanted], FlushDecompress::None) {
        Ok(_) if inflate.total_out() == wanted as u64 => Ok(()),
        Ok(_) => Err(TRUNCATED),
        Err(_) => Err(DAMAGED),
    }
}

fn pack_bits(mut data: &[u8], wanted: usize) -> Result<(), &'static str> {
    let mut left = wanted;
    while left > 0 {
        let (&head, rest) = data.split_first().ok_or(TRUNCATED)?;
        let (stored, length) = match head {
            ..128 => (left.min(usize::from(head) + 1), usize::from(head) + 1),
            128 => (0, 0),
            _ => (1, 257 - usize::from(head)),
        };
        data = rest.get(stored..).ok_or(TRUNCATED)?;
        left -= length.min(left);
    }
    Ok(())
}

/// The code that empties the table, and the one that ends the data.
const CLEAR: usize = 256;
const END: usize = 257;
/// The number of strings for which libtiff has room.
const STRINGS: usize = 4095 + 1024;

fn lzw(data: &[u8], wanted: usize) -> Result<(), &'static str> {
    let (mut at, mut width) = (0, 9);
    let mut next_code = |width: usize| {
        let mut bits = (at..at + width).map(|bit| Some(data.get(bit / 8)? >> (7 - bit % 8) & 1));
        at += width;
        bits.try_fold(0, |code, bit| Some(code << 1 | usize::from(bit?))).unwrap_or(END)
    };
    // The lengths of the strings in the table.
    let mut lengths: Vec<usize> = Vec::with_capacity(STRINGS);
    let mut last: Option<usize> = None;
    let mut left = wanted;
    while left > 0 {
        let length = match next_code(width) {
            CLEAR => {
                lengths.clear();
                lengths.extend([1; CLEAR + 2]);
                (width, last) = (9, None);
                continue;
            }
            END => return Err(TRUNCATED),
            code => {
                if let Some(last) = last {
                    if lengths.len() == STRINGS {
                        return Err(DAMAGED);
                    }
                    lengths.push(last + 1);
                } else if code > CLEAR {
                    return Err(DAMAGED);
                }
                *lengths.get(code).ok_or(DAMAGED)?
            }
        };
        if lengths.len() + 1 >= 1 << width && width < 12 {
            width += 1;
        }
        last = Some(length);
        left -= length.min(left);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pack_bits_end_with_the_last_byte_of_a_row() {
        // Three bytes as they are, a byte that means nothing, five times a byte.
        let data = [2, 7, 8, 9, 128, 252, 1];
        for wanted in 0..=8 {
            assert_eq!(check(PACK_BITS, Some(&data), wanted), Ok(()));
        }
        assert_eq!(check(PACK_BITS, Some(&data), 9), Err(TRUNCATED));
        assert_eq!(check(PACK_BITS, Some(&data[..3]), 3), Err(TRUNCATED));
        assert_eq!(check(PACK_BITS, Some(&data[..3]), 2), Ok(()));
    }

    /// Codes of 9 bits.
    fn codes(codes: &[usize]) -> Vec<u8> {
        let bits: Vec<u8> = codes
            .iter()
            .flat_map(|code| (0..9).rev().map(move |b| u8::from(code >> b & 1 == 1)))
            .collect();
        bits.chunks(8)
            .map(|byte| (0..8).fold(0, |all, i| all << 1 | byte.get(i).copied().unwrap_or(0)))
            .collect()
    }

    #[test]
    fn codes_that_are_not_in_the_table_are_refused() {
        let check = |stored: &[usize], wanted| check(LZW, Some(&codes(stored)), wanted);
        assert_eq!(check(&[CLEAR, 65, 258, 259, END], 6), Ok(()));
        assert_eq!(check(&[CLEAR, 65, 258, 259, END], 7), Err(TRUNCATED));
        assert_eq!(check(&[CLEAR, 65, 259, END], 3), Err(DAMAGED));
        assert_eq!(check(&[CLEAR, 258], 1), Err(DAMAGED));
        assert_eq!(check(&[65, 66], 2), Err(DAMAGED));
    }

    #[test]
    fn a_checksum_behind_the_last_byte_is_read() {
        let mut stored = vec![0x78, 1, 1, 2, 0, 0xFD, 0xFF, b'a', b'b', 1, 0x26, 0, 0xC4];
        assert_eq!(check(DEFLATE[0], Some(&stored), 2), Ok(()));
        stored[12] ^= 1;
        assert_eq!(check(DEFLATE[0], Some(&stored), 2), Err(DAMAGED));
        assert_eq!(check(DEFLATE[0], Some(&stored), 1), Ok(()));
    }
}
