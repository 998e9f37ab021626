//! Entropy-coded data as a stream of bits.
//!
//! Stuffed bytes and markers are removed in bulk, into a window of plain bits, so that the loop that
//! decodes codes loads eight bytes at a time without looking at them.
//!
//! ```text
//!   file    .. 3A FF 00 91 5C .. | FF D9          next: the first byte not yet in the window
//!   window  .. 3A FF 91 5C ..    | 00 00 00 ..    after a marker the bits are zero, as in libjpeg
//!              ^ position                          `count` bits before it are in `buffer`
//! ```
//!
//! A block reads at most [`BLOCK_BYTES`], so one check per block that the window holds as many
//! ([`Stream::top_up`]) is enough, and a refill inside a block cannot leave the window.

use super::error::JpegError;
use super::restart::next_marker;

/// The maximum size of a block: 64 codes of 16 bits with 15 bits of value, and the overhang of a
/// refill.
const BLOCK_BYTES: usize = 64 * (16 + 15) / 8 + 8;
/// The maximum number of bytes of plain data in the window.
const WINDOW: usize = 1 << 13;
/// Bytes copied at once.
const CHUNK: usize = 32;

/// The bytes of the window.
pub(super) type WindowBytes = [u8; WINDOW + BLOCK_BYTES + CHUNK];

/// The memory of the window, reused from image to image.
#[derive(Debug)]
pub(super) struct Window(pub(super) Box<WindowBytes>);

impl Default for Window {
    fn default() -> Self {
        Self(Box::new([0; _]))
    }
}

/// The part of the file after the bytes in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// More data.
    Data,
    /// A marker: its code, and the offset after it.
    Marker(u8, usize),
    /// Several 0xFF and a zero, which libjpeg-turbo takes for a marker or for data.
    Fill,
    /// The end of the file.
    Nothing,
}

/// The bits that the decoding loop works on: a copy of the position of a [`Stream`] that fits into
/// registers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bits {
    /// Unread bits, the next one on top. Those after the first `count` are the following bits of the
    /// stream, or zero.
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
        let next = next.expect("`Stream::top_up` was called");
        let next = u64::from_be_bytes(next.try_into().expect("eight bytes"));
        self.buffer |= next >> self.count;
        self.position += ((63 - self.count) >> 3) as usize;
        // 56, and the bits that remained of an incomplete byte.
        self.count |= 0b11_1000;
    }

    /// The next `n` bits, 1 to 32, without taking them.
    #[inline(always)]
    pub(super) const fn peek(self, n: u32) -> usize {
        (self.buffer >> (64 - n)) as usize
    }

    /// Takes a number of bits: the six lowest bits of `n`.
    #[inline(always)]
    pub(super) const fn take(&mut self, n: u32) {
        self.buffer <<= n & 63;
        self.count -= n & 63;
    }

    /// Takes `size` bits, 0 to 15, as a signed value (T.81 F.2.2.1, EXTEND).
    #[inline(always)]
    pub(super) const fn value(&mut self, size: u32) -> i16 {
        self.last_value(size, size)
    }

    /// Takes a number of bits, the six lowest bits of `n`; the last `size` of them are a signed value.
    #[inline(always)]
    pub(super) const fn last_value(&mut self, n: u32, size: u32) -> i16 {
        let bits = self.buffer << (n.wrapping_sub(size) & 63);
        let raw = ((bits >> 1) >> (63 - size)) as i32;
        let negative = !((bits as i64) >> 63) as i32;
        self.take(n);
        (raw + (negative & ((-1 << size) + 1))) as i16
    }
}

/// A position in the entropy-coded data of a file, up to the next marker.
#[derive(Debug)]
pub(super) struct Stream<'a> {
    file: &'a [u8],
    pub(super) bits: Bits,
    pub(super) window: &'a mut Window,
    /// Bytes of data in the window.
    filled: usize,
    /// The end of the bytes after which [`Stream::top_up`] must act.
    limit: usize,
    /// The first byte of the file that is not in the window.
    at: usize,
    next: Next,
    /// Whether the stream stops at [`Next::Fill`]. Otherwise that is one byte of data.
    stops_at_fill: bool,
    /// Whether bits after the end were read and have left the window.
    past_end: bool,
    /// The number of bytes that have left the window at its front.
    gone: usize,
    /// The offset in the file of the first byte that was in the window.
    origin: usize,
}

impl<'a> Stream<'a> {
    /// A stream without a position: [`Stream::seek`] must be called first.
    pub(super) fn new(file: &'a [u8], window: &'a mut Window, stops_at_fill: bool) -> Self {
        Self {
            file,
            bits: Bits::default(),
            window,
            filled: 0,
            limit: 0,
            at: file.len(),
            next: Next::Nothing,
            stops_at_fill,
            past_end: false,
            gone: 0,
            origin: 0,
        }
    }

    /// Moves to bit `bit` of byte `at`. `likely` is the number of bytes that are expected to be read.
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

    /// Makes sure that the window holds the bits of any block.
    #[inline(always)]
    pub(super) fn top_up(&mut self) {
        if self.bits.position + BLOCK_BYTES > self.limit {
            self.slide();
        }
    }

    #[cold]
    fn slide(&mut self) {
        if self.next != Next::Data {
            // Only zeros are left, and more of them were read than the buffer holds.
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
            let ones = self.file[self.at..].iter().position(|&byte| byte != 0xFF);
            let found = ones.map(|ones| (ones, self.file[self.at + ones], self.at + ones + 1));
            self.next = match found {
                None => Next::Nothing,
                Some((2.., 0, _)) if self.stops_at_fill => Next::Fill,
                Some((_, 0, after)) => {
                    self.window.0[self.filled] = 0xFF;
                    self.filled += 1;
                    self.at = after;
                    Next::Data
                }
                Some((_, code, after)) => Next::Marker(code, after),
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

    /// Whether the data goes on after [`Next::Fill`].
    pub(super) fn at_fill(&self) -> bool {
        self.next == Next::Fill
    }

    /// The position of the next bit in the file: byte and bit. It takes time in proportion to the bytes
    /// read since the last call or [`Stream::seek`].
    pub(super) fn position(&mut self) -> (usize, u32) {
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
        // `gone` may wrap below zero: only sums with `position` are meaningful.
        self.gone = self.gone.wrapping_sub(whole);
        (at, bit)
    }

    /// The marker after the data: its code and the offset after it.
    pub(super) fn marker(&mut self) -> Result<(u8, usize), JpegError> {
        let found = match self.next {
            Next::Marker(code, after) => Some((code, after)),
            Next::Data | Next::Fill => next_marker(self.file, self.at),
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
