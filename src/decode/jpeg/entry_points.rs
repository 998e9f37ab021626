//! Entry points: states of the decoder at every few MCUs of each MCU row, from which decoding can start.
//!
//! They are stored in the index of a dataset, in packed form. They are untrusted input: all that is read
//! from them is bounded by the file that they belong to, so that wrong entry points cause wrong
//! pixels (against which the index has a checksum), and nothing worse.
//!
//! ```text
//!   version 1 | every u16 | MCUs across u16, down u16 | width of a bit offset u8
//!   per component: minimum of DC i16, width u8        (all little-endian)
//!   entries, row by row, bits packed from the lowest on:
//!     bit offset from the start of the scan's data * 2 + exhausted | DC - minimum, per component
//! ```
//!
//! All entries have the same width, so that any of them is found without reading the others.

use super::error::JpegError;
use super::scan::McuState;

const VERSION: u8 = 1;
const HEAD: usize = 8;
const COMPONENT_HEAD: usize = 3;

/// The MCUs of a scan, and how many components it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) across: u32,
    pub(super) down: u32,
    pub(super) components: usize,
}

impl Grid {
    /// Entries in an MCU row.
    fn per_row(self, every: u32) -> u32 {
        self.across.div_ceil(every)
    }
}

/// A reader of packed entry points.
#[derive(Clone, Copy, Debug)]
pub(super) struct EntryPoints<'a> {
    grid: Grid,
    every: u32,
    /// Minimum and width of each field: the offset, then the DC coefficients.
    fields: [(i16, u32); 5],
    body: &'a [u8],
}

impl<'a> EntryPoints<'a> {
    /// Checks that packed entry points belong to a scan with this grid.
    pub(super) fn read(packed: &'a [u8], grid: Grid) -> Result<Self, JpegError> {
        let wrong = |what| JpegError::EntryPoints { what };
        let head = HEAD + COMPONENT_HEAD * grid.components;
        if packed.len() < head || packed[0] != VERSION {
            return Err(wrong("another version, or a truncated header"));
        }
        let (head, body) = packed.split_at(head);
        let number = |at: usize| u32::from(u16::from_le_bytes([head[at], head[at + 1]]));
        let every = number(1);
        if every == 0 || number(3) != grid.across || number(5) != grid.down {
            return Err(wrong("they belong to an image of another size"));
        }
        let mut fields = [(0, 0); 5];
        fields[0].1 = u32::from(head[7]);
        for (field, part) in fields[1..].iter_mut().zip(head[HEAD..].chunks_exact(COMPONENT_HEAD)) {
            *field = (i16::from_le_bytes([part[0], part[1]]), u32::from(part[2]));
        }
        if fields[0].1 > 40 || fields[1..].iter().any(|field| field.1 > 16) {
            return Err(wrong("a field is too wide"));
        }
        let entries = u64::from(grid.per_row(every)) * u64::from(grid.down);
        let width = fields.iter().map(|field| u64::from(field.1)).sum::<u64>();
        if body.len() as u64 != (entries * width).div_ceil(8) {
            return Err(wrong("another length than the header states"));
        }
        Ok(Self { grid, every, fields, body })
    }

    /// The last entry at or before an MCU. `data` is the offset of the scan's data in the file.
    pub(super) fn before(&self, row: u32, column: u32, data: usize) -> McuState {
        let entry = row * self.grid.per_row(self.every) + column / self.every;
        let width = self.fields.iter().map(|field| u64::from(field.1)).sum::<u64>();
        let mut at = u64::from(entry) * width;
        let mut next = |width: u32| {
            let value = bits_at(self.body, at, width);
            at += u64::from(width);
            value
        };
        let offset = next(self.fields[0].1);
        let mut state = McuState {
            mcu: row * self.grid.across + column / self.every * self.every,
            byte: data.saturating_add((offset >> 4) as usize),
            bit: (offset >> 1 & 7) as u32,
            exhausted: offset & 1 != 0,
            ..McuState::default()
        };
        for (dc, &(min, width)) in state.dc.iter_mut().zip(&self.fields[1..]) {
            *dc = min.wrapping_add(next(width) as u16 as i16);
        }
        state
    }

    /// The number of bytes from `from` to the first entry at or after the end of a run of MCUs;
    /// `usize::MAX` where no entry follows.
    pub(super) fn bytes_to(&self, row: u32, end: u32, from: McuState, data: usize) -> usize {
        let end = end.next_multiple_of(self.every);
        let next = match end < self.grid.across {
            true => self.before(row, end, data),
            false if row + 1 < self.grid.down => self.before(row + 1, 0, data),
            false => return usize::MAX,
        };
        next.byte.saturating_sub(from.byte)
    }
}

/// `width` bits, at most 40, from bit `at` on; zero after the end.
fn bits_at(bytes: &[u8], at: u64, width: u32) -> u64 {
    let mut word = [0; 8];
    let tail = bytes.get((at / 8) as usize..).unwrap_or_default();
    let count = tail.len().min(8);
    word[..count].copy_from_slice(&tail[..count]);
    u64::from_le_bytes(word) >> (at % 8) & ((1 << width) - 1)
}

/// Packs the states of a scan, one per `every` MCUs of each row, in order.
pub(super) fn pack(states: &[McuState], every: u16, grid: Grid, data: usize) -> Vec<u8> {
    let offset = |state: &McuState| {
        (((state.byte - data) as u64) << 3 | u64::from(state.bit)) << 1 | u64::from(state.exhausted)
    };
    let width = |max: u64| u64::BITS - max.leading_zeros();
    let offset_width = width(states.iter().map(offset).max().unwrap_or(0));
    let mut out = vec![VERSION];
    for number in [every, grid.across as u16, grid.down as u16] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.push(offset_width as u8);
    let mut fields = [(0, 0); 4];
    for (component, field) in fields[..grid.components].iter_mut().enumerate() {
        let min = states.iter().map(|state| state.dc[component]).min().unwrap_or(0);
        let max = states.iter().map(|state| state.dc[component]).max().unwrap_or(0);
        *field = (min, width(u64::from(max.wrapping_sub(min).cast_unsigned())));
        out.extend_from_slice(&min.to_le_bytes());
        out.push(field.1 as u8);
    }
    let (mut word, mut filled) = (0_u128, 0);
    let mut push = |value: u64, width: u32| {
        word |= u128::from(value) << filled;
        filled += width;
        while filled >= 8 {
            out.push(word as u8);
            word >>= 8;
            filled -= 8;
        }
    };
    for state in states {
        push(offset(state), offset_width);
        for (dc, (min, width)) in state.dc.iter().zip(fields) {
            push(u64::from(dc.wrapping_sub(min).cast_unsigned()), width);
        }
    }
    push(0, 7);
    out
}
