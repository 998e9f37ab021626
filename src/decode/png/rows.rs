//! Image data to pixels: decompression row by row, filters, interlacing (`ZipDecode.c`).

use flate2::{Decompress, FlushDecompress, Status};

use super::chunks::Chunks;
use super::filters;
use super::mode::Mode;
use crate::geometry::Rect;

/// First column, first row, and distances between columns and rows of the seven passes of Adam7.
const PASSES: [[usize; 4]; 7] = [
    [0, 0, 8, 8],
    [4, 0, 8, 8],
    [0, 4, 4, 8],
    [2, 0, 4, 4],
    [0, 2, 2, 4],
    [1, 0, 2, 2],
    [0, 1, 1, 2],
];

/// Bytes of rows that are decompressed at a time.
const BATCH: usize = 1 << 16;

/// Decodes the image data and checks what follows it.
///
/// # Errors
/// When Pillow refuses the file.
pub(super) fn decode(mut image: Chunks<'_>) -> Result<Vec<u8>, String> {
    let bytes = image.size.rgb_bytes();
    let first = if image.mode.is_palette() { image.palette[0] } else { [0; 3] };
    // Rows that the data lacks have samples of 0.
    let mut pixels = vec![0; bytes];
    if first != [0; 3] {
        pixels.as_chunks_mut().0.fill(first);
    }
    fill(&mut image, &mut pixels)?;
    image.finish()?;
    Ok(pixels)
}

/// Decompresses the rows. The verdict depends on what the decompressor sees beyond the last row, so it
/// is asked for that row alone, as by Pillow. Of an interlaced image it is asked for every row.
fn fill(image: &mut Chunks<'_>, pixels: &mut [u8]) -> Result<(), String> {
    let mode = image.mode;
    let mut rows = Rows { frame: image.frame, interlaced: image.interlaced, pass: 0, y: 0 };
    let longest = 1 + row_bytes(mode, image.frame.width as usize);
    let most = if image.interlaced { 1 } else { (BATCH / longest).max(1) };
    let (mut buffer, mut above) = (vec![0; most * longest], vec![0; longest]);
    let mut inflate = Decompress::new(true);
    let mut filled = 0;
    loop {
        let mut piece = image.data()?;
        while !piece.is_empty() {
            let length = 1 + row_bytes(mode, rows.columns());
            let wanted = length * (rows.height() - 1 - rows.y).clamp(1, most);
            let (read, written) = (inflate.total_in(), inflate.total_out());
            let status = inflate
                .decompress(piece, &mut buffer[filled..wanted], FlushDecompress::None)
                .map_err(|error| format!("the image data is damaged: {error}"))?;
            let written = count(inflate.total_out() - written);
            piece = &piece[count(inflate.total_in() - read)..];
            filled += written;
            let ended = status == Status::StreamEnd;
            // Pillow stops at the end of the data if it sees that together with the end of a row.
            if status == Status::BufError || (ended && (written == 0 || filled % length != 0)) {
                return Err("the image data is damaged or truncated".into());
            }
            if filled < wanted && !ended {
                continue;
            }
            for row in buffer[..filled].chunks_exact_mut(length) {
                let (filter, row) = row.split_first_mut().expect("the filter");
                filters::undo(*filter, mode, row, &above[..row.len()])?;
                rows.put(image, row, pixels);
                above[..row.len()].copy_from_slice(row);
                let pass = rows.pass;
                rows.advance();
                if rows.pass != pass {
                    above.fill(0);
                }
            }
            if rows.done() || ended {
                return Ok(());
            }
            filled = 0;
        }
    }
}

fn count(bytes: u64) -> usize {
    usize::try_from(bytes).expect("within a buffer")
}

const fn row_bytes(mode: Mode, columns: usize) -> usize {
    (columns * mode.bits()).div_ceil(8)
}

/// The place of the next row.
struct Rows {
    frame: Rect,
    interlaced: bool,
    pass: usize,
    y: usize,
}

impl Rows {
    const fn height(&self) -> usize {
        self.frame.height as usize
    }

    const fn columns(&self) -> usize {
        if !self.interlaced {
            return self.frame.width as usize;
        }
        let [left, _, step, _] = PASSES[self.pass];
        (self.frame.width as usize + step - 1 - left) / step
    }

    const fn done(&self) -> bool {
        self.y >= self.height()
    }

    const fn advance(&mut self) {
        if !self.interlaced {
            self.y += 1;
            return;
        }
        self.y += PASSES[self.pass][3];
        while self.done() || self.columns() == 0 {
            self.pass += 1;
            if self.pass == PASSES.len() {
                self.pass -= 1;
                self.y = self.height();
                return;
            }
            self.y = PASSES[self.pass][1];
        }
    }

    /// Converts a row and stores it.
    fn put(&self, image: &Chunks<'_>, row: &[u8], pixels: &mut [u8]) {
        let width = image.size.width as usize;
        if !self.interlaced {
            let start = (self.frame.top as usize + self.y) * width + self.frame.left as usize;
            let out = &mut pixels[start * 3..][..self.columns() * 3];
            return image.mode.rgb(row, &image.palette, out);
        }
        let mut colors = vec![0; self.columns() * 3];
        image.mode.rgb(row, &image.palette, &mut colors);
        // Pillow ignores the position of an interlaced frame of an animation.
        let [left, _, step, _] = PASSES[self.pass];
        let out = &mut pixels.as_chunks_mut::<3>().0[self.y * width..][..width];
        for (out, color) in out[left..].iter_mut().step_by(step).zip(colors.as_chunks().0) {
            *out = *color;
        }
    }
}
