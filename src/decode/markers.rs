//! The marker segments of a JPEG file (ITU-T T.81 annex B), read as libjpeg-turbo reads them: what it
//! refuses is an error here, what it shrugs at is not. Entropy-coded data is left to the caller.

use super::{Color, DecodeError, Format, Header};
use crate::geometry::Size;

/// Sides beyond this are refused by libjpeg (`JPEG_MAX_DIMENSION`).
const MAX_SIDE: u16 = 65_500;

/// Reads up to the first scan.
pub(super) fn probe(bytes: &[u8]) -> Result<Header, DecodeError> {
    let mut markers = Markers::new(bytes);
    markers.first_scan()?;
    let frame = markers.frame.as_ref().expect("a scan before the frame header is refused");
    Ok(Header {
        format: Format::Jpeg,
        size: frame.size(),
        color: markers.color(frame),
        progressive: frame.progressive,
    })
}

/// One component of the frame header.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Component {
    pub(super) id: u8,
    pub(super) horizontal: u32,
    pub(super) vertical: u32,
    quantization: u8,
    /// Its quantization table was there when its first scan began; later changes do not matter.
    latched: bool,
}

/// The frame header.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) height: u32,
    pub(super) width: u32,
    pub(super) progressive: bool,
    pub(super) components: Vec<Component>,
}

impl Frame {
    const fn size(&self) -> Size {
        Size { height: self.height, width: self.width }
    }

    /// MCUs of a scan: of one component, blocks that hold its samples; of several, whole units.
    pub(super) fn mcus(&self, scan: &Scan) -> u64 {
        let most = |factor: fn(&Component) -> u32| self.components.iter().map(factor).max();
        let across = 8 * most(|c| c.horizontal).unwrap_or(1);
        let down = 8 * most(|c| c.vertical).unwrap_or(1);
        let (horizontal, vertical) = match scan.components[..] {
            [one] => {
                let component = &self.components[one.component];
                (component.horizontal, component.vertical)
            }
            _ => (1, 1),
        };
        let columns = (self.width * horizontal).div_ceil(across);
        let rows = (self.height * vertical).div_ceil(down);
        u64::from(columns) * u64::from(rows)
    }
}

/// A component's part in a scan.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScanComponent {
    /// Index into the frame's components.
    pub(super) component: usize,
    pub(super) dc: usize,
    pub(super) ac: usize,
}

/// A scan header.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) components: Vec<ScanComponent>,
    /// Spectral selection: first and last coefficient.
    pub(super) spectral: (u8, u8),
    /// Successive approximation: bit positions, high and low.
    pub(super) approximation: (u8, u8),
}

/// A Huffman table as the file gives it: how many codes of each length, and their symbols.
#[derive(Clone, Debug)]
pub(super) struct HuffmanSpec {
    pub(super) counts: [u8; 16],
    pub(super) symbols: Vec<u8>,
}

/// What a marker brought.
#[derive(Debug)]
pub(super) enum Event {
    Scan(Scan),
    End,
    Other,
}

/// Reads markers, and keeps what they set.
#[derive(Debug)]
pub(super) struct Markers<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
    pub(super) frame: Option<Frame>,
    pub(super) dc: [Option<HuffmanSpec>; 4],
    pub(super) ac: [Option<HuffmanSpec>; 4],
    pub(super) restart_interval: u64,
    quantization: [bool; 4],
    jfif: bool,
    adobe: Option<u8>,
}

impl<'a> Markers<'a> {
    /// Starts behind the SOI that the format was recognised by.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 2,
            frame: None,
            dc: [const { None }; 4],
            ac: [const { None }; 4],
            restart_interval: 0,
            quantization: [false; 4],
            jfif: false,
            adobe: None,
        }
    }

    /// Reads up to the first scan.
    pub(super) fn first_scan(&mut self) -> Result<Scan, DecodeError> {
        loop {
            match self.next()? {
                Event::Scan(scan) => return Ok(scan),
                Event::End => return Err(self.broken("the image ends before its first scan")),
                Event::Other => {}
            }
        }
    }

    /// The next marker at or after `from`, over data and fill bytes: its code, and where it ends.
    pub(super) fn find(&self, from: usize) -> Option<(u8, usize)> {
        let mut at = from;
        loop {
            at += self.bytes.get(at..)?.iter().position(|&byte| byte == 0xFF)?;
            at += self.bytes[at..].iter().position(|&byte| byte != 0xFF)?;
            if self.bytes[at] != 0 {
                return Some((self.bytes[at], at + 1));
            }
        }
    }

    /// Reads the next marker and its segment.
    pub(super) fn next(&mut self) -> Result<Event, DecodeError> {
        let (code, end) = self.find(self.at).ok_or_else(|| self.truncated("the header"))?;
        self.at = end;
        match code {
            0xC0 | 0xC1 => self.frame_header(false)?,
            0xC2 => self.frame_header(true)?,
            0xC3 => return Err(unsupported("lossless JPEG")),
            0xC9 | 0xCA => return Err(unsupported("arithmetic coding")),
            0xC5..=0xC7 | 0xC8 | 0xCB | 0xCD..=0xCF => {
                return Err(self.broken("a coding process that libjpeg does not know"));
            }
            0xC4 => self.huffman_tables()?,
            0xCC => self.arithmetic_conditioning()?,
            0xD8 => return Err(self.broken("a second start of image")),
            0xD9 => return Ok(Event::End),
            0xDA => return self.scan_header().map(Event::Scan),
            0xDB => self.quantization_tables()?,
            0xDD => self.restart_definition()?,
            0xE0 | 0xEE => self.application(code)?,
            0xDC | 0xE1..=0xEF | 0xFE => {
                let length = self.length()?;
                self.skip(length);
            }
            0x01 | 0xD0..=0xD7 => {}
            _ => return Err(self.broken("an unknown marker")),
        }
        Ok(Event::Other)
    }

    fn frame_header(&mut self, progressive: bool) -> Result<(), DecodeError> {
        if self.frame.is_some() {
            return Err(self.broken("a second frame header"));
        }
        let length = self.u16()?;
        let precision = self.u8()?;
        let (height, width, count) = (self.u16()?, self.u16()?, self.u8()?);
        if height == 0 || width == 0 {
            return Err(self.broken("the image is empty"));
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err(self.broken("the number of components is not 1, 3 or 4"));
        }
        if length != 8 + 3 * u16::from(count) {
            return Err(self.broken("length of the frame header"));
        }
        let mut components = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let (id, factors, quantization) = (self.u8()?, self.u8()?, self.u8()?);
            let (horizontal, vertical) = (u32::from(factors >> 4), u32::from(factors & 15));
            components.push(Component { id, horizontal, vertical, quantization, latched: false });
        }
        if height > MAX_SIDE || width > MAX_SIDE {
            return Err(self.broken("a side of more than 65500 pixels"));
        }
        if precision != 8 {
            return Err(self.broken("samples of other than 8 bits"));
        }
        let (height, width) = (u32::from(height), u32::from(width));
        self.frame = Some(Frame { height, width, progressive, components });
        self.sampling()
    }

    /// Sampling factors: 1 to 4, each a divisor of the largest.
    fn sampling(&self) -> Result<(), DecodeError> {
        let components = self.frame.as_ref().map_or(&[][..], |frame| &frame.components);
        for factor in [|c: &Component| c.horizontal, |c: &Component| c.vertical] {
            let most = components.iter().map(factor).max().unwrap_or(1);
            for own in components.iter().map(factor) {
                if !(1..=4).contains(&own) {
                    return Err(self.broken("a sampling factor that is not 1 to 4"));
                }
                if most % own != 0 {
                    return Err(self.broken("sampling factors without a whole ratio"));
                }
            }
        }
        Ok(())
    }

    fn scan_header(&mut self) -> Result<Scan, DecodeError> {
        let Some(count) = self.frame.as_ref().map(|frame| frame.components.len()) else {
            return Err(self.broken("a scan before the frame header"));
        };
        let (length, listed) = (self.u16()?, self.u8()?);
        if !(1..=4).contains(&listed) || length != 6 + 2 * u16::from(listed) {
            return Err(self.broken("length of the scan header"));
        }
        let mut components: Vec<ScanComponent> = Vec::with_capacity(usize::from(listed));
        for _ in 0..listed {
            let (id, tables) = (self.u8()?, self.u8()?);
            // libjpeg passes over the component whose index equals a place already filled, so that
            // components out of the frame's order are refused.
            let filled = components.len();
            let component = (filled..count)
                .find(|&index| self.frame.as_ref().is_some_and(|f| f.components[index].id == id))
                .ok_or_else(|| self.broken("a scan of a component that is not there"))?;
            if components.iter().any(|earlier| earlier.component == component) {
                return Err(self.broken("a scan that lists a component twice"));
            }
            let (dc, ac) = (usize::from(tables >> 4), usize::from(tables & 15));
            components.push(ScanComponent { component, dc, ac });
        }
        let spectral = (self.u8()?, self.u8()?);
        let approximation = self.u8()?;
        Ok(Scan { components, spectral, approximation: (approximation >> 4, approximation & 15) })
    }

    /// The quantization tables of a scan's components must have come by the time it begins.
    pub(super) fn latch_quantization(&mut self, scan: &Scan) -> Result<(), DecodeError> {
        let frame = self.frame.as_mut().expect("a scan before the frame header is refused");
        for part in &scan.components {
            let component = &mut frame.components[part.component];
            let table = self.quantization.get(usize::from(component.quantization));
            component.latched |= table == Some(&true);
            if !component.latched {
                return Err(self.broken("a component without a quantization table"));
            }
        }
        Ok(())
    }

    fn huffman_tables(&mut self) -> Result<(), DecodeError> {
        let mut length = self.table_length()?;
        while length > 16 {
            let index = self.u8()?;
            let counts = self.array::<16>()?;
            length -= 17;
            let total: usize = counts.iter().map(|&count| usize::from(count)).sum();
            if total > 256 || total > length {
                return Err(self.broken("a Huffman table of too many codes"));
            }
            let symbols = self.take(total)?.to_vec();
            length -= total;
            let tables = if index & 0x10 == 0 { &mut self.dc } else { &mut self.ac };
            match tables.get_mut(usize::from(index & !0x10)) {
                Some(table) => *table = Some(HuffmanSpec { counts, symbols }),
                None => return Err(self.broken("number of a Huffman table")),
            }
        }
        if length == 0 { Ok(()) } else { Err(self.broken("length of the Huffman tables")) }
    }

    fn quantization_tables(&mut self) -> Result<(), DecodeError> {
        let mut length = self.table_length()?;
        while length > 0 {
            let head = self.u8()?;
            let bytes = if head >> 4 == 0 { 64 } else { 128 };
            let number = usize::from(head & 15);
            if number >= 4 {
                return Err(self.broken("number of a quantization table"));
            }
            self.take(bytes)?;
            self.quantization[number] = true;
            length = length
                .checked_sub(1 + bytes)
                .ok_or_else(|| self.broken("length of the quantization tables"))?;
        }
        Ok(())
    }

    fn arithmetic_conditioning(&mut self) -> Result<(), DecodeError> {
        let mut length = self.table_length()?;
        while length > 0 {
            let (index, value) = (self.u8()?, self.u8()?);
            if index >= 32 || (index < 16 && value & 15 > value >> 4) {
                return Err(self.broken("arithmetic conditioning"));
            }
            length = length
                .checked_sub(2)
                .ok_or_else(|| self.broken("length of the arithmetic conditioning"))?;
        }
        Ok(())
    }

    fn restart_definition(&mut self) -> Result<(), DecodeError> {
        if self.u16()? != 4 {
            return Err(self.broken("length of the restart interval"));
        }
        self.restart_interval = u64::from(self.u16()?);
        Ok(())
    }

    /// JFIF and Adobe say what the components mean.
    fn application(&mut self, code: u8) -> Result<(), DecodeError> {
        let length = self.length()?;
        let start = self.at;
        let data = self.take(length.min(14))?;
        match code {
            0xE0 => self.jfif |= data.len() == 14 && data.starts_with(b"JFIF\0"),
            _ if data.len() >= 12 && data.starts_with(b"Adobe") => self.adobe = Some(data[11]),
            _ => {}
        }
        self.at = start;
        self.skip(length);
        Ok(())
    }

    /// `default_decompress_parms` of libjpeg.
    fn color(&self, frame: &Frame) -> Color {
        let ids = frame.components.iter().map(|c| c.id);
        match (frame.components.len(), self.adobe) {
            (1, _) => Color::Gray,
            (3, _) if self.jfif => Color::YCbCr,
            (3, Some(0)) => Color::Rgb,
            (3, None) if ids.eq(*b"RGB") => Color::Rgb,
            (3, _) => Color::YCbCr,
            (_, None | Some(0)) => Color::Cmyk,
            _ => Color::Ycck,
        }
    }

    /// Bytes of a segment of tables behind its length.
    fn table_length(&mut self) -> Result<usize, DecodeError> {
        let length = usize::from(self.u16()?).checked_sub(2);
        length.ok_or_else(|| self.broken("length of a segment"))
    }

    /// Bytes of any other segment; libjpeg takes lengths below 2 for empty ones.
    fn length(&mut self) -> Result<usize, DecodeError> {
        Ok(usize::from(self.u16()?).saturating_sub(2))
    }

    /// Where this leads past the end of the data, the next read finds it out.
    const fn skip(&mut self, bytes: usize) {
        self.at += bytes;
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], DecodeError> {
        let end = self.at.checked_add(bytes);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| self.truncated("the header"))?;
        self.at += bytes;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        Ok(self.take(N)?.try_into().expect("N bytes were taken"))
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(super) const fn broken(&self, what: &'static str) -> DecodeError {
        DecodeError::Broken { what, at: self.at }
    }

    pub(super) const fn truncated(&self, part: &'static str) -> DecodeError {
        DecodeError::Truncated { part, at: self.bytes.len() }
    }
}

fn unsupported(what: &str) -> DecodeError {
    DecodeError::Unsupported { reason: what.to_owned() }
}
