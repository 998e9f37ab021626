//! Turns blocks into the pixels of a box, one MCU row after the other.
//!
//! ```text
//!   MCU row -> coefficients -> inverse DCT -> ring of sample rows -> upsampling, color -> pixels
//! ```
//!
//! Fancy upsampling reads one sample on each side, so a box needs the samples under a margin of one
//! pixel around it, and the last rows of an MCU row wait for the next one. The ring therefore holds two
//! MCU rows of each component.

use std::ops::Range;

use super::block::Block;
use super::color;
use super::header::{Component, Frame, MAX_COMPONENTS};
use super::idct;
use super::upsample::{self, Upsampling};
use crate::decode::format::Color;
use crate::geometry::Rect;
use crate::scratch::{bytes_of, fit};
use crate::simd::Simd;

/// Samples before the first one of a ring row, and after the last block: space for copies of the
/// edges, and for the excess of SIMD stores.
const MARGIN: usize = 16;

/// The MCUs of an image.
#[derive(Clone, Copy, Debug)]
pub(super) struct McuGrid {
    /// Pixels of an MCU across and down.
    width: u32,
    height: u32,
    /// MCUs of the image across and down.
    pub(super) across: u32,
    pub(super) down: u32,
}

/// A component of an image: its part of an MCU, and its upsampling.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Layout {
    pub(super) h: u32,
    pub(super) v: u32,
    /// Samples across and down, without those that only complete a block.
    pub(super) width: u32,
    pub(super) height: u32,
    /// The index of its first block in an MCU.
    pub(super) first_block: usize,
    upsampling: Upsampling,
}

impl Layout {
    /// Blocks across and down, without those that only fill MCUs.
    pub(super) const fn blocks(&self) -> (u32, u32) {
        (self.width.div_ceil(8), self.height.div_ceil(8))
    }
}

/// The geometry of an image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) grid: McuGrid,
    layouts: [Layout; MAX_COMPONENTS],
    count: usize,
    /// Blocks in an MCU.
    pub(super) blocks: usize,
    /// Whether columns, and rows, of any component are interpolated.
    fancy_across: bool,
    fancy_down: bool,
}

impl Geometry {
    pub(super) fn new(frame: &Frame) -> Self {
        let components = frame.components();
        let max = |of: fn(&Component) -> u32| components.iter().map(of).max().unwrap_or(1);
        let (h_max, v_max) = (max(|component| component.h), max(|component| component.v));
        let (width, height) = (8 * h_max, 8 * v_max);
        let size = frame.size;
        let grid = McuGrid {
            width,
            height,
            across: size.width.div_ceil(width),
            down: size.height.div_ceil(height),
        };
        let mut layouts = [Layout::default(); MAX_COMPONENTS];
        let mut blocks = 0;
        for (layout, component) in layouts.iter_mut().zip(components) {
            let &Component { h, v, .. } = component;
            let width = (size.width * h).div_ceil(h_max);
            let height = (size.height * v).div_ceil(v_max);
            let upsampling = Upsampling::new(h_max / h, v_max / v, width);
            *layout = Layout { h, v, width, height, first_block: blocks, upsampling };
            blocks += (h * v) as usize;
        }
        let fancy_across = layouts.iter().any(|layout| layout.upsampling.fancy_across);
        let fancy_down = layouts.iter().any(|layout| layout.upsampling.fancy_down);
        let count = components.len();
        Self { grid, layouts, count, blocks, fancy_across, fancy_down }
    }

    pub(super) fn layouts(&self) -> &[Layout] {
        &self.layouts[..self.count]
    }

    /// The rows and columns of the pixels under which samples are needed for a box.
    fn reach(&self, region: Rect, size: crate::geometry::Size) -> (Range<u32>, Range<u32>) {
        let reach = |first: u32, count: u32, end: u32, fancy: bool| {
            let margin = u32::from(fancy);
            first.saturating_sub(margin)..(first + count + margin).min(end)
        };
        (
            reach(region.top, region.height, size.height, self.fancy_down),
            reach(region.left, region.width, size.width, self.fancy_across),
        )
    }
}

/// The sample rows of one component.
#[derive(Debug, Default)]
struct Ring {
    samples: Vec<u8>,
    stride: usize,
    /// Rows that the ring holds.
    rows: u32,
    /// The component's column of the first sample after the margin.
    left: u32,
    /// Blocks that are needed, in the component's numbering.
    block_rows: Range<u32>,
    block_columns: Range<u32>,
}

impl Ring {
    /// The samples of a row, from the one before `column` on.
    fn around(&self, y: u32, column: u32) -> &[u8] {
        let start = (y % self.rows) as usize * self.stride;
        let before = MARGIN + (column - self.left) as usize - 1;
        &self.samples[start..start + self.stride][before..]
    }
}

/// The memory of a worker for this part.
#[derive(Debug, Default)]
pub(super) struct Canvas {
    rings: [Ring; MAX_COMPONENTS],
    lines: [Vec<u8>; MAX_COMPONENTS],
    sums: Vec<u16>,
    /// The pixels of the box.
    pub(super) pixels: Vec<u8>,
}

impl Canvas {
    /// The bytes that it keeps.
    pub(super) fn held_bytes(&self) -> usize {
        let Self { rings, lines, sums, pixels } = self;
        let rings: usize = rings.iter().map(|ring| bytes_of(&ring.samples)).sum();
        let lines: usize = lines.iter().map(bytes_of).sum();
        rings + lines + bytes_of(sums) + bytes_of(pixels)
    }
}

/// Makes the pixels of a box, as its MCU rows are decoded.
#[derive(Debug)]
pub(super) struct PixelWriter<'a> {
    simd: Simd,
    geometry: &'a Geometry,
    color: Color,
    rect: Rect,
    canvas: &'a mut Canvas,
    /// The MCUs that are needed.
    pub(super) mcu_rows: Range<u32>,
    pub(super) mcu_columns: Range<u32>,
    /// The next pixel row to make.
    next: u32,
}

impl<'a> PixelWriter<'a> {
    pub(super) fn new(
        simd: Simd,
        frame: &Frame,
        geometry: &'a Geometry,
        color: Color,
        rect: Rect,
        canvas: &'a mut Canvas,
    ) -> Self {
        let grid = geometry.grid;
        let (rows, columns) = geometry.reach(rect, frame.size);
        let mcu_rows = rows.start / grid.height..rows.end.div_ceil(grid.height);
        let mcu_columns = columns.start / grid.width..columns.end.div_ceil(grid.width);
        for (ring, layout) in canvas.rings.iter_mut().zip(geometry.layouts()) {
            let (across, down) = (8 * layout.upsampling.across, 8 * layout.upsampling.down);
            ring.block_columns = columns.start / across..columns.end.div_ceil(across);
            ring.block_rows = rows.start / down..rows.end.div_ceil(down);
            ring.left = ring.block_columns.start * 8;
            ring.stride = 2 * MARGIN + ring.block_columns.len() * 8;
            ring.rows = 2 * 8 * layout.v;
            ring.samples.resize(ring.rows as usize * ring.stride, 0);
        }
        for line in &mut canvas.lines {
            line.resize(rect.width as usize + 8, 0);
        }
        canvas.sums.resize(rect.width as usize + 8, 0);
        fit(&mut canvas.pixels, rect.size().rgb_bytes(), 0);
        Self { simd, geometry, color, rect, canvas, mcu_rows, mcu_columns, next: rect.top }
    }

    /// Transforms the blocks of the needed MCUs of MCU row `row`, and makes the pixels that they
    /// complete. `blocks` and `last` hold MCU after MCU.
    pub(super) fn row(&mut self, row: u32, blocks: &[Block], last: &[u8], quant: &[[u16; 64]; 4]) {
        for (index, (layout, quant)) in self.geometry.layouts().iter().zip(quant).enumerate() {
            for down in 0..layout.v {
                let block_row = row * layout.v + down;
                if !self.canvas.rings[index].block_rows.contains(&block_row) {
                    continue;
                }
                let place = |column: u32| {
                    let mcu = (column / layout.h - self.mcu_columns.start) as usize;
                    let in_mcu = (down * layout.h + column % layout.h) as usize;
                    mcu * self.geometry.blocks + layout.first_block + in_mcu
                };
                self.canvas.rings[index].fill(self.simd, layout, block_row, quant, |column| {
                    let at = place(column);
                    (&blocks[at], last[at])
                });
            }
        }
        self.emit(row);
    }

    /// Makes the pixel rows that the MCU rows up to `row` complete.
    fn emit(&mut self, row: u32) {
        let bottom = self.rect.top + self.rect.height;
        let complete = if row + 1 == self.geometry.grid.down {
            bottom
        } else {
            (row + 1) * self.geometry.grid.height - u32::from(self.geometry.fancy_down)
        };
        while self.next < complete.min(bottom) {
            self.emit_row(self.next);
            self.next += 1;
        }
    }

    fn emit_row(&mut self, y: u32) {
        let Canvas { rings, lines, sums, pixels } = &mut *self.canvas;
        let columns = self.rect.left..self.rect.left + self.rect.width;
        let mut samples: [&[u8]; MAX_COMPONENTS] = [&[]; MAX_COMPONENTS];
        let parts = rings.iter().zip(lines.iter_mut()).zip(self.geometry.layouts());
        for (samples, ((ring, line), layout)) in samples.iter_mut().zip(parts) {
            *samples = ring.line(self.simd, layout, (y, columns.clone()), line, sums);
        }
        let width = 3 * self.rect.width as usize;
        let start = (y - self.rect.top) as usize * width;
        color::row(self.simd, self.color, samples, &mut pixels[start..start + width]);
    }
}

impl Ring {
    /// Transforms the needed blocks of a block row.
    fn fill<'b>(
        &mut self,
        simd: Simd,
        layout: &Layout,
        block_row: u32,
        quant: &[u16; 64],
        block: impl Fn(u32) -> (&'b Block, u8),
    ) {
        let start = (block_row * 8 % self.rows) as usize * self.stride;
        let rows = &mut self.samples[start..start + 8 * self.stride];
        let columns = self.block_columns.clone();
        idct::row_of_blocks(simd, columns.map(block), quant, &mut rows[MARGIN..], self.stride);
        // The edges of the image are repeated beyond it.
        let end = MARGIN + (layout.width.max(self.left + 1) - self.left) as usize;
        for row in rows.chunks_exact_mut(self.stride) {
            row[MARGIN - 1] = row[MARGIN];
            if end < self.stride {
                row[end] = row[end - 1];
            }
        }
    }

    /// The samples of pixel row `y` under `columns`: upsampled into `line`, or those of the ring.
    fn line<'b>(
        &'b self,
        simd: Simd,
        layout: &Layout,
        (y, columns): (u32, Range<u32>),
        line: &'b mut [u8],
        sums: &mut [u16],
    ) -> &'b [u8] {
        let Upsampling { across, down, fancy_across, fancy_down } = layout.upsampling;
        let near = y / down;
        let far = match (fancy_down, y % 2) {
            (false, _) => near,
            (true, 0) => near.saturating_sub(1),
            (true, _) => (near + 1).min(layout.height - 1),
        };
        // The samples under the columns, and the columns of the first sample before them.
        let first = columns.start / across;
        let count = (columns.end.div_ceil(across) - first) as usize;
        let before = (columns.start % across) as usize;
        let width = columns.len();
        let out = &mut line[..count * across as usize];
        let around = |y| &self.around(y, first)[..count + 2];
        let under = |y| &self.around(y, first)[1..=count];
        match (fancy_across, fancy_down) {
            (true, true) => {
                upsample::both(simd, around(near), around(far), &mut sums[..count + 2], out);
            }
            (true, false) => upsample::across(simd, around(near), out),
            (false, true) => {
                upsample::down(simd, under(near), under(far), 1 + (y % 2) as u16, out);
            }
            (false, false) if across > 1 => upsample::repeat(under(near), across as usize, out),
            (false, false) => return under(near),
        }
        &line[before..before + width]
    }
}
