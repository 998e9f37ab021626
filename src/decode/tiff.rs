//! TIFF, by the `tiff` crate, for those kinds of files whose pixels are equal to Pillow's: gray of 1, 8
//! and 16 bits, RGB and RGBA of 8 and 16 bits, CMYK of 8 bits; in strips or tiles, not compressed or by
//! LZW, Deflate or `PackBits`. All other kinds are refused.

use std::io::Cursor;

use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::Tag;
use tiff::{ColorType, TiffError};

use super::error::DecodeError;
use super::foreign::guarded;
use super::format::{Color, Format, Header};
use crate::geometry::Size;

/// The compression schemes that lose nothing: none, LZW, Deflate by its two numbers, `PackBits`.
const LOSSLESS: [u16; 5] = [1, 5, 8, 32_946, 32_773];

/// A file after its header.
struct Image<'a> {
    decoder: Decoder<Cursor<&'a [u8]>>,
    size: Size,
    color: ColorType,
}

/// Reads the header.
///
/// # Errors
/// When it is malformed, or the file is of a kind that is not decoded here.
pub(super) fn probe(bytes: &[u8]) -> Result<Header, DecodeError> {
    guarded(Format::Tiff, || {
        let image = open(bytes)?;
        let color = match image.color {
            ColorType::Gray(_) => Color::Gray,
            ColorType::CMYK(_) => Color::Cmyk,
            _ => Color::Rgb,
        };
        Ok(Header { format: Format::Tiff, size: image.size, color, progressive: false })
    })
}

/// Decodes the whole image to RGB.
///
/// # Errors
/// As [`probe`], and when the data is truncated or malformed.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    guarded(Format::Tiff, || open(bytes)?.rgb())
}

fn open(bytes: &[u8]) -> Result<Image<'_>, DecodeError> {
    let mut decoder = Decoder::new(Cursor::new(bytes)).map_err(malformed)?;
    let (width, height) = decoder.dimensions().map_err(malformed)?;
    let mut tag = |tag: Tag, default: u16| {
        decoder
            .find_tag_unsigned::<u16>(tag)
            .map(|value| value.unwrap_or(default))
            .map_err(malformed)
    };
    let (compression, predictor) = (tag(Tag::Compression, 1)?, tag(Tag::Predictor, 1)?);
    let photometric = tag(Tag::PhotometricInterpretation, 0)?;
    if width == 0 || height == 0 {
        return Err(unsupported("no pixels"));
    }
    if !LOSSLESS.contains(&compression) {
        return Err(unsupported("this compression"));
    }
    if predictor > 2 || (predictor != 1 && (compression == 1 || compression == 32_773)) {
        return Err(unsupported("this predictor"));
    }
    if tag(Tag::PlanarConfiguration, 1)? != 1 {
        return Err(unsupported("separate planes"));
    }
    if tag(Tag::FillOrder, 1)? != 1 {
        return Err(unsupported("reversed bits"));
    }
    if tag(Tag::Orientation, 1)? != 1 {
        return Err(unsupported("an orientation"));
    }
    let formats = decoder.find_tag_unsigned_vec::<u16>(Tag::SampleFormat).map_err(malformed)?;
    if formats.is_some_and(|formats| formats.iter().any(|&format| format != 1)) {
        return Err(unsupported("signed or float samples"));
    }
    let color = decoder.colortype().map_err(malformed)?;
    let extra = decoder.find_tag_unsigned_vec::<u16>(Tag::ExtraSamples).map_err(malformed)?;
    match (color, &extra.unwrap_or_default()[..]) {
        (_, []) | (ColorType::RGBA(_), [0 | 2]) => {}
        (ColorType::RGBA(_), [1]) => return Err(unsupported("premultiplied alpha")),
        _ => return Err(unsupported("these extra samples")),
    }
    match (color, photometric) {
        (ColorType::Gray(1 | 8), 0 | 1)
        | (ColorType::Gray(16), 1)
        | (ColorType::RGB(8 | 16) | ColorType::RGBA(8 | 16), 2)
        | (ColorType::CMYK(8), 5) => {}
        _ => return Err(unsupported("this kind of samples")),
    }
    Ok(Image { decoder, size: Size { height, width }, color })
}

impl Image<'_> {
    fn rgb(mut self) -> Result<Vec<u8>, DecodeError> {
        let bytes = self.size.rgb_bytes() / 3 * 8;
        let mut limits = Limits::default();
        limits.decoding_buffer_size = bytes;
        limits.intermediate_buffer_size = bytes + (64 << 20);
        self.decoder = self.decoder.with_limits(limits);
        let samples = self.decoder.read_image().map_err(malformed)?;
        let width = self.size.width as usize;
        let rgb: Vec<u8> = match (self.color, samples) {
            (ColorType::Gray(1), DecodingResult::U8(packed)) => {
                let rows = packed.chunks_exact(width.div_ceil(8));
                let bit = |row: &[u8], x: usize| row[x / 8] >> (7 - x % 8) & 1;
                rows.flat_map(|row| (0..width).flat_map(move |x| [bit(row, x) * 255; 3])).collect()
            }
            (ColorType::Gray(8), DecodingResult::U8(gray)) => {
                gray.into_iter().flat_map(|gray| [gray; 3]).collect()
            }
            // Mode I;16 holds plain numbers, which `convert('RGB')` clips.
            (ColorType::Gray(16), DecodingResult::U16(gray)) => {
                gray.into_iter().flat_map(|gray| [u8::try_from(gray).unwrap_or(255); 3]).collect()
            }
            (ColorType::RGB(8), DecodingResult::U8(rgb)) => rgb,
            (ColorType::RGB(16), DecodingResult::U16(rgb)) => {
                rgb.into_iter().map(|value| value.to_be_bytes()[0]).collect()
            }
            (ColorType::RGBA(8), DecodingResult::U8(rgba)) => {
                rgba.as_chunks().0.iter().flat_map(|&[r, g, b, _]| [r, g, b]).collect()
            }
            (ColorType::RGBA(16), DecodingResult::U16(rgba)) => {
                let pixels = rgba.as_chunks().0.iter();
                pixels
                    .flat_map(|&[r, g, b, _]| [r, g, b].map(|v: u16| v.to_be_bytes()[0]))
                    .collect()
            }
            (ColorType::CMYK(8), DecodingResult::U8(inks)) => {
                inks.as_chunks().0.iter().flat_map(|&inks| rgb_of(inks)).collect()
            }
            _ => return Err(unsupported("this kind of samples")),
        };
        if rgb.len() != self.size.rgb_bytes() {
            return Err(unsupported("this number of samples"));
        }
        Ok(rgb)
    }
}

/// Pillow's conversion of inks that are not inverted (`cmyk2rgb` in Convert.c).
fn rgb_of([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let light = 255 - k;
    [c, m, y].map(|ink| {
        let product = u32::from(ink) * u32::from(light) + 128;
        light - u8::try_from(((product >> 8) + product) >> 8).expect("at most the light")
    })
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn malformed(error: TiffError) -> DecodeError {
    DecodeError::Malformed { format: Format::Tiff, reason: error.to_string() }
}

const fn unsupported(what: &'static str) -> DecodeError {
    DecodeError::Unsupported { format: Format::Tiff, what }
}
