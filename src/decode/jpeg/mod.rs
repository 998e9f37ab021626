//! forebay's own JPEG decoder: the pixels of a box, and no more work than they need.
//!
//! ```text
//!   marker    -> frame, tables, scan                      T.81 annex B
//!   entry     -> the place to start at                     from the dataset's index
//!   bits, huffman, scan -> coefficients of the MCUs needed T.81 annex F
//!   idct      -> samples                                   bit-equal to libjpeg-turbo's islow
//!   upsample, color, region -> pixels of the box           bit-equal to its fancy upsampling
//!   buffered, progressive -> the same from several scans   T.81 annex G
//! ```
//!
//! It is for what photographs are: 8 bits and Huffman codes. For every file and every box the
//! result equals the same box of the whole image as Pillow decodes it, damaged files included.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "samples and bit fields: the casts keep the bits that are meant"
)]
#![expect(clippy::inline_always, reason = "loops that are compiled for several instruction sets")]

mod bits;
mod buffered;
mod color;
mod entry;
mod huffman;
mod idct;
mod marker;
mod progressive;
mod region;
mod scan;
mod tables;
#[cfg(test)]
mod test_file;
#[cfg(test)]
mod tests;
mod upsample;

use std::num::NonZeroU16;

use crate::geometry::{Rect, Size, View};
use crate::simd::Simd;
use bits::Window;
use buffered::Coefficients;
pub(super) use buffered::MAX_SCANS;
use color::ColorSpace;
use entry::{EntryPoints, Grid};
use marker::{Frame, Headers, Process, Scan, Stop};
use region::{Canvas, Geometry, Region};
use scan::{Block, Place, Walk};
use tables::ScanTables;

/// Why a JPEG file, or a box of it, cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JpegError {
    /// A sort of JPEG that this decoder leaves to others.
    #[error("{what} is not decoded here")]
    Unsupported {
        /// What the file has.
        what: &'static str,
    },
    /// The file is not one that libjpeg decodes.
    #[error("not a good JPEG file: {what}, at byte {offset}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
        /// Where in the file it was noticed.
        offset: usize,
    },
    /// The file ends before its image does.
    #[error("the file ends at byte {length}, before its image does")]
    Truncated {
        /// The file's length.
        length: usize,
    },
    /// The file says that it is larger than Pillow opens.
    #[error("an image of {} rows of {} pixels is too large", .size.height, .size.width)]
    TooLarge {
        /// What the file says.
        size: Size,
    },
    /// A box that is empty, or does not lie in the image.
    #[error("the box {region:?} does not lie in the image of {size:?}")]
    Region {
        /// The box.
        region: Rect,
        /// The image.
        size: Size,
    },
    /// The entry points are not of this file; index the dataset again.
    #[error("the entry points are {what}; run `forebay index` again")]
    EntryPoints {
        /// What is wrong with them.
        what: &'static str,
    },
}

/// Tables and geometry of one file, parsed and checked.
#[derive(Clone, Debug)]
pub struct Image<'a> {
    file: &'a [u8],
    headers: Headers<'a>,
    frame: Frame,
    geometry: Geometry,
    color: ColorSpace,
    scan: Scan,
}

/// Memory of one worker, reused from image to image.
#[derive(Debug, Default)]
pub struct Scratch {
    simd: Simd,
    tables: ScanTables,
    window: Window,
    /// The coefficients of an MCU row's needed part.
    blocks: Vec<Block>,
    last: Vec<u8>,
    coefficients: Coefficients,
    canvas: Canvas,
}

impl Scratch {
    /// Memory for decoding with the given instruction set.
    pub fn new(simd: Simd) -> Self {
        Self { simd, ..Self::default() }
    }
}

/// Reads a file's markers up to its first scan.
pub fn parse(file: &[u8]) -> Result<Image<'_>, JpegError> {
    if !file.starts_with(&[0xFF, 0xD8, 0xFF]) {
        return Err(JpegError::Malformed { what: "no start of image", offset: 0 });
    }
    let mut headers = Headers::default();
    let Stop::Scan(scan) = headers.read(file, 2)? else {
        return Err(JpegError::Malformed { what: "no scan", offset: file.len() });
    };
    let frame = headers.frame.expect("a scan needs a frame header");
    let geometry = Geometry::new(&frame)?;
    let mut ids = [0; marker::MAX_COMPONENTS];
    for (id, component) in ids.iter_mut().zip(frame.components()) {
        *id = component.id;
    }
    let color = ColorSpace::of(&headers, &ids[..frame.components().len()]);
    Ok(Image { file, headers, frame, geometry, color, scan })
}

impl Image<'_> {
    /// Height and width in pixels.
    pub const fn size(&self) -> Size {
        self.frame.size
    }

    /// The pixels of a box. With the file's entry points, entropy decoding starts near the box.
    pub fn decode<'s>(
        &self,
        region: Rect,
        entries: Option<&[u8]>,
        scratch: &'s mut Scratch,
    ) -> Result<View<'s>, JpegError> {
        if !region.fits(self.size()) {
            return Err(JpegError::Region { region, size: self.size() });
        }
        if !self.single() {
            return self.decode_buffered(region, scratch);
        }
        let quant = self.quantisers()?;
        let simd = scratch.simd;
        let Scratch { tables, window, blocks, last, canvas, .. } = scratch;
        tables.load(&self.headers.tables, &self.scan, (true, true))?;
        let entries = entries.filter(|packed| !packed.is_empty());
        let entries = entries.map(|packed| EntryPoints::read(packed, self.grid())).transpose()?;
        let mut walk = self.walk(tables, window);
        if entries.is_none() {
            walk.go_to(self.start(), usize::MAX);
        }
        let mut out = Region::new(simd, &self.frame, &self.geometry, self.color, region, canvas);
        let columns = out.mcu_columns.clone();
        blocks.resize(columns.len() * self.geometry.blocks, Block::EMPTY);
        last.resize(blocks.len(), 0);
        for row in out.mcu_rows.clone() {
            if let Some(entries) = &entries {
                let place = entries.before(row, columns.start, self.scan.data);
                if place.mcu > walk.mcu() || row == out.mcu_rows.start {
                    let likely = entries.bytes_to(row, columns.end, place, self.scan.data);
                    walk.go_to(place, likely);
                }
            }
            walk.skip_to(simd, row * self.geometry.grid.across + columns.start)?;
            walk.decode(simd, blocks, last)?;
            out.row(row, blocks, last, &quant);
        }
        Ok(View::new(&canvas.pixels, region.size()))
    }

    /// As [`Image::decode`], of an image in several scans.
    fn decode_buffered<'s>(
        &self,
        region: Rect,
        scratch: &'s mut Scratch,
    ) -> Result<View<'s>, JpegError> {
        self.read_coefficients(scratch)?;
        let simd = scratch.simd;
        let Scratch { blocks, last, coefficients, canvas, .. } = scratch;
        let mut out = Region::new(simd, &self.frame, &self.geometry, self.color, region, canvas);
        for row in out.mcu_rows.clone() {
            blocks.clear();
            for mcu in out.mcu_columns.clone() {
                for (component, layout) in self.geometry.layouts().iter().enumerate() {
                    blocks.extend((0..layout.h * layout.v).map(|i| {
                        let (y, x) = (row * layout.v + i / layout.h, mcu * layout.h + i % layout.h);
                        coefficients.block(component, y, x)
                    }));
                }
            }
            last.clear();
            last.resize(blocks.len(), 63);
            out.row(row, blocks, last, &coefficients.quant);
        }
        Ok(View::new(&canvas.pixels, region.size()))
    }

    fn read_coefficients(&self, scratch: &mut Scratch) -> Result<(), JpegError> {
        let memory = (&mut scratch.tables, &mut scratch.window);
        let headers = self.headers.clone();
        scratch.coefficients.read(self.file, headers, &self.geometry, self.scan, memory)
    }

    /// Checks the whole file as a decoder that shows it would, and returns entry points for each
    /// `every` MCUs of each MCU row, packed. They are empty for an image in several scans, which has
    /// none.
    pub fn entry_points(
        &self,
        every: NonZeroU16,
        scratch: &mut Scratch,
    ) -> Result<Vec<u8>, JpegError> {
        if !self.single() {
            self.read_coefficients(scratch)?;
            return Ok(Vec::new());
        }
        self.quantisers()?;
        let simd = scratch.simd;
        let Scratch { tables, window, .. } = scratch;
        tables.load(&self.headers.tables, &self.scan, (true, true))?;
        let mut walk = self.walk(tables, window);
        walk.go_to(self.start(), usize::MAX);
        let grid = self.grid();
        let mut places: Vec<Place> = Vec::new();
        for row in 0..grid.down {
            for column in (0..grid.across).step_by(usize::from(every.get())) {
                walk.skip_to(simd, row * grid.across + column)?;
                places.push(walk.place());
            }
        }
        walk.skip_to(simd, grid.down * grid.across)?;
        // Pillow asks for a marker after the image, and for no error in what follows; that the
        // end of the image follows it does not ask.
        match self.headers.clone().read(self.file, walk.end()?) {
            Ok(Stop::End) | Err(JpegError::Truncated { .. }) => {}
            Ok(Stop::Scan(Scan { data: offset, .. })) => {
                return Err(JpegError::Malformed { what: "a scan too many", offset });
            }
            Err(error) => return Err(error),
        }
        Ok(entry::pack(&places, every.get(), grid, self.scan.data))
    }

    /// Whether one scan holds all components, in order: then pixels are made as it is read.
    fn single(&self) -> bool {
        let parts = self.scan.components().iter().map(|part| part.index);
        self.frame.process == Process::Sequential && parts.eq(0..self.frame.components().len())
    }

    /// The quantisation table of each component.
    fn quantisers(&self) -> Result<[[u16; 64]; 4], JpegError> {
        let mut quant = [[0; 64]; 4];
        for (index, table) in quant[..self.frame.components().len()].iter_mut().enumerate() {
            *table = self.headers.quantiser(index, self.scan.data)?;
        }
        Ok(quant)
    }

    fn walk<'s>(&'s self, tables: &'s ScanTables, window: &'s mut Window) -> Walk<'s> {
        let interval = self.headers.tables.restart_interval;
        Walk::new(self.file, &self.frame, &self.scan, interval, (tables, window))
    }

    /// The place of the scan's first MCU.
    fn start(&self) -> Place {
        Place { byte: self.scan.data, ..Place::default() }
    }

    fn grid(&self) -> Grid {
        Grid {
            across: self.geometry.grid.across,
            down: self.geometry.grid.down,
            components: self.frame.components().len(),
        }
    }
}
