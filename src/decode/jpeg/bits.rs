//! Entropy-coded data as a stream of bits.
//!
//! Stuffed bytes and markers are taken out in bulk, into a window of plain bits, so that the loop
//! that decodes codes knows nothing of them: it loads eight bytes and never asks what they are.
//!
//! ```text
//!   file    .. 3A FF 00 91 5C .. | FF D9          next: the first byte not yet in the window
//!   window  .. 3A FF 91 5C ..    | 00 00 00 ..    after a marker the bits are zero, as in libjpeg
//!              ^ position                          `count` bits before it are in `buffer`
//! ```
//!
//! A block takes at most [`BLOCK_BYTES`], so asking once a block whether the window holds as many
//! ([`Stream::top_up`]) is enough, and a refill inside a block cannot leave the window.

use super::error::JpegError;
use super::reader::next_marker;

/// No block takes more: 64 codes of 16 bits with 15 bits of value, and a refill's overhang.
const BLOCK_BYTES: usize = 64 * (16 + 15) / 8 + 8;
/// Bytes of plain data that the window takes at most.
const WINDOW: usize = 1 << 13;
/// Bytes copied at once.
const CHUNK: usize = 32;

/// The bytes of the window.
pub(super) type WindowBytes = [u8; WINDOW + BLOCK_BYTES + CHUNK];

/// The window's memory, kept by a worker.
#[derive(Debug)]
pub(super) struct Window(pub(super) Box<WindowBytes>);

impl Default for Window {
    fn default() -> Self {
        Self(Box::new([0; _]))
    }
}

/// What follows the bytes in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// More data.
    Data,
    /// A marker: its code, and the offset after it.
    Marker(u8, usize),
    /// The end of the file.
    Nothing,
}

/// The bits that the decoding loop works on: a copy of a [`Stream`]'s place that fits registers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bits {
    /// Unread bits, the next one on top. Bits below the `count` first are what follows, or zero.
    buffer: u64,
    count: u32,
    /// The byte of the window that refills the buffer next.
    position: usize,
}

impl Bits {
    /// Makes at least 56 bits readable.
    #[inline(always)]
    pub(super) fn refill(&mut self, window: &WindowBytes) {
        let next = window.get(self.position..self.position.wrapping_add(8));
        let next = next.expect("`Stream::top_up` sees to it");
        let next = u64::from_be_bytes(next.try_into().expect("eight bytes"));
        self.buffer |= next >> self.count;
        self.position += ((63 - self.count) >> 3) as usize;
        // 56 and the bits that a whole byte did not fit into.
        self.count |= 0b11_1000;
    }

    /// The next `n` bits, 1 to 32, without taking them.
    #[inline(always)]
    pub(super) const fn peek(self, n: u32) -> usize {
        (self.buffer >> (64 - n)) as usize
    }

    /// Takes as many bits as the six lowest bits of `n` say.
    #[inline(always)]
    pub(super) const fn take(&mut self, n: u32) {
        self.buffer <<= n & 63;
        self.count -= n & 63;
    }

    /// Takes `size` bits, 0 to 15, as the value that they stand for (T.81 F.2.2.1, EXTEND).
    #[inline(always)]
    pub(super) const fn value(&mut self, size: u32) -> i16 {
        self.last_value(size, size)
    }

    /// Takes as many bits as the six lowest bits of `n` say; the last `size` of them stand for a
    /// value.
    #[inline(always)]
    pub(super) const fn last_value(&mut self, n: u32, size: u32) -> i16 {
        let bits = self.buffer << (n.wrapping_sub(size) & 63);
        let raw = ((bits >> 1) >> (63 - size)) as i32;
        let negative = !((bits as i64) >> 63) as i32;
        self.take(n);
        (raw + (negative & ((-1 << size) + 1))) as i16
    }
}

/// A place in the entropy-coded data of a file, at most one marker ahead.
#[derive(Debug)]
pub(super) struct Stream<'a> {
    file: &'a [u8],
    pub(super) bits: Bits,
    pub(super) window: &'a mut Window,
    /// Bytes of data in the window.
    filled: usize,
    /// Bytes after which `top_up` has work to do.
    limit: usize,
    /// The first byte of the file that is not in the window.
    at: usize,
    next: Next,
    /// Bits past the end were read, and forgotten since.
    past_end: bool,
    /// Bytes that left the window, to the front.
    gone: usize,
    /// Where in the file the window's first byte ever was.
    origin: usize,
}

impl<'a> Stream<'a> {
    /// A stream that is nowhere yet: [`Stream::seek`] comes first.
    pub(super) fn new(file: &'a [u8], window: &'a mut Window) -> Self {
        let (bits, next) = (Bits::default(), Next::Nothing);
        let (filled, limit, at, gone, origin) = (0, 0, file.len(), 0, 0);
        Self { file, bits, window, filled, limit, at, next, past_end: false, gone, origin }
    }

    /// Goes to bit `bit` of byte `at`. `likely` is how many bytes will be read, as far as is known.
    pub(super) fn seek(&mut self, at: usize, bit: u32, likely: usize) {
        self.bits = Bits::default();
        (self.filled, self.limit, self.gone) = (0, 0, 0);
        (self.at, self.origin) = (at.min(self.file.len()), at);
        (self.next, self.past_end) = (Next::Data, false);
        // The bits in the buffer are up to eight bytes ahead.
        self.fill(likely.saturating_add(8 + BLOCK_BYTES));
        self.bits.refill(&self.window.0);
        self.bits.take(bit);
    }

    /// Sees to it that the window holds the bits of a block, whatever they are.
    #[inline(always)]
    pub(super) fn top_up(&mut self) {
        if self.bits.position + BLOCK_BYTES > self.limit {
            self.slide();
        }
    }

    #[cold]
    fn slide(&mut self) {
        if self.next != Next::Data {
            // Only zeros are left, and more than the buffer holds of them were read.
            self.past_end = true;
            self.bits.position = self.filled;
            return;
        }
        let position = self.bits.position;
        self.window.0.copy_within(position..self.filled, 0);
        self.filled -= position;
        self.gone = self.gone.wrapping_add(position);
        self.bits.position = 0;
        self.fill(WINDOW);
    }

    /// Fills the window up to `target` bytes, or to the next marker.
    fn fill(&mut self, target: usize) {
        let target = target.min(WINDOW - CHUNK);
        while self.next == Next::Data && self.filled < target {
            self.copy_data(target);
            if self.filled >= target {
                break;
            }
            // A 0xFF: stuffed, or the start of a marker.
            let after = self.file[self.at..].iter().position(|&byte| byte != 0xFF);
            self.next = match after.map(|n| (self.file[self.at + n], self.at + n + 1)) {
                None => Next::Nothing,
                Some((0, after)) => {
                    self.window.0[self.filled] = 0xFF;
                    self.filled += 1;
                    self.at = after;
                    Next::Data
                }
                Some((code, after)) => Next::Marker(code, after),
            };
        }
        self.limit = self.filled;
        if self.next != Next::Data {
            self.limit += 8 + BLOCK_BYTES;
            self.window.0[self.filled..self.limit].fill(0);
        }
    }

    /// Copies bytes until a 0xFF, the end of the file or about `target` bytes in the window.
    fn copy_data(&mut self, target: usize) {
        while self.filled < target {
            let Some(chunk) = self.file.get(self.at..self.at + CHUNK) else {
                return self.copy_tail(target);
            };
            let chunk: &[u8; CHUNK] = chunk.try_into().expect("a chunk");
            self.window.0[self.filled..self.filled + CHUNK].copy_from_slice(chunk);
            let stop = chunk.iter().fold(0, |found, &byte| found | u8::from(byte == 0xFF)) != 0;
            let data =
                if stop { chunk.iter().take_while(|&&byte| byte != 0xFF).count() } else { CHUNK };
            self.filled += data;
            self.at += data;
            if stop {
                return;
            }
        }
    }

    fn copy_tail(&mut self, target: usize) {
        while self.filled < target {
            match self.file.get(self.at) {
                None => {
                    self.next = Next::Nothing;
                    return;
                }
                Some(0xFF) => return,
                Some(&byte) => {
                    self.window.0[self.filled] = byte;
                    self.filled += 1;
                    self.at += 1;
                }
            }
        }
    }

    /// Bits read since the last [`Stream::seek`].
    const fn consumed(&self) -> usize {
        self.gone.wrapping_add(self.bits.position) * 8 - self.bits.count as usize
    }

    /// Whether more bits were read than there are before the next marker.
    #[inline(always)]
    pub(super) fn overran(&self) -> bool {
        self.past_end || self.bits.position * 8 > self.filled * 8 + self.bits.count as usize
    }

    /// Whether the file ends without a marker at the end of the data.
    pub(super) fn truncated(&self) -> bool {
        self.next == Next::Nothing
    }

    /// The next bit's place in the file: byte and bit. It takes time in the bytes read since the
    /// last call, or the last [`Stream::seek`].
    pub(super) fn place(&mut self) -> (usize, u32) {
        if self.overran() {
            return (self.at, 0);
        }
        let (whole, bit) = (self.consumed() / 8, (self.consumed() % 8) as u32);
        let mut at = self.origin;
        for _ in 0..whole {
            at = match self.file.get(at) {
                Some(0xFF) => next_data(self.file, at),
                _ => at + 1,
            };
        }
        self.origin = at;
        // `gone` may wrap below zero: only sums with `position` mean something.
        self.gone = self.gone.wrapping_sub(whole);
        (at, bit)
    }

    /// The marker after the data: its code and the offset after it.
    pub(super) fn marker(&mut self) -> Result<(u8, usize), JpegError> {
        let found = match self.next {
            Next::Marker(code, after) => Some((code, after)),
            Next::Data => next_marker(self.file, self.at),
            Next::Nothing => None,
        };
        found.ok_or_else(|| self.truncation())
    }

    /// The error of a file that ends before its image does.
    pub(super) const fn truncation(&self) -> JpegError {
        JpegError::Truncated { length: self.file.len() }
    }
}

/// The offset after the stuffed byte whose 0xFF is at `at`.
fn next_data(file: &[u8], at: usize) -> usize {
    file[at..].iter().position(|&byte| byte != 0xFF).map_or(file.len(), |n| at + n + 1)
}
