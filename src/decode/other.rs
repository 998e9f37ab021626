//! Everything but JPEG, by the `image` crate, brought to what Pillow makes of it.

use std::io::Cursor;

use image::{ColorType, DynamicImage, ImageDecoder, ImageError, ImageReader};

use super::{Color, DecodeError, Format, Header, check_size};
use crate::geometry::Size;

/// Reads the header.
pub(super) fn probe(format: Format, bytes: &[u8]) -> Result<Header, DecodeError> {
    let decoder = open(format, bytes)?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        let reason = "the image is empty".to_owned();
        return Err(DecodeError::Malformed { format, reason });
    }
    let color = match decoder.color_type() {
        _ if palette(format, bytes) => Color::Palette,
        ColorType::L8 | ColorType::La8 | ColorType::L16 | ColorType::La16 => Color::Gray,
        _ => Color::Rgb,
    };
    Ok(Header { format, size: Size { height, width }, color, progressive: false })
}

/// Decodes into the front of `pixels`.
pub(super) fn decode(
    bytes: &[u8],
    header: &Header,
    limit: u64,
    pixels: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    check_size(header.size, limit)?;
    let mut decoder = open(header.format, bytes)?;
    let malformed = |error| malformed(header.format, error);
    // Eight bytes are the most that a pixel takes, and decoders keep a few rows beside them.
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(header.size.rgb_bytes() as u64 * 8 + (64 << 20));
    decoder.set_limits(limits).map_err(malformed)?;
    let image = DynamicImage::from_decoder(decoder).map_err(malformed)?;
    *pixels = rgb(image);
    Ok(())
}

/// Pillow's `convert('RGB')`: of 16-bit colours the high byte, but 16-bit gray is clipped at 255
/// (mode I;16 holds the plain numbers); alpha is dropped.
fn rgb(image: DynamicImage) -> Vec<u8> {
    let high = |value: u16| value.to_be_bytes()[0];
    match image {
        DynamicImage::ImageLuma16(gray) => {
            let clipped = gray.into_raw().into_iter().map(|v| u8::try_from(v).unwrap_or(u8::MAX));
            clipped.flat_map(|v| [v; 3]).collect()
        }
        DynamicImage::ImageLumaA16(gray) => {
            gray.into_raw().as_chunks().0.iter().flat_map(|&[v, _]| [high(v); 3]).collect()
        }
        DynamicImage::ImageRgb16(color) => color.into_raw().into_iter().map(high).collect(),
        DynamicImage::ImageRgba16(color) => color
            .into_raw()
            .as_chunks()
            .0
            .iter()
            .flat_map(|&[r, g, b, _]| [r, g, b].map(high))
            .collect(),
        image => image.into_rgb8().into_raw(),
    }
}

/// The decoder of a format, with the header read.
fn open(format: Format, bytes: &[u8]) -> Result<impl ImageDecoder, DecodeError> {
    let named = match format {
        Format::Jpeg => image::ImageFormat::Jpeg,
        Format::Png => image::ImageFormat::Png,
        Format::Bmp => image::ImageFormat::Bmp,
        Format::WebP => image::ImageFormat::WebP,
        Format::Gif => image::ImageFormat::Gif,
    };
    let reader = ImageReader::with_format(Cursor::new(bytes), named);
    reader.into_decoder().map_err(|error| malformed(format, error))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn malformed(format: Format, error: ImageError) -> DecodeError {
    DecodeError::Malformed { format, reason: error.to_string() }
}

/// Whether colours are stored as numbers of a palette (a PNG says so in its IHDR).
fn palette(format: Format, bytes: &[u8]) -> bool {
    format == Format::Gif || (format == Format::Png && bytes.get(25) == Some(&3))
}
