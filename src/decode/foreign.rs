//! PNG, BMP, WebP and GIF, decoded by the `image` crate and converted as Pillow does.
//!
//! Third-party decoders run behind [`guarded`]: a panic in one of them makes one record bad and does
//! not end the process.

use std::any::Any;
use std::io::Cursor;
use std::panic::{UnwindSafe, catch_unwind};

use image::{ColorType, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader};

use super::error::DecodeError;
use super::format::{Color, Format, Header};
use crate::geometry::Size;

/// Runs a third-party decoder. A panic becomes an error.
///
/// # Errors
/// Those of the decoder, and [`DecodeError::Malformed`] where it panics.
pub(super) fn guarded<T>(
    format: Format,
    decode: impl FnOnce() -> Result<T, DecodeError> + UnwindSafe,
) -> Result<T, DecodeError> {
    catch_unwind(decode).unwrap_or_else(|panic| {
        let reason = format!("its decoder panicked: {}", message(&*panic));
        Err(DecodeError::Malformed { format, reason })
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref().copied()).unwrap_or("no message")
}

/// Reads the header.
///
/// # Errors
/// When the header is malformed, or the image is empty.
pub(super) fn probe(format: Format, bytes: &[u8]) -> Result<Header, DecodeError> {
    guarded(format, || {
        let decoder = open(format, bytes)?;
        let (width, height) = decoder.dimensions();
        if width == 0 || height == 0 {
            let reason = "the image is empty".to_owned();
            return Err(DecodeError::Malformed { format, reason });
        }
        let color = match decoder.color_type() {
            _ if has_palette(format, bytes) => Color::Palette,
            ColorType::L8 | ColorType::La8 | ColorType::L16 | ColorType::La16 => Color::Gray,
            _ => Color::Rgb,
        };
        Ok(Header { format, size: Size { height, width }, color, progressive: false })
    })
}

/// Decodes the whole image to RGB.
///
/// # Errors
/// When the decoder refuses the data.
pub(super) fn decode(bytes: &[u8], header: &Header) -> Result<Vec<u8>, DecodeError> {
    let format = header.format;
    guarded(format, || {
        let mut decoder = open(format, bytes)?;
        // A pixel takes 8 bytes at most, and a decoder keeps a few rows in addition to the image.
        let mut limits = image::Limits::default();
        limits.max_alloc = Some(header.size.rgb_bytes() as u64 * 8 + (64 << 20));
        let refused = |error| malformed(format, error);
        decoder.set_limits(limits).map_err(refused)?;
        Ok(rgb(DynamicImage::from_decoder(decoder).map_err(refused)?))
    })
}

/// Pillow's `convert('RGB')`: 16-bit colors keep their high byte, but 16-bit gray (mode I;16, which
/// holds plain numbers) is clipped at 255; alpha is dropped.
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

/// The decoder of a format, after the header.
fn open(format: Format, bytes: &[u8]) -> Result<impl ImageDecoder, DecodeError> {
    let named = match format {
        Format::Png => ImageFormat::Png,
        Format::Bmp => ImageFormat::Bmp,
        Format::WebP => ImageFormat::WebP,
        Format::Gif => ImageFormat::Gif,
        Format::Jpeg | Format::Pnm | Format::Tiff => {
            unreachable!("{} has its own decoder", format.name())
        }
    };
    let reader = ImageReader::with_format(Cursor::new(bytes), named);
    reader.into_decoder().map_err(|error| malformed(format, error))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn malformed(format: Format, error: ImageError) -> DecodeError {
    DecodeError::Malformed { format, reason: error.to_string() }
}

/// Whether pixels are indices into a palette, which a PNG states in its IHDR.
fn has_palette(format: Format, bytes: &[u8]) -> bool {
    format == Format::Gif || (format == Format::Png && bytes.get(25) == Some(&3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_a_decoder_makes_the_record_bad() {
        for panicking in [|| panic!("index out of bounds"), || panic!("index {}", "out of bounds")]
        {
            let error = guarded::<()>(Format::Png, panicking).unwrap_err().to_string();
            assert_eq!(error, "PNG data: its decoder panicked: index out of bounds");
        }
    }
}
