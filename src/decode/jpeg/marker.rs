//! Marker segments: what a JPEG file says of itself before its entropy-coded data (T.81 annex B,
//! JFIF, Adobe's APP14).
//!
//! Nothing is copied but the quantisation tables: Huffman tables are slices of the file. A file is
//! refused where libjpeg-turbo refuses it, since that is whose verdict Pillow gives.

use super::JpegError;
use crate::geometry::Size;

/// The position of each coefficient in its 8 x 8 block, in the order in which a file codes them
/// (T.81 figure A.6).
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// The longest side that libjpeg accepts.
const MAX_SIDE: u32 = 65_500;
/// The most pixels that Pillow opens (`2 * Image.MAX_IMAGE_PIXELS`).
const MAX_PIXELS: u64 = 178_956_970;
/// The most components that a frame that can be decoded has.
pub(super) const MAX_COMPONENTS: usize = 4;
/// The most blocks in one MCU (T.81 B.2.3).
const MAX_MCU_BLOCKS: u32 = 10;

/// How the coefficients are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Process {
    /// Whole coefficients, block after block (SOF0, SOF1).
    Sequential,
    /// Spectral selection and successive approximation over several scans (SOF2).
    Progressive,
}

/// One component of the frame.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Component {
    pub(super) id: u8,
    /// Blocks of the component in an MCU, across.
    pub(super) h: u32,
    /// Blocks of the component in an MCU, down.
    pub(super) v: u32,
    /// Its quantisation table.
    pub(super) quant: usize,
}

/// The frame header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) process: Process,
    pub(super) size: Size,
    components: [Component; MAX_COMPONENTS],
    count: usize,
}

impl Frame {
    /// The components, in the order of the frame header.
    pub(super) fn components(&self) -> &[Component] {
        &self.components[..self.count]
    }
}

/// A Huffman table as the file states it: codes of each length, and their symbols in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HuffmanSpec<'a> {
    pub(super) counts: &'a [u8; 16],
    pub(super) symbols: &'a [u8],
}

/// Tables in force; a later segment replaces an earlier one.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables<'a> {
    /// In natural order, not in zigzag order.
    pub(super) quant: [Option<[u16; 64]>; 4],
    pub(super) dc: [Option<HuffmanSpec<'a>>; 4],
    pub(super) ac: [Option<HuffmanSpec<'a>>; 4],
    /// MCUs between restart markers, 0 without.
    pub(super) restart_interval: u32,
}

/// One component of a scan.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ScanComponent {
    /// Its place in the frame.
    pub(super) index: usize,
    pub(super) dc: usize,
    pub(super) ac: usize,
}

/// A scan header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan {
    components: [ScanComponent; MAX_COMPONENTS],
    count: usize,
    /// First and last coefficient, in zigzag order.
    pub(super) spectral: (u8, u8),
    /// Bit position of the scan before (0: none), and of this one.
    pub(super) approximation: (u8, u8),
    /// Where the entropy-coded data starts in the file.
    pub(super) data: usize,
}

impl Scan {
    /// The components, in the order in which an MCU holds them.
    pub(super) fn components(&self) -> &[ScanComponent] {
        &self.components[..self.count]
    }
}

/// What ends a run of marker segments.
#[derive(Debug)]
pub(super) enum Stop {
    /// A scan's entropy-coded data.
    Scan(Scan),
    /// The end of the image.
    End,
}

/// Everything that the marker segments said so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Headers<'a> {
    pub(super) frame: Option<Frame>,
    pub(super) tables: Tables<'a>,
    pub(super) jfif: bool,
    /// The colour transform of an Adobe marker.
    pub(super) adobe: Option<u8>,
}

/// Finds the next marker at or after `at`: its code and the offset after it. Bytes that are not a
/// marker are skipped, as are stuffed and fill bytes.
pub(super) fn next_marker(bytes: &[u8], mut at: usize) -> Option<(u8, usize)> {
    loop {
        at += bytes.get(at..)?.iter().position(|&byte| byte == 0xFF)?;
        at += bytes[at..].iter().position(|&byte| byte != 0xFF)?;
        if bytes[at] != 0 {
            return Some((bytes[at], at + 1));
        }
    }
}

const fn malformed(what: &'static str, offset: usize) -> JpegError {
    JpegError::Malformed { what, offset }
}

impl<'a> Headers<'a> {
    /// Reads marker segments from `at` up to a scan's data or the end of the image.
    pub(super) fn read(&mut self, bytes: &'a [u8], mut at: usize) -> Result<Stop, JpegError> {
        loop {
            let (code, after) =
                next_marker(bytes, at).ok_or(JpegError::Truncated { length: bytes.len() })?;
            at = after;
            match code {
                0x01 | 0xD0..=0xD7 => continue,
                0xD9 => return Ok(Stop::End),
                0xD8 => return Err(malformed("second start of image", at)),
                0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF if self.frame.is_some() => {
                    return Err(malformed("second frame header", at));
                }
                0xC0..=0xCF | 0xDA..=0xDD | 0xE0..=0xEF | 0xFE => {}
                _ => return Err(malformed("unknown marker", at)),
            }
            let body = segment(bytes, code, at)?;
            match code {
                0xC4 => self.huffman(body, at)?,
                0xC0..=0xC2 => self.frame(code, body, at)?,
                0xC8 => return Err(malformed("reserved frame type", at)),
                0xCC => conditioning(body, at)?,
                0xC3 | 0xC5..=0xCF => {
                    return Err(JpegError::Unsupported {
                        what: "arithmetic, lossless or hierarchical",
                    });
                }
                0xDA => return self.scan(body, at).map(Stop::Scan),
                0xDB => self.quantisation(body, at)?,
                0xDD => {
                    let &[high, low] = body else {
                        return Err(malformed("restart interval", at));
                    };
                    self.tables.restart_interval = u32::from(u16::from_be_bytes([high, low]));
                }
                0xE0 if body.len() >= 14 && body.starts_with(b"JFIF\0") => self.jfif = true,
                0xEE if body.len() >= 12 && body.starts_with(b"Adobe") => {
                    self.adobe = Some(body[11]);
                }
                _ => {}
            }
            at += 2 + body.len();
        }
    }

    /// The quantisation table in force of a component, for a scan whose data is at `at`.
    pub(super) fn quantiser(&self, component: usize, at: usize) -> Result<[u16; 64], JpegError> {
        let component = self.frame.as_ref().and_then(|frame| frame.components().get(component));
        let slot = component.and_then(|component| self.tables.quant.get(component.quant));
        slot.copied().flatten().ok_or(malformed("a component without its quantisation table", at))
    }

    /// SOF0, SOF1, SOF2 (T.81 B.2.2).
    fn frame(&mut self, code: u8, body: &[u8], at: usize) -> Result<(), JpegError> {
        let &[precision, y1, y0, x1, x0, count, ref rest @ ..] = body else {
            return Err(malformed("frame header", at));
        };
        let count = usize::from(count);
        let size = Size {
            height: u32::from(u16::from_be_bytes([y1, y0])),
            width: u32::from(u16::from_be_bytes([x1, x0])),
        };
        if rest.len() != count * 3 {
            return Err(malformed("frame header's length", at));
        }
        if size.height == 0 || size.width == 0 || count == 0 {
            return Err(malformed("an empty image", at));
        }
        if precision != 8 {
            return Err(JpegError::Unsupported { what: "other than 8 bits a sample" });
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err(JpegError::Unsupported { what: "other than 1, 3 or 4 components" });
        }
        if size.height.max(size.width) > MAX_SIDE
            || u64::from(size.height) * u64::from(size.width) > MAX_PIXELS
        {
            return Err(JpegError::TooLarge { size });
        }
        let mut components = [Component::default(); MAX_COMPONENTS];
        for (component, part) in components.iter_mut().zip(rest.chunks_exact(3)) {
            let (h, v) = (u32::from(part[1] >> 4), u32::from(part[1] & 15));
            if !(1..=4).contains(&h) || !(1..=4).contains(&v) {
                return Err(malformed("sampling factors", at));
            }
            *component = Component { id: part[0], h, v, quant: usize::from(part[2]) };
        }
        if count == 1 {
            // Not interleaved: an MCU is one block whatever the factors say (T.81 A.2.2).
            (components[0].h, components[0].v) = (1, 1);
        }
        let process = if code == 0xC2 { Process::Progressive } else { Process::Sequential };
        self.frame = Some(Frame { process, size, components, count });
        Ok(())
    }

    /// SOS (T.81 B.2.3).
    fn scan(&self, body: &[u8], at: usize) -> Result<Scan, JpegError> {
        let frame = self.frame.as_ref().ok_or(malformed("a scan before the frame header", at))?;
        let count = usize::from(*body.first().ok_or(malformed("scan header", at))?);
        if !(1..=MAX_COMPONENTS).contains(&count) || body.len() != 4 + 2 * count {
            return Err(malformed("scan header's length", at));
        }
        let mut components = [ScanComponent::default(); MAX_COMPONENTS];
        for i in 0..count {
            let (id, tables) = (body[1 + 2 * i], body[2 + 2 * i]);
            // As in libjpeg: ids that come twice are told apart by their place, and components out
            // of the frame's order are refused.
            let left = frame.components().iter().skip(i).position(|component| component.id == id);
            let index = i + left.ok_or(malformed("a component that the frame lacks", at))?;
            if components[..i].iter().any(|component| component.index == index) {
                return Err(malformed("a component twice in a scan", at));
            }
            let (dc, ac) = (usize::from(tables >> 4), usize::from(tables & 15));
            components[i] = ScanComponent { index, dc, ac };
        }
        let blocks =
            |c: &ScanComponent| frame.components()[c.index].h * frame.components()[c.index].v;
        if count > 1 && components[..count].iter().map(blocks).sum::<u32>() > MAX_MCU_BLOCKS {
            return Err(malformed("more than 10 blocks in an MCU", at));
        }
        let [first, last, approximation] = [1, 2, 3].map(|i| body[2 * count + i]);
        Ok(Scan {
            components,
            count,
            spectral: (first, last),
            approximation: (approximation >> 4, approximation & 15),
            data: at + 2 + body.len(),
        })
    }

    /// DQT (T.81 B.2.4.1).
    fn quantisation(&mut self, mut body: &[u8], at: usize) -> Result<(), JpegError> {
        while let Some((&head, rest)) = body.split_first() {
            let (wide, slot) = (head >> 4 != 0, usize::from(head & 15));
            let bytes = if wide { 128 } else { 64 };
            if slot > 3 || rest.len() < bytes {
                return Err(malformed("quantisation table", at));
            }
            let (values, rest) = rest.split_at(bytes);
            let mut table = [0; 64];
            for (i, &natural) in ZIGZAG.iter().enumerate() {
                table[usize::from(natural)] = if wide {
                    u16::from_be_bytes([values[2 * i], values[2 * i + 1]])
                } else {
                    u16::from(values[i])
                };
            }
            self.tables.quant[slot] = Some(table);
            body = rest;
        }
        Ok(())
    }

    /// DHT (T.81 B.2.4.2).
    fn huffman(&mut self, mut body: &'a [u8], at: usize) -> Result<(), JpegError> {
        while let Some((&head, rest)) = body.split_first() {
            let (counts, rest) =
                rest.split_first_chunk::<16>().ok_or(malformed("Huffman table", at))?;
            let symbols = counts.iter().map(|&count| usize::from(count)).sum::<usize>();
            let (class, slot) = (head >> 4, usize::from(head & 15));
            if class > 1 || slot > 3 || symbols > 256 || symbols > rest.len() {
                return Err(malformed("Huffman table", at));
            }
            let (symbols, rest) = rest.split_at(symbols);
            let tables = if class == 0 { &mut self.tables.dc } else { &mut self.tables.ac };
            tables[slot] = Some(HuffmanSpec { counts, symbols });
            body = rest;
        }
        Ok(())
    }
}

/// DAC (T.81 B.2.4.3): of no use to Huffman codes, but libjpeg refuses impossible ones.
fn conditioning(body: &[u8], at: usize) -> Result<(), JpegError> {
    let possible = |pair: &[u8; 2]| match *pair {
        [0..16, value] => value & 15 <= value >> 4,
        [index, _] => index < 32,
    };
    match body.as_chunks() {
        (pairs, []) if pairs.iter().all(possible) => Ok(()),
        _ => Err(malformed("arithmetic conditioning", at)),
    }
}

/// The body of the segment of marker `code` whose length is at `at`.
fn segment(bytes: &[u8], code: u8, at: usize) -> Result<&[u8], JpegError> {
    let truncated = JpegError::Truncated { length: bytes.len() };
    let Some(&[high, low]) = bytes.get(at..at + 2) else { return Err(truncated) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length < 2 {
        // libjpeg passes over nothing where there is nothing to read.
        if matches!(code, 0xDC | 0xE0..=0xEF | 0xFE) {
            return Ok(&[]);
        }
        return Err(malformed("a marker segment's length", at));
    }
    bytes.get(at + 2..at + length).ok_or(truncated)
}
