//! The contents of the marker segments: frame header, scan header and tables (T.81 annex B).

use crate::geometry::Size;

/// The position in its 8 x 8 block of each coefficient, in the order in which a file codes them
/// (T.81 figure A.6).
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// The maximum number of components in a frame that Pillow opens.
pub(super) const MAX_COMPONENTS: usize = 4;

/// The distribution of the coefficients over scans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Process {
    /// Whole coefficients, block after block.
    Sequential,
    /// Spectral selection and successive approximation over several scans.
    Progressive,
}

/// The entropy coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Huffman,
    Arithmetic,
}

/// One component of the frame.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Component {
    pub(super) id: u8,
    /// Blocks of the component in an MCU, across.
    pub(super) h: u32,
    /// Blocks of the component in an MCU, down.
    pub(super) v: u32,
    /// The number of its quantization table.
    pub(super) quant: usize,
}

/// The frame header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) process: Process,
    pub(super) coding: Coding,
    pub(super) size: Size,
    pub(super) components: [Component; MAX_COMPONENTS],
    pub(super) count: usize,
}

impl Frame {
    /// The components, in the order of the frame header.
    pub(super) fn components(&self) -> &[Component] {
        &self.components[..self.count]
    }

    /// Whether the scan, the first one, is to be the only one: it holds all coefficients.
    pub(super) fn has_one_scan(&self, scan: &Scan) -> bool {
        self.process == Process::Sequential && scan.count == self.count
    }
}

/// A Huffman table as a file states it: the number of codes of each length, and the symbols in the
/// order of their codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HuffmanSpec<'a> {
    pub(super) counts: &'a [u8; 16],
    pub(super) symbols: &'a [u8],
}

/// The parameters of arithmetic coding, by table number (T.81 B.2.4.3).
#[derive(Clone, Copy, Debug)]
pub(super) struct Conditioning {
    /// Lower and upper bound of small DC differences, as powers of two.
    pub(super) dc: [(u8, u8); 16],
    /// The last coefficient that counts as one of low frequency.
    pub(super) ac: [u8; 16],
}

impl Default for Conditioning {
    fn default() -> Self {
        Self { dc: [(0, 1); 16], ac: [5; 16] }
    }
}

/// The tables in force. A later segment replaces those of an earlier one.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables<'a> {
    /// In natural order, not in zigzag order.
    pub(super) quant: [Option<[u16; 64]>; 4],
    pub(super) dc: [Option<HuffmanSpec<'a>>; 4],
    pub(super) ac: [Option<HuffmanSpec<'a>>; 4],
    pub(super) conditioning: Conditioning,
    /// The number of MCUs between restart markers, 0 for none.
    pub(super) restart_interval: u32,
}

/// One component of a scan.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ScanComponent {
    /// Its index in the frame.
    pub(super) index: usize,
    /// The number of its DC table.
    pub(super) dc: usize,
    /// The number of its AC table.
    pub(super) ac: usize,
}

/// A scan header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan {
    pub(super) components: [ScanComponent; MAX_COMPONENTS],
    pub(super) count: usize,
    /// First and last coefficient, in zigzag order.
    pub(super) spectral: (u8, u8),
    /// The lowest bit that an earlier scan coded (0: no earlier scan), and that of this one.
    pub(super) approximation: (u8, u8),
    /// Offset of the entropy-coded data in the file.
    pub(super) data: usize,
}

impl Scan {
    /// The components, in the order in which an MCU holds them.
    pub(super) fn components(&self) -> &[ScanComponent] {
        &self.components[..self.count]
    }
}
