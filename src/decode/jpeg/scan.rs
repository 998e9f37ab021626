//! Walks the MCUs of one sequential scan: DC prediction, restart markers, damage.
//!
//! Damaged data is taken as libjpeg takes it, because Pillow shows such pictures:
//!
//! * a code that no table has counts as 0 (see [`super::huffman`]);
//! * where a marker comes too early, the bits after it are zero up to the end of the MCU, and the
//!   blocks of later MCUs are empty up to the next restart;
//! * where a restart marker is not the one expected, [`Walk::restart`] decides as
//!   `jpeg_resync_to_restart` does (T.81 leaves it open).
//!
//! Only the end of the file is an error, as in Pillow.
//!
//! All that the next MCU depends on is a [`Place`]. The walk can therefore start at any MCU whose
//! place is known, and pass exactly through the states of a walk from the start.

use super::bits::{Stream, Window};
use super::error::JpegError;
use super::header::{Frame, MAX_COMPONENTS, Scan, ZIGZAG};
use super::huffman::AcTable;
use super::reader::{Restart, find_restart};
use super::scan_tables::ScanTables;
use crate::simd::{Simd, kernel};

/// The most blocks in an MCU.
pub(super) const MAX_BLOCKS: usize = 10;

/// The coefficients of a block in natural order, not yet dequantised.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(super) struct Block(pub(super) [i16; 64]);

impl Block {
    pub(super) const EMPTY: Self = Self([0; 64]);
}

/// The state between two MCUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The number of MCUs before.
    pub(super) mcu: u32,
    /// The next bit, in the file.
    pub(super) byte: usize,
    /// Within the byte, 0 to 7.
    pub(super) bit: u32,
    /// Blocks are empty up to the next restart.
    pub(super) exhausted: bool,
    /// The DC coefficients that the next ones are differences to. 16 bits: a wider sum is cut to
    /// 16 bits when it is stored.
    pub(super) dc: [i16; MAX_COMPONENTS],
}

/// One block of an MCU: its component and tables.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    component: usize,
    dc: usize,
    ac: usize,
}

/// A walk over the MCUs of a scan.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    pub(super) stream: Stream<'a>,
    file: &'a [u8],
    tables: &'a ScanTables,
    slots: [Slot; MAX_BLOCKS],
    blocks: usize,
    interval: u32,
    /// MCUs up to the next restart.
    to_go: u32,
    /// Blocks to come that a progressive scan leaves as they are.
    pub(super) ended: u32,
    place: Place,
}

impl<'a> Walk<'a> {
    /// A walk that is nowhere yet: [`Walk::go_to`] comes first.
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
        let stream = Stream::new(file, window);
        let place = Place::default();
        Self { stream, file, tables, slots, blocks, interval, to_go: 0, ended: 0, place }
    }

    /// The number of MCUs before the next one.
    pub(super) const fn mcu(&self) -> u32 {
        self.place.mcu
    }

    /// Where the walk is now. It takes time in the bytes since the last call or jump.
    pub(super) fn place(&mut self) -> Place {
        let (byte, bit) = self.stream.place();
        Place { byte, bit, ..self.place }
    }

    /// Jumps. `likely` is how many bytes will be read from there, as far as is known.
    pub(super) fn go_to(&mut self, place: Place, likely: usize) {
        self.place = place;
        self.ended = 0;
        self.stream.seek(place.byte, place.bit, likely);
        self.to_go = match (self.interval, place.mcu) {
            (0, _) => u32::MAX,
            (interval, 0) => interval,
            (interval, mcu) => interval - 1 - (mcu - 1) % interval,
        };
    }

    /// Skips the MCUs before number `mcu`.
    pub(super) fn skip_to(&mut self, simd: Simd, mcu: u32) -> Result<(), JpegError> {
        skip_to(simd, self, mcu)
    }

    /// Decodes as many MCUs as fill `out`: their blocks, and for each block the zigzag index of its
    /// last nonzero coefficient.
    pub(super) fn decode(
        &mut self,
        simd: Simd,
        out: &mut [Block],
        last: &mut [u8],
    ) -> Result<(), JpegError> {
        decode(simd, self, out, last)
    }

    /// Takes block `i` of an MCU into an empty one. Returns the place of its last coefficient.
    #[inline(always)]
    pub(super) fn whole(&mut self, i: usize, block: &mut Block) -> usize {
        let last = self.block(i, |k, value| {
            block.0[usize::from(ZIGZAG[k & 63]) & 63] = value;
        });
        block.0[0] = self.place.dc[self.slots[i].component];
        last
    }

    /// Takes block `i` of an MCU. Returns the place of its last coefficient.
    #[inline(always)]
    fn block(&mut self, i: usize, put: impl FnMut(usize, i16)) -> usize {
        let slot = &self.slots[i];
        self.stream.top_up();
        let mut bits = self.stream.bits;
        let window = &*self.stream.window.0;
        let difference = self.tables.dc(slot.dc).difference(&mut bits, window);
        let last = self.tables.ac(slot.ac).block(&mut bits, window, put);
        self.stream.bits = bits;
        let dc = &mut self.place.dc[slot.component];
        *dc = dc.wrapping_add(difference);
        last
    }

    /// Takes the DC coefficient of block `i` of an MCU.
    pub(super) fn dc(&mut self, i: usize) -> i16 {
        let slot = &self.slots[i];
        self.stream.top_up();
        let table = self.tables.dc(slot.dc);
        let difference = table.difference(&mut self.stream.bits, &self.stream.window.0);
        let dc = &mut self.place.dc[slot.component];
        *dc = dc.wrapping_add(difference);
        *dc
    }

    /// The AC table of block `i` of an MCU.
    pub(super) fn ac_table(&self, i: usize) -> &'a AcTable {
        self.tables.ac(self.slots[i].ac)
    }

    /// Whether blocks are empty up to the next restart.
    pub(super) const fn is_exhausted(&self) -> bool {
        self.place.exhausted
    }

    /// Restarts where a restart is due. Returns whether there is data for the next MCU.
    #[inline(always)]
    pub(super) fn enter_mcu(&mut self) -> Result<bool, JpegError> {
        if self.to_go == 0 {
            self.restart()?;
        }
        self.to_go -= u32::from(self.interval != 0);
        Ok(!self.place.exhausted)
    }

    /// Looks whether the data ended inside the MCU.
    #[inline(always)]
    pub(super) fn leave_mcu(&mut self) -> Result<(), JpegError> {
        self.place.mcu += 1;
        if self.stream.overran() && !self.place.exhausted {
            if self.stream.truncated() {
                return Err(self.stream.truncation());
            }
            self.place.exhausted = true;
        }
        Ok(())
    }

    /// Finds the restart marker that is due, and resumes there. If it belongs to a later interval, this
    /// interval is empty.
    #[cold]
    fn restart(&mut self) -> Result<(), JpegError> {
        let due = ((self.place.mcu - 1) / self.interval) & 7;
        let (_, after) = self.stream.marker()?;
        let found = find_restart(self.file, after - 2, due).ok_or(self.stream.truncation())?;
        let lost = self.place.exhausted;
        let (byte, exhausted) = match found {
            Restart::Due(after) => (after, false),
            Restart::Later(at) | Restart::Other(at) => (at, lost),
        };
        self.go_to(
            Place { mcu: self.place.mcu, byte, exhausted, ..Place::default() },
            usize::MAX,
        );
        // Every later restart would find the same marker again.
        let stuck = exhausted && matches!(found, Restart::Other(_));
        self.to_go = if stuck { u32::MAX } else { self.interval };
        Ok(())
    }

    /// The offset of the marker after the scan's data.
    pub(super) fn end(&mut self) -> Result<usize, JpegError> {
        self.stream.marker().map(|(_, after)| after - 2)
    }
}

// The two loops over MCUs. The shifts of BMI2 leave the flags alone and take their count from any
// register, which shortens the chain of dependent instructions that bounds the loops.
kernel! {
    [bmi2]
    fn skip_to(walk: &mut Walk<'_>, mcu: u32) -> Result<(), JpegError> {
        while walk.place.mcu < mcu {
            if walk.enter_mcu()? {
                for i in 0..walk.blocks {
                    walk.block(i, |_, _| {});
                }
            }
            walk.leave_mcu()?;
        }
        Ok(())
    }
}

kernel! {
    [bmi2]
    fn decode(walk: &mut Walk<'_>, out: &mut [Block], last: &mut [u8]) -> Result<(), JpegError> {
        let blocks = walk.blocks;
        for (out, last) in out.chunks_exact_mut(blocks).zip(last.chunks_exact_mut(blocks)) {
            out.fill(Block::EMPTY);
            last.fill(0);
            if walk.enter_mcu()? {
                for (i, (block, last)) in out.iter_mut().zip(last).enumerate() {
                    *last = walk.whole(i, block) as u8;
                }
            }
            walk.leave_mcu()?;
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
        let mut walk = Walk::new(file, &frame, &scan, interval, (&tables, &mut window));
        walk.go_to(Place { byte: scan.data, ..Place::default() }, 0);
        let (mut out, mut last) = (vec![Block::EMPTY; 6 * 9], vec![0; 6 * 9]);
        walk.skip_to(simd, 3).and_then(|()| walk.decode(simd, &mut out, &mut last)).unwrap();
        assert_eq!(walk.mcu(), 12);
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
