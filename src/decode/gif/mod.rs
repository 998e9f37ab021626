//! GIF: the first frame, as Pillow's `GifImagePlugin.py` and `GifDecode.c` read it.
//!
//! The image is as large as the screen and the first frame together. What the frame does not cover has
//! the transparent index, or else index 0. Indices become gray where the palette is a ramp of gray.

mod image;
mod lzw;

use image::Image;

use super::error::DecodeError;
use super::format::{Color, Format, Header};
use super::input::Input;
use crate::geometry::{Rect, Size};

/// Reads the header.
///
/// # Errors
/// When it is truncated, or there is no frame.
pub(super) fn probe(bytes: &[u8]) -> Result<Header, DecodeError> {
    let image = open(bytes).map_err(malformed)?;
    Ok(Header { format: Format::Gif, size: image.size, color: Color::Palette, progressive: false })
}

/// Decodes the first frame to RGB.
///
/// # Errors
/// When Pillow refuses the file.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    open(bytes).and_then(|image| image.rgb()).map_err(malformed)
}

fn malformed(reason: &'static str) -> DecodeError {
    DecodeError::Malformed { format: Format::Gif, reason: reason.to_owned() }
}

fn open(bytes: &[u8]) -> Result<Image<'_>, &'static str> {
    const TRUNCATED: &str = "the file ends before the first frame";
    let mut input = Input::new(bytes);
    input.seek(6);
    let screen = input.array::<7>().ok_or(TRUNCATED)?;
    let [mut width, mut height] = [0, 2].map(|at| u16_at(&screen, at));
    let global = color_table(screen[4], &mut input)?;
    let mut background = None;
    loop {
        match input.byte().ok_or(TRUNCATED)? {
            b';' => return Err("there is no frame"),
            b'!' => {
                let label = input.byte().ok_or(TRUNCATED)?;
                background = extension(label, &mut input)?.or(background);
            }
            b',' => {
                let descriptor = input.array::<9>().ok_or(TRUNCATED)?;
                let [left, top, columns, rows] = [0, 2, 4, 6].map(|at| u16_at(&descriptor, at));
                (width, height) = (width.max(left + columns), height.max(top + rows));
                let local = color_table(descriptor[8], &mut input)?;
                let bits = input.byte().ok_or(TRUNCATED)?;
                if columns == 0 || rows == 0 {
                    return Err("the first frame is empty");
                }
                return Ok(Image {
                    size: Size { height, width },
                    frame: Rect { top, left, height: rows, width: columns },
                    // A local ramp of gray does not replace a global palette: Pillow installs that
                    // in the gray image.
                    palette: local
                        .filter(|table| !is_gray(table))
                        .or(global.filter(|table| !is_gray(table))),
                    background: background.unwrap_or(0),
                    interlaced: descriptor[8] & 64 != 0,
                    bits,
                    data: &bytes[input.at()..],
                });
            }
            _ => {}
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u32 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]]).into()
}

/// Reads the color table that these flags announce.
fn color_table<'a>(flags: u8, input: &mut Input<'a>) -> Result<Option<&'a [u8]>, &'static str> {
    if flags & 128 == 0 {
        return Ok(None);
    }
    input.take(6 << (flags & 7)).map(Some).ok_or("a color table is truncated")
}

/// Whether each color of a table is its own index.
fn is_gray(table: &[u8]) -> bool {
    table.as_chunks().0.iter().zip(0..=255).all(|(color, index)| *color == [index; 3])
}

/// Reads an extension. Returns the transparent index if it has one.
///
/// # Errors
/// When Pillow fails on it.
fn extension(label: u8, input: &mut Input<'_>) -> Result<Option<u8>, &'static str> {
    const SHORT: &str = "an extension is too short";
    let mut block = sub_block(input);
    let mut transparent = None;
    match label {
        // Pillow takes the end of a comment for its end, and of all others it reads one block more.
        0xFE => {
            while block.is_some_and(|block| !block.is_empty()) {
                block = sub_block(input);
            }
            return Ok(None);
        }
        0xF9 => {
            if let Some(control) = block {
                let &[flags, _, _, ref rest @ ..] = control else { return Err(SHORT) };
                if flags & 1 != 0 {
                    transparent = Some(*rest.first().ok_or(SHORT)?);
                }
            }
        }
        0xFF if block.is_some_and(|block| block.starts_with(b"NETSCAPE2.0")) => {
            sub_block(input);
        }
        _ => {}
    }
    while sub_block(input).is_some_and(|block| !block.is_empty()) {}
    Ok(transparent)
}

/// Reads a block of at most 255 bytes. `None` at the end of a sequence and of the file.
fn sub_block<'a>(input: &mut Input<'a>) -> Option<&'a [u8]> {
    let length = input.byte().filter(|&length| length > 0)?;
    Some(input.read(length.into()))
}

impl Image<'_> {
    fn rgb(&self) -> Result<Vec<u8>, &'static str> {
        let mut canvas = vec![self.background; self.size.rgb_bytes() / 3];
        lzw::decode(self, &mut canvas)?;
        let mut colors = [[0; 3]; 256];
        for (index, color) in (0..=255).zip(&mut colors) {
            let stored = |table: &[u8]| table.as_chunks().0.get(usize::from(index)).copied();
            *color = match self.palette {
                Some(table) => stored(table).unwrap_or_default(),
                None => [index; 3],
            };
        }
        Ok(canvas.into_iter().flat_map(|index| colors[usize::from(index)]).collect())
    }
}
