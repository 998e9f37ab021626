//! The coefficients of a whole image, for files whose pixels cannot be made as one scan is read:
//! progressive ones (T.81 annex G), sequential ones whose components are not interleaved, and
//! arithmetic-coded ones. A box of such an image costs the entropy decoding of all of it.

use super::arithmetic::ArithmeticScan;
use super::bits::Window;
use super::block::Block;
use super::error::JpegError;
use super::exact::ExactScan;
use super::header::{Coding, Frame, MAX_COMPONENTS, Process, Scan, Tables};
use super::pass::Pass;
use super::reader::{MarkerReader, Stop};
use super::region::{Geometry, Layout};
use super::scan::{McuState, ScanDecoder};
use super::scan_tables::ScanTables;
use super::smoothing::{Neighborhood, Precision, smooth};
use crate::scratch::{bytes_of, fit};

/// The maximum number of scans. Real files have fewer, and each scan may visit all blocks for next
/// to no bytes.
const MAX_SCANS: usize = 200;
/// Any image may have this many blocks (8 MiB of coefficients); a larger one needs a byte of the file
/// for every 8 blocks.
const SMALL: usize = 1 << 16;

/// The coefficients of an image.
#[derive(Debug)]
pub(super) struct Coefficients {
    /// Component after component, row after row, including the blocks that only fill MCUs.
    blocks: Vec<Block>,
    /// By component: the index of its first block, and the number of blocks in a row.
    planes: [(usize, usize); MAX_COMPONENTS],
    /// By component: the quantization table in force at its first scan.
    pub(super) quant: [[u16; 64]; MAX_COMPONENTS],
    precision: Precision,
    is_smoothed: bool,
}

impl Default for Coefficients {
    fn default() -> Self {
        Self {
            blocks: Vec::new(),
            planes: [(0, 0); MAX_COMPONENTS],
            quant: [[0; 64]; MAX_COMPONENTS],
            precision: Precision::default(),
            is_smoothed: false,
        }
    }
}

impl Coefficients {
    /// The bytes that it keeps.
    pub(super) const fn held_bytes(&self) -> usize {
        bytes_of(&self.blocks)
    }

    /// Decodes all scans, of which `scan` is the first.
    pub(super) fn read<'a>(
        &mut self,
        file: &'a [u8],
        mut reader: MarkerReader<'a>,
        geometry: &Geometry,
        mut scan: Scan,
        (tables, window): (&mut ScanTables, &mut Window),
    ) -> Result<(), JpegError> {
        let frame = reader.frame.expect("a scan before the frame header is refused");
        self.clear(file, geometry)?;
        let mut seen = [false; MAX_COMPONENTS];
        for _ in 0..MAX_SCANS {
            let pass = Pass::of(frame.process, &scan)?;
            for part in scan.components() {
                if !seen[part.index] {
                    seen[part.index] = true;
                    let component = &frame.components()[part.index];
                    self.quant[part.index] = reader.quantizer(component)?;
                }
            }
            if frame.process == Process::Progressive {
                self.precision.add(&scan);
            }
            let spec = (&frame, &reader.tables);
            let mut entropy = Entropy::new(file, spec, (&scan, pass), (tables, window))?;
            match self.scan(geometry, (&scan, pass), &mut entropy) {
                Err(JpegError::Fill) => {
                    entropy = entropy.exact(file, &scan);
                    self.scan(geometry, (&scan, pass), &mut entropy)?;
                }
                result => result?,
            }
            let (end, available) = (entropy.end()?, entropy.available());
            if frame.has_one_scan(&scan) {
                return reader.check_after_scan(end, available.min(file.len()));
            }
            match reader.next_stop_after(end)? {
                Stop::Scan(next) => scan = next,
                Stop::End => {
                    self.is_smoothed = frame.process == Process::Progressive
                        && self.precision.needs_smoothing(frame.count, &self.quant);
                    return Ok(());
                }
            }
        }
        Err(JpegError::Unsupported { what: "an image in over 200 scans" })
    }

    /// Makes all blocks empty, in memory that the length of the file justifies: a block takes at
    /// least a bit, unless most of the image is empty.
    fn clear(&mut self, file: &[u8], geometry: &Geometry) -> Result<(), JpegError> {
        let grid = geometry.grid;
        let mut count = 0;
        *self = Self { blocks: std::mem::take(&mut self.blocks), ..Self::default() };
        for (plane, layout) in self.planes.iter_mut().zip(geometry.layouts()) {
            *plane = (count, (grid.across * layout.h) as usize);
            count += plane.1 * (grid.down * layout.v) as usize;
        }
        if count > SMALL && count / 8 > file.len() {
            let what = "a large image of several scans in a file of few bytes";
            return Err(JpegError::Unsupported { what });
        }
        self.blocks.clear();
        fit(&mut self.blocks, count, Block::EMPTY);
        Ok(())
    }

    /// Decodes one scan.
    fn scan(
        &mut self,
        geometry: &Geometry,
        (scan, pass): (&Scan, Pass),
        entropy: &mut Entropy<'_>,
    ) -> Result<(), JpegError> {
        let layouts = geometry.layouts();
        if let [part] = scan.components() {
            // Not interleaved: the component's own blocks, without those that only fill MCUs.
            let Layout { v, .. } = layouts[part.index];
            let (across, down) = layouts[part.index].blocks();
            for y in 0..down {
                for x in 0..across {
                    self.note_progress(y / v, entropy);
                    if entropy.enter_mcu()? {
                        let at = self.at(part.index, y, x);
                        entropy.block(pass, 0, &mut self.blocks[at]);
                    }
                    entropy.leave_mcu()?;
                }
            }
            return Ok(());
        }
        for mcu in 0..geometry.grid.down * geometry.grid.across {
            let (y, x) = (mcu / geometry.grid.across, mcu % geometry.grid.across);
            self.note_progress(y, entropy);
            if entropy.enter_mcu()? {
                let mut slot = 0;
                for part in scan.components() {
                    let Layout { h, v, .. } = layouts[part.index];
                    for i in 0..h * v {
                        let at = self.at(part.index, y * v + i / h, x * h + i % h);
                        entropy.block(pass, slot, &mut self.blocks[at]);
                        slot += 1;
                    }
                }
            }
            entropy.leave_mcu()?;
        }
        Ok(())
    }

    fn note_progress(&mut self, mcu_row: u32, entropy: &Entropy<'_>) {
        if !entropy.is_exhausted() {
            self.precision.last_good_row = mcu_row;
        }
    }

    fn at(&self, component: usize, row: u32, column: u32) -> usize {
        let (first, stride) = self.planes[component];
        first + row as usize * stride + column as usize
    }

    /// A block of a component, as it is to be transformed. `rows` is the number of MCU rows of the
    /// image.
    pub(super) fn block(
        &self,
        (component, layout): (usize, &Layout),
        rows: u32,
        row: u32,
        column: u32,
    ) -> Block {
        let mut block = self.blocks[self.at(component, row, column)];
        let (across, down) = layout.blocks();
        if self.is_smoothed && row < down && column < across {
            let around = self.around((component, layout), rows, row, column);
            let bits = self.precision.bits(component, row / layout.v);
            smooth(&mut block, &around, bits, &self.quant[component]);
        }
        block
    }

    /// The DC coefficients around a block. At its edges the image is continued by its outermost
    /// blocks, by libjpeg's idea of how many rows there are: it counts those of the last MCU row as if
    /// all MCU rows had as many.
    fn around(
        &self,
        (component, layout): (usize, &Layout),
        rows: u32,
        row: u32,
        column: u32,
    ) -> Neighborhood {
        let (across, down) = layout.blocks();
        let (mcu_row, v) = (row / layout.v, layout.v);
        let in_mcu = if mcu_row + 1 < rows || down % v == 0 { v } else { down % v };
        let (counted, count) = (mcu_row * in_mcu + row % v, in_mcu * rows);
        let up = [0, 1, 2].map(|distance| row - counted.min(distance));
        let down = [1, 2].map(|distance| row + distance.min(count - 1 - counted));
        let columns = [-2, -1, 0, 1, 2]
            .map(|distance| column.saturating_add_signed(distance).min(across - 1));
        [up[2], up[1], up[0], down[0], down[1]]
            .map(|y| columns.map(|x| i32::from(self.blocks[self.at(component, y, x)].0[0])))
    }
}

/// The entropy decoder of one scan.
#[derive(Debug)]
enum Entropy<'a> {
    Huffman(ScanDecoder<'a>),
    Exact(Box<ExactScan<'a>>),
    Arithmetic(ArithmeticScan<'a>),
}

impl<'a> Entropy<'a> {
    /// A decoder at the start of a scan.
    fn new(
        file: &'a [u8],
        (frame, spec): (&Frame, &'a Tables<'_>),
        (scan, pass): (&Scan, Pass),
        (tables, window): (&'a mut ScanTables, &'a mut Window),
    ) -> Result<Self, JpegError> {
        if frame.coding == Coding::Arithmetic {
            return Ok(Self::Arithmetic(ArithmeticScan::new(file, frame, spec, scan)));
        }
        tables.load(spec, scan, pass.needs())?;
        let mut decoder =
            ScanDecoder::new(file, frame, scan, spec.restart_interval, (tables, window));
        decoder.seek(McuState { byte: scan.data, ..McuState::default() }, usize::MAX);
        Ok(Self::Huffman(decoder))
    }

    /// The exact decoder, at the start of the scan.
    fn exact(self, file: &'a [u8], scan: &Scan) -> Self {
        match self {
            Self::Huffman(decoder) => {
                Self::Exact(Box::new(ExactScan::new(file, scan.data, decoder.exact_slots())))
            }
            other => other,
        }
    }

    /// Whether the data has ended early, up to the next restart.
    fn is_exhausted(&self) -> bool {
        match self {
            Self::Huffman(decoder) => decoder.is_exhausted(),
            // Asked of progressive images only. A marker inside the data is legal in arithmetic coding.
            Self::Exact(_) | Self::Arithmetic(_) => false,
        }
    }

    /// Restarts where a restart is due. Returns whether there is data for the next MCU.
    fn enter_mcu(&mut self) -> Result<bool, JpegError> {
        match self {
            Self::Huffman(decoder) => decoder.enter_mcu(),
            Self::Exact(scan) => scan.next_mcu().map(|_| true),
            Self::Arithmetic(scan) => scan.enter_mcu().map(|()| true),
        }
    }

    /// Adds what the scan has of block `slot` of the MCU.
    fn block(&mut self, pass: Pass, slot: usize, block: &mut Block) {
        match self {
            Self::Huffman(decoder) => decoder.pass(pass, slot, block),
            Self::Exact(scan) => *block = scan.blocks()[slot],
            Self::Arithmetic(scan) => scan.block(pass, slot, block),
        }
    }

    /// Checks whether the data ended inside the MCU.
    fn leave_mcu(&mut self) -> Result<(), JpegError> {
        match self {
            Self::Huffman(decoder) => decoder.leave_mcu(),
            Self::Exact(_) => Ok(()),
            Self::Arithmetic(scan) => scan.leave_mcu(),
        }
    }

    /// The number of bytes that Pillow has read of the file, as far as it matters.
    const fn available(&self) -> usize {
        match self {
            Self::Huffman(_) | Self::Exact(_) => usize::MAX,
            Self::Arithmetic(scan) => scan.available(),
        }
    }

    /// The offset at or before the marker after the data.
    fn end(&mut self) -> Result<usize, JpegError> {
        match self {
            Self::Huffman(decoder) => decoder.end(),
            Self::Exact(scan) => scan.end(),
            Self::Arithmetic(scan) => Ok(scan.end()),
        }
    }
}
