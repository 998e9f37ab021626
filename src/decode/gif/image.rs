//! A GIF file up to the data of its first frame.

use crate::geometry::{Rect, Size};

/// A file up to the data of its first frame.
#[derive(Debug)]
pub(super) struct Image<'a> {
    pub(super) size: Size,
    pub(super) frame: Rect,
    /// The colors of the indices; `None` for gray.
    pub(super) palette: Option<&'a [u8]>,
    /// The index of what the frame does not cover.
    pub(super) background: u8,
    pub(super) interlaced: bool,
    /// Bits of an index.
    pub(super) bits: u8,
    /// The rest of the file.
    pub(super) data: &'a [u8],
}
