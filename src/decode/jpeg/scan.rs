//! The entropy loop: decodes the MCUs of one sequential, Huffman-coded scan (T.81 F.2).
//!
//! # Algorithm
//!
//! A scan is one stream of bits. An MCU is a fixed sequence of blocks, and a block is a DC difference
//! followed by AC coefficients, each a code (run and size) and `size` bits of value:
//!
//! ```text
//!   MCU     | Y0 | Y1 | Y2 | Y3 | Cb | Cr |          blocks per component: `h * v`
//!   block   | DC code | bits | AC code | bits | ... | end of block
//!   stream  ... 0xFF 0x00 ... 0xFF 0xD3 ...          stuffed zeros, a restart marker per interval
//! ```
//!
//! The work is split so that the inner loop is as short as possible:
//!
//! * [`super::bits`] removes stuffing and markers in bulk, into a window of plain bits. A block reads
//!   a bounded number of bits, so one check per block ([`Stream::top_up`]) replaces one per byte.
//! * [`super::huffman`] resolves up to two coefficients with one table lookup.
//! * This module keeps what survives a block: the predictions of DC, the restart interval, and
//!   whether the data has ended early.
//!
//! ```text
//!   for each MCU:
//!       if a restart is due:  find its marker, reset DC, resume after it
//!       for each block:       top up the window; DC += difference; AC until the end of the block
//!       if bits were read past a marker:  later blocks are empty up to the next restart
//! ```
//!
//! # Random access
//!
//! All that the next MCU depends on is a [`McuState`]: the position of its first bit, and the DC
//! predictions. A decoder that [seeks](ScanDecoder::seek) to a known state therefore passes through
//! exactly the states of a decoder that started at the first MCU, and a box costs the MCUs from the
//! entry point before it, not those from the start of the file.
//!
//! # Damage
//!
//! Pillow shows damaged pictures as libjpeg decodes them, so the result is the same here:
//!
//! * A code that no table has takes 17 bits and counts as 0.
//! * Where a marker comes too early, the missing bits of the MCU are zero, and the blocks of later MCUs
//!   are empty, which is gray, up to the next restart.
//! * Where a restart marker has another number than the one that is due, [`find_restart`] decides.
//! * Where several 0xFF and a zero stand in the data, [`super::exact`] decodes the scan.
//!
//! Only the end of the file is an error, as it is in Pillow.

use super::bits::{Stream, Window};
use super::block::Block;
use super::error::JpegError;
use super::exact::{CodeTable, ExactScan, ExactSlot};
use super::header::{Frame, MAX_COMPONENTS, Process, Scan, ZIGZAG};
use super::huffman::AcTable;
use super::restart::{Restart, find_restart};
use super::scan_tables::ScanTables;
use crate::simd::{Simd, kernel};

/// The maximum number of blocks in an MCU.
pub(super) const MAX_BLOCKS: usize = 10;

/// The state of the decoder between two MCUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct McuState {
    /// The number of MCUs before it.
    pub(super) mcu: u32,
    /// The offset of the next bit's byte in the file.
    pub(super) byte: usize,
    /// The next bit within the byte, 0 to 7.
    pub(super) bit: u32,
    /// Whether blocks are empty up to the next restart.
    pub(super) exhausted: bool,
    /// The DC coefficients that the next ones are differences to. libjpeg keeps wider sums, but stores
    /// their low 16 bits.
    pub(super) dc: [i16; MAX_COMPONENTS],
}

/// One block of an MCU: its component and tables.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    component: usize,
    dc: usize,
    ac: usize,
}

/// A decoder of the MCUs of a scan.
#[derive(Debug)]
pub(super) struct ScanDecoder<'a> {
    pub(super) stream: Stream<'a>,
    file: &'a [u8],
    tables: &'a ScanTables,
    slots: [Slot; MAX_BLOCKS],
    blocks: usize,
    interval: u32,
    /// The number of MCUs up to the next restart.
    to_go: u32,
    /// The number of blocks that follow whose bands have ended (T.81 G.1.2.2, `EOBRUN`).
    pub(super) eob_run: u32,
    state: McuState,
    /// Decodes the rest of a scan that libjpeg-turbo reads in a peculiar way.
    exact: Option<Box<ExactScan<'a>>>,
    /// The offset of the scan's data.
    data: usize,
}

impl<'a> ScanDecoder<'a> {
    /// A decoder without a position: [`ScanDecoder::seek`] must be called first.
    pub(super) fn new(
        file: &'a [u8],
        frame: &Frame,
        scan: &Scan,
        interval: u32,
        (tables, window): (&'a ScanTables, &'a mut Window),
    ) -> Self {
        let mut slots = [Slot::default(); MAX_BLOCKS];
        let mut blocks = 0;
        for part in scan.components() {
            let component = &frame.components()[part.index];
            let single = scan.components().len() == 1;
            let count = if single { 1 } else { component.h * component.v };
            for _ in 0..count {
                slots[blocks] = Slot { component: part.index, dc: part.dc, ac: part.ac };
                blocks += 1;
            }
        }
        // With restarts, and in progressive scans, libjpeg-turbo has one way of reading.
        let stops_at_fill = frame.process == Process::Sequential && interval == 0;
        Self {
            stream: Stream::new(file, window, stops_at_fill),
            file,
            tables,
            slots,
            blocks,
            interval,
            to_go: 0,
            eob_run: 0,
            state: McuState::default(),
            exact: None,
            data: scan.data,
        }
    }

    /// The number of MCUs decoded or skipped so far.
    pub(super) fn mcu(&self) -> u32 {
        self.exact.as_ref().map_or(self.state.mcu, |exact| exact.mcu())
    }

    /// Whether the scan can only be decoded from its start.
    pub(super) const fn is_exact(&self) -> bool {
        self.exact.is_some()
    }

    /// The blocks of an MCU with their tables.
    pub(super) fn exact_slots(&self) -> Vec<ExactSlot<'a>> {
        let slot = |slot: &Slot| {
            let (dc, ac) = self.tables.specs(slot.dc, slot.ac);
            ExactSlot { component: slot.component, dc: CodeTable::new(dc), ac: CodeTable::new(ac) }
        };
        self.slots[..self.blocks].iter().map(slot).collect()
    }

    /// Changes to the exact decoder, at MCU number `mcu`.
    #[cold]
    fn become_exact(&mut self, mcu: u32) -> Result<&mut ExactScan<'a>, JpegError> {
        let mut exact = Box::new(ExactScan::new(self.file, self.data, self.exact_slots()));
        exact.skip_to(mcu)?;
        Ok(self.exact.insert(exact))
    }

    /// The state before the next MCU. It takes time in proportion to the bytes since the last call or
    /// seek.
    pub(super) fn state(&mut self) -> McuState {
        let (byte, bit) = self.stream.position();
        McuState { byte, bit, ..self.state }
    }

    /// Continues from a state. `likely` is the number of bytes that are expected to be read from there.
    pub(super) fn seek(&mut self, state: McuState, likely: usize) {
        self.state = state;
        self.eob_run = 0;
        self.stream.seek(state.byte, state.bit, likely);
        self.to_go = match (self.interval, state.mcu) {
            (0, _) => u32::MAX,
            (interval, 0) => interval,
            (interval, mcu) => interval - 1 - (mcu - 1) % interval,
        };
    }

    /// Skips the MCUs before number `mcu`.
    pub(super) fn skip_to(&mut self, simd: Simd, mcu: u32) -> Result<(), JpegError> {
        if let Some(exact) = &mut self.exact {
            return exact.skip_to(mcu);
        }
        match skip_to(simd, self, mcu) {
            Err(JpegError::Fill) => self.become_exact(mcu).map(drop),
            result => result,
        }
    }

    /// Decodes as many MCUs as fill `out`: their blocks, and for each block the zigzag index of its
    /// last nonzero coefficient.
    pub(super) fn decode(
        &mut self,
        simd: Simd,
        out: &mut [Block],
        last: &mut [u8],
    ) -> Result<(), JpegError> {
        if let Some(exact) = &mut self.exact {
            return exact.decode(out, last);
        }
        let first = self.state.mcu;
        match decode(simd, self, out, last) {
            Err(JpegError::Fill) => self.become_exact(first)?.decode(out, last),
            result => result,
        }
    }

    /// Decodes block `i` of an MCU into an empty one. Returns the zigzag index of its last coefficient.
    #[inline(always)]
    pub(super) fn whole(&mut self, i: usize, block: &mut Block) -> usize {
        let last = self.block(i, |k, value| {
            block.0[usize::from(ZIGZAG[k & 63]) & 63] = value;
        });
        block.0[0] = self.state.dc[self.slots[i].component];
        last
    }

    /// Decodes block `i` of an MCU. Returns the zigzag index of its last coefficient.
    #[inline(always)]
    fn block(&mut self, i: usize, put: impl FnMut(usize, i16)) -> usize {
        let slot = &self.slots[i];
        self.stream.top_up();
        let mut bits = self.stream.bits;
        let window = &*self.stream.window.0;
        let difference = self.tables.dc(slot.dc).difference(&mut bits, window);
        let last = self.tables.ac(slot.ac).block(&mut bits, window, put);
        self.stream.bits = bits;
        let dc = &mut self.state.dc[slot.component];
        *dc = dc.wrapping_add(difference);
        last
    }

    /// Decodes the DC coefficient of block `i` of an MCU.
    pub(super) fn dc(&mut self, i: usize) -> i16 {
        let slot = &self.slots[i];
        self.stream.top_up();
        let table = self.tables.dc(slot.dc);
        let difference = table.difference(&mut self.stream.bits, &self.stream.window.0);
        let dc = &mut self.state.dc[slot.component];
        *dc = dc.wrapping_add(difference);
        *dc
    }

    /// The AC table of block `i` of an MCU.
    pub(super) fn ac_table(&self, i: usize) -> &'a AcTable {
        self.tables.ac(self.slots[i].ac)
    }

    /// Whether blocks are empty up to the next restart.
    pub(super) const fn is_exhausted(&self) -> bool {
        self.state.exhausted
    }

    /// Restarts where a restart is due. Returns whether there is data for the next MCU.
    #[inline(always)]
    pub(super) fn enter_mcu(&mut self) -> Result<bool, JpegError> {
        if self.to_go == 0 {
            self.restart()?;
        }
        self.to_go -= u32::from(self.interval != 0);
        Ok(!self.state.exhausted)
    }

    /// Checks whether the data ended inside the MCU.
    #[inline(always)]
    pub(super) fn leave_mcu(&mut self) -> Result<(), JpegError> {
        self.state.mcu += 1;
        if self.stream.overran() && !self.state.exhausted {
            if self.stream.truncated() {
                return Err(self.stream.truncation());
            }
            if self.stream.at_fill() {
                return Err(JpegError::Fill);
            }
            self.state.exhausted = true;
        }
        Ok(())
    }

    /// Finds the restart marker that is due, and resumes there. If it belongs to a later interval, this
    /// interval is empty.
    #[cold]
    fn restart(&mut self) -> Result<(), JpegError> {
        let due = ((self.state.mcu - 1) / self.interval) & 7;
        let (_, after) = self.stream.marker()?;
        let found = find_restart(self.file, after - 2, due).ok_or(self.stream.truncation())?;
        let lost = self.state.exhausted;
        let (byte, exhausted) = match found {
            Restart::Due(after) => (after, false),
            Restart::Later(at) | Restart::Other(at) => (at, lost),
        };
        self.seek(
            McuState { mcu: self.state.mcu, byte, exhausted, ..McuState::default() },
            usize::MAX,
        );
        // Every later restart would find the same marker again.
        let stuck = exhausted && matches!(found, Restart::Other(_));
        self.to_go = if stuck { u32::MAX } else { self.interval };
        Ok(())
    }

    /// The offset of the marker after the scan's data.
    pub(super) fn end(&mut self) -> Result<usize, JpegError> {
        match &self.exact {
            None => self.stream.marker().map(|(_, after)| after - 2),
            Some(exact) => exact.end(),
        }
    }
}

// The two loops over MCUs. The shifts of BMI2 leave the flags alone and take their count from any
// register, which shortens the chain of dependent instructions that bounds the loops.
kernel! {
    [bmi2]
    fn skip_to(decoder: &mut ScanDecoder<'_>, mcu: u32) -> Result<(), JpegError> {
        while decoder.state.mcu < mcu {
            if decoder.enter_mcu()? {
                for i in 0..decoder.blocks {
                    decoder.block(i, |_, _| {});
                }
            }
            decoder.leave_mcu()?;
        }
        Ok(())
    }
}

kernel! {
    [bmi2]
    fn decode(decoder: &mut ScanDecoder<'_>, out: &mut [Block], last: &mut [u8]) -> Result<(), JpegError> {
        let blocks = decoder.blocks;
        for (out, last) in out.chunks_exact_mut(blocks).zip(last.chunks_exact_mut(blocks)) {
            out.fill(Block::EMPTY);
            last.fill(0);
            if decoder.enter_mcu()? {
                for (i, (block, last)) in out.iter_mut().zip(last).enumerate() {
                    *last = decoder.whole(i, block) as u8;
                }
            }
            decoder.leave_mcu()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::reader::MarkerReader;
    use super::super::test_file::{Scans, TestFile};
    use super::*;

    /// The coefficients of all MCUs but the first three.
    fn blocks(simd: Simd, file: &[u8]) -> (Vec<[i16; 64]>, Vec<u8>) {
        let mut reader = MarkerReader::new(file).unwrap();
        let (frame, scan) = reader.first_scan().unwrap();
        let (mut tables, mut window) = (ScanTables::default(), Window::default());
        tables.load(&reader.tables, &scan, (true, true)).unwrap();
        let interval = reader.tables.restart_interval;
        let mut decoder = ScanDecoder::new(file, &frame, &scan, interval, (&tables, &mut window));
        decoder.seek(McuState { byte: scan.data, ..McuState::default() }, 0);
        let (mut out, mut last) = (vec![Block::EMPTY; 6 * 9], vec![0; 6 * 9]);
        decoder.skip_to(simd, 3).and_then(|()| decoder.decode(simd, &mut out, &mut last)).unwrap();
        assert_eq!(decoder.mcu(), 12);
        (out.iter().map(|block| block.0).collect(), last)
    }

    #[test]
    fn every_level_gives_the_same_coefficients() {
        for seed in 0..50 {
            let file = TestFile {
                height: 40,
                width: 60,
                factors: vec![(2, 2), (1, 1), (1, 1)],
                restart_interval: 5,
                seed,
                scans: Scans::Interleaved,
            };
            let file = file.encode();
            let scalar = blocks(Simd::SCALAR, &file);
            assert!(scalar.0.iter().any(|block| block[1..] != [0; 63]));
            for simd in Simd::all() {
                assert_eq!(blocks(simd, &file), scalar, "{simd:?}");
            }
        }
    }
}
