//! Huffman tables, and whether entropy-coded data that ends without a marker holds a whole scan for
//! libjpeg-turbo.
//!
//! libjpeg gives up on an MCU as soon as its bit buffer cannot be filled, even if the bits in it would
//! do. So the answer depends on when it fills: this follows its two loops (`decode_mcu_fast`,
//! `decode_mcu_slow`), and the blocks of 64 KiB that Pillow feeds.

use super::DecodeError;
use super::markers::{HuffmanSpec, Markers, Scan};

/// Bytes that Pillow reads at a time (`ImageFile.MAXBLOCK`).
const FED: usize = 65_536;

/// Bytes for each block of an MCU that must be there for the fast loop (`BUFSIZE`).
const FAST: usize = 512;

impl HuffmanSpec {
    /// `jpeg_make_d_derived_tbl`: no code of all ones, and DC symbols of at most 15.
    pub(super) fn is_valid(&self, dc: bool) -> bool {
        let mut code = 0_u32;
        for (length, &count) in (1..).zip(&self.counts) {
            code += u32::from(count);
            // Lengths without codes do not matter.
            if count > 0 && code >= 1 << length {
                return false;
            }
            code <<= 1;
        }
        !dc || self.symbols.iter().all(|&symbol| symbol <= 15)
    }

    /// Per length of 1 to 16 bits: the last code and the index of its symbol less the code.
    fn derived(&self) -> [(i32, i32); 16] {
        let (mut code, mut index) = (0, 0);
        self.counts.map(|count| {
            let offset = index - code;
            code += i32::from(count);
            index += i32::from(count);
            let last = if count > 0 { code - 1 } else { -1 };
            code <<= 1;
            (last, offset)
        })
    }
}

/// libjpeg-turbo takes the tables of T.81 annex K for sequential files that bring none.
pub(super) fn fill_in_standard_tables(markers: &mut Markers<'_>) {
    for (table, spec) in markers.dc.iter_mut().zip([DC_LUMA, DC_CHROMA]) {
        table.get_or_insert_with(|| HuffmanSpec { counts: spec, symbols: (0..12).collect() });
    }
    for (table, (counts, symbols)) in markers.ac.iter_mut().zip([AC_LUMA, AC_CHROMA]) {
        table.get_or_insert_with(|| HuffmanSpec { counts, symbols: symbols.to_vec() });
    }
}

/// Whether the data from where `markers` stands to its end, without a marker in it, holds `mcus`
/// MCUs of a sequential scan.
pub(super) fn suffices(markers: &Markers<'_>, scan: &Scan, mcus: u64) -> Result<bool, DecodeError> {
    let frame = markers.frame.as_ref().expect("a scan before the frame header is refused");
    let table = |tables: &[Option<HuffmanSpec>; 4], number: usize| {
        tables.get(number).cloned().flatten().ok_or_else(|| markers.broken("a missing table"))
    };
    let mut blocks = Vec::new();
    for part in &scan.components {
        let component = &frame.components[part.component];
        let count = match scan.components.len() {
            1 => 1,
            _ => component.horizontal * component.vertical,
        };
        let dc = Table::new(&table(&markers.dc, part.dc)?);
        let ac = Table::new(&table(&markers.ac, part.ac)?);
        blocks.push((count, dc, ac));
    }
    let per_mcu: u32 = blocks.iter().map(|(count, ..)| count).sum();
    let mut bits = Bits {
        bytes: markers.bytes,
        at: markers.at,
        end: markers.at.next_multiple_of(FED).min(markers.bytes.len()),
        buffer: 0,
        held: 0,
        fast: false,
    };
    for _ in 0..mcus {
        loop {
            let kept = bits.clone();
            bits.fast = bits.end - bits.at.min(bits.end) >= FAST * per_mcu as usize;
            let whole = blocks
                .iter()
                .all(|(count, dc, ac)| (0..*count).all(|_| bits.block(dc, ac).is_some()));
            if whole {
                break;
            }
            if kept.end == kept.bytes.len() {
                return Ok(false);
            }
            bits = Bits { end: (kept.end + FED).min(kept.bytes.len()), ..kept };
        }
    }
    Ok(true)
}

/// A Huffman table for decoding.
struct Table {
    derived: [(i32, i32); 16],
    symbols: Vec<u8>,
    /// Length of the code that starts with these 8 bits, 0 where it is longer.
    lengths: [u8; 256],
}

impl Table {
    fn new(spec: &HuffmanSpec) -> Self {
        let derived = spec.derived();
        let mut lengths = [0; 256];
        for (bits, length) in (0_i32..).zip(&mut lengths) {
            let fits = |&l: &u8| bits >> (8 - l) <= derived[usize::from(l) - 1].0;
            *length = (1..=8).find(fits).unwrap_or(0);
        }
        Self { derived, symbols: spec.symbols.clone(), lengths }
    }
}

/// libjpeg's bit buffer.
#[derive(Clone)]
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the data fed so far ends.
    end: usize,
    /// The last `held` bits are yet to be used.
    buffer: u128,
    held: u32,
    fast: bool,
}

impl Bits<'_> {
    /// Passes over one block; `None` where libjpeg waits for more data.
    fn block(&mut self, dc: &Table, ac: &Table) -> Option<()> {
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

    fn symbol(&mut self, table: &Table) -> Option<u8> {
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
        // A code that is none counts as 0, with a warning.
        Some(index.and_then(|index| table.symbols.get(index)).copied().unwrap_or(0))
    }

    fn peek(&self, length: u32) -> i32 {
        let mask = (1_u128 << length) - 1;
        i32::try_from(self.buffer >> (self.held - length) & mask).expect("at most 17 bits")
    }

    /// Fills as the loop in use does before it needs some bits.
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

    /// The slow loop fills the buffer up, or gives up. libjpeg has taken the first `taken` bits out.
    fn need_slowly(&mut self, bits: u32, taken: u32) -> Option<()> {
        if self.held < taken + bits {
            while self.held < taken + 57 {
                self.byte()?;
            }
        }
        Some(())
    }

    /// Moves one byte into the buffer, a stuffed zero off the data.
    fn byte(&mut self) -> Option<()> {
        let data = self.bytes.get(self.at..self.end)?;
        let (&byte, rest) = data.split_first()?;
        self.at += 1;
        if byte == 0xFF {
            // Fill bytes, then the zero: there is no marker.
            self.at += rest.iter().position(|&byte| byte != 0xFF)? + 1;
        }
        self.buffer = self.buffer << 8 | u128::from(byte);
        self.held += 8;
        Some(())
    }
}

const DC_LUMA: [u8; 16] = [0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0];
const DC_CHROMA: [u8; 16] = [0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0];
#[rustfmt::skip]
const AC_LUMA: ([u8; 16], [u8; 162]) = (
    [0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125],
    [
        0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07, 0x22, 0x71,
        0x14, 0x32, 0x81, 0x91, 0xA1, 0x08, 0x23, 0x42, 0xB1, 0xC1, 0x15, 0x52, 0xD1, 0xF0, 0x24, 0x33, 0x62, 0x72,
        0x82, 0x09, 0x0A, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2A, 0x34, 0x35, 0x36, 0x37,
        0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4A, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59,
        0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6A, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A, 0x83,
        0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0xA2, 0xA3,
        0xA4, 0xA5, 0xA6, 0xA7, 0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA, 0xC2, 0xC3,
        0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA, 0xE1, 0xE2,
        0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF1, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8, 0xF9, 0xFA,
    ],
);
#[rustfmt::skip]
const AC_CHROMA: ([u8; 16], [u8; 162]) = (
    [0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119],
    [
        0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71, 0x13, 0x22,
        0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xA1, 0xB1, 0xC1, 0x09, 0x23, 0x33, 0x52, 0xF0, 0x15, 0x62, 0x72, 0xD1,
        0x0A, 0x16, 0x24, 0x34, 0xE1, 0x25, 0xF1, 0x17, 0x18, 0x19, 0x1A, 0x26, 0x27, 0x28, 0x29, 0x2A, 0x35, 0x36,
        0x37, 0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4A, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58,
        0x59, 0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6A, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A,
        0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A,
        0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7, 0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA,
        0xC2, 0xC3, 0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA,
        0xE2, 0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8, 0xF9, 0xFA,
    ],
);
