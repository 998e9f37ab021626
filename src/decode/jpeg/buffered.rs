//! Images in several scans: progressive ones (T.81 annex G), and sequential ones whose components
//! are not interleaved. All coefficients are decoded before any pixel is made, so a box costs the
//! entropy decoding of the whole image.
//!
//! An image whose scans leave the low frequencies unfinished is left to others: libjpeg smooths
//! its blocks.

use super::JpegError;
use super::bits::Window;
use super::marker::{Frame, Headers, MAX_COMPONENTS, Process, Scan, Stop};
use super::region::{Geometry, Layout};
use super::scan::{Block, Place, Walk};
use super::tables::ScanTables;

/// No sane file has more scans. Each may visit all blocks for next to no bytes.
pub(in crate::decode) const MAX_SCANS: usize = 200;
/// The coefficients, in zigzag order, whose precision decides on libjpeg's smoothing.
const SMOOTHED: std::ops::Range<usize> = 1..10;
/// Of a coefficient that no scan had yet.
const UNKNOWN: u8 = u8::MAX;

/// The coefficients of an image.
#[derive(Debug)]
pub(super) struct Coefficients {
    /// Component after component, row after row, with the blocks that only fill MCUs.
    blocks: Vec<Block>,
    /// By component: its first block, and blocks a row.
    planes: [(usize, usize); MAX_COMPONENTS],
    /// By component: the quantisation table in force at its first scan.
    pub(super) quant: [[u16; 64]; MAX_COMPONENTS],
}

impl Default for Coefficients {
    fn default() -> Self {
        Self {
            blocks: Vec::new(),
            planes: [(0, 0); MAX_COMPONENTS],
            quant: [[0; 64]; MAX_COMPONENTS],
        }
    }
}

impl Coefficients {
    /// Decodes all scans, of which `scan` is the first.
    pub(super) fn read<'a>(
        &mut self,
        file: &'a [u8],
        mut headers: Headers<'a>,
        geometry: &Geometry,
        mut scan: Scan,
        (tables, window): (&mut ScanTables, &mut Window),
    ) -> Result<(), JpegError> {
        let frame = headers.frame.expect("a scan needs a frame header");
        self.clear(file, geometry)?;
        let mut precision = [[UNKNOWN; 64]; MAX_COMPONENTS];
        let mut seen = [false; MAX_COMPONENTS];
        for _ in 0..MAX_SCANS {
            let pass = Pass::of(frame.process, &scan)?;
            for part in scan.components() {
                if !seen[part.index] {
                    seen[part.index] = true;
                    self.quant[part.index] = headers.quantiser(part.index, scan.data)?;
                }
                if frame.process == Process::Progressive {
                    let (from, to) = scan.spectral;
                    let bits = &mut precision[part.index];
                    bits[usize::from(from)..=usize::from(to)].fill(scan.approximation.1);
                }
            }
            let end = self.scan(file, &headers, geometry, (&scan, pass), (tables, window))?;
            match headers.read(file, end)? {
                Stop::Scan(next) => scan = next,
                Stop::End => return finished(&frame, &precision),
            }
        }
        Err(JpegError::Unsupported { what: "an image in over 200 scans" })
    }

    /// Empty blocks. A block takes a bit at least, or the image is mostly empty: its memory is
    /// bounded by the file's length.
    fn clear(&mut self, file: &[u8], geometry: &Geometry) -> Result<(), JpegError> {
        let grid = geometry.grid;
        let mut count = 0;
        self.planes = [(0, 0); MAX_COMPONENTS];
        self.quant = [[0; 64]; MAX_COMPONENTS];
        for (plane, layout) in self.planes.iter_mut().zip(geometry.layouts()) {
            *plane = (count, (grid.across * layout.h) as usize);
            count += plane.1 * (grid.down * layout.v) as usize;
        }
        if count / 8 > file.len() {
            return Err(JpegError::Unsupported { what: "an image of many scans and few bytes" });
        }
        self.blocks.clear();
        self.blocks.resize(count, Block::EMPTY);
        Ok(())
    }

    /// Decodes one scan. Returns the offset of the marker after it.
    fn scan(
        &mut self,
        file: &[u8],
        headers: &Headers<'_>,
        geometry: &Geometry,
        (scan, pass): (&Scan, Pass),
        (tables, window): (&mut ScanTables, &mut Window),
    ) -> Result<usize, JpegError> {
        let frame = headers.frame.as_ref().expect("a scan needs a frame header");
        tables.load(&headers.tables, scan, pass.needs())?;
        let interval = headers.tables.restart_interval;
        let mut walk = Walk::new(file, frame, scan, interval, (tables, window));
        walk.go_to(Place { byte: scan.data, ..Place::default() }, usize::MAX);
        let layouts = geometry.layouts();
        if let [part] = scan.components() {
            // Not interleaved: the component's own blocks, without those that only fill MCUs.
            let Layout { width, height, .. } = layouts[part.index];
            let (first, stride) = self.planes[part.index];
            for y in 0..height.div_ceil(8) as usize {
                let row = &mut self.blocks[first + y * stride..];
                for block in &mut row[..width.div_ceil(8) as usize] {
                    if walk.enter_mcu()? {
                        pass.block(&mut walk, 0, block);
                    }
                    walk.leave_mcu()?;
                }
            }
            return walk.end();
        }
        for mcu in 0..geometry.grid.down * geometry.grid.across {
            let (y, x) = (mcu / geometry.grid.across, mcu % geometry.grid.across);
            if walk.enter_mcu()? {
                let mut slot = 0;
                for part in scan.components() {
                    let Layout { h, v, .. } = layouts[part.index];
                    for i in 0..h * v {
                        let at = self.at(part.index, y * v + i / h, x * h + i % h);
                        pass.block(&mut walk, slot, &mut self.blocks[at]);
                        slot += 1;
                    }
                }
            }
            walk.leave_mcu()?;
        }
        walk.end()
    }

    fn at(&self, component: usize, row: u32, column: u32) -> usize {
        let (first, stride) = self.planes[component];
        first + row as usize * stride + column as usize
    }

    /// A block of a component.
    pub(super) fn block(&self, component: usize, row: u32, column: u32) -> &Block {
        &self.blocks[self.at(component, row, column)]
    }
}

/// Whether the low frequencies are known to the last bit.
fn finished(frame: &Frame, precision: &[[u8; 64]; MAX_COMPONENTS]) -> Result<(), JpegError> {
    let mut components = precision[..frame.components().len()].iter();
    let rough = frame.process == Process::Progressive
        && components.any(|bits| bits[SMOOTHED].iter().any(|&bit| bit != 0));
    if rough {
        return Err(JpegError::Unsupported { what: "an unfinished progressive image" });
    }
    Ok(())
}

/// What a scan adds to its blocks.
#[derive(Clone, Copy, Debug)]
enum Pass {
    /// Whole blocks.
    Whole,
    /// DC, all bits from `low` on.
    DcFirst { low: u8 },
    /// Bit `low` of DC.
    DcRefine { low: u8 },
    /// AC coefficients `from..=to` in zigzag order, all bits from `low` on.
    AcFirst { from: usize, to: usize, low: u8 },
    /// Bit `low` of AC coefficients `from..=to`.
    AcRefine { from: usize, to: usize, low: u8 },
}

impl Pass {
    fn of(process: Process, scan: &Scan) -> Result<Self, JpegError> {
        if process == Process::Sequential {
            return Ok(Self::Whole);
        }
        let ((from, to), (high, low)) = (scan.spectral, scan.approximation);
        let dc = from == 0;
        let band = if dc { to == 0 } else { from <= to && to < 64 && scan.components().len() == 1 };
        if !band || low > 13 || (high != 0 && high - 1 != low) {
            return Err(JpegError::Malformed { what: "progression", offset: scan.data });
        }
        let (from, to) = (usize::from(from), usize::from(to));
        Ok(match (dc, high) {
            (true, 0) => Self::DcFirst { low },
            (true, _) => Self::DcRefine { low },
            (false, 0) => Self::AcFirst { from, to, low },
            (false, _) => Self::AcRefine { from, to, low },
        })
    }

    /// Whether it uses DC tables, and AC tables.
    const fn needs(self) -> (bool, bool) {
        match self {
            Self::Whole => (true, true),
            Self::DcFirst { .. } => (true, false),
            Self::DcRefine { .. } => (false, false),
            Self::AcFirst { .. } | Self::AcRefine { .. } => (false, true),
        }
    }

    /// Takes what the scan has of block `slot` of the MCU.
    fn block(self, walk: &mut Walk<'_>, slot: usize, block: &mut Block) {
        match self {
            Self::Whole => _ = walk.whole(slot, block),
            Self::DcFirst { low } => block.0[0] = walk.dc(slot) << low,
            Self::DcRefine { low } => block.0[0] |= i16::from(walk.bit()) << low,
            Self::AcFirst { from, to, low } => walk.ac_first(slot, (from, to, low), block),
            Self::AcRefine { from, to, low } => walk.ac_refine(slot, (from, to, low), block),
        }
    }
}
