//! PBM, PGM and PPM (`P1` to `P6`), as Pillow's `PpmImagePlugin.py` reads them.
//!
//! Samples are scaled from the stated maximum to 255 by float arithmetic, except that gray above 8
//! bits becomes a 16-bit value of which Pillow's `convert('RGB')` clips all above 255.

use super::error::DecodeError;
use super::format::{Color, Format, Header};
use crate::geometry::Size;

/// The maximum length of a number.
const MAX_TOKEN: usize = 10;
/// The bytes of plain data that Pillow reads, and checks, at a time (`ImageFile.SAFEBLOCK`).
const PLAIN_BLOCK: usize = 1 << 20;

/// The kinds of samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Samples {
    Bits,
    Gray,
    Rgb,
}

/// The header of a file, and the data after it.
#[derive(Clone, Copy, Debug)]
struct Image<'a> {
    samples: Samples,
    /// Whether samples are decimal numbers.
    plain: bool,
    size: Size,
    max: u32,
    data: &'a [u8],
}

/// Reads the header.
///
/// # Errors
/// When it is truncated or malformed, or the image is empty.
pub(super) fn probe(bytes: &[u8]) -> Result<Header, DecodeError> {
    let image = open(bytes).map_err(malformed)?;
    let color = if image.samples == Samples::Rgb { Color::Rgb } else { Color::Gray };
    Ok(Header { format: Format::Pnm, size: image.size, color, progressive: false })
}

/// Decodes the whole image to RGB.
///
/// # Errors
/// When Pillow refuses the file.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    open(bytes).and_then(|image| image.rgb()).map_err(malformed)
}

fn malformed(reason: &'static str) -> DecodeError {
    DecodeError::Malformed { format: Format::Pnm, reason: reason.to_owned() }
}

fn open(bytes: &[u8]) -> Result<Image<'_>, &'static str> {
    let [b'P', kind, space, data @ ..] = bytes else { return Err("no header") };
    if !is_space(*space) {
        return Err("an unknown kind");
    }
    let (samples, plain) = match kind {
        b'1' => (Samples::Bits, true),
        b'2' => (Samples::Gray, true),
        b'3' => (Samples::Rgb, true),
        b'4' => (Samples::Bits, false),
        b'5' => (Samples::Gray, false),
        b'6' => (Samples::Rgb, false),
        _ => return Err("an unknown kind"),
    };
    let mut data = data;
    let (width, height) = (header_number(&mut data)?, header_number(&mut data)?);
    let max = if samples == Samples::Bits { 1 } else { header_number(&mut data)? };
    if width == 0 || height == 0 {
        return Err("the image is empty");
    }
    if !(1..65_536).contains(&max) {
        return Err("the maximum of a sample is not 1 to 65535");
    }
    Ok(Image { samples, plain, size: Size { height, width }, max, data })
}

/// Takes a number and the byte after it. A comment may stand anywhere, also inside a number.
fn header_number(data: &mut &[u8]) -> Result<u32, &'static str> {
    let mut token = Vec::new();
    while token.len() <= MAX_TOKEN {
        let Some((&byte, rest)) = data.split_first() else { break };
        *data = rest;
        match byte {
            b'#' => {
                let end = data.iter().position(|&byte| matches!(byte, b'\r' | b'\n'));
                *data = &data[end.map_or(data.len(), |end| end + 1)..];
            }
            _ if !is_space(byte) => token.push(byte),
            _ if token.is_empty() => {}
            _ => break,
        }
    }
    number(&token)
}

/// A number as Python's `int` takes it: with a sign, and with underscores between digits.
fn number(token: &[u8]) -> Result<u32, &'static str> {
    const INVALID: &str = "an invalid number";
    if token.len() > MAX_TOKEN {
        return Err("a number of more than 10 characters");
    }
    let negative = token.starts_with(b"-");
    let digits = token.strip_prefix(if negative { b"-" } else { b"+" }).unwrap_or(token);
    let mut value = 0_u32;
    let mut after_digit = false;
    for &byte in digits {
        match byte {
            b'0'..=b'9' => {
                let shifted = value.checked_mul(10).ok_or(INVALID)?;
                value = shifted.checked_add(u32::from(byte - b'0')).ok_or(INVALID)?;
            }
            b'_' if after_digit => {}
            _ => return Err(INVALID),
        }
        after_digit = byte != b'_';
    }
    if after_digit && !(negative && value != 0) { Ok(value) } else { Err(INVALID) }
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0B | 0x0C | b'\r')
}

impl Image<'_> {
    fn rgb(&self) -> Result<Vec<u8>, &'static str> {
        let channels = if self.samples == Samples::Rgb { 3 } else { 1 };
        let (width, height) = (self.size.width as usize, self.size.height as usize);
        let count = width * height * channels;
        // Checked before anything is allocated for the samples.
        let (row_bytes, least) = match (self.plain, self.samples) {
            (true, Samples::Bits) => (0, count),
            (true, _) => (0, 2 * count - 1),
            (false, Samples::Bits) => (width.div_ceil(8), width.div_ceil(8) * height),
            (false, _) => (0, if self.max < 256 { count } else { 2 * count }),
        };
        if self.data.len() < least {
            return Err("truncated");
        }
        let samples: Vec<u8> = match (self.plain, self.samples) {
            (true, Samples::Bits) => self.plain_bits(count)?,
            (true, _) => self.plain_numbers(count)?,
            (false, Samples::Bits) => {
                let rows = self.data.chunks_exact(row_bytes).take(height);
                rows.flat_map(|row| (0..width).map(|x| bit(row[x / 8] >> (7 - x % 8)))).collect()
            }
            (false, _) if self.max < 256 => {
                let table: Vec<u8> = (0..=255).map(|value| self.scaled(value)).collect();
                self.data[..count].iter().map(|&value| table[usize::from(value)]).collect()
            }
            (false, _) => {
                let values = self.data.as_chunks().0.iter().take(count);
                values.map(|&value| self.scaled(u16::from_be_bytes(value).into())).collect()
            }
        };
        if channels == 3 {
            return Ok(samples);
        }
        Ok(samples.into_iter().flat_map(|gray| [gray; 3]).collect())
    }

    /// A sample in 8 bits.
    fn scaled(&self, value: u32) -> u8 {
        let wide = self.samples == Samples::Gray && self.max > 255;
        let scale = if wide { 65_535.0 } else { 255.0 };
        let scaled = (f64::from(value) / f64::from(self.max) * scale).round_ties_even();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clipped")]
        let clipped = scaled.min(255.0) as u8;
        clipped
    }

    /// One digit for each pixel, with or without space between them.
    fn plain_bits(&self, count: usize) -> Result<Vec<u8>, &'static str> {
        let mut samples = Vec::with_capacity(count);
        let mut comment = false;
        for block in self.data.chunks(PLAIN_BLOCK) {
            for &byte in block {
                match byte {
                    b'\r' | b'\n' => comment = false,
                    _ if comment => {}
                    b'#' => comment = true,
                    b'0' | b'1' => samples.push(bit(byte)),
                    _ if is_space(byte) => {}
                    _ => return Err("a pixel that is not 0 or 1"),
                }
            }
            if samples.len() >= count {
                samples.truncate(count);
                return Ok(samples);
            }
        }
        Err("truncated")
    }

    /// Numbers with space between them.
    fn plain_numbers(&self, count: usize) -> Result<Vec<u8>, &'static str> {
        const LONG: &str = "a number of more than 10 characters";
        let mut samples = Vec::with_capacity(count);
        let (mut token, mut comment) = (Vec::new(), false);
        for block in self.data.chunks(PLAIN_BLOCK) {
            for &byte in block {
                match byte {
                    // The end of a comment is part of it, and does not end a number.
                    b'\r' | b'\n' if comment => comment = false,
                    _ if comment => {}
                    b'#' => comment = true,
                    _ if is_space(byte) => {
                        if !token.is_empty() && samples.len() < count {
                            samples.push(self.sample(&token)?);
                        }
                        token.clear();
                    }
                    _ => token.push(byte),
                }
                if token.len() > MAX_TOKEN && samples.len() < count {
                    return Err(LONG);
                }
            }
            // Pillow checks what it keeps for the next block before it counts the samples.
            if token.len() > MAX_TOKEN {
                return Err(LONG);
            }
            if samples.len() == count {
                return Ok(samples);
            }
        }
        // The end completes the last number.
        if !token.is_empty() {
            samples.push(self.sample(&token)?);
        }
        if samples.len() == count { Ok(samples) } else { Err("truncated") }
    }

    /// A sample of a plain file.
    fn sample(&self, token: &[u8]) -> Result<u8, &'static str> {
        match number(token)? {
            value if value > self.max => Err("a sample above the maximum"),
            value => Ok(self.scaled(value)),
        }
    }
}

/// The pixel of a bit: 1 is black.
const fn bit(byte: u8) -> u8 {
    if byte & 1 == 0 { 255 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_may_stand_inside_a_number() {
        let file = b"P2 # a\n2#\n 1#x\n0\n10 1#y\n0 5";
        assert_eq!(probe(file).unwrap().size, Size { height: 10, width: 2 });
        assert_eq!([&b"1_0"[..], b"+7", b"-0"].map(number), [Ok(10), Ok(7), Ok(0)]);
        assert!(
            [&b"_1"[..], b"1_", b"", b"-1", b"1__0", b"12345678901"]
                .map(number)
                .iter()
                .all(Result::is_err)
        );
    }

    #[test]
    fn a_number_that_is_too_long_is_refused_also_behind_the_last_sample() {
        assert!(decode(b"P2 1 1 9 3 1234567890").is_ok());
        let error = decode(b"P2 1 1 9 3 12345678901").unwrap_err().to_string();
        assert!(error.ends_with("a number of more than 10 characters"), "{error}");
        // With space behind it, Pillow stops before it.
        assert!(decode(b"P2 1 1 9 3 12345678901 ").is_ok());
        assert!(decode(b"P2 1 1 9 3#\n").is_ok());
    }

    #[test]
    fn a_header_that_promises_more_than_the_file_holds_costs_no_memory() {
        for head in
            ["P1 13000 13000 ", "P3 13000 13000 255 ", "P4 13000 13000 ", "P6 13000 13000 9 "]
        {
            assert!(decode(head.as_bytes()).unwrap_err().to_string().ends_with("truncated"));
        }
    }
}
