//! The decoder of a worker, and the checks of a record at index time.

use std::num::NonZeroU16;

use super::error::DecodeError;
use super::format::{Color, Format, Header, PIXEL_LIMIT};
use super::guard::guarded;
use super::{bmp, gif, jpeg, planar, png, pnm, tiff, webp};
use crate::geometry::{Rect, Size, View};
use crate::scratch::bytes_of;
use crate::simd::Simd;

/// MCUs from one entry point to the next: the smallest number that, as measured, keeps the entry
/// points of every photograph below 4 % of its bytes. Of ImageNet they take about 2 %.
const ENTRY_EVERY: NonZeroU16 = NonZeroU16::new(8).expect("8 is not 0");

/// Reads the header of an image: its size and how it is coded. Allocates nothing that grows with the
/// size in the header.
///
/// # Errors
/// [`DecodeError::Unidentified`] or [`DecodeError::OtherFormat`] if the format is not decoded;
/// [`DecodeError::Malformed`],
/// [`DecodeError::Unsupported`] or [`DecodeError::Jpeg`] if the header is truncated, malformed, or of a
/// kind that is not decoded.
pub fn probe(bytes: &[u8]) -> Result<Header, DecodeError> {
    let format = recognize(bytes)?;
    guarded(format, || match format {
        Format::Jpeg => Ok(jpeg::parse(bytes)?.header()),
        Format::Png => png::probe(bytes),
        Format::Bmp => bmp::probe(bytes),
        Format::WebP => webp::probe(bytes),
        Format::Gif => gif::probe(bytes),
        Format::Pnm => pnm::probe(bytes),
        Format::Tiff => tiff::probe(bytes),
        Format::Planar => Err(DecodeError::Unidentified),
    })
}

/// The header of an image without one, whose size is known.
///
/// # Errors
/// [`DecodeError::Malformed`] if it does not have as many bytes as its size needs.
pub fn verify_planar(bytes: &[u8], size: Size) -> Result<Header, DecodeError> {
    planar::decode(bytes, size)?;
    Ok(planar::header(size))
}

/// Checks the whole file, as Pillow does when it loads it. Returns the header, and the entry points
/// of the file for [`Decoder::decode`]: an empty vector if it has none, as all formats but JPEG.
///
/// # Errors
/// Where `Image.open(f).convert('RGB')` of Pillow raises an exception, and where forebay does not decode the kind of
/// file (docs/formats.md lists them).
pub fn verify(bytes: &[u8], decoder: &mut Decoder) -> Result<(Header, Vec<u8>), DecodeError> {
    if recognize(bytes)? == Format::Jpeg {
        let limit = decoder.limit;
        return decoder.jpeg.run(|workspace| {
            let image = jpeg::parse(bytes)?;
            check_size(image.size(), limit)?;
            let entries = image.entry_points(ENTRY_EVERY, workspace)?;
            Ok((image.header(), entries))
        });
    }
    let header = probe(bytes)?;
    decoder.decode(bytes, header.size.whole(), &[])?;
    match header.format {
        Format::WebP => guarded(Format::WebP, || webp::verify(bytes))?,
        Format::Tiff => guarded(Format::Tiff, || tiff::verify(bytes))?,
        _ => {}
    }
    Ok((header, Vec::new()))
}

/// The most memory that decoding an image takes, the file excluded. `in_scans` says that it may be a JPEG
/// whose coefficients must all be known before its pixels are made: one without entry points.
pub fn scratch_bytes(header: &Header, in_scans: bool) -> usize {
    /// Rows that decoders keep besides the pixels, in bytes for each column: the two MCU rows of a JPEG.
    const ROWS: usize = 512;
    /// Working memory that does not grow with the image.
    const FIXED: usize = 1 << 20;
    let Size { height, width } = header.size;
    let pixels = header.size.rgb_bytes() / 3;
    let bytes = match header.format {
        // Coefficients of 2 bytes, also of the blocks that complete the MCUs.
        Format::Jpeg if in_scans || header.progressive => {
            let components = match header.color {
                Color::Gray => 1,
                Color::Cmyk | Color::Ycck => 4,
                _ => 3,
            };
            let padding = 32 * (height as usize + width as usize + 32);
            3 * pixels + 2 * components * (pixels + padding)
        }
        Format::Jpeg | Format::Png | Format::Planar => 3 * pixels,
        // One byte for each index or gray value, twice that while they grow.
        Format::Bmp | Format::Gif | Format::Pnm => 5 * pixels,
        // 8 bytes of the crates' samples, as much again inside of them.
        Format::WebP | Format::Tiff => 19 * pixels,
    };
    bytes + ROWS * width as usize + FIXED
}

/// Decodes images one after another, into buffers that it reuses. Each worker has one.
#[derive(Debug)]
pub struct Decoder {
    limit: u64,
    pub(super) pixels: Vec<u8>,
    jpeg: JpegDecoder,
}

/// The memory of the JPEG decoder.
#[derive(Debug)]
struct JpegDecoder {
    simd: Simd,
    workspace: jpeg::Workspace,
    /// Whether the last image was decoded to its end. If not, a panic may have left `workspace` in any
    /// state.
    intact: bool,
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
        let jpeg = JpegDecoder { simd, workspace: jpeg::Workspace::new(simd), intact: true };
        Self { limit, pixels: Vec::new(), jpeg }
    }

    /// The bytes that it keeps for the next image.
    pub(crate) fn held_bytes(&self) -> usize {
        bytes_of(&self.pixels) + self.jpeg.workspace.held_bytes()
    }

    /// Decodes at least the pixels inside `rect`. The entry points of the file, which may be empty,
    /// change the speed and never the pixels.
    ///
    /// # Errors
    /// As [`probe`]; [`DecodeError::TooLarge`] if the image exceeds the limit, [`DecodeError::Outside`] if
    /// the box is not inside it, and [`DecodeError::Malformed`] or [`DecodeError::Jpeg`] if the data is
    /// malformed, ends early, or the entry points belong to an image of another size.
    pub fn decode(
        &mut self,
        bytes: &[u8],
        rect: Rect,
        entries: &[u8],
    ) -> Result<Region<'_>, DecodeError> {
        let format = recognize(bytes)?;
        if format == Format::Jpeg {
            let limit = self.limit;
            return self.jpeg.run(|workspace| {
                let image = jpeg::parse(bytes)?;
                check_size(image.size(), limit)?;
                let pixels = image.decode(rect, Some(entries), workspace)?;
                Ok(Region { pixels, top: rect.top, left: rect.left })
            });
        }
        let size = probe(bytes)?.size;
        check_size(size, self.limit)?;
        if !rect.fits(size) {
            return Err(DecodeError::Outside { rect, size });
        }
        self.pixels = Vec::new();
        self.pixels = guarded(format, || match format {
            Format::Jpeg => unreachable!("decoded above"),
            Format::Png => png::decode(bytes),
            Format::Bmp => bmp::decode(bytes),
            Format::WebP => webp::decode(bytes),
            Format::Gif => gif::decode(bytes),
            Format::Pnm => pnm::decode(bytes),
            Format::Tiff => tiff::decode(bytes),
            Format::Planar => Err(DecodeError::Unidentified),
        })?;
        let pixels = View::new(&self.pixels[..size.rgb_bytes()], size);
        Ok(Region { pixels, top: 0, left: 0 })
    }

    /// [`decode`](Self::decode) of an image that has no header if its size is given as `planar`.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn decode_stored(
        &mut self,
        bytes: &[u8],
        planar: Option<Size>,
        rect: Rect,
        entries: &[u8],
    ) -> Result<Region<'_>, DecodeError> {
        let Some(size) = planar else { return self.decode(bytes, rect, entries) };
        check_size(size, self.limit)?;
        if !rect.fits(size) {
            return Err(DecodeError::Outside { rect, size });
        }
        self.pixels = planar::decode(bytes, size)?;
        Ok(Region { pixels: View::new(&self.pixels, size), top: 0, left: 0 })
    }
}

impl JpegDecoder {
    fn run<'a, T>(
        &'a mut self,
        decode: impl FnOnce(&'a mut jpeg::Workspace) -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        if !self.intact {
            self.workspace = jpeg::Workspace::new(self.simd);
        }
        let result = guarded(Format::Jpeg, || decode(&mut self.workspace));
        self.intact = result.is_ok();
        result
    }
}

/// Recognizes the format of a file.
fn recognize(bytes: &[u8]) -> Result<Format, DecodeError> {
    if let Some(format) = Format::sniff(bytes) {
        return Ok(format);
    }
    Err(match bytes {
        [_, _, _, _, b'f', b't', b'y', b'p', b'a', b'v', b'i', b'f' | b's', ..] => {
            DecodeError::OtherFormat("AVIF")
        }
        [0xFF, 0x4F, 0xFF, 0x51, ..]
        | [0, 0, 0, 12, b'j', b'P', b' ', b' ', b'\r', b'\n', 0x87, b'\n', ..] => {
            DecodeError::OtherFormat("JPEG 2000")
        }
        [b'P', b'0' | b'f' | b'y', ..] => DecodeError::OtherFormat("PNM other than P1 to P6"),
        _ => DecodeError::Unidentified,
    })
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
