//! The decoder of a worker, and the checks of a record at index time.

use std::num::NonZeroU16;

use super::error::DecodeError;
use super::format::{Format, Header, PIXEL_LIMIT};
use super::{foreign, jpeg, pnm, tiff};
use crate::geometry::{Rect, Size, View};
use crate::simd::Simd;

/// MCUs from one entry point to the next: the smallest number that, as measured, keeps the entry
/// points of photographs below 4% of their bytes.
const ENTRY_EVERY: NonZeroU16 = NonZeroU16::new(8).expect("8 is not 0");

/// Reads the header of an image: its size and how it is coded. Allocates nothing that grows with the
/// size in the header.
///
/// # Errors
/// When the format is unknown, or the header is truncated or malformed.
pub fn probe(bytes: &[u8]) -> Result<Header, DecodeError> {
    match Format::sniff(bytes).ok_or(DecodeError::Unidentified)? {
        Format::Jpeg => Ok(jpeg::parse(bytes)?.header()),
        Format::Pnm => pnm::probe(bytes),
        Format::Tiff => tiff::probe(bytes),
        format @ (Format::Png | Format::Bmp | Format::WebP | Format::Gif) => {
            foreign::probe(format, bytes)
        }
    }
}

/// Checks the whole file, as Pillow does when it loads it. Returns the header, and the entry points
/// of a JPEG that has them, for [`Decoder::decode`]; otherwise no bytes.
///
/// # Errors
/// When `Image.open(f).convert('RGB')` raises an exception, or when `decoder` cannot decode the file.
pub fn verify(bytes: &[u8], decoder: &mut Decoder) -> Result<(Header, Vec<u8>), DecodeError> {
    if Format::sniff(bytes) == Some(Format::Jpeg) {
        let image = jpeg::parse(bytes)?;
        check_size(image.size(), decoder.limit)?;
        let entries = image.entry_points(ENTRY_EVERY, &mut decoder.jpeg)?;
        return Ok((image.header(), entries));
    }
    let header = probe(bytes)?;
    decoder.decode(bytes, header.size.whole(), &[])?;
    Ok((header, Vec::new()))
}

/// Decodes images one after another, into buffers that it reuses. Each worker has one.
#[derive(Debug)]
pub struct Decoder {
    limit: u64,
    pub(super) pixels: Vec<u8>,
    jpeg: jpeg::Workspace,
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
        Self { limit, pixels: Vec::new(), jpeg: jpeg::Workspace::new(simd) }
    }

    /// Decodes at least the pixels inside `rect`. The entry points of the file, which may be empty,
    /// change the speed and never the pixels.
    ///
    /// # Errors
    /// When the bytes are not an image, the image exceeds the limit, the box is not inside it, or
    /// the entry points belong to an image of another size.
    pub fn decode(
        &mut self,
        bytes: &[u8],
        rect: Rect,
        entries: &[u8],
    ) -> Result<Region<'_>, DecodeError> {
        if Format::sniff(bytes) == Some(Format::Jpeg) {
            let image = jpeg::parse(bytes)?;
            check_size(image.size(), self.limit)?;
            let pixels = image.decode(rect, Some(entries), &mut self.jpeg)?;
            return Ok(Region { pixels, top: rect.top, left: rect.left });
        }
        let header = probe(bytes)?;
        let size = header.size;
        check_size(size, self.limit)?;
        if !rect.fits(size) {
            return Err(DecodeError::Outside { rect, size });
        }
        self.pixels = match header.format {
            Format::Pnm => pnm::decode(bytes)?,
            Format::Tiff => tiff::decode(bytes)?,
            _ => foreign::decode(bytes, &header)?,
        };
        let pixels = View::new(&self.pixels[..size.rgb_bytes()], size);
        Ok(Region { pixels, top: 0, left: 0 })
    }
}

/// Refuses an image of more pixels than the limit.
fn check_size(size: Size, limit: u64) -> Result<(), DecodeError> {
    if size.whole().area() > limit {
        return Err(DecodeError::TooLarge { size, limit });
    }
    Ok(())
}

/// The decoded part of an image, and its position in the image.
#[derive(Clone, Copy, Debug)]
pub struct Region<'a> {
    /// The pixels.
    pub pixels: View<'a>,
    /// The image row of the first row of `pixels`.
    pub top: u32,
    /// The image column of the first column of `pixels`.
    pub left: u32,
}

impl<'a> Region<'a> {
    /// The pixels inside a box, in the coordinates of the image.
    ///
    /// # Panics
    /// When the box is not inside the region.
    #[must_use]
    pub fn crop(&self, rect: Rect) -> View<'a> {
        let top = rect.top.checked_sub(self.top).expect("the box starts inside the region");
        let left = rect.left.checked_sub(self.left).expect("the box starts inside the region");
        self.pixels.crop(Rect { top, left, ..rect })
    }
}
