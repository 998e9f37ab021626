//! Reads the marker segments of a JPEG file, for its three users: the probe of a header, the check of a
//! file at index time, and the decoder.
//!
//! ```text
//!   FF D8 | FF E0 len JFIF | FF DB len tables | FF C0 len frame | FF C4 len tables | FF DA len scan | data ... FF D9
//!   start    application      quantization       SOF: size,        Huffman            components      entropy-
//!                                                components                                           coded
//! ```
//!
//! Segments set state (tables, restart interval, color transform) until a scan header stops the reader. The caller
//! decodes the scan and returns with the offset where its data ends.
//!
//! # Which files are refused
//!
//! Those that Pillow refuses, and lossless ones (SOF3). Two programs read a file for Pillow, and this reader has the
//! rules of both: `JpegImagePlugin.py` looks at the segments before the first scan, then libjpeg-turbo reads the file
//! from its start. Some rules are the plugin's alone: short JFIF and Adobe segments, the marker TEM, and metadata that
//! it cannot read, are errors before the first scan (see [`MarkerReader::pillow_refuses`]).
//!
//! # Order of checks
//!
//! libjpeg takes a segment byte by byte, and refuses it at the first wrong byte. After the last scan, Pillow tolerates
//! a segment that the file cuts off, but not a wrong byte before the cut. A check of the whole segment up front would
//! decide differently, so this reader takes bytes in libjpeg's order.
//!
//! Nothing but quantization tables is copied: Huffman tables are slices of the file. The tests are in `tests.rs`.

use super::error::JpegError;
use super::header::{
    Coding, Component, Conditioning, Frame, HuffmanSpec, MAX_COMPONENTS, Process, Scan,
    ScanComponent, Tables, ZIGZAG,
};
use super::pillow::Metadata;
use super::restart::next_marker;
use super::standard_tables;
use crate::decode::format::{Color, PIXEL_LIMIT};
use crate::geometry::Size;

/// The longest side that libjpeg accepts (`JPEG_MAX_DIMENSION`).
const MAX_SIDE: u32 = 65_500;
/// The maximum number of blocks in an MCU of several components (T.81 B.2.3).
const MAX_MCU_BLOCKS: u32 = 10;

/// The end of a run of marker segments.
#[derive(Debug)]
pub(super) enum Stop {
    /// A scan header, followed by entropy-coded data.
    Scan(Scan),
    /// The end of the image.
    End,
}

/// A reader of marker segments, and the state that they set.
#[derive(Clone, Debug)]
pub(super) struct MarkerReader<'a> {
    file: &'a [u8],
    /// Offset of the next byte.
    at: usize,
    pub(super) frame: Option<Frame>,
    pub(super) tables: Tables<'a>,
    /// Pillow's plugin looks at the segments up to here, and has rules of its own.
    before_first_scan: bool,
    jfif: bool,
    /// The color transform of an Adobe marker.
    adobe: Option<u8>,
    metadata: Metadata<'a>,
}

impl<'a> MarkerReader<'a> {
    /// A reader after the start-of-image marker.
    pub(super) fn new(file: &'a [u8]) -> Result<Self, JpegError> {
        if !file.starts_with(&[0xFF, 0xD8, 0xFF]) {
            return Err(JpegError::Malformed { what: "no start of image", offset: 0 });
        }
        let (tables, frame, metadata) = (Tables::default(), None, Metadata::default());
        Ok(Self {
            file,
            at: 2,
            frame,
            tables,
            before_first_scan: true,
            jfif: false,
            adobe: None,
            metadata,
        })
    }

    /// Reads up to the first scan.
    pub(super) fn first_scan(&mut self) -> Result<(Frame, Scan), JpegError> {
        let Stop::Scan(scan) = self.next_stop()? else {
            return Err(self.malformed("the image ends before its first scan"));
        };
        self.before_first_scan = false;
        self.metadata.check_at_scan().map_err(|what| self.pillow_refuses(what))?;
        let frame = self.frame.expect("a scan before the frame header is refused");
        if (frame.process, frame.coding) == (Process::Sequential, Coding::Huffman) {
            standard_tables::fill_in(&mut self.tables);
        }
        Ok((frame, scan))
    }

    /// Reads up to the next scan or the end of the image, from the marker at or after `at`.
    pub(super) fn next_stop_after(&mut self, at: usize) -> Result<Stop, JpegError> {
        self.at = at;
        self.next_stop()
    }

    /// Checks the segments after the only scan, from the marker at or after `at` to the offset `end`.
    /// Pillow has all rows by then: the end of the image may be missing, but what it has read of the file
    /// must be well-formed.
    pub(super) fn check_after_scan(&mut self, at: usize, end: usize) -> Result<(), JpegError> {
        self.file = &self.file[..end];
        match self.next_stop_after(at) {
            Ok(Stop::End) | Err(JpegError::Truncated { .. }) => Ok(()),
            Ok(Stop::Scan(_)) => Err(self.malformed("a scan after the last one")),
            Err(error) => Err(error),
        }
    }

    fn next_stop(&mut self) -> Result<Stop, JpegError> {
        loop {
            let (code, after) = next_marker(self.file, self.at).ok_or(self.truncated())?;
            self.at = after;
            match code {
                0xC0..=0xC3 | 0xC9..=0xCA if self.frame.is_some() => {
                    return Err(self.malformed("a second frame header"));
                }
                // SOF0 to SOF15: the coding process.
                0xC0 | 0xC1 => self.frame_header(Process::Sequential, Coding::Huffman)?,
                0xC2 => self.frame_header(Process::Progressive, Coding::Huffman)?,
                0xC3 => return Err(JpegError::Unsupported { what: "lossless coding" }),
                0xC9 => self.frame_header(Process::Sequential, Coding::Arithmetic)?,
                0xCA => self.frame_header(Process::Progressive, Coding::Arithmetic)?,
                0xC5..=0xC8 | 0xCB | 0xCD..=0xCF => {
                    return Err(self.malformed("a coding process that libjpeg does not support"));
                }
                // DHT, DAC, SOI, EOI, SOS, DQT, DRI.
                0xC4 => self.huffman_tables()?,
                0xCC => self.arithmetic_conditioning()?,
                0xD8 => return Err(self.malformed("a second start of image")),
                0xD9 => return Ok(Stop::End),
                0xDA => return self.scan_header().map(Stop::Scan),
                0xDB => self.quantization_tables()?,
                0xDD => self.restart_interval()?,
                // DNL, APP0 to APP15, COM; then TEM and stray restart markers, which have no segment.
                0xDC | 0xE0..=0xEF | 0xFE => self.skip_or_note_color(code)?,
                0x01 if self.before_first_scan => {
                    return Err(self.pillow_refuses("a marker of temporary use"));
                }
                0x01 | 0xD0..=0xD7 => {}
                _ => return Err(self.malformed("an unknown marker")),
            }
        }
    }

    /// SOF0, SOF1, SOF2, SOF9, SOF10 (T.81 B.2.2).
    fn frame_header(&mut self, process: Process, coding: Coding) -> Result<(), JpegError> {
        let length = usize::from(self.u16()?);
        let precision = self.u8()?;
        let (height, width) = (u32::from(self.u16()?), u32::from(self.u16()?));
        let (count, size) = (usize::from(self.u8()?), Size { height, width });
        if height == 0 || width == 0 {
            return Err(self.malformed("the image is empty"));
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err(self.malformed("the number of components is not 1, 3 or 4"));
        }
        if length != 8 + 3 * count {
            return Err(self.malformed("a frame header with a wrong length"));
        }
        let mut components = [Component::default(); MAX_COMPONENTS];
        for component in &mut components[..count] {
            let [id, factors, quant] = *self.array()?;
            let (h, v) = (u32::from(factors >> 4), u32::from(factors & 15));
            *component = Component { id, h, v, quant: usize::from(quant) };
        }
        if precision != 8 {
            return Err(self.malformed("samples of other than 8 bits"));
        }
        self.metadata.check_at_frame().map_err(|what| self.pillow_refuses(what))?;
        if height.max(width) > MAX_SIDE || size.whole().area() > PIXEL_LIMIT {
            return Err(JpegError::TooLarge { size });
        }
        self.check_sampling(&components[..count])?;
        if count == 1 && process == Process::Sequential {
            // Not interleaved: an MCU is one block, whatever the factors are (T.81 A.2.2). The smoothing
            // of progressive images goes by rows of MCUs as if it were interleaved.
            (components[0].h, components[0].v) = (1, 1);
        }
        self.frame = Some(Frame { process, coding, size, components, count });
        Ok(())
    }

    /// Checks that the sampling factors are 1 to 4, and that each divides the largest one.
    fn check_sampling(&self, components: &[Component]) -> Result<(), JpegError> {
        for factor in [|c: &Component| c.h, |c: &Component| c.v] {
            let max = components.iter().map(factor).max().unwrap_or(1);
            for own in components.iter().map(factor) {
                if !(1..=4).contains(&own) {
                    return Err(self.malformed("a sampling factor that is not 1 to 4"));
                }
                if max % own != 0 {
                    return Err(self.malformed("a sampling ratio that is not an integer"));
                }
            }
        }
        Ok(())
    }

    /// SOS (T.81 B.2.3).
    fn scan_header(&mut self) -> Result<Scan, JpegError> {
        let frame = self.frame.ok_or(self.malformed("a scan before the frame header"))?;
        let (length, count) = (self.u16()?, usize::from(self.u8()?));
        if !(1..=MAX_COMPONENTS).contains(&count) || usize::from(length) != 6 + 2 * count {
            return Err(self.malformed("a scan header with a wrong length"));
        }
        let mut components = [ScanComponent::default(); MAX_COMPONENTS];
        for i in 0..count {
            let [id, tables] = *self.array()?;
            // As in libjpeg, equal ids are told apart by their position, and components in another
            // order than that of the frame are refused.
            let position = frame.components().iter().skip(i).position(|other| other.id == id);
            let index = i + position.ok_or(self.malformed("a component that the frame lacks"))?;
            if components[..i].iter().any(|component| component.index == index) {
                return Err(self.malformed("a scan that lists a component twice"));
            }
            let (dc, ac) = (usize::from(tables >> 4), usize::from(tables & 15));
            components[i] = ScanComponent { index, dc, ac };
        }
        let [first, last, approximation] = *self.array()?;
        let blocks =
            |c: &ScanComponent| frame.components()[c.index].h * frame.components()[c.index].v;
        if count > 1 && components[..count].iter().map(blocks).sum::<u32>() > MAX_MCU_BLOCKS {
            return Err(self.malformed("an MCU of more than 10 blocks"));
        }
        Ok(Scan {
            components,
            count,
            spectral: (first, last),
            approximation: (approximation >> 4, approximation & 15),
            data: self.at,
        })
    }

    /// DHT (T.81 B.2.4.2).
    fn huffman_tables(&mut self) -> Result<(), JpegError> {
        let mut left = self.table_length()?;
        while left > 16 {
            let head = self.u8()?;
            let counts = self.array::<16>()?;
            left -= 17;
            let total = counts.iter().map(|&count| usize::from(count)).sum::<usize>();
            if total > 256 || total > left {
                return Err(self.malformed(
                    "a Huffman table with more codes than 256 or than its segment holds",
                ));
            }
            let symbols = self.take(total)?;
            left -= total;
            let tables = if head & 0x10 == 0 { &mut self.tables.dc } else { &mut self.tables.ac };
            match tables.get_mut(usize::from(head & !0x10)) {
                Some(table) => *table = Some(HuffmanSpec { counts, symbols }),
                None => return Err(self.malformed("a Huffman table with a number above 3")),
            }
        }
        if left == 0 { Ok(()) } else { Err(self.malformed("Huffman tables with a wrong length")) }
    }

    /// DQT (T.81 B.2.4.1).
    fn quantization_tables(&mut self) -> Result<(), JpegError> {
        let mut left = self.table_length()?;
        while left > 0 {
            let head = self.u8()?;
            let (wide, number) = (head >> 4 != 0, usize::from(head & 15));
            if number >= 4 {
                return Err(self.malformed("a quantization table with a number above 3"));
            }
            let mut table = [0; 64];
            for natural in ZIGZAG {
                table[usize::from(natural)] =
                    if wide { self.u16()? } else { u16::from(self.u8()?) };
            }
            self.tables.quant[number] = Some(table);
            left = left
                .checked_sub(if wide { 129 } else { 65 })
                .ok_or(self.malformed("quantization tables with a wrong length"))?;
        }
        Ok(())
    }

    /// DAC (T.81 B.2.4.3).
    fn arithmetic_conditioning(&mut self) -> Result<(), JpegError> {
        let mut left = self.table_length()?;
        while left > 0 {
            let [index, value] = *self.array()?;
            if index >= 32 || (index < 16 && value & 15 > value >> 4) {
                return Err(self.malformed("arithmetic conditioning with invalid values"));
            }
            let Conditioning { dc, ac } = &mut self.tables.conditioning;
            match usize::from(index).checked_sub(16) {
                Some(number) => ac[number] = value,
                None => dc[usize::from(index)] = (value & 15, value >> 4),
            }
            left = left
                .checked_sub(2)
                .ok_or(self.malformed("arithmetic conditioning with a wrong length"))?;
        }
        Ok(())
    }

    /// DRI (T.81 B.2.4.4).
    fn restart_interval(&mut self) -> Result<(), JpegError> {
        if self.u16()? != 4 {
            return Err(self.malformed("a restart interval with a wrong length"));
        }
        self.tables.restart_interval = u32::from(self.u16()?);
        Ok(())
    }

    /// A segment without tables, which is skipped. JFIF's APP0 and Adobe's APP14 define the color space.
    fn skip_or_note_color(&mut self, code: u8) -> Result<(), JpegError> {
        // libjpeg takes lengths below 2 for an empty segment.
        let length = usize::from(self.u16()?).saturating_sub(2);
        let start = self.at;
        let body = match code {
            0xE0 | 0xEE => self.take(length.min(14))?,
            0xE1..=0xEF if self.before_first_scan => self.take(length)?,
            _ => &[],
        };
        let is = |tag: &[u8]| body.starts_with(tag);
        if self.before_first_scan {
            self.metadata.add(code, body).map_err(|what| self.pillow_refuses(what))?;
        }
        if self.before_first_scan && body.len() < 7 {
            if code == 0xE0 && is(b"JFIF") {
                return Err(self.pillow_refuses("a short JFIF segment"));
            }
            if code == 0xEE && is(b"Adobe") {
                return Err(self.pillow_refuses("a short Adobe segment"));
            }
        }
        if code == 0xE0 && body.len() == 14 && is(b"JFIF\0") {
            self.jfif = true;
        }
        if code == 0xEE && body.len() >= 12 && is(b"Adobe") {
            self.adobe = Some(body[11]);
        }
        // An end after the end of the file is noticed by the next read.
        self.at = start + length;
        Ok(())
    }

    /// The color space that libjpeg assumes (`default_decompress_parms`): by JFIF's marker, then by
    /// Adobe's, then by the ids of the components.
    pub(super) fn color(&self, frame: &Frame) -> Color {
        let ids = frame.components().iter().map(|component| component.id);
        match (frame.count, self.adobe) {
            (1, _) => Color::Gray,
            (3, _) if self.jfif => Color::YCbCr,
            (3, Some(0)) => Color::Rgb,
            (3, None) if ids.eq(*b"RGB") => Color::Rgb,
            (3, _) => Color::YCbCr,
            (_, None | Some(0)) => Color::Cmyk,
            _ => Color::Ycck,
        }
    }

    /// The quantization table of a component, for a scan that begins now.
    pub(super) fn quantizer(&self, component: &Component) -> Result<[u16; 64], JpegError> {
        let table = self.tables.quant.get(component.quant).copied().flatten();
        table.ok_or(self.malformed("a component without a quantization table"))
    }

    /// The length of a segment of tables, without its own two bytes.
    fn table_length(&mut self) -> Result<usize, JpegError> {
        let length = usize::from(self.u16()?).checked_sub(2);
        length.ok_or(self.malformed("a segment with a length below 2"))
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], JpegError> {
        let taken = self.file.get(self.at..).and_then(|rest| rest.get(..bytes));
        let taken = taken.ok_or(self.truncated())?;
        self.at += bytes;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], JpegError> {
        Ok(self.take(N)?.try_into().expect("N bytes were taken"))
    }

    fn u8(&mut self) -> Result<u8, JpegError> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, JpegError> {
        Ok(u16::from_be_bytes(*self.array()?))
    }

    const fn malformed(&self, what: &'static str) -> JpegError {
        JpegError::Malformed { what, offset: self.at }
    }

    /// libjpeg would accept it, but Pillow's own reader of the header does not.
    const fn pillow_refuses(&self, what: &'static str) -> JpegError {
        self.malformed(what)
    }

    const fn truncated(&self) -> JpegError {
        JpegError::Truncated { length: self.file.len() }
    }
}
