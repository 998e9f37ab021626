//! Raw pixels without a header: all of red, then of green, then of blue, a byte each. Their size is known
//! from elsewhere.

use super::error::DecodeError;
use super::format::{Color, Format, Header};
use crate::geometry::Size;

/// The header that such an image would have.
pub(super) const fn header(size: Size) -> Header {
    Header { format: Format::Planar, size, color: Color::Rgb, progressive: false }
}

/// Interleaves the pixels.
///
/// # Errors
/// When there are not as many bytes as the size needs.
pub(super) fn decode(bytes: &[u8], size: Size) -> Result<Vec<u8>, DecodeError> {
    if bytes.len() != size.rgb_bytes() || bytes.is_empty() {
        let reason = format!(
            "{} bytes, and an image of {}x{} has {}",
            bytes.len(),
            size.width,
            size.height,
            size.rgb_bytes()
        );
        return Err(DecodeError::Malformed { format: Format::Planar, reason });
    }
    let (red, rest) = bytes.split_at(bytes.len() / 3);
    let (green, blue) = rest.split_at(red.len());
    let pixels = red.iter().zip(green).zip(blue);
    Ok(pixels.flat_map(|((&red, &green), &blue)| [red, green, blue]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_are_interleaved_and_must_be_complete() {
        let size = Size { height: 1, width: 2 };
        assert_eq!(decode(&[1, 2, 3, 4, 5, 6], size).unwrap(), [1, 3, 5, 2, 4, 6]);
        let refused = decode(&[1, 2, 3], size).unwrap_err().to_string();
        assert_eq!(refused, "raw RGB data: 3 bytes, and an image of 2x1 has 6");
    }
}
