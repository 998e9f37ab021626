//! The chunks of a WebP file, as libwebp's demuxer (`demux.c`) reads them: which files it refuses, and
//! where the first image is.

use super::super::input::Input;
use crate::geometry::{Rect, Size};

/// The maximum size of a chunk, and of a file without its first 8 bytes.
const MAX_CHUNK: u32 = u32::MAX - 9;

/// Flags of `VP8X`, and those that have a meaning.
const ANIMATION: u8 = 2;
const ALPHA: u8 = 16;
const KNOWN: u8 = 0x3E;

const MALFORMED: &str = "a chunk is longer than the file";

/// The first image of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    /// The size of the canvas.
    pub(super) canvas: Size,
    /// The part of the canvas that the image covers.
    pub(super) rect: Rect,
    pub(super) image: Image<'a>,
}

/// An image, and its alpha if that is stored separately.
#[derive(Clone, Copy, Debug)]
pub(super) struct Image<'a> {
    pub(super) size: Size,
    pub(super) lossless: bool,
    /// The data with its padding, which the decoder can see.
    pub(super) data: &'a [u8],
    pub(super) alpha: Option<&'a [u8]>,
}

/// Finds the first image.
///
/// # Errors
/// When libwebp refuses the structure of the file.
pub(super) fn open(bytes: &[u8]) -> Result<Frame<'_>, &'static str> {
    let mut input = Input::new(bytes);
    input.seek(4);
    let riff = input.array().map(u32::from_le_bytes).filter(|size| (12..=MAX_CHUNK).contains(size));
    let end = riff.ok_or("the size of the file is impossible")? as usize + 8;
    // The file may be longer than it states.
    let mut chunks =
        Chunks { input: Input::new(bytes.get(..end).ok_or("the file is truncated")?), end };
    chunks.input.seek(12);
    match chunks.name() {
        Some(b"VP8X") => chunks.extended(),
        Some(b"VP8 " | b"VP8L") => {
            let image = chunks.image(end)?.ok_or("there is no image")?;
            Ok(Frame { canvas: image.size, rect: image.size.whole(), image })
        }
        _ => Err("the first chunk is unknown"),
    }
}

/// The rest of the chunks.
struct Chunks<'a> {
    input: Input<'a>,
    /// The end of the file.
    end: usize,
}

/// Name, stated size and padded data of a chunk.
type Chunk<'a> = ([u8; 4], u32, &'a [u8]);

impl<'a> Chunks<'a> {
    const fn left(&self) -> usize {
        self.end - self.input.at()
    }

    /// The name of the next chunk.
    fn name(&self) -> Option<&'a [u8; 4]> {
        let mut ahead = self.input;
        ahead.take(4)?.first_chunk()
    }

    /// The next chunk.
    fn next(&mut self) -> Result<Chunk<'a>, &'static str> {
        let name = self.input.array().ok_or(MALFORMED)?;
        let size = self.input.array().map(u32::from_le_bytes).ok_or(MALFORMED)?;
        if size > MAX_CHUNK {
            return Err(MALFORMED);
        }
        let data = self.input.take(size.next_multiple_of(2) as usize).ok_or(MALFORMED)?;
        Ok((name, size, data))
    }

    /// The chunks of a file that starts with `VP8X`.
    fn extended(&mut self) -> Result<Frame<'a>, &'static str> {
        let (_, 10, &[flags, _, _, _, ref sizes @ ..]) = self.next()? else {
            return Err("the size of chunk VP8X is wrong");
        };
        let canvas = size_of(&sizes[..6])?;
        if flags & !KNOWN != 0 {
            return Err("chunk VP8X has unknown flags");
        }
        let mut first = None;
        let mut animation = false;
        while self.left() > 0 {
            match self.name().ok_or(MALFORMED)? {
                b"VP8X" => return Err("there are two chunks VP8X"),
                b"VP8 " | b"VP8L" | b"ALPH" => {
                    if animation || flags & ANIMATION != 0 || first.is_some() {
                        return Err(
                            "an image is outside of the animation, or there are two images",
                        );
                    }
                    let mut image = self.image(self.end)?.ok_or("there is no image after ALPH")?;
                    if flags & ALPHA == 0 {
                        image.alpha = None;
                    }
                    if image.size != canvas {
                        return Err("the image has another size than the canvas");
                    }
                    first = Some(Frame { canvas, rect: canvas.whole(), image });
                }
                b"ANMF" if !animation => return Err("a frame is before ANIM"),
                b"ANMF" => {
                    let frame = self.frame(canvas)?.filter(|_| flags & ANIMATION != 0);
                    first = first.or(frame);
                }
                b"ANIM" => {
                    let (_, size, _) = self.next()?;
                    if !animation && size.next_multiple_of(2) < 6 {
                        return Err("chunk ANIM is too short");
                    }
                    animation = true;
                }
                _ => {
                    self.next()?;
                }
            }
        }
        first.ok_or("there is no image")
    }

    /// A frame of an animation. `None` if there is no image in it.
    fn frame(&mut self, canvas: Size) -> Result<Option<Frame<'a>>, &'static str> {
        let mut ahead = self.input;
        let (_, size, data) = self.next()?;
        let Some((header, _)) = data.split_at_checked(16) else {
            return Err("chunk ANMF is too short");
        };
        size_of(&header[6..12])?;
        // Unknown chunks in the frame are read as chunks after it.
        ahead.seek(ahead.at() + 8 + 16);
        self.input = ahead;
        let end = ahead.at() + size.next_multiple_of(2) as usize - 16;
        let [left, top] = [0, 3].map(|at| u24(header, at) * 2);
        let image = self.image(end)?;
        let place = |image: Image<'a>| {
            let rect = Rect { top, left, height: image.size.height, width: image.size.width };
            if rect.fits(canvas) {
                Ok(Frame { canvas, rect, image })
            } else {
                Err("a frame of the animation is outside of the canvas")
            }
        };
        image.map(place).transpose()
    }

    /// An image, with its alpha before it, that ends before `end`.
    fn image(&mut self, end: usize) -> Result<Option<Image<'a>>, &'static str> {
        let mut alpha: Option<&[u8]> = None;
        let mut image: Option<Image<'a>> = None;
        loop {
            let before = self.input;
            let (name, size, data) = self.next()?;
            match &name {
                b"ALPH" if alpha.is_none() => {
                    if image.is_some() {
                        return Err("chunk ALPH is after the image");
                    }
                    alpha = Some(&data[..size as usize]);
                }
                b"VP8L" if alpha.is_some() => return Err("a lossless image has chunk ALPH"),
                b"VP8L" | b"VP8 " if image.is_none() => {
                    let lossless = &name == b"VP8L";
                    let size = if lossless { lossless_size(data) } else { lossy_size(data, size) };
                    image = Some(Image { size: size?, lossless, data, alpha });
                }
                _ => {
                    self.input = before;
                    break;
                }
            }
            match self.left() {
                0 => break,
                1..8 => return Err("bytes follow the last chunk"),
                _ => {}
            }
        }
        if self.input.at() > end {
            return Err("an image is longer than its frame");
        }
        if alpha.is_some() && image.is_none() {
            return Err("there is no image after ALPH");
        }
        Ok(image)
    }
}

fn u24(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], 0])
}

/// Width and height, 24 bits each, as stored in `VP8X` and `ANMF`.
fn size_of(bytes: &[u8]) -> Result<Size, &'static str> {
    let [width, height] = [0, 3].map(|at| u24(bytes, at) + 1);
    match width.checked_mul(height) {
        Some(_) => Ok(Size { height, width }),
        None => Err("the canvas is too large"),
    }
}

/// The size in the header of lossy data (`VP8GetInfo`).
fn lossy_size(data: &[u8], chunk: u32) -> Result<Size, &'static str> {
    let &[a, b, c, 0x9D, 0x01, 0x2A, w0, w1, h0, h1, ..] = data else {
        return Err("the lossy image has no header");
    };
    let tag = u32::from_le_bytes([a, b, c, 0]);
    let [width, height] =
        [[w0, w1], [h0, h1]].map(|side| u32::from(u16::from_le_bytes(side)) & 0x3FFF);
    let shown_key_frame = tag & 1 == 0 && (tag >> 4) & 1 == 1 && (tag >> 1) & 7 <= 3;
    if !shown_key_frame || tag >> 5 >= chunk || width == 0 || height == 0 {
        return Err("the header of the lossy image is malformed");
    }
    Ok(Size { height, width })
}

/// The size in the header of lossless data (`VP8LGetInfo`).
fn lossless_size(data: &[u8]) -> Result<Size, &'static str> {
    let &[0x2F, a, b, c, d, ..] = data else {
        return Err("the lossless image has no header");
    };
    let bits = u32::from_le_bytes([a, b, c, d]);
    if bits >> 29 != 0 {
        return Err("the version of the lossless image is unknown");
    }
    Ok(Size { height: (bits >> 14 & 0x3FFF) + 1, width: (bits & 0x3FFF) + 1 })
}
