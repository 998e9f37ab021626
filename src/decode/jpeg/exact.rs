//! A sequential Huffman-coded scan without restarts, read exactly as libjpeg-turbo reads it.
//!
//! What libjpeg-turbo makes of some damaged data depends on when it fills its bit buffer, which the
//! usual decoder does not follow. It has two loops. The fast one (`decode_mcu_fast`) takes six bytes at
//! a time, and takes any 0xFF that no zero follows for a marker, behind which all bits are zero; where
//! that happens within an MCU, the slow one (`decode_mcu_slow`) decodes the MCU again, into the same
//! blocks. To the slow one, several 0xFF and a zero are one byte of data. The slow one also gives up an
//! MCU as soon as its bit buffer cannot be filled, even if the bits in it would suffice. Which loop runs
//! depends on how much of the file Pillow has supplied, in pieces of 64 KiB.

use super::block::Block;
use super::error::JpegError;
use super::header::{HuffmanSpec, MAX_COMPONENTS, ZIGZAG};
use super::restart::next_marker;

/// The number of bytes that Pillow reads at a time (`ImageFile.MAXBLOCK`).
const FED: usize = 65_536;
/// The number of bytes per block of an MCU that must be available for the fast loop (`BUFSIZE`).
const FAST: usize = 512;
/// The number of bits to which the slow loop fills the buffer (`MIN_GET_BITS`).
const FULL: u32 = 57;

/// A decoder of the MCUs of a scan.
#[derive(Clone, Debug)]
pub(super) struct ExactScan<'a> {
    slots: Vec<ExactSlot<'a>>,
    bits: Bits<'a>,
    dc: [i16; MAX_COMPONENTS],
    /// The blocks of the last MCU.
    blocks: Vec<Block>,
    mcu: u32,
}

/// A block of an MCU: its component and its tables.
#[derive(Clone, Debug)]
pub(super) struct ExactSlot<'a> {
    pub(super) component: usize,
    pub(super) dc: CodeTable<'a>,
    pub(super) ac: CodeTable<'a>,
}

impl<'a> ExactScan<'a> {
    /// A decoder at the first MCU of the scan whose data starts at `data`.
    pub(super) fn new(file: &'a [u8], data: usize, slots: Vec<ExactSlot<'a>>) -> Self {
        let blocks = vec![Block::EMPTY; slots.len()];
        Self { slots, bits: Bits::new(file, data), dc: [0; MAX_COMPONENTS], blocks, mcu: 0 }
    }

    /// The number of MCUs decoded so far.
    pub(super) const fn mcu(&self) -> u32 {
        self.mcu
    }

    /// Skips the MCUs before number `mcu`.
    pub(super) fn skip_to(&mut self, mcu: u32) -> Result<(), JpegError> {
        while self.mcu < mcu {
            self.next_mcu()?;
        }
        Ok(())
    }

    /// Decodes as many MCUs as fill `out`.
    pub(super) fn decode(&mut self, out: &mut [Block], last: &mut [u8]) -> Result<(), JpegError> {
        for out in out.chunks_exact_mut(self.slots.len()) {
            out.copy_from_slice(self.next_mcu()?);
        }
        // Any coefficient may be left of the fast loop.
        last.fill(63);
        Ok(())
    }

    /// The blocks of the last MCU.
    pub(super) fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Decodes the next MCU.
    ///
    /// # Errors
    /// When the file ends before libjpeg-turbo has what it wants.
    pub(super) fn next_mcu(&mut self) -> Result<&[Block], JpegError> {
        self.mcu += 1;
        self.blocks.fill(Block::EMPTY);
        if self.bits.insufficient {
            return Ok(&self.blocks);
        }
        let (start, dc) = (self.bits.clone(), self.dc);
        loop {
            self.bits.fast =
                start.marker.is_none() && self.bits.available() >= FAST * self.slots.len();
            if self.bits.fast {
                let whole = self.all_blocks();
                if whole && self.bits.marker.is_none() {
                    break;
                }
                let end = self.bits.end;
                self.bits = Bits { end, fast: false, ..start.clone() };
                self.dc = dc;
            }
            if self.all_blocks() {
                break;
            }
            // libjpeg starts the MCU again when Pillow has supplied the next bytes.
            let (end, length) = (self.bits.end, self.bits.bytes.len());
            if end >= length {
                return Err(JpegError::Truncated { length });
            }
            self.bits = Bits { end: (end + FED).min(length), ..start.clone() };
            self.dc = dc;
            self.blocks.fill(Block::EMPTY);
        }
        Ok(&self.blocks)
    }

    /// Decodes the blocks of an MCU. Returns whether there were enough bytes.
    fn all_blocks(&mut self) -> bool {
        let Self { slots, bits, dc, blocks, .. } = self;
        slots.iter().zip(blocks).all(|(slot, block)| {
            bits.block(&slot.dc, &slot.ac, &mut dc[slot.component], block).is_some()
        })
    }

    /// The offset of the marker after the data.
    pub(super) fn end(&self) -> Result<usize, JpegError> {
        // A marker in the bit buffer was passed.
        let (bytes, at) = (self.bits.bytes, self.bits.at);
        let start = if self.bits.marker.is_some() { at - 2 } else { at };
        let marker = next_marker(bytes, start).ok_or(JpegError::Truncated { length: bytes.len() });
        marker.map(|(_, after)| after - 2)
    }
}

/// See [`CodeTable::derived`].
fn derive(counts: &[u8; 16]) -> [(i32, i32); 16] {
    let (mut code, mut index) = (0, 0);
    counts.map(|count| {
        let offset = index - code;
        code += i32::from(count);
        index += i32::from(count);
        let last = if count > 0 { code - 1 } else { -1 };
        code <<= 1;
        (last, offset)
    })
}

/// A Huffman table.
#[derive(Clone, Debug)]
pub(super) struct CodeTable<'a> {
    /// By length, 1 to 16 bits: the last code, and what to add to a code to get the index of its
    /// symbol.
    derived: [(i32, i32); 16],
    symbols: &'a [u8],
    /// The length of the code that starts with these 8 bits, 0 for a longer one.
    lengths: [u8; 256],
}

impl<'a> CodeTable<'a> {
    pub(super) fn new(spec: HuffmanSpec<'a>) -> Self {
        let derived = derive(spec.counts);
        let mut lengths = [0; 256];
        for (bits, length) in (0_i32..).zip(&mut lengths) {
            let fits = |&l: &u8| bits >> (8 - l) <= derived[usize::from(l) - 1].0;
            *length = (1..=8).find(fits).unwrap_or(0);
        }
        Self { derived, symbols: spec.symbols, lengths }
    }
}

/// The bit buffer of libjpeg.
#[derive(Clone, Debug)]
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The end of the bytes that Pillow has supplied so far.
    end: usize,
    /// Its lowest `held` bits are unread.
    buffer: u128,
    held: u32,
    fast: bool,
    /// The marker that was met (`unread_marker`).
    marker: Option<u8>,
    /// Whether bits behind a marker were wanted.
    insufficient: bool,
}

impl<'a> Bits<'a> {
    fn new(bytes: &'a [u8], at: usize) -> Self {
        let end = at.next_multiple_of(FED).min(bytes.len());
        Self { bytes, at, end, buffer: 0, held: 0, fast: false, marker: None, insufficient: false }
    }

    fn available(&self) -> usize {
        self.end.saturating_sub(self.at)
    }

    /// Decodes one block. Returns `None` where libjpeg waits for more data.
    fn block(
        &mut self,
        dc: &CodeTable<'_>,
        ac: &CodeTable<'_>,
        predicted: &mut i16,
        block: &mut Block,
    ) -> Option<()> {
        let size = self.symbol(dc)?;
        *predicted = predicted.wrapping_add(self.value(size.into())?);
        block.0[0] = *predicted;
        let mut k = 1;
        while k < 64 {
            let symbol = self.symbol(ac)?;
            let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            k += run;
            if size != 0 {
                // A run beyond the block overwrites its last coefficient.
                block.0[usize::from(ZIGZAG[k.min(63)])] = self.value(size)?;
            } else if run != 15 {
                break;
            }
            k += 1;
        }
        Some(())
    }

    /// Takes a signed value of `size` bits.
    fn value(&mut self, size: u32) -> Option<i16> {
        if size == 0 {
            return Some(0);
        }
        self.need(size, size, 0)?;
        let bits = self.peek(size);
        self.held -= size;
        let negative = bits >> (size - 1) == 0;
        Some((if negative { bits - (1 << size) + 1 } else { bits }) as i16)
    }

    fn symbol(&mut self, table: &CodeTable<'_>) -> Option<u8> {
        self.need(8, 0, 0)?;
        let first = if self.held < 8 {
            1
        } else {
            match table.lengths[self.peek(8) as usize] {
                0 => 9,
                length => length.into(),
            }
        };
        let mut length = first;
        if first == 9 || self.held < 8 {
            loop {
                if !self.fast {
                    let taken = if length == first { 0 } else { length - 1 };
                    self.need(length - taken, length - taken, taken)?;
                }
                let Some(&(last, _)) = table.derived.get(length as usize - 1) else { break };
                if self.peek(length) <= last {
                    break;
                }
                length += 1;
            }
        }
        let code = self.peek(length);
        self.held -= length;
        let offset = table.derived.get(length as usize - 1).map(|&(_, offset)| offset);
        let index = offset.and_then(|offset| usize::try_from(code + offset).ok());
        // An invalid code counts as 0, with a warning.
        Some(index.and_then(|index| table.symbols.get(index)).copied().unwrap_or(0))
    }

    const fn peek(&self, length: u32) -> i32 {
        (self.buffer >> (self.held - length)) as i32 & ((1 << length) - 1)
    }

    /// Fills the buffer as the loop in use does where it would like to have `bits` bits and must have
    /// `least`. libjpeg has already removed the first `taken` bits.
    fn need(&mut self, bits: u32, least: u32, taken: u32) -> Option<()> {
        if self.fast {
            if self.held <= 16 {
                for _ in 0..6 {
                    self.fast_byte()?;
                }
            }
            return Some(());
        }
        if self.held < taken + bits {
            while self.held < taken + FULL && self.marker.is_none() {
                self.slow_byte()?;
            }
            if self.held < taken + least {
                self.insufficient = true;
                self.buffer <<= taken + FULL - self.held;
                self.held = taken + FULL;
            }
        }
        Some(())
    }

    /// Moves one byte into the buffer, or a zero before what looks like a marker.
    fn fast_byte(&mut self) -> Option<()> {
        let byte = match *self.bytes.get(self.at..self.end)? {
            [0xFF, 0, ..] => {
                self.at += 2;
                0xFF
            }
            [0xFF, marker, ..] => {
                self.marker = Some(marker);
                0
            }
            [byte, ..] => {
                self.at += 1;
                byte
            }
            [] => return None,
        };
        self.push(byte);
        Some(())
    }

    /// Moves one byte into the buffer, unless a marker is next.
    fn slow_byte(&mut self) -> Option<()> {
        let data = self.bytes.get(self.at..self.end)?;
        let (&byte, rest) = data.split_first()?;
        self.at += 1;
        if byte == 0xFF {
            let fill = rest.iter().position(|&byte| byte != 0xFF)?;
            self.at += fill + 1;
            if rest[fill] != 0 {
                self.marker = Some(rest[fill]);
                return Some(());
            }
        }
        self.push(byte);
        Some(())
    }

    fn push(&mut self, byte: u8) {
        self.buffer = self.buffer << 8 | u128::from(byte);
        self.held += 8;
    }
}
