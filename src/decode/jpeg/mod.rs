//! forebay's own JPEG decoder: the pixels of a box, without the work that the box does not need.
//!
//! ```text
//!   reader, header             marker segments -> frame, tables, scans       T.81 annex B
//!     standard_tables          Huffman tables of files that define none      T.81 annex K
//!     restart                  markers in and behind entropy-coded data
//!   entry_points               the state of the decoder at an MCU near the box, from the index
//!   bits, huffman, scan        -> coefficients of the needed MCUs            T.81 annex F
//!     scan_tables, block       a scan's Huffman tables; the 64 coefficients of a block
//!     exact                    imitates libjpeg-turbo's bit buffer byte by byte, for damaged scans
//!     unterminated             whether data that ends without a marker holds a whole scan
//!   idct                       -> samples, bit-equal to libjpeg-turbo's islow
//!   region, upsample, color    -> pixels, bit-equal to its fancy upsampling
//!   coefficients, pass         images whose scans must all be read first     T.81 annex G
//!     progressive              their Huffman-coded scans
//!     arithmetic, qm_coder     their arithmetic-coded scans                  T.81 annex D
//!     smoothing                unfinished progressive images, bit-equal to libjpeg-turbo's
//!   image                      what the crate calls: header, entry points (which checks the file), pixels of a box
//! ```
//!
//! For every box of every file that is decoded, the result equals the same box of the whole image as Pillow decodes it,
//! damaged files included. Two kinds that Pillow opens are refused: lossless files, and those of more than 200 scans.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "samples and bit fields: the casts keep the relevant bits"
)]
#![expect(clippy::inline_always, reason = "loops that are compiled for several instruction sets")]

mod arithmetic;
mod bits;
mod block;
mod coefficients;
mod color;
mod entry_points;
mod error;
mod exact;
mod header;
mod huffman;
mod idct;
mod image;
mod pass;
mod pillow;
mod progressive;
mod qm_coder;
mod reader;
mod region;
mod restart;
mod scan;
mod scan_tables;
mod smoothing;
mod standard_tables;
#[cfg(test)]
mod test_file;
#[cfg(test)]
mod tests;
mod unterminated;
mod upsample;

pub use error::JpegError;
pub use image::{Image, Workspace, parse};
