//! Records inside compressed ranges of a shard.
//!
//! A record that is stored as it is costs a read of its own bytes. One that is not has a [`Packed`] in the
//! index, so that what must be read is known before it is read:
//!
//! ```text
//!   Snappy      from a byte of a literal to the record's end: the record's own bytes and, where copies
//!               look back, a few before it
//!   gzip        the whole page that holds the record; the last page is kept for the next record
//!   zstd        the page that holds the record, up to its end; the next record of the page goes on from there
//! ```
//!
//! Decompressed bytes are compared with the record's checksum, so a wrong entry is noticed.

pub(super) mod snappy;
mod zstd;

use std::io::Read as _;

use flate2::bufread::MultiGzDecoder;

use self::zstd::Stream;

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
    /// copies may look back to once more, in a ring of a power of two, and half of the ring while it grows.
    pub(super) const fn memory(self, length: u32) -> usize {
        let unpacked = self.unpacked(length);
        let decoder = if matches!(self.codec, Codec::Zstd { .. }) {
            let ring = (unpacked + DECODER).next_power_of_two();
            ring + ring / 2
        } else {
            0
        };
        self.stored as usize + unpacked + decoder
    }
}

/// Identifies a page: the dataset, the shard and the offset.
type PageKey = (u64, u32, u64);

/// Reads packed records for one thread.
#[derive(Debug, Default)]
pub(crate) struct Unpacker {
    stored: Vec<u8>,
    /// The last page that was decompressed.
    page: Vec<u8>,
    /// Where its decompression goes on, in the stored bytes, if it has not ended.
    rest: Option<Stream>,
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
        let decoder = if self.rest.is_some() { self.page.len() + DECODER } else { 0 };
        self.stored.capacity() + self.page.capacity() + decoder
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
        let Self { stored, page, rest, key } = self;
        let PackedRecord { dataset, shard, offset, length, packed } = record;
        let (new_key, end) =
            (Some((dataset, shard, offset)), packed.skip as usize + length as usize);
        if *key == new_key
            && go_on(rest, stored, page, end).is_some()
            && cut(page, packed.skip, length, buffer)
            && is_right(buffer)
        {
            return Ok(());
        }
        (*key, *rest) = (None, None);
        read_range(stored, &mut |stored: &[u8]| {
            let unpacked = match packed.codec {
                Codec::Snappy { literal } => {
                    let end = packed.unpacked(length);
                    let expanded = snappy::expand(stored, literal as usize, end, buffer);
                    expanded.map(|()| drop(buffer.drain(..packed.skip as usize))).is_some()
                }
                Codec::Gzip { .. } => {
                    let whole = decompress(packed.codec, stored, page).is_some();
                    *key = new_key.filter(|_| whole);
                    whole && cut(page, packed.skip, length, buffer)
                }
                Codec::Zstd { page: length_of_page } => {
                    fit(page, length_of_page as usize, 0);
                    *rest = Some(Stream::default());
                    let unpacked = go_on(rest, stored, page, end).is_some();
                    *key = new_key.filter(|_| unpacked);
                    unpacked && cut(page, packed.skip, length, buffer)
                }
            };
            unpacked && is_right(buffer)
        })
    }
}

/// Decompresses more of a page, if it has not as many bytes yet. What is left of it is none in the end, and after an
/// error.
fn go_on(rest: &mut Option<Stream>, stored: &[u8], page: &mut [u8], end: usize) -> Option<()> {
    let Some(mut stream) = rest.take() else { return Some(()) };
    stream.fill(stored, page, end)?;
    *rest = Some(stream).filter(|stream| stream.written() < page.len());
    Some(())
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
            zstd::decompress(stored, page)
        }
    }
}

#[cfg(test)]
mod tests {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    /// A page of records that differ, each of `LENGTH` bytes.
    const LENGTH: usize = 100_000;
    const RECORDS: usize = 40;

    fn page(seed: usize) -> Vec<u8> {
        let byte = |i: usize| ((i + seed).wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0];
        (0..LENGTH * RECORDS).map(byte).collect()
    }

    #[test]
    fn records_of_two_pages_are_read_in_any_order_with_few_reads() {
        let pages = [page(1), page(2)];
        let stored =
            pages.each_ref().map(|page| compress_to_vec(&page[..], CompressionLevel::Fastest));
        let (mut unpacker, mut buffer) = (Unpacker::default(), Vec::new());
        let mut reads = 0;
        let mut read = |page: usize, record: usize, is_damaged: bool| {
            let small = |length: usize| u32::try_from(length).unwrap();
            let packed = Packed {
                codec: Codec::Zstd { page: small(pages[page].len()) },
                stored: small(stored[page].len()),
                skip: small(record * LENGTH),
            };
            let (offset, length) = (page as u64, small(LENGTH));
            let of = PackedRecord { dataset: 0, shard: 0, offset, length, packed };
            let expected = &pages[page][record * LENGTH..][..LENGTH];
            let read_range = |bytes: &mut Vec<u8>, check: &mut dyn FnMut(&[u8]) -> bool| {
                reads += 1;
                bytes.clone_from(&stored[page]);
                if is_damaged {
                    bytes.truncate(1000);
                }
                if check(bytes) { Ok(()) } else { Err(StoreError::ChecksumMismatch) }
            };
            unpacker.read(of, &mut buffer, read_range, |bytes| bytes == expected).map(|()| reads)
        };
        // Records in order read their page once, and so do those before one that was read.
        for record in 0..RECORDS {
            assert_eq!(read(0, record, false).unwrap(), 1);
        }
        for record in [20, 3, 21, 39, 0] {
            assert_eq!(read(1, record, false).unwrap(), 2, "{record}");
        }
        assert_eq!(read(0, 7, false).unwrap(), 3);
        assert_eq!(read(1, 7, false).unwrap(), 4);
        // What cannot be decompressed is not kept.
        read(0, 30, true).unwrap_err();
        assert_eq!(read(0, 0, false).unwrap(), 6);
    }

    #[test]
    fn the_decoder_of_a_page_that_has_not_ended_counts_as_memory() {
        let page = page(1);
        let stored = compress_to_vec(&page[..], CompressionLevel::Fastest);
        let (mut unpacker, mut buffer) = (Unpacker::default(), Vec::new());
        let (length, stored_length) =
            (u32::try_from(page.len()).unwrap(), u32::try_from(stored.len()).unwrap());
        let mut held = |skip: u32| {
            let packed =
                Packed { codec: Codec::Zstd { page: length }, stored: stored_length, skip };
            let of = PackedRecord { dataset: 0, shard: 0, offset: 0, length: 10, packed };
            let read_range = |bytes: &mut Vec<u8>, check: &mut dyn FnMut(&[u8]) -> bool| {
                bytes.clone_from(&stored);
                assert!(check(bytes));
                Ok(())
            };
            unpacker.read(of, &mut buffer, read_range, |_| true).unwrap();
            assert!(unpacker.held_bytes() <= packed.memory(10) + stored.len());
            unpacker.held_bytes()
        };
        assert!(held(0) > held(length - 10) + page.len());
    }
}
