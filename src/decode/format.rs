//! Image formats, recognized by their first bytes, and the header that all formats share.

use serde::{Deserialize, Serialize};

use crate::geometry::Size;

/// Pillow refuses images of more pixels as probable decompression bombs
/// (`2 * Image.MAX_IMAGE_PIXELS`).
pub const PIXEL_LIMIT: u64 = 2 * 89_478_485;

/// The format of an image file. It is recognized by the content, never by the name of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JPEG, any process.
    Jpeg,
    /// PNG.
    Png,
    /// Windows bitmap.
    Bmp,
    /// WebP, lossy or lossless.
    WebP,
    /// GIF: its first frame.
    Gif,
    /// PBM, PGM or PPM.
    Pnm,
    /// TIFF: its first image.
    Tiff,
    /// Raw planes of red, green and blue. They have no signature, so that the index must say it.
    Planar,
}

impl Format {
    /// Recognizes the signature of a format, as the `_accept` functions of Pillow's plugins do.
    pub fn sniff(bytes: &[u8]) -> Option<Self> {
        Some(match bytes {
            [0xFF, 0xD8, 0xFF, ..] => Self::Jpeg,
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Self::Png,
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Self::WebP,
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Self::Gif,
            [b'B', b'M', ..] => Self::Bmp,
            // Also with the number in the other byte order.
            [b'I', b'I', 0x2A | 0x2B, 0, ..]
            | [b'I', b'I', 0, 0x2A, ..]
            | [b'M', b'M', 0, 0x2A | 0x2B, ..]
            | [b'M', b'M', 0x2A, 0, ..] => Self::Tiff,
            [b'P', b'1'..=b'6', b'\t'..=b'\r' | b' ', ..] => Self::Pnm,
            _ => return None,
        })
    }

    /// The usual name of the format.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::Bmp => "BMP",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Pnm => "PNM",
            Self::Tiff => "TIFF",
            Self::Planar => "raw RGB",
        }
    }
}

/// The color space in which an image is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Color {
    /// One component.
    Gray,
    /// Red, green, blue.
    Rgb,
    /// Luma and two chroma components.
    YCbCr,
    /// Four inks, stored inverted as Adobe does. Pillow assumes the inversion for every file.
    Cmyk,
    /// CMYK whose C, M, Y are coded as YCbCr.
    Ycck,
    /// Indices into a palette.
    Palette,
}

/// The header of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The format of the file.
    pub format: Format,
    /// Height and width.
    pub size: Size,
    /// The color space of the stored components.
    pub color: Color,
    /// Whether it is a progressive JPEG.
    pub progressive: bool,
}
