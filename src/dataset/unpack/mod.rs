//! Records inside compressed ranges of a shard.
//!
//! A record that is stored as it is costs a read of its own bytes. One that is not has a [`Packed`] in the
//! index, so that what must be read is known before it is read:
//!
//! ```text
//!   Snappy      from a byte of a literal to the record's end: the record's own bytes and, where copies
//!               look back, a few before it
//!   gzip, zstd  the whole page that holds the record; the last page is kept for the next record
//! ```
//!
//! Decompressed bytes are compared with the record's checksum, so a wrong entry is noticed.

pub(super) mod snappy;

use std::io::Read as _;

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::FrameDecoder;

use crate::scratch::fit;
use crate::store::{MAX_RECORD, StoreError};

/// Most bytes that are decompressed for a record: the largest page.
pub(super) const MAX_PAGE: usize = MAX_RECORD as usize;

/// What a decoder of Zstandard has for tables and blocks.
const DECODER: usize = 1 << 20;

/// How the range that holds a record is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    /// Elements of Snappy, behind `literal` bytes of a literal.
    Snappy { literal: u32 },
    /// A gzip stream of `page` bytes.
    Gzip { page: u32 },
    /// Frames of Zstandard of `page` bytes.
    Zstd { page: u32 },
}

/// The compressed range that holds a record, which begins at the record's offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    pub(super) codec: Codec,
    /// Bytes of the range.
    pub(super) stored: u32,
    /// Decompressed bytes before the record.
    pub(super) skip: u32,
}

impl Packed {
    /// Bytes that are decompressed for a record of a length.
    pub(super) const fn unpacked(self, length: u32) -> usize {
        match self.codec {
            Codec::Snappy { .. } => self.skip as usize + length as usize,
            Codec::Gzip { page } | Codec::Zstd { page } => page as usize,
        }
    }

    /// The most memory that reading a record of a length takes. A decoder of Zstandard has the part of a page that
    /// copies may look back to once more.
    pub(super) const fn memory(self, length: u32) -> usize {
        let unpacked = self.unpacked(length);
        let decoder = if matches!(self.codec, Codec::Zstd { .. }) { unpacked + DECODER } else { 0 };
        self.stored as usize + unpacked + decoder
    }
}

/// Identifies a page: the dataset, the shard and the offset.
type PageKey = (u64, u32, u64);

/// Reads packed records for one thread.
#[derive(Debug, Default)]
pub(crate) struct Unpacker {
    stored: Vec<u8>,
    /// The last page that was decompressed as a whole.
    page: Vec<u8>,
    key: Option<PageKey>,
}

/// A packed record of a dataset.
#[derive(Clone, Copy, Debug)]
pub(super) struct PackedRecord {
    /// A number that only this dataset has.
    pub(super) dataset: u64,
    pub(super) shard: u32,
    /// Where its range begins in the shard.
    pub(super) offset: u64,
    pub(super) length: u32,
    pub(super) packed: Packed,
}

impl Unpacker {
    /// Bytes that it holds.
    pub(crate) const fn held_bytes(&self) -> usize {
        self.stored.capacity() + self.page.capacity()
    }

    /// Reads a record, and compares it by `is_right`. `read_range` reads its range from a store, and lets a
    /// function check the bytes: a store may have others of them.
    ///
    /// # Errors
    /// When the range cannot be read, or does not hold the record.
    pub(super) fn read(
        &mut self,
        record: PackedRecord,
        buffer: &mut Vec<u8>,
        read_range: impl FnOnce(&mut Vec<u8>, &mut dyn FnMut(&[u8]) -> bool) -> Result<(), StoreError>,
        is_right: impl Fn(&[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let Self { stored, page, key } = self;
        let PackedRecord { dataset, shard, offset, length, packed } = record;
        let new_key = Some((dataset, shard, offset));
        if *key == new_key && cut(page, packed.skip, length, buffer) && is_right(buffer) {
            return Ok(());
        }
        read_range(stored, &mut |stored: &[u8]| {
            let unpacked = match packed.codec {
                Codec::Snappy { literal } => {
                    let end = packed.unpacked(length);
                    let expanded = snappy::expand(stored, literal as usize, end, buffer);
                    expanded.map(|()| drop(buffer.drain(..packed.skip as usize))).is_some()
                }
                Codec::Gzip { .. } | Codec::Zstd { .. } => {
                    *key = None;
                    let whole = decompress(packed.codec, stored, page).is_some();
                    *key = new_key.filter(|_| whole);
                    whole && cut(page, packed.skip, length, buffer)
                }
            };
            unpacked && is_right(buffer)
        })
    }
}

/// Copies a part of a page; false if the page does not have it.
fn cut(page: &[u8], skip: u32, length: u32, buffer: &mut Vec<u8>) -> bool {
    let start = skip as usize;
    let part = page.get(start..start + length as usize);
    buffer.clear();
    buffer.extend_from_slice(part.unwrap_or_default());
    part.is_some()
}

/// Decompresses a page of gzip or Zstandard; `None` if it does not have the length that it should.
pub(super) fn decompress(codec: Codec, stored: &[u8], page: &mut Vec<u8>) -> Option<()> {
    match codec {
        Codec::Snappy { .. } => snappy::decompress(stored, page, |_element| {}),
        Codec::Gzip { page: length } => {
            fit(page, length as usize, 0);
            let mut stream = MultiGzDecoder::new(stored);
            stream.read_exact(page).ok()?;
            (stream.read(&mut [0]).ok()? == 0).then_some(())
        }
        Codec::Zstd { page: length } => {
            fit(page, length as usize, 0);
            let written = FrameDecoder::new().decode_all(stored, page).ok()?;
            (written == page.len()).then_some(())
        }
    }
}
