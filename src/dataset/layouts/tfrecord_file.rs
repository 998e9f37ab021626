//! The records of a TFRecord file.
//!
//! ```text
//! record   length u64, masked CRC-32C of the length, data, masked CRC-32C of the data
//! ```
//!
//! The checksum of a length is always verified, because everything behind a wrong length is lost.

use std::ops::Range;
use std::path::Path;

use super::super::error::DatasetError;
use super::window::{Input, Window};
use crate::store::{MAX_RECORD, RegularFile};

/// Bytes before and behind the data of a record.
const HEAD: u64 = 12;
const FOOT: u64 = 4;

/// Whether a file begins as a TFRecord.
pub(super) fn is_file(path: &Path) -> bool {
    let Ok(file) = RegularFile::open(path) else { return false };
    let mut head = [0; 12];
    file.read_at(0, &mut head).is_ok() && length(&head).is_some()
}

/// The length in the head of a record; `None` if its checksum is wrong.
fn length(head: &[u8; 12]) -> Option<u64> {
    let (length, crc) = head.split_first_chunk::<8>().expect("12 bytes");
    let crc = u32::from_le_bytes(crc.try_into().expect("4 bytes"));
    (crc32c::crc32c(length) == unmasked(crc)).then(|| u64::from_le_bytes(*length))
}

/// The checksum that TensorFlow stores rotated and shifted, because checksums of data with checksums
/// in it are weak.
const fn unmasked(masked: u32) -> u32 {
    masked.wrapping_sub(0xA282_EAD8).rotate_left(15)
}

/// A record in a file: the range of its data, and their checksum.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) data: Range<u64>,
    pub(super) crc32c: u32,
}

/// Walks the records of a file.
pub(super) struct Records<'a> {
    file: &'a RegularFile,
    pub(super) window: Window<'a>,
    at: u64,
}

impl<'a> Records<'a> {
    pub(super) const fn new(file: &'a RegularFile) -> Self {
        Self { file, window: Window::new(Input::File(file)), at: 0 }
    }

    pub(super) fn next_record(&mut self) -> Result<Option<Stored>, DatasetError> {
        let rest = self.file.size() - self.at;
        if rest == 0 {
            return Ok(None);
        }
        if rest < HEAD + FOOT {
            return Err(self.error("the file is truncated between records; restore it"));
        }
        let head = *self.window.read(self.at, HEAD)?.first_chunk().expect("12 bytes were read");
        let Some(length) = length(&head) else {
            return Err(self.error(match &head {
                [0x1F, 0x8B, ..] | [0x78, 0x01 | 0x5E | 0x9C | 0xDA, ..] if self.at == 0 => {
                    "it is compressed, and records are read in place; write it again without compression"
                }
                _ => {
                    "the checksum of a record's length is wrong, so that nothing behind it can be found; \
                     restore the file"
                }
            }));
        };
        if length > u64::from(MAX_RECORD) {
            return Err(self.error("this record is larger than the limit of 1 GiB; remove it"));
        }
        if length > rest - HEAD - FOOT {
            return Err(self.error("the file is truncated inside this record; restore it"));
        }
        let data = self.at + HEAD..self.at + HEAD + length;
        Ok(Some(Stored { data, crc32c: 0 }))
    }

    /// Goes behind a record, and reads its checksum on the way, which lies beside the next record.
    pub(super) fn pass(&mut self, stored: &mut Stored) -> Result<(), DatasetError> {
        let foot = self.window.read(stored.data.end, FOOT)?;
        stored.crc32c = unmasked(u32::from_le_bytes(foot.try_into().expect("4 bytes were read")));
        self.at = stored.data.end + FOOT;
        Ok(())
    }

    fn error(&self, what: &str) -> DatasetError {
        DatasetError::Shard { path: self.file.path().into(), offset: self.at, what: what.into() }
    }
}

/// Whether the data of a record have their checksum.
pub(super) fn is_intact(file: &RegularFile, stored: &Stored) -> Result<bool, DatasetError> {
    let length = stored.data.end - stored.data.start;
    let mut data = vec![0; usize::try_from(length).expect("at most the limit of a record")];
    file.read_at(stored.data.start, &mut data)?;
    Ok(crc32c::crc32c(&data) == stored.crc32c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_checksum_is_that_of_tensorflow() {
        // The head of a record of 100,179 bytes that TensorFlow wrote.
        let head = [0x53, 0x87, 1, 0, 0, 0, 0, 0, 0x1A, 0x88, 0x86, 0xE6];
        assert_eq!(length(&head), Some(100_179));
        for bit in 0..96 {
            let mut damaged = head;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(length(&damaged), None);
        }
    }
}
