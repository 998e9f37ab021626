//! Decodes the bytes of a record to the pixels of a box, equal to `Image.open(f).convert('RGB')` of
//! Pillow: the format is recognized by the content, EXIF orientation is not applied, ICC profiles
//! are ignored, gray becomes R = G = B, CMYK goes through Pillow's naive formula, alpha is dropped.
//!
//! ```text
//!   format     the signature of a format; the header that `probe` returns
//!   jpeg/      header, entropy decoding, entry points, pixels of a box: all JPEG files
//!   png/       PNG
//!   gif/       GIF: the first frame
//!   bmp/       bitmaps of Windows and OS/2
//!   webp/      WebP: the first frame; its pixels by the `image-webp` crate
//!   pnm        PBM, PGM and PPM
//!   tiff       the common kinds of TIFF, by the `tiff` crate
//!   planar     raw planes of pixels, whose size the index knows
//!   input      reading the bytes of a file in order
//!   guard      the boundary that no panic of a decoder crosses
//!   decoder    `probe`, `verify` and `Decoder`: one call for all formats
//! ```
//!
//! Whether an image is good is decided once, when it is indexed ([`verify`]), by the rules of Pillow
//! and libjpeg-turbo: a file that Pillow opens is good, and so is damage that libjpeg tolerates.
//! Serving ([`Decoder::decode`]) relies on that verdict for its pixels, but never for its safety: any
//! bytes result in pixels or in an error.
//!
//! A header cannot make the decoder allocate memory that the file does not justify. A JPEG takes
//! memory for the requested box, or, where its coefficients are stored in several scans, up to 1 KiB
//! for each byte of the file, and visits each block at most 200 times; its entry points take a few
//! bytes per 8 MCUs. Other formats are decoded whole, up to the limit in pixels.

mod bmp;
mod decoder;
mod error;
mod format;
mod gif;
mod guard;
mod input;
pub mod jpeg;
mod planar;
mod png;
mod pnm;
#[cfg(test)]
mod tests;
mod tiff;
mod webp;

pub use decoder::{Decoder, Region, probe, scratch_bytes, verify, verify_planar};
pub use error::DecodeError;
pub use format::{Color, Format, Header, PIXEL_LIMIT};
pub use jpeg::JpegError;
