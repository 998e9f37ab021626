//! Frames of Zstandard, decompressed as far as they are needed.

use std::fmt;
use std::io::Read as _;

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Bytes that are decompressed at once.
const STEP: usize = 256 << 10;

/// The decompression of a page, which can stop and go on.
pub(super) struct Stream {
    decoder: FrameDecoder,
    /// Whether the decoder is inside of a frame.
    inside: bool,
    consumed: usize,
    written: usize,
}

impl Default for Stream {
    fn default() -> Self {
        Self { decoder: FrameDecoder::new(), inside: false, consumed: 0, written: 0 }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { consumed, written, .. } = self;
        f.debug_struct("Stream")
            .field("consumed", consumed)
            .field("written", written)
            .finish_non_exhaustive()
    }
}

impl Stream {
    /// Number of bytes that the page has.
    pub(super) const fn written(&self) -> usize {
        self.written
    }

    /// Decompresses until the page has `end` bytes or more. The last bytes of a frame come at its end: those that
    /// copies may look back to. `None` if the frames are malformed, have fewer bytes, or more than the page has room for.
    pub(super) fn fill(&mut self, stored: &[u8], page: &mut [u8], end: usize) -> Option<()> {
        while self.written < end {
            self.step(stored, page)?;
        }
        Some(())
    }

    /// Decompresses some more.
    fn step(&mut self, stored: &[u8], page: &mut [u8]) -> Option<()> {
        let mut rest = stored.get(self.consumed..).filter(|rest| !rest.is_empty())?;
        if self.inside {
            self.decoder.decode_blocks(&mut rest, BlockDecodingStrategy::UptoBytes(STEP)).ok()?;
            self.written += self.decoder.read(&mut page[self.written..]).ok()?;
            if self.decoder.can_collect() > 0 {
                return None;
            }
            self.inside = !self.decoder.is_finished();
        } else {
            if !fits(rest, page.len(), self.written) {
                return None;
            }
            match self.decoder.init(&mut rest) {
                Ok(()) => self.inside = true,
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => rest = rest.get(length as usize..)?,
                Err(_malformed) => return None,
            }
        }
        self.consumed = stored.len() - rest.len();
        Some(())
    }
}

/// Largest window of a page that is smaller: that of zstd's levels up to 19.
const WINDOW: u64 = 8 << 20;

/// Whether a frame may be decompressed into what is left of a page, by its header (RFC 8878, 3.1.1.1). The decoder holds
/// as many bytes as its window has before it gives any, and trusts the first header that it sees.
fn fits(frame: &[u8], page: usize, written: usize) -> bool {
    const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
    let Some([descriptor, header @ ..]) = frame.strip_prefix(&MAGIC) else { return true };
    let is_single = descriptor & 1 << 5 != 0;
    let (window, header) = match header {
        _ if is_single => (0, header),
        [window, header @ ..] => {
            let base = 1_u64 << (10 + (window >> 3));
            (base + base / 8 * u64::from(window & 7), header)
        }
        [] => return true,
    };
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let length = match descriptor >> 6 {
        0 => usize::from(is_single),
        flag => 1 << flag,
    };
    let Some(size) = header.get(dictionary..dictionary + length) else { return true };
    let mut bytes = [0; 8];
    bytes[..length].copy_from_slice(size);
    // Two bytes count from 256.
    let size = u64::from_le_bytes(bytes).saturating_add(if length == 2 { 256 } else { 0 });
    window <= WINDOW.max(page as u64) && size <= (page - written) as u64
}

/// Decompresses a whole page; `None` if the frames are malformed, or have another length.
pub(super) fn decompress(stored: &[u8], page: &mut [u8]) -> Option<()> {
    let mut stream = Stream::default();
    while stream.consumed < stored.len() {
        stream.step(stored, page)?;
    }
    (stream.written == page.len() && !stream.inside).then_some(())
}

#[cfg(test)]
mod tests {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 11).to_le_bytes()[0]).collect()
    }

    #[test]
    fn decompression_stops_behind_the_end_and_goes_on() {
        let whole = noise(6 << 20);
        let (first, second) = whole.split_at(5 << 20);
        let compress = |bytes: &[u8]| compress_to_vec(bytes, CompressionLevel::Fastest);
        // A frame that is skipped: its magic number and the length of what it has.
        let skipped = [&[0x50, 0x2A, 0x4D, 0x18, 3, 0, 0, 0][..], b"any"].concat();
        let stored = [compress(first), skipped, compress(second)].concat();
        let mut page = vec![0; whole.len()];
        decompress(&stored, &mut page).unwrap();
        assert!(page == whole);
        let mut page = vec![0; whole.len()];
        let mut stream = Stream::default();
        for end in [1, 100_000, 2 << 20, (5 << 20) + 1, whole.len()] {
            stream.fill(&stored, &mut page, end).unwrap();
            assert!(stream.written() >= end && page[..end] == whole[..end], "{end}");
            assert!(end > 1 || stream.written() < whole.len(), "it stops");
        }
        assert!(stream.fill(&stored, &mut page, whole.len() + 1).is_none());
    }

    #[test]
    fn a_frame_whose_window_or_size_is_beyond_its_page_is_refused_before_it_takes_memory() {
        let magic = [0x28, 0xB5, 0x2F, 0xFD];
        // A block of 128 KiB of one byte: not the last, run-length encoded.
        let block = |last: u32| [&(128 << 13 | 2 | last).to_le_bytes()[..3], b"a"].concat();
        let blocks = [block(0).repeat(100), block(1)].concat();
        let with_window = |exponent: u8| [&magic[..], &[0, exponent << 3], &blocks].concat();
        let size = 101 << 17;
        // 8 MiB and 1 TiB.
        assert!(decompress(&with_window(13), &mut vec![0; size]).is_some());
        assert!(decompress(&with_window(30), &mut vec![0; size]).is_none());
        assert!(decompress(&with_window(13), &mut vec![0; 1000]).is_none());
        // A single segment, whose size is its window.
        let single =
            |claimed: u32| [&magic[..], &[0b1010_0000], &claimed.to_le_bytes(), &blocks].concat();
        assert!(fits(&single(u32::try_from(size).unwrap()), size, 0));
        assert!(decompress(&single(u32::MAX), &mut vec![0; size]).is_none());
    }

    #[test]
    fn pages_of_another_length_and_truncated_frames_are_refused() {
        let whole = noise(3 << 20);
        let stored = compress_to_vec(&whole[..], CompressionLevel::Fastest);
        assert!(decompress(&stored, &mut vec![0; whole.len()]).is_some());
        for length in [0, 1, whole.len() - 1, whole.len() + 1] {
            assert!(decompress(&stored, &mut vec![0; length]).is_none(), "{length}");
        }
        for length in (0..stored.len()).step_by(99_991) {
            assert!(decompress(&stored[..length], &mut vec![0; whole.len()]).is_none(), "{length}");
        }
    }
}
