//! Errors of the JPEG decoder.

use crate::geometry::{Rect, Size};

/// The reason why a JPEG file, or a box of it, cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JpegError {
    /// Pillow decodes such files, but this decoder does not.
    #[error("JPEG data: {what} is not supported")]
    Unsupported {
        /// The unsupported feature.
        what: &'static str,
    },
    /// libjpeg or Pillow refuses the file.
    #[error("malformed JPEG data at byte {offset}: {what}")]
    Malformed {
        /// The fault.
        what: &'static str,
        /// The offset in the file at which it was noticed.
        offset: usize,
    },
    /// The file ends before its image does.
    #[error("truncated JPEG data: the file ends at byte {length}, before the end of its image")]
    Truncated {
        /// The length of the file.
        length: usize,
    },
    /// The frame header has more pixels than Pillow opens.
    #[error("the image of {}x{} pixels is too large", .size.width, .size.height)]
    TooLarge {
        /// The size in the frame header.
        size: Size,
    },
    /// The requested box is empty or not inside the image.
    #[error("box {rect:?} is not inside an image of {}x{}", .size.width, .size.height)]
    Outside {
        /// The box.
        rect: Rect,
        /// The size of the image.
        size: Size,
    },
    /// The scan has to be decoded by `decode::jpeg::exact`. Decoders handle this error themselves.
    #[error("JPEG data: several fill bytes inside of the data")]
    Fill,
    /// The entry points belong to another file.
    #[error("invalid entry points: {what}; run `forebay index` again")]
    EntryPoints {
        /// The fault.
        what: &'static str,
    },
}
