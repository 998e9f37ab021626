//! Whether entropy-coded data that ends without a marker holds a whole scan for libjpeg-turbo.
//!
//! Pillow accepts such a file if libjpeg returns all rows. libjpeg gives up on an MCU as soon as its
//! bit buffer cannot be filled, even if the bits in it would suffice. The answer therefore depends on
//! when libjpeg fills the buffer: this module follows its two loops (`decode_mcu_fast`,
//! `decode_mcu_slow`), and the blocks of 64 KiB in which Pillow supplies the file.

use super::header::{Frame, HuffmanSpec, Scan, Tables};
use super::reader::{Restart, find_restart};

/// The number of bytes that Pillow reads at a time (`ImageFile.MAXBLOCK`).
const FED: usize = 65_536;

/// The number of bytes per block of an MCU that must be available for the fast loop (`BUFSIZE`).
const FAST: usize = 512;

/// Whether a file that has no marker after the last restart of its only scan, which has `mcus` MCUs,
/// holds all of them.
pub(super) fn is_complete(
    file: &[u8],
    frame: &Frame,
    tables: &Tables<'_>,
    scan: &Scan,
    mcus: u32,
) -> bool {
    let interval = tables.restart_interval;
    let (mut at, mut left) = (scan.data, mcus);
    let mut due = 0;
    while interval != 0 && left > interval {
        // Any other marker would stay in the way of all later restarts, and end the data.
        let Some(Restart::Due(after) | Restart::Later(after)) = find_restart(file, at, due) else {
            return false;
        };
        (at, left, due) = (after, left - interval, (due + 1) & 7);
    }
    let blocks = scan.components().iter().map(|part| {
        let component = &frame.components()[part.index];
        let count = if scan.count == 1 { 1 } else { component.h * component.v };
        Some((
            count,
            CodeTable::new((*tables.dc.get(part.dc)?)?),
            CodeTable::new((*tables.ac.get(part.ac)?)?),
        ))
    });
    blocks.collect::<Option<Vec<_>>>().is_some_and(|blocks| suffices(file, at, &blocks, left))
}

/// Whether the data from `at` to the end of the file, which holds no marker, suffices for `mcus` MCUs
/// of these blocks: their number, DC table and AC table for each component.
fn suffices(
    file: &[u8],
    at: usize,
    blocks: &[(u32, CodeTable<'_>, CodeTable<'_>)],
    mcus: u32,
) -> bool {
    let per_mcu: u32 = blocks.iter().map(|(count, ..)| count).sum();
    let end = at.next_multiple_of(FED).min(file.len());
    let mut bits = Bits { bytes: file, at, end, buffer: 0, held: 0, fast: false };
    for _ in 0..mcus {
        loop {
            let start = bits.clone();
            bits.fast = bits.end - bits.at.min(bits.end) >= FAST * per_mcu as usize;
            let whole = blocks
                .iter()
                .all(|(count, dc, ac)| (0..*count).all(|_| bits.block(dc, ac).is_some()));
            if whole {
                break;
            }
            if start.end == file.len() {
                return false;
            }
            // libjpeg starts the MCU again when Pillow has supplied the next bytes.
            bits = Bits { end: (start.end + FED).min(file.len()), ..start };
        }
    }
    true
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
struct CodeTable<'a> {
    /// By length, 1 to 16 bits: the last code, and what to add to a code to get the index of its
    /// symbol.
    derived: [(i32, i32); 16],
    symbols: &'a [u8],
    /// The length of the code that starts with these 8 bits, 0 for a longer one.
    lengths: [u8; 256],
}

impl<'a> CodeTable<'a> {
    fn new(spec: HuffmanSpec<'a>) -> Self {
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
#[derive(Clone)]
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The end of the bytes that Pillow has supplied so far.
    end: usize,
    /// Its lowest `held` bits are unread.
    buffer: u128,
    held: u32,
    fast: bool,
}

impl Bits<'_> {
    /// Skips one block. Returns `None` where libjpeg waits for more data.
    fn block(&mut self, dc: &CodeTable<'_>, ac: &CodeTable<'_>) -> Option<()> {
        let size = self.symbol(dc)?;
        self.need(u32::from(size))?;
        self.held -= u32::from(size);
        let mut k = 1;
        while k < 64 {
            let symbol = self.symbol(ac)?;
            let (run, size) = (symbol >> 4, u32::from(symbol & 15));
            if size == 0 && run != 15 {
                break;
            }
            self.need(size)?;
            self.held -= size;
            k += run + 1;
        }
        Some(())
    }

    fn symbol(&mut self, table: &CodeTable<'_>) -> Option<u8> {
        self.need(8)?;
        let look = usize::try_from(self.buffer >> (self.held - 8) & 0xFF).expect("8 bits");
        let mut length = u32::from(table.lengths[look]);
        if length == 0 {
            length = 9;
            loop {
                let taken = if length == 9 { 0 } else { length - 1 };
                self.need_slowly(length - taken, taken)?;
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

    fn peek(&self, length: u32) -> i32 {
        let mask = (1_u128 << length) - 1;
        i32::try_from(self.buffer >> (self.held - length) & mask).expect("at most 17 bits")
    }

    /// Fills the buffer as the loop in use does before it reads bits.
    fn need(&mut self, bits: u32) -> Option<()> {
        if !self.fast {
            return self.need_slowly(bits, 0);
        }
        if self.held <= 16 {
            for _ in 0..6 {
                self.byte()?;
            }
        }
        Some(())
    }

    /// The slow loop fills the buffer completely or gives up. libjpeg has already removed the first
    /// `taken` bits.
    fn need_slowly(&mut self, bits: u32, taken: u32) -> Option<()> {
        if self.held < taken + bits {
            while self.held < taken + 57 {
                self.byte()?;
            }
        }
        Some(())
    }

    /// Moves one byte into the buffer, and skips a stuffed zero.
    fn byte(&mut self) -> Option<()> {
        let data = self.bytes.get(self.at..self.end)?;
        let (&byte, rest) = data.split_first()?;
        self.at += 1;
        if byte == 0xFF {
            // Fill bytes and the stuffed zero: the data holds no marker.
            self.at += rest.iter().position(|&byte| byte != 0xFF)? + 1;
        }
        self.buffer = self.buffer << 8 | u128::from(byte);
        self.held += 8;
        Some(())
    }
}
