//! One JPEG file: its header, the check of its data, and the pixels of a box.

use std::num::NonZeroU16;

use super::bits::Window;
use super::block::Block;
use super::coefficients::Coefficients;
use super::entry_points::{EntryPoints, Grid, pack};
use super::error::JpegError;
use super::header::{Coding, Frame, Process, Scan};
use super::reader::MarkerReader;
use super::region::{Canvas, Geometry, PixelWriter};
use super::scan::{McuState, ScanDecoder};
use super::scan_tables::ScanTables;
use super::unterminated;
use crate::decode::format::{Color, Format, Header};
use crate::geometry::{Rect, Size, View};
use crate::scratch::bytes_of;
use crate::simd::Simd;

/// The header of one file, read and checked.
#[derive(Clone, Debug)]
pub struct Image<'a> {
    file: &'a [u8],
    /// The reader, after the header of the first scan.
    reader: MarkerReader<'a>,
    frame: Frame,
    geometry: Geometry,
    color: Color,
    /// The first scan.
    scan: Scan,
}

/// The memory of one worker, reused from image to image.
#[derive(Debug, Default)]
pub struct Workspace {
    simd: Simd,
    tables: ScanTables,
    window: Window,
    /// The coefficients of the needed part of an MCU row.
    pub(super) blocks: Vec<Block>,
    last: Vec<u8>,
    coefficients: Coefficients,
    pub(super) canvas: Canvas,
}

impl Workspace {
    /// Memory for decoding with the given instruction set.
    pub fn new(simd: Simd) -> Self {
        Self { simd, ..Self::default() }
    }

    /// The bytes that it keeps, without those that do not grow with the image.
    pub(crate) fn held_bytes(&self) -> usize {
        let Self { blocks, last, coefficients, canvas, .. } = self;
        bytes_of(blocks) + bytes_of(last) + coefficients.held_bytes() + canvas.held_bytes()
    }
}

/// Reads the marker segments of a file up to its first scan.
///
/// # Errors
/// When the header is truncated or malformed, or the image is too large.
pub fn parse(file: &[u8]) -> Result<Image<'_>, JpegError> {
    let mut reader = MarkerReader::new(file)?;
    let (frame, scan) = reader.first_scan()?;
    let (geometry, color) = (Geometry::new(&frame), reader.color(&frame));
    Ok(Image { file, reader, frame, geometry, color, scan })
}

impl Image<'_> {
    /// Height and width in pixels.
    pub const fn size(&self) -> Size {
        self.frame.size
    }

    /// The header, in the terms of all formats.
    pub fn header(&self) -> Header {
        Header {
            format: Format::Jpeg,
            size: self.size(),
            color: self.color,
            progressive: self.frame.process == Process::Progressive,
        }
    }

    /// Decodes the pixels of a box. With the entry points of the file, entropy decoding starts near
    /// the box.
    ///
    /// # Errors
    /// When the box is not inside the image, the entry points do not fit the image, or the data ends
    /// early or is malformed.
    pub fn decode<'s>(
        &self,
        rect: Rect,
        entries: Option<&[u8]>,
        workspace: &'s mut Workspace,
    ) -> Result<View<'s>, JpegError> {
        if !rect.fits(self.size()) {
            return Err(JpegError::Outside { rect, size: self.size() });
        }
        if !self.is_streamed() {
            return self.decode_buffered(rect, workspace);
        }
        let quant = self.quantizers()?;
        let simd = workspace.simd;
        let Workspace { tables, window, blocks, last, canvas, .. } = workspace;
        tables.load(&self.reader.tables, &self.scan, (true, true))?;
        let entries = entries.filter(|packed| !packed.is_empty());
        let entries = entries.map(|packed| EntryPoints::read(packed, self.grid())).transpose()?;
        let mut decoder = self.decoder(tables, window);
        if entries.is_none() {
            decoder.seek(self.start(), usize::MAX);
        }
        let mut out = PixelWriter::new(simd, &self.frame, &self.geometry, self.color, rect, canvas);
        let columns = out.mcu_columns.clone();
        blocks.resize(columns.len() * self.geometry.blocks, Block::EMPTY);
        last.resize(blocks.len(), 0);
        for row in out.mcu_rows.clone() {
            if let Some(entries) = &entries {
                let state = entries.before(row, columns.start, self.scan.data);
                if state.mcu > decoder.mcu() || row == out.mcu_rows.start {
                    let likely = entries.bytes_to(row, columns.end, state, self.scan.data);
                    decoder.seek(state, likely);
                }
            }
            decoder.skip_to(simd, row * self.geometry.grid.across + columns.start)?;
            decoder.decode(simd, blocks, last)?;
            out.row(row, blocks, last, &quant);
        }
        Ok(View::new(&canvas.pixels, rect.size()))
    }

    /// As [`Image::decode`], for an image whose coefficients must all be known first.
    fn decode_buffered<'s>(
        &self,
        rect: Rect,
        workspace: &'s mut Workspace,
    ) -> Result<View<'s>, JpegError> {
        self.read_coefficients(workspace)?;
        let simd = workspace.simd;
        let Workspace { blocks, last, coefficients, canvas, .. } = workspace;
        let mut out = PixelWriter::new(simd, &self.frame, &self.geometry, self.color, rect, canvas);
        let rows = self.geometry.grid.down;
        for row in out.mcu_rows.clone() {
            blocks.clear();
            for mcu in out.mcu_columns.clone() {
                for (component, layout) in self.geometry.layouts().iter().enumerate() {
                    blocks.extend((0..layout.h * layout.v).map(|i| {
                        let (y, x) = (row * layout.v + i / layout.h, mcu * layout.h + i % layout.h);
                        coefficients.block((component, layout), rows, y, x)
                    }));
                }
            }
            last.clear();
            last.resize(blocks.len(), 63);
            out.row(row, blocks, last, &coefficients.quant);
        }
        Ok(View::new(&canvas.pixels, rect.size()))
    }

    fn read_coefficients(&self, workspace: &mut Workspace) -> Result<(), JpegError> {
        let memory = (&mut workspace.tables, &mut workspace.window);
        let reader = self.reader.clone();
        workspace.coefficients.read(self.file, reader, &self.geometry, self.scan, memory)
    }

    /// Checks the whole file, and returns packed entry points for every `every` MCUs of each MCU row.
    /// An image in several scans, or with arithmetic coding, has none.
    ///
    /// # Errors
    /// When Pillow refuses the file: the data ends early, or what follows it is malformed.
    pub fn entry_points(
        &self,
        every: NonZeroU16,
        workspace: &mut Workspace,
    ) -> Result<Vec<u8>, JpegError> {
        if !self.is_streamed() {
            self.read_coefficients(workspace)?;
            return Ok(Vec::new());
        }
        self.quantizers()?;
        let simd = workspace.simd;
        let Workspace { tables, window, .. } = workspace;
        tables.load(&self.reader.tables, &self.scan, (true, true))?;
        let mut decoder = self.decoder(tables, window);
        decoder.seek(self.start(), usize::MAX);
        let grid = self.grid();
        let mut states: Vec<McuState> = Vec::new();
        for row in 0..grid.down {
            for column in (0..grid.across).step_by(usize::from(every.get())) {
                decoder.skip_to(simd, row * grid.across + column)?;
                states.push(decoder.state());
            }
        }
        let mcus = grid.down * grid.across;
        decoder.skip_to(simd, mcus)?;
        match decoder.end() {
            Ok(at) => self.reader.clone().check_after_scan(at, self.file.len())?,
            Err(error) => {
                let (interval, slots) =
                    (self.reader.tables.restart_interval, decoder.exact_slots());
                return unterminated::is_complete(self.file, self.scan.data, interval, slots, mcus)
                    .then(Vec::new)
                    .ok_or(error);
            }
        }
        if decoder.is_exact() {
            return Ok(Vec::new());
        }
        Ok(pack(&states, every.get(), grid, self.scan.data))
    }

    /// Whether pixels can be made as the scan is read.
    fn is_streamed(&self) -> bool {
        self.frame.coding == Coding::Huffman && self.frame.has_one_scan(&self.scan)
    }

    /// The quantization table of each component.
    fn quantizers(&self) -> Result<[[u16; 64]; 4], JpegError> {
        let mut quant = [[0; 64]; 4];
        for (table, component) in quant.iter_mut().zip(self.frame.components()) {
            *table = self.reader.quantizer(component)?;
        }
        Ok(quant)
    }

    fn decoder<'s>(&'s self, tables: &'s ScanTables, window: &'s mut Window) -> ScanDecoder<'s> {
        let interval = self.reader.tables.restart_interval;
        ScanDecoder::new(self.file, &self.frame, &self.scan, interval, (tables, window))
    }

    /// The state before the first MCU.
    fn start(&self) -> McuState {
        McuState { byte: self.scan.data, ..McuState::default() }
    }

    fn grid(&self) -> Grid {
        Grid {
            across: self.geometry.grid.across,
            down: self.geometry.grid.down,
            components: self.frame.count,
        }
    }
}
