//! Arithmetic-coded scans, sequential and progressive (T.81 F.1.4, F.2.4, G.1.3), decoded as
//! libjpeg-turbo decodes them.
//!
//! Where a Huffman scan has tables of codes, an arithmetic one has statistics: each binary decision
//! is coded in a context, whose estimate adapts as the scan is read. The contexts of a DC difference
//! depend on the difference before it, those of an AC coefficient on its position:
//!
//! ```text
//!   DC   0..20  per category of the last difference: zero?, sign, magnitude > 1 (by sign)
//!        20..   magnitude category, then 14 later its bits
//!   AC   3 (k - 1) + 0  end of block?     + 1  coefficient k is not zero?    + 2  magnitude > 1, 2
//!        189.. magnitude category of low k, 217.. of high k, each 14 later its bits
//! ```
//!
//! A magnitude that overflows, or a run that leaves the band, is damage: the rest of the restart
//! interval is left as it is.

use super::block::Block;
use super::error::JpegError;
use super::header::{Conditioning, Frame, MAX_COMPONENTS, Scan, Tables, ZIGZAG};
use super::pass::{Band, Pass};
use super::qm_coder::{Bin, EVEN, QmDecoder};
use super::restart::{Restart, find_restart};
use super::scan::MAX_BLOCKS;

/// Pillow reads a file in blocks of this size (`ImageFile.MAXBLOCK`). libjpeg cannot pause inside an
/// arithmetic-coded scan to wait for the next block, so Pillow refuses scans that cross a boundary.
const PILLOW_BLOCK: usize = 65_536;

/// The distance from the contexts of a magnitude category to those of its bits.
const MAGNITUDE_BITS: usize = 14;
/// The first context of the magnitude categories of DC.
const DC_CATEGORIES: usize = 20;

/// The damage of an impossible magnitude or run.
#[derive(Clone, Copy, Debug)]
struct Damage;

/// One block of an MCU: its component, and the numbers of its statistics.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    component: usize,
    dc: usize,
    ac: usize,
}

/// The contexts of a scan, by table number.
#[derive(Debug)]
struct Statistics {
    dc: [[Bin; 64]; 16],
    ac: [[Bin; 256]; 16],
}

/// A decoder of one arithmetic-coded scan.
#[derive(Debug)]
pub(super) struct ArithmeticScan<'a> {
    file: &'a [u8],
    /// The part of the file that Pillow has read when the scan begins.
    available: &'a [u8],
    coder: QmDecoder<'a>,
    conditioning: &'a Conditioning,
    statistics: Box<Statistics>,
    slots: [Slot; MAX_BLOCKS],
    /// By component: the last DC coefficient, and the category of the last difference.
    dc: [(i32, usize); MAX_COMPONENTS],
    interval: u32,
    /// The number of MCUs up to the next restart.
    to_go: u32,
    restarts: u32,
    damaged: bool,
}

impl<'a> ArithmeticScan<'a> {
    /// A decoder at the start of a scan.
    pub(super) fn new(file: &'a [u8], frame: &Frame, tables: &'a Tables<'_>, scan: &Scan) -> Self {
        let mut slots = [Slot::default(); MAX_BLOCKS];
        let parts = scan.components().iter().flat_map(|part| {
            let component = &frame.components()[part.index];
            let count = if scan.count == 1 { 1 } else { component.h * component.v };
            (0..count).map(|_| Slot { component: part.index, dc: part.dc, ac: part.ac })
        });
        for (slot, part) in slots.iter_mut().zip(parts) {
            *slot = part;
        }
        let available = scan.data.next_multiple_of(PILLOW_BLOCK).min(file.len());
        let available = &file[..available];
        Self {
            file,
            available,
            coder: QmDecoder::new(available, scan.data),
            conditioning: &tables.conditioning,
            statistics: Box::new(Statistics { dc: [[0; _]; 16], ac: [[0; _]; 16] }),
            slots,
            dc: [(0, 0); MAX_COMPONENTS],
            interval: tables.restart_interval,
            to_go: tables.restart_interval,
            restarts: 0,
            damaged: false,
        }
    }

    /// Restarts where a restart is due.
    pub(super) fn enter_mcu(&mut self) -> Result<(), JpegError> {
        if self.interval != 0 {
            if self.to_go == 0 {
                self.restart()?;
            }
            self.to_go -= 1;
        }
        Ok(())
    }

    /// Checks whether the data ended inside the MCU.
    pub(super) fn leave_mcu(&self) -> Result<(), JpegError> {
        if self.coder.overran() { Err(self.end_of_data()) } else { Ok(()) }
    }

    fn restart(&mut self) -> Result<(), JpegError> {
        let from = self.coder.position();
        let found = find_restart(self.available, from, self.restarts & 7);
        let at = match found.ok_or_else(|| self.end_of_data())? {
            Restart::Due(at) | Restart::Later(at) | Restart::Other(at) => at,
        };
        self.restarts += 1;
        self.coder = QmDecoder::new(self.available, at);
        *self.statistics = Statistics { dc: [[0; _]; 16], ac: [[0; _]; 16] };
        self.dc = [(0, 0); MAX_COMPONENTS];
        self.to_go = self.interval;
        self.damaged = false;
        Ok(())
    }

    /// The number of bytes that Pillow has read when the scan begins.
    pub(super) const fn available(&self) -> usize {
        self.available.len()
    }

    /// The offset of the marker after the data, or of its end.
    pub(super) fn end(&self) -> usize {
        self.coder.position()
    }

    fn end_of_data(&self) -> JpegError {
        if self.available.len() == self.file.len() {
            return JpegError::Truncated { length: self.file.len() };
        }
        let what = "arithmetic coding across a boundary of 64 KiB, which Pillow cannot read";
        JpegError::Malformed { what, offset: self.available.len() }
    }

    /// Adds what the scan has of block `slot` of the MCU.
    pub(super) fn block(&mut self, pass: Pass, slot: usize, block: &mut Block) {
        if self.damaged {
            return;
        }
        let done = match pass {
            Pass::Whole => self.whole(slot, block),
            Pass::DcFirst { low } => self.dc(slot).map(|dc| block.0[0] = (dc << low) as i16),
            Pass::DcRefine { low } => {
                block.0[0] |= i16::from(self.coder.decide(&mut { EVEN })) << low;
                Ok(())
            }
            Pass::AcFirst(band) => self.ac_first(slot, band, block),
            Pass::AcRefine(band) => self.ac_refine(slot, band, block),
        };
        self.damaged = done.is_err();
    }

    fn whole(&mut self, slot: usize, block: &mut Block) -> Result<(), Damage> {
        block.0[0] = self.dc(slot)? as i16;
        self.ac_first(slot, Band { from: 1, to: 63, low: 0 }, block)
    }

    /// The DC coefficient of a block (T.81 figures F.19 to F.24).
    fn dc(&mut self, slot: usize) -> Result<i32, Damage> {
        let Slot { component, dc: table, .. } = self.slots[slot];
        let (coder, bins) = (&mut self.coder, &mut self.statistics.dc[table]);
        let (last, category) = &mut self.dc[component];
        let context = *category;
        if !coder.decide(&mut bins[context]) {
            *category = 0;
            return Ok(*last);
        }
        let negative = coder.decide(&mut bins[context + 1]);
        let mut at = context + 2 + usize::from(negative);
        let mut top = i32::from(coder.decide(&mut bins[at]));
        if top != 0 {
            at = DC_CATEGORIES;
            top = category_of(coder, bins, &mut at, top)?;
        }
        let (low, high) = self.conditioning.dc[table];
        *category = if top < 1 << low >> 1 {
            0
        } else if top > 1 << high >> 1 {
            12 + 4 * usize::from(negative)
        } else {
            4 + 4 * usize::from(negative)
        };
        let difference = magnitude(coder, &mut bins[at + MAGNITUDE_BITS], top);
        *last = (*last + if negative { -difference } else { difference }) & 0xFFFF;
        Ok(*last)
    }

    /// The first scan of a band (T.81 figure F.20).
    fn ac_first(&mut self, slot: usize, band: Band, block: &mut Block) -> Result<(), Damage> {
        let table = self.slots[slot].ac;
        let (coder, bins) = (&mut self.coder, &mut self.statistics.ac[table]);
        let mut k = band.from;
        while k <= band.to {
            if coder.decide(&mut bins[3 * (k - 1)]) {
                break;
            }
            while !coder.decide(&mut bins[3 * (k - 1) + 1]) {
                k += 1;
                if k > band.to {
                    return Err(Damage);
                }
            }
            let negative = coder.decide(&mut { EVEN });
            let mut at = 3 * (k - 1) + 2;
            let mut top = i32::from(coder.decide(&mut bins[at]));
            if top != 0 && coder.decide(&mut bins[at]) {
                at = if k <= usize::from(self.conditioning.ac[table]) { 189 } else { 217 };
                top = category_of(coder, bins, &mut at, 2)?;
            }
            let value = magnitude(coder, &mut bins[at + MAGNITUDE_BITS], top);
            let value = if negative { -value } else { value };
            block.0[usize::from(ZIGZAG[k])] = (value << band.low) as i16;
            k += 1;
        }
        Ok(())
    }

    /// A later scan of a band (T.81 figure G.10).
    fn ac_refine(&mut self, slot: usize, band: Band, block: &mut Block) -> Result<(), Damage> {
        let (coder, bins) = (&mut self.coder, &mut self.statistics.ac[self.slots[slot].ac]);
        let bit = 1_i16 << band.low;
        let known = |&k: &usize| block.0[usize::from(ZIGZAG[k])] != 0;
        let last_known = (1..=band.to).rev().find(known).unwrap_or(0);
        let mut k = band.from;
        while k <= band.to {
            if k > last_known && coder.decide(&mut bins[3 * (k - 1)]) {
                break;
            }
            loop {
                let value = &mut block.0[usize::from(ZIGZAG[k])];
                if *value != 0 {
                    if coder.decide(&mut bins[3 * (k - 1) + 2]) {
                        *value = value.wrapping_add(if *value < 0 { -bit } else { bit });
                    }
                    break;
                }
                if coder.decide(&mut bins[3 * (k - 1) + 1]) {
                    *value = if coder.decide(&mut { EVEN }) { -bit } else { bit };
                    break;
                }
                k += 1;
                if k > band.to {
                    return Err(Damage);
                }
            }
            k += 1;
        }
        Ok(())
    }
}

/// The highest bit of a magnitude less one (T.81 figure F.23), from `top` on. `at` becomes the
/// context that ended it.
fn category_of(
    coder: &mut QmDecoder<'_>,
    bins: &mut [Bin],
    at: &mut usize,
    mut top: i32,
) -> Result<i32, Damage> {
    while coder.decide(&mut bins[*at]) {
        top <<= 1;
        if top == 0x8000 {
            return Err(Damage);
        }
        *at += 1;
    }
    Ok(top)
}

/// A magnitude, by the highest bit of that less one (T.81 figure F.24).
fn magnitude(coder: &mut QmDecoder<'_>, bin: &mut Bin, top: i32) -> i32 {
    let (mut value, mut bit) = (top, top >> 1);
    while bit != 0 {
        if coder.decide(bin) {
            value |= bit;
        }
        bit >>= 1;
    }
    value + 1
}
