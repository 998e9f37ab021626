//! Windows and OS/2 bitmaps, as Pillow's `BmpImagePlugin.py` reads them.

mod rle;

use super::error::DecodeError;
use super::format::{Color, Format, Header};
use super::input::Input;
use crate::geometry::Size;

// Values of the compression field.
const RLE8: u32 = 1;
const RLE4: u32 = 2;
const BITFIELDS: u32 = 3;

/// How pixels are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Samples {
    /// Indices of this many bits into a palette.
    Indices(u8),
    /// A bit that is black or white.
    Bits,
    /// Gray of 8 bits.
    Gray,
    /// 16 bits: 5 of each color.
    Rgb555,
    /// 16 bits: 5 of red, 6 of green, 5 of blue.
    Rgb565,
    /// Bytes: their number, and the positions of red, green and blue.
    Bytes(u8, [u8; 3]),
}

/// A file after its header.
#[derive(Debug)]
struct Image<'a> {
    size: Size,
    samples: Samples,
    /// For run-length encoding, whether it is that of 4 bits.
    rle4: Option<bool>,
    palette: &'a [u8],
    /// Bytes of a color of the palette.
    entry: usize,
    /// The distance of rows in bytes.
    stride: u64,
    top_down: bool,
    bytes: &'a [u8],
    /// The offset of the pixels.
    start: usize,
}

/// Reads the header.
///
/// # Errors
/// When it is truncated, or of a kind that Pillow does not know.
pub(super) fn probe(bytes: &[u8]) -> Result<Header, DecodeError> {
    let image = open(bytes).map_err(malformed)?;
    let color = match image.samples {
        Samples::Indices(_) => Color::Palette,
        Samples::Bits | Samples::Gray => Color::Gray,
        _ => Color::Rgb,
    };
    Ok(Header { format: Format::Bmp, size: image.size, color, progressive: false })
}

/// Decodes the image to RGB.
///
/// # Errors
/// When Pillow refuses the file.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    open(bytes).and_then(|image| image.rgb()).map_err(malformed)
}

fn malformed(reason: &'static str) -> DecodeError {
    DecodeError::Malformed { format: Format::Bmp, reason: reason.to_owned() }
}

/// The fields of an information header that matter.
struct Info {
    width: u32,
    height: u32,
    top_down: bool,
    bits: u16,
    compression: u32,
    /// The number of colors in the palette.
    colors: u32,
    /// Bytes of a color of the palette.
    entry: usize,
}

/// Parses an information header without its size.
fn info(header: &[u8]) -> Result<Info, &'static str> {
    let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let u32_at = |at: usize| u32_of(header, at);
    let all_colors = |bits: u16| 1_u32.checked_shl(bits.into()).unwrap_or(u32::MAX);
    match header.len() + 4 {
        12 => {
            let [width, height, bits] = [0, 2, 6].map(u16_at);
            Ok(Info {
                width: width.into(),
                height: height.into(),
                top_down: false,
                bits,
                compression: 0,
                colors: all_colors(bits),
                entry: 3,
            })
        }
        40 | 52 | 56 | 64 | 108 | 124 => {
            let (height, bits) = (u32_at(4), u16_at(10));
            // Only numbers above -2^24 are taken as negative, the others as very large.
            let top_down = header[7] == 0xFF;
            Ok(Info {
                width: u32_at(0),
                height: if top_down { height.wrapping_neg() } else { height },
                top_down,
                bits,
                compression: u32_at(12),
                colors: if u32_at(28) == 0 { all_colors(bits) } else { u32_at(28) },
                entry: 4,
            })
        }
        _ => Err("the size of the header is unknown"),
    }
}

fn u32_of(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn open(bytes: &[u8]) -> Result<Image<'_>, &'static str> {
    const TRUNCATED: &str = "the header is truncated";
    let mut input = Input::new(bytes);
    input.seek(10);
    let start = u32::from_le_bytes(input.array().ok_or(TRUNCATED)?) as usize;
    let header_size = u32::from_le_bytes(input.array().ok_or(TRUNCATED)?) as usize;
    let header = input.take(header_size.saturating_sub(4)).ok_or(TRUNCATED)?;
    let info = info(header)?;
    if info.width == 0 || info.height == 0 {
        return Err("the image is empty");
    }
    let mut samples = match (info.compression, info.bits) {
        (BITFIELDS, bits) => {
            let masks = match header.get(36..) {
                Some(masks) if masks.len() >= 12 => masks,
                _ => input.take(12).ok_or(TRUNCATED)?,
            };
            by_masks(bits, masks)?
        }
        (0 | RLE8 | RLE4, 1 | 4 | 8) => Samples::Indices(info.bits.to_le_bytes()[0]),
        (0, 16) => Samples::Rgb555,
        (0, 24) => Samples::Bytes(3, [2, 1, 0]),
        (0, 32) => Samples::Bytes(4, [2, 1, 0]),
        _ => return Err("the compression or the number of bits of a pixel is unknown"),
    };
    let mut palette: &[u8] = &[];
    let mut start = start;
    if let Samples::Indices(_) = samples {
        let colors = usize::try_from(info.colors).ok().filter(|colors| *colors <= 65_536);
        let length = colors.ok_or("the palette has too many colors")? * info.entry;
        palette = input.read(length);
        if let Some(gray) = gray_by(palette, &info) {
            samples = gray;
        } else if palette.len() / info.entry > 256 {
            return Err("the palette has more than 256 colors");
        }
        // Some writers give the offset of the palette instead.
        if start == 14 + header_size {
            start += length;
        }
    }
    let rle4 = matches!(info.compression, RLE8 | RLE4).then_some(info.compression == RLE4);
    if rle4.is_some() && samples == Samples::Bits {
        return Err("a run-length encoded image is black and white");
    }
    Ok(Image {
        size: Size { height: info.height, width: info.width },
        samples,
        rle4,
        palette,
        entry: info.entry,
        stride: (u64::from(info.width) * u64::from(info.bits)).div_ceil(32) * 4,
        top_down: info.top_down,
        bytes,
        start: if start == 0 { input.at() } else { start },
    })
}

/// The kind of samples that these masks of red, green, blue and alpha describe.
fn by_masks(bits: u16, masks: &[u8]) -> Result<Samples, &'static str> {
    let [red, green, blue] = [0, 4, 8].map(|at| u32_of(masks, at));
    let alpha = if masks.len() < 16 { 0 } else { u32_of(masks, 12) };
    Ok(match (bits, [red, green, blue], alpha) {
        (16, [0xF800, 0x7E0, 0x1F], _) => Samples::Rgb565,
        (16, [0x7C00, 0x3E0, 0x1F], _) => Samples::Rgb555,
        (24, [0xFF_0000, 0xFF00, 0xFF], _) => Samples::Bytes(3, [2, 1, 0]),
        (32, [0xFF_0000, 0xFF00, 0xFF], 0 | 0xFF00_0000) | (32, [0, 0, 0], 0) => {
            Samples::Bytes(4, [2, 1, 0])
        }
        (32, [0xFF00_0000, 0xFF_0000, 0xFF00], 0 | 0xFF) => Samples::Bytes(4, [3, 2, 1]),
        (32, [0xFF00_0000, 0xFF00, 0xFF], 0 | 0xFF_0000) => Samples::Bytes(4, [3, 1, 0]),
        (32, [0xFF, 0xFF00, 0xFF_0000], 0xFF00_0000) => Samples::Bytes(4, [0, 1, 2]),
        _ => return Err("the masks of the colors are unknown"),
    })
}

/// The samples of an image whose palette is gray: its colors are black and white, or each is its own
/// index. Pillow then takes the samples of the former for bits and of the latter for bytes, whatever
/// their number of bits.
fn gray_by(palette: &[u8], info: &Info) -> Option<Samples> {
    let two = info.colors == 2;
    let color = |index: usize| if two { [0, 255][index] } else { index.to_le_bytes()[0] };
    let gray = (0..info.colors as usize).all(|index| {
        let stored = palette.get(index * info.entry..).and_then(<[u8]>::first_chunk);
        stored == Some(&[color(index); 3])
    });
    gray.then_some(if two { Samples::Bits } else { Samples::Gray })
}

impl Image<'_> {
    fn rgb(&self) -> Result<Vec<u8>, &'static str> {
        const TRUNCATED: &str = "the image data is truncated";
        let (height, width) = (self.size.height as usize, self.size.width as usize);
        let data = self.bytes.get(self.start..).ok_or(TRUNCATED)?;
        let expanded;
        let (data, samples, stride) = match self.rle4 {
            None => (data, self.samples, usize::try_from(self.stride).map_err(|_e| TRUNCATED)?),
            Some(rle4) => {
                expanded = rle::expand(self.bytes, self.start, self.size, rle4)?;
                let samples =
                    if self.samples == Samples::Gray { Samples::Gray } else { Samples::Indices(8) };
                (&expanded[..], samples, width)
            }
        };
        let row_bytes = match samples {
            Samples::Indices(bits) => (width * usize::from(bits)).div_ceil(8),
            Samples::Bits => width.div_ceil(8),
            Samples::Gray => width,
            Samples::Rgb555 | Samples::Rgb565 => width * 2,
            Samples::Bytes(bytes, _) => width * usize::from(bytes),
        };
        if row_bytes > stride {
            return Err("a row is longer than the distance of rows");
        }
        // The last row needs no padding.
        if data.len() < (height - 1) * stride + row_bytes {
            return Err(TRUNCATED);
        }
        let mut pixels = vec![0; self.size.rgb_bytes()];
        for (y, row) in data.chunks(stride).take(height).enumerate() {
            let y = if self.top_down { y } else { height - 1 - y };
            let out = &mut pixels[y * width * 3..][..width * 3];
            self.convert(samples, &row[..row_bytes], out.as_chunks_mut().0);
        }
        Ok(pixels)
    }

    /// Converts the pixels of a row.
    fn convert(&self, samples: Samples, row: &[u8], out: &mut [[u8; 3]]) {
        let short = |bytes: &[u8; 2]| u32::from(u16::from_le_bytes(*bytes));
        let scaled =
            |value: u32, max: u32| u8::try_from((value & max) * 255 / max).expect("at most 255");
        let shorts = row.as_chunks().0.iter().map(short).zip(&mut *out);
        match samples {
            Samples::Indices(bits) => {
                for (x, out) in out.iter_mut().enumerate() {
                    let at = x * usize::from(bits);
                    let byte = u16::from(row[at / 8]) << (at % 8);
                    let index = usize::from(byte.to_le_bytes()[0] >> (8 - bits));
                    let stored = self.palette.get(index * self.entry..(index + 1) * self.entry);
                    *out = stored.map_or([0; 3], |color| [color[2], color[1], color[0]]);
                }
            }
            Samples::Bits => {
                for (x, out) in out.iter_mut().enumerate() {
                    *out = [if row[x / 8] << (x % 8) & 128 == 0 { 0 } else { 255 }; 3];
                }
            }
            Samples::Gray => row.iter().zip(out).for_each(|(gray, out)| *out = [*gray; 3]),
            Samples::Rgb555 => {
                shorts.for_each(|(v, out)| *out = [v >> 10, v >> 5, v].map(|v| scaled(v, 31)));
            }
            Samples::Rgb565 => shorts.for_each(|(v, out)| {
                *out = [scaled(v >> 11, 31), scaled(v >> 5, 63), scaled(v, 31)];
            }),
            Samples::Bytes(bytes, places) => {
                for (pixel, out) in row.chunks_exact(bytes.into()).zip(out) {
                    *out = places.map(|place| pixel[usize::from(place)]);
                }
            }
        }
    }
}
