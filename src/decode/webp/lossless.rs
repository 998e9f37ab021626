//! The check of lossless data (VP8L), of images and of alpha.
//!
//! A code of two equal symbols takes no bits in libwebp, and one bit in the `image-webp` crate. Only
//! damaged files have one. So the codes are read here once more, when a file is indexed. They are before
//! the pixels, of which only those of transforms and of the map of codes have to be read to find them.

/// The error of an image that libwebp decodes.
pub(super) const EQUAL_SYMBOLS: &str = "a code of two equal symbols";

const MALFORMED: &str = "a code of the lossless image is malformed";

/// The order in which the lengths of the code of lengths are stored.
const ORDER: [usize; 19] = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// Checks the data of an image of this width and height, after its header.
///
/// # Errors
/// When libwebp refuses a code, or `image-webp` reads it differently.
pub(super) fn check(data: &[u8], mut width: u32, height: u32) -> Result<(), &'static str> {
    let mut bits = Bits { data, at: 0 };
    while bits.read(1)? == 1 {
        match bits.read(2)? {
            // Predictors, and colors by block.
            0 | 1 => {
                let block = bits.read(3)? + 2;
                bits.pixels(blocks(width, block) * blocks(height, block))?;
            }
            2 => {}
            _ => {
                let colors = bits.read(8)? + 1;
                bits.pixels(colors)?;
                // Several indices share a pixel.
                width = blocks(
                    width,
                    match colors {
                        ..=2 => 3,
                        3..=4 => 2,
                        5..=16 => 1,
                        _ => 0,
                    },
                );
            }
        }
    }
    let cache = bits.cache()?;
    let mut groups = 1;
    if bits.read(1)? == 1 {
        let block = bits.read(3)? + 2;
        groups = bits.pixels(blocks(width, block) * blocks(height, block))? + 1;
    }
    (0..groups).try_for_each(|_| bits.codes(cache).map(drop))
}

const fn blocks(side: u32, bits: u32) -> u32 {
    side.div_ceil(1 << bits)
}

/// A position in the data.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn read(&mut self, count: u32) -> Result<u32, &'static str> {
        (0..count).try_fold(0, |value, place| {
            let byte = self.data.get(self.at / 8).ok_or("the lossless image is truncated")?;
            let bit = u32::from(byte >> (self.at % 8) & 1);
            self.at += 1;
            Ok(value | bit << place)
        })
    }

    /// The number of entries of the color cache, 0 without one.
    fn cache(&mut self) -> Result<u32, &'static str> {
        match self.read(1)? {
            0 => Ok(0),
            _ => match self.read(4)? {
                bits @ 1..=11 => Ok(1 << bits),
                _ => Err("the color cache of the lossless image is malformed"),
            },
        }
    }

    /// Reads pixels of a transform or of the map of codes. Returns the largest number in red and green.
    /// Pixels that are copied from others have no larger one.
    fn pixels(&mut self, count: u32) -> Result<u32, &'static str> {
        let cache = self.cache()?;
        let [green, red, blue, alpha, distance] = self.codes(cache)?;
        let (mut left, mut largest) = (count, 0);
        while left > 0 {
            let symbol = green.symbol(self)?;
            let length = match symbol {
                0..256 => {
                    largest = largest.max(red.symbol(self)? << 8 | symbol);
                    blue.symbol(self)?;
                    alpha.symbol(self)?;
                    1
                }
                256..280 => {
                    let length = self.number(symbol - 256)?;
                    let prefix = distance.symbol(self)?;
                    self.number(prefix)?;
                    length
                }
                _ => 1,
            };
            left = left.checked_sub(length).ok_or(MALFORMED)?;
        }
        Ok(largest)
    }

    /// A length or a distance with this prefix.
    fn number(&mut self, prefix: u32) -> Result<u32, &'static str> {
        if prefix < 4 {
            return Ok(prefix + 1);
        }
        let extra = (prefix - 2) >> 1;
        Ok(((2 + (prefix & 1)) << extra) + self.read(extra)? + 1)
    }

    /// The codes of green with lengths and the cache, red, blue, alpha, and distances.
    fn codes(&mut self, cache: u32) -> Result<[Code; 5], &'static str> {
        let green = self.code(280 + cache as usize)?;
        Ok([green, self.code(256)?, self.code(256)?, self.code(256)?, self.code(40)?])
    }

    fn code(&mut self, symbols: usize) -> Result<Code, &'static str> {
        let mut lengths = vec![0; symbols];
        if self.read(1)? == 1 {
            let two = self.read(1)? == 1;
            let width = if self.read(1)? == 1 { 8 } else { 1 };
            let first = self.read(width)? as usize;
            *lengths.get_mut(first).ok_or(MALFORMED)? = 1;
            if two {
                let second = self.read(8)? as usize;
                if second == first {
                    return Err(EQUAL_SYMBOLS);
                }
                *lengths.get_mut(second).ok_or(MALFORMED)? = 1;
            }
            return Code::new(&lengths);
        }
        let mut of_lengths = [0; 19];
        let stored = self.read(4)? as usize + 4;
        for at in ORDER.iter().take(stored) {
            of_lengths[*at] = self.read(3)?;
        }
        let code = Code::new(&of_lengths)?;
        let mut left = symbols;
        if self.read(1)? == 1 {
            let width = 2 + 2 * self.read(3)?;
            left = 2 + self.read(width)? as usize;
            if left > symbols {
                return Err(MALFORMED);
            }
        }
        let (mut at, mut last) = (0, 8);
        while at < symbols && left > 0 {
            left -= 1;
            let (length, repeats) = match code.symbol(self)? {
                length @ 0..16 => (length, 1),
                16 => (last, 3 + self.read(2)? as usize),
                17 => (0, 3 + self.read(3)? as usize),
                _ => (0, 11 + self.read(7)? as usize),
            };
            lengths.get_mut(at..at + repeats).ok_or(MALFORMED)?.fill(length);
            at += repeats;
            last = if length == 0 { last } else { length };
        }
        Code::new(&lengths)
    }
}

/// A canonical Huffman code.
struct Code {
    /// The number of codes of each length.
    counts: [u32; 16],
    /// Symbols in the order of their codes.
    symbols: Vec<u32>,
}

impl Code {
    /// The code with these lengths. A single symbol takes no bits.
    fn new(lengths: &[u32]) -> Result<Self, &'static str> {
        let mut counts = [0; 16];
        let mut symbols: Vec<u32> = Vec::new();
        let used = || lengths.iter().zip(0..).filter(|(length, _)| **length > 0);
        used().for_each(|(length, _)| counts[*length as usize] += 1);
        (1..16).for_each(|wanted| {
            symbols
                .extend(used().filter(|(length, _)| **length == wanted).map(|(_, symbol)| symbol));
        });
        let filled: u32 = (1..16).map(|length| counts[length] << (15 - length)).sum();
        if symbols.len() == 1 || filled == 1 << 15 {
            Ok(Self { counts, symbols })
        } else {
            Err(MALFORMED)
        }
    }

    fn symbol(&self, bits: &mut Bits<'_>) -> Result<u32, &'static str> {
        if let [only] = self.symbols[..] {
            return Ok(only);
        }
        let (mut code, mut first) = (0, 0);
        for count in &self.counts[1..] {
            code = code << 1 | bits.read(1)?;
            if code < *count {
                return Ok(self.symbols[(first + code) as usize]);
            }
            code -= count;
            first += count;
        }
        Err(MALFORMED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits from the lowest on: a value and its width each.
    fn packed(fields: &[(u32, u32)]) -> Vec<u8> {
        let mut bits = Vec::new();
        for &(value, width) in fields {
            bits.extend((0..width).map(|place| (value >> place & 1) as u8));
        }
        bits.chunks(8).map(|byte| byte.iter().rev().fold(0, |byte, bit| byte << 1 | bit)).collect()
    }

    /// Data without transforms, cache and map, whose first code has two symbols.
    fn with_code(first: u32, second: u32) -> Vec<u8> {
        let two = [(1, 1), (1, 1), (1, 1), (first, 8), (second, 8)];
        let one = [(1, 1), (0, 1), (0, 1), (0, 1)];
        packed(&[&[(0, 1), (0, 1), (0, 1)], &two[..], &one, &one, &one, &one].concat())
    }

    #[test]
    fn a_code_of_two_equal_symbols_is_refused() {
        assert_eq!(check(&with_code(3, 4), 1, 1), Ok(()));
        assert_eq!(check(&with_code(3, 3), 1, 1), Err(EQUAL_SYMBOLS));
    }

    #[test]
    fn a_code_that_is_not_complete_is_refused() {
        assert!(Code::new(&[1, 1]).is_ok() && Code::new(&[0, 7]).is_ok());
        for lengths in [&[0, 0][..], &[1, 2], &[1, 1, 1]] {
            assert!(Code::new(lengths).is_err(), "{lengths:?}");
        }
    }
}
