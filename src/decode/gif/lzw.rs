//! Decompression of a frame into the canvas (`GifDecode.c`).

use super::image::Image;

/// The bytes that Pillow passes to the decoder at a time (`ImageFile.MAXBLOCK`).
const PIECE: usize = 65_536;
/// The number of codes, and of indices that one code may stand for.
const CODES: usize = 1 << 12;
/// Bits of the longest code, except where the first codes are longer.
const MAX_BITS: u8 = 12;

const DAMAGED: &str = "the image data is damaged";

/// Decompresses the indices of the frame into the canvas.
///
/// # Errors
/// When a code is not possible, or the data ends before the last pixel.
pub(super) fn decode(image: &Image<'_>, canvas: &mut [u8]) -> Result<(), &'static str> {
    if image.bits > MAX_BITS {
        return Err("an index has more than 12 bits");
    }
    let clear = 1_usize << image.bits;
    let mut codes = Codes::new(image.data);
    let mut place = Place::new(image);
    // For each code, the code of its string without the last index, and that index.
    let mut strings = vec![(0, 0); CODES];
    let mut reversed = Vec::with_capacity(CODES);
    let (mut next, mut width) = (clear + 2, image.bits + 1);
    // The code before, and the first index of its string.
    let mut last: Option<(usize, u8)> = None;
    loop {
        let code = codes.next(width)?;
        if code == clear {
            (next, width, last) = (clear + 2, image.bits + 1, None);
            continue;
        }
        if code == clear + 1 {
            // Pillow reads on, because pixels are missing.
            codes.extend()?;
            continue;
        }
        reversed.clear();
        let mut rest = code;
        if let Some((last_code, last_first)) = last {
            if code > next {
                return Err(DAMAGED);
            }
            if code == next {
                reversed.push(last_first);
                rest = last_code;
            }
            while rest >= clear {
                if reversed.len() == CODES || rest >= CODES {
                    return Err(DAMAGED);
                }
                let (parent, index) = strings[rest];
                reversed.push(index);
                rest = parent;
            }
            if next < CODES {
                strings[next] = (last_code, low_byte(rest));
                if next == (1 << width) - 1 && width < MAX_BITS {
                    width += 1;
                }
                next += 1;
            }
        } else if code > clear {
            return Err(DAMAGED);
        }
        let first = low_byte(rest);
        last = Some((code, first));
        reversed.push(first);
        for &index in reversed.iter().rev() {
            canvas[place.offset()] = index;
            if place.advance() {
                return Ok(());
            }
        }
    }
}

const fn low_byte(code: usize) -> u8 {
    code.to_le_bytes()[0]
}

/// The codes of the data, which is stored in blocks of at most 255 bytes. Only whole blocks are used.
struct Codes<'a> {
    data: &'a [u8],
    at: usize,
    /// The end of the pieces that were read. It decides what may follow an end code.
    end: usize,
    /// The bytes left in the block.
    block: usize,
    bits: u32,
    buffered: u8,
}

impl<'a> Codes<'a> {
    const fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0, end: 0, block: 0, bits: 0, buffered: 0 }
    }

    /// Reads one more piece.
    fn extend(&mut self) -> Result<(), &'static str> {
        if self.end == self.data.len() {
            return Err("the image data is truncated");
        }
        self.end = self.data.len().min(self.end + PIECE);
        Ok(())
    }

    fn next(&mut self, width: u8) -> Result<usize, &'static str> {
        while self.buffered < width {
            if self.block > 0 {
                self.bits |= u32::from(self.data[self.at]) << self.buffered;
                self.buffered += 8;
                self.block -= 1;
            } else {
                let length = |data: &[u8]| data.first().map(|&length| usize::from(length));
                self.block = loop {
                    let read = &self.data[self.at..self.end];
                    match length(read) {
                        Some(length) if length < read.len() => break length,
                        _ => self.extend()?,
                    }
                };
            }
            self.at += 1;
        }
        let code = self.bits & ((1 << width) - 1);
        self.bits >>= width;
        self.buffered -= width;
        Ok(code as usize)
    }
}

/// The place of the next pixel.
struct Place {
    x: usize,
    y: usize,
    width: usize,
    height: usize,
    /// The offset of the first pixel in the canvas, and of the next row.
    origin: usize,
    stride: usize,
    /// The distance of rows, and the first row and the distance of the passes to come.
    step: usize,
    passes: &'static [(usize, usize)],
}

impl Place {
    const fn new(image: &Image<'_>) -> Self {
        let stride = image.size.width as usize;
        let frame = image.frame;
        let (step, passes): (_, &[_]) =
            if image.interlaced { (8, &[(4, 8), (2, 4), (1, 2)]) } else { (1, &[]) };
        Self {
            x: 0,
            y: 0,
            width: frame.width as usize,
            height: frame.height as usize,
            origin: frame.top as usize * stride + frame.left as usize,
            stride,
            step,
            passes,
        }
    }

    const fn offset(&self) -> usize {
        self.origin + self.y * self.stride + self.x
    }

    /// Goes to the next pixel. Returns whether that was the last one.
    fn advance(&mut self) -> bool {
        self.x += 1;
        if self.x < self.width {
            return false;
        }
        self.x = 0;
        self.y += self.step;
        while self.y >= self.height {
            let Some((&(first, step), rest)) = self.passes.split_first() else { return true };
            (self.y, self.step, self.passes) = (first, step, rest);
        }
        false
    }
}
