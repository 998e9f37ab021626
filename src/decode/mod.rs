//! From the bytes of a record to the pixels of a box, as `Image.open(f).convert('RGB')` of Pillow
//! gives them: the format is sniffed from the content, EXIF orientation is not applied, ICC
//! profiles are ignored, gray is R = G = B, CMYK goes through Pillow's naive formula, alpha is
//! dropped.
//!
//! Whether an image is good is decided once, when it is indexed ([`verify`]), by the rules of Pillow
//! and libjpeg-turbo: those files that Pillow opens are good, and damage that libjpeg decodes over is
//! tolerated. Serving ([`Decoder::decode`]) trusts that verdict and only must not fall over.
//!
//! What a header claims costs nothing. A JPEG takes memory for the box that is asked for, or in several
//! scans up to 1 KiB for each byte of the file, and visits each of its blocks at most 200 times; its
//! entry points, a few bytes for 8 MCUs. Other formats are decoded whole, up to the limit in pixels.

mod huffman;
pub mod jpeg;
mod markers;
mod other;
#[cfg(test)]
mod tests;
mod verdict;
mod zune;

use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use crate::geometry::{Rect, Size, View};
use crate::simd::Simd;
pub use jpeg::JpegError;

/// Pillow refuses images of more pixels, as probable decompression bombs
/// (`2 * Image.MAX_IMAGE_PIXELS`).
pub const PIXEL_LIMIT: u64 = 2 * 89_478_485;

/// MCUs from one entry point to the next: by measurement, the fewest that keep the entry points of
/// photographs below 4 % of their bytes.
const ENTRY_EVERY: NonZeroU16 = NonZeroU16::new(8).expect("8 is not 0");

/// How an image is stored. Found in its first bytes, never in its name.
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
}

impl Format {
    /// The format by its signature, as the `_accept` functions of Pillow's plugins.
    pub fn sniff(bytes: &[u8]) -> Option<Self> {
        Some(match bytes {
            [0xFF, 0xD8, 0xFF, ..] => Self::Jpeg,
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Self::Png,
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Self::WebP,
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Self::Gif,
            [b'B', b'M', ..] => Self::Bmp,
            _ => return None,
        })
    }

    /// The name that people use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::Bmp => "BMP",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
        }
    }
}

/// What the components of a stored image mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Color {
    /// One component.
    Gray,
    /// Red, green, blue, as they are.
    Rgb,
    /// Luma and two chroma components.
    YCbCr,
    /// Four inks, inverted as Adobe stores them; Pillow presumes that of every file.
    Cmyk,
    /// CMYK whose C, M, Y are coded as YCbCr.
    Ycck,
    /// Colours by a palette.
    Palette,
}

/// What the header of an image says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// How it is stored.
    pub format: Format,
    /// Height and width.
    pub size: Size,
    /// What its components mean.
    pub color: Color,
    /// Whether it is a progressive JPEG.
    pub progressive: bool,
}

/// Why the bytes of a record are not an image that can be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// No format that is known starts like this.
    #[error("not an image of a known format (JPEG, PNG, WebP, GIF, BMP)")]
    Unidentified,
    /// The data ends before the image does.
    #[error("truncated: the data ends at byte {at}, inside {part}")]
    Truncated {
        /// Which part is cut.
        part: &'static str,
        /// Where the data ends.
        at: usize,
    },
    /// The image is malformed, and Pillow refuses it too.
    #[error("broken at byte {at}: {what}")]
    Broken {
        /// What is wrong.
        what: &'static str,
        /// Where.
        at: usize,
    },
    /// More pixels than the limit.
    #[error(
        "{}x{} is {} pixels and the limit is {limit}",
        .size.width, .size.height, u64::from(.size.width) * u64::from(.size.height)
    )]
    TooLarge {
        /// The size that the header claims.
        size: Size,
        /// Most pixels that are decoded.
        limit: u64,
    },
    /// Pillow may well decode it, but this decoder does not.
    #[error("no decoder here for it, though Pillow may have one: {reason}")]
    Unsupported {
        /// What the decoder said.
        reason: String,
    },
    /// The decoder of a format other than JPEG refuses it.
    #[error("{} data: {reason}", .format.name())]
    Malformed {
        /// The format.
        format: Format,
        /// What the decoder said.
        reason: String,
    },
    /// A JPEG that forebay's own decoder refuses.
    #[error(transparent)]
    Jpeg(JpegError),
    /// The box lies outside of the image.
    #[error("box {rect:?} is not inside an image of {}x{}", .size.width, .size.height)]
    Outside {
        /// The box.
        rect: Rect,
        /// The image.
        size: Size,
    },
}

/// Reads the header alone: the size, and how the image is coded. Allocates nothing that grows with
/// the size that the header claims.
pub fn probe(bytes: &[u8]) -> Result<Header, DecodeError> {
    match Format::sniff(bytes).ok_or(DecodeError::Unidentified)? {
        Format::Jpeg => markers::probe(bytes),
        format => other::probe(format, bytes),
    }
}

/// Pillow's verdict on the whole file: an error where `Image.open(f).convert('RGB')` raises one, or
/// where it would not but `decoder` has no way to decode the file.
///
/// Gives the entry points of a JPEG that has them, for [`Decoder::decode`]; else nothing.
pub fn verify(bytes: &[u8], decoder: &mut Decoder) -> Result<(Header, Vec<u8>), DecodeError> {
    let sniffed = Format::sniff(bytes);
    if sniffed == Some(Format::Jpeg) {
        verdict::pillow(bytes, decoder.limit)?;
    }
    let header = probe(bytes)?;
    if sniffed == Some(Format::Jpeg)
        && let Some(image) = own(jpeg::parse(bytes))?
    {
        // Reads the whole file as decoding would, short of making pixels.
        match image.entry_points(ENTRY_EVERY, &mut decoder.jpeg) {
            // By the verdict, what follows the last bits may be no marker: then from the start.
            Err(JpegError::Truncated { .. }) => {}
            found => return Ok((header, found?)),
        }
    }
    decoder.decode(bytes, header.size.whole(), &[])?;
    Ok((header, Vec::new()))
}

impl From<JpegError> for DecodeError {
    fn from(error: JpegError) -> Self {
        match error {
            JpegError::TooLarge { size } => Self::TooLarge { size, limit: PIXEL_LIMIT },
            JpegError::Region { region: rect, size } => Self::Outside { rect, size },
            other => Self::Jpeg(other),
        }
    }
}

/// The image, if the file is of the sort that forebay's own decoder decodes.
fn own(parsed: Result<jpeg::Image<'_>, JpegError>) -> Result<Option<jpeg::Image<'_>>, DecodeError> {
    match parsed {
        Ok(image) => Ok(Some(image)),
        Err(JpegError::Unsupported { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Decodes images one after another, into buffers that it keeps. One for each worker.
#[derive(Debug)]
pub struct Decoder {
    limit: u64,
    pixels: Vec<u8>,
    /// Components of a JPEG whose colours are converted here.
    raw: Vec<u8>,
    jpeg: jpeg::Scratch,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new(Simd::detect(), PIXEL_LIMIT)
    }
}

impl Decoder {
    /// A decoder that refuses images of more than `limit` pixels before it allocates anything. The
    /// instruction set applies to JPEG.
    pub fn new(simd: Simd, limit: u64) -> Self {
        Self { limit, pixels: Vec::new(), raw: Vec::new(), jpeg: jpeg::Scratch::new(simd) }
    }

    /// Decodes at least the pixels inside `region`. The file's entry points, which may be empty,
    /// only make it faster.
    pub fn decode(
        &mut self,
        bytes: &[u8],
        region: Rect,
        entries: &[u8],
    ) -> Result<Region<'_>, DecodeError> {
        if Format::sniff(bytes) == Some(Format::Jpeg)
            && let Some(image) = own(jpeg::parse(bytes))?
        {
            check_size(image.size(), self.limit)?;
            let pixels = image.decode(region, Some(entries), &mut self.jpeg)?;
            return Ok(Region { pixels, top: region.top, left: region.left });
        }
        let header = probe(bytes)?;
        let size = header.size;
        check_size(size, self.limit)?;
        if !region.fits(size) {
            return Err(DecodeError::Outside { rect: region, size });
        }
        if header.format == Format::Jpeg {
            let pixels = grown(&mut self.pixels, size.rgb_bytes());
            zune::decode(bytes, &header, pixels, &mut self.raw)?;
        } else {
            other::decode(bytes, &header, self.limit, &mut self.pixels)?;
        }
        let pixels = View::new(&self.pixels[..size.rgb_bytes()], size);
        Ok(Region { pixels, top: 0, left: 0 })
    }
}

/// The first `len` bytes of a buffer that only ever grows.
fn grown(buffer: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    &mut buffer[..len]
}

/// Refuses sizes beyond the limit.
fn check_size(size: Size, limit: u64) -> Result<(), DecodeError> {
    if u64::from(size.height) * u64::from(size.width) > limit {
        return Err(DecodeError::TooLarge { size, limit });
    }
    Ok(())
}

/// Decoded pixels of a part of an image, which knows where in the image they lie.
#[derive(Clone, Copy, Debug)]
pub struct Region<'a> {
    /// The pixels.
    pub pixels: View<'a>,
    /// Row of the image that the first row of `pixels` is.
    pub top: u32,
    /// Column of the image that the first column of `pixels` is.
    pub left: u32,
}

impl<'a> Region<'a> {
    /// The pixels inside a box given in the coordinates of the image.
    ///
    /// # Panics
    /// When the box is not inside the region that was asked for.
    #[must_use]
    pub fn crop(&self, rect: Rect) -> View<'a> {
        let top = rect.top.checked_sub(self.top).expect("the box starts inside the region");
        let left = rect.left.checked_sub(self.left).expect("the box starts inside the region");
        self.pixels.crop(Rect { top, left, ..rect })
    }
}
