//! Errors of decoding a record.

use super::format::{Format, PIXEL_LIMIT};
use super::jpeg::JpegError;
use crate::geometry::{Rect, Size};

/// The reason why the bytes of a record are not an image that can be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes start with the signature of no known format.
    #[error("not an image of a known format (JPEG, PNG, WebP, GIF, BMP, PNM, TIFF)")]
    Unidentified,
    /// The bytes are of a format that Pillow decodes and forebay does not.
    #[error("{0} is not supported: convert the image to JPEG, PNG or WebP")]
    OtherFormat(&'static str),
    /// The image has more pixels than the limit.
    #[error(
        "the image of {}x{} has {} pixels, and the limit is {limit}",
        .size.width, .size.height, u64::from(.size.width) * u64::from(.size.height)
    )]
    TooLarge {
        /// The size in the header.
        size: Size,
        /// The maximum number of pixels.
        limit: u64,
    },
    /// The decoder of a format other than JPEG refuses the data.
    #[error("{} data: {reason}", .format.name())]
    Malformed {
        /// The format.
        format: Format,
        /// The error of the decoder.
        reason: String,
    },
    /// Pillow may decode the file, but forebay does not decode this kind.
    #[error("{} with {what} is not supported", .format.name())]
    Unsupported {
        /// The format.
        format: Format,
        /// The unsupported feature.
        what: &'static str,
    },
    /// The JPEG decoder refuses the data.
    #[error(transparent)]
    Jpeg(JpegError),
    /// The requested box is not inside the image.
    #[error("box {rect:?} is not inside an image of {}x{}", .size.width, .size.height)]
    Outside {
        /// The box.
        rect: Rect,
        /// The size of the image.
        size: Size,
    },
}

impl From<JpegError> for DecodeError {
    fn from(error: JpegError) -> Self {
        match error {
            JpegError::TooLarge { size } => Self::TooLarge { size, limit: PIXEL_LIMIT },
            JpegError::Outside { rect, size } => Self::Outside { rect, size },
            other => Self::Jpeg(other),
        }
    }
}
