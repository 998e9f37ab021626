//! PNG, as Pillow's `PngImagePlugin.py` and `ZipDecode.c` read it.
//!
//! Pillow is stricter than the format in some places and more tolerant in others. It checks the
//! checksum of every chunk before the image data and of none after it, needs no IEND, accepts image
//! data that ends before the last row (the rest is black), and refuses a wrong Adler-32 only where the
//! decompressor sees it. The image of an animated PNG is its first image data.

mod chunks;
mod filters;
mod mode;
mod rows;
mod text;

use self::chunks::Chunks;
use super::error::DecodeError;
use super::format::{Format, Header};

/// Reads the header.
///
/// # Errors
/// When Pillow refuses the file before it reads pixels.
pub(super) fn probe(bytes: &[u8]) -> Result<Header, DecodeError> {
    let image = Chunks::open(bytes).map_err(malformed)?;
    let color = image.mode.color();
    Ok(Header { format: Format::Png, size: image.size, color, progressive: false })
}

/// Decodes the whole image to RGB.
///
/// # Errors
/// When Pillow refuses the file.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    Chunks::open(bytes).and_then(rows::decode).map_err(malformed)
}

fn malformed(reason: String) -> DecodeError {
    DecodeError::Malformed { format: Format::Png, reason }
}
