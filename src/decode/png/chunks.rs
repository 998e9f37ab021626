//! The chunks of a PNG: what they say of the image, and which of them Pillow refuses.

use flate2::Crc;

use super::super::input::Input;
use super::mode::{Mode, Palette};
use super::text;
use crate::geometry::{Rect, Size};

/// The bytes that Pillow passes to the decompressor at a time (`ImageFile.MAXBLOCK`).
const PIECE: usize = 65_536;

type Name = [u8; 4];

/// A file whose chunks are read in order.
#[derive(Debug)]
pub(super) struct Chunks<'a> {
    input: Input<'a>,
    state: State<'a>,
    /// Whether there are more frames than the first.
    animated: bool,
    /// Bytes of the current data chunk that are still to be read.
    left: usize,
    pub(super) mode: Mode,
    pub(super) size: Size,
    pub(super) interlaced: bool,
    /// The part of the image that the data covers: all of it, except in an animation.
    pub(super) frame: Rect,
    pub(super) palette: Box<Palette>,
}

/// What the chunks so far have said.
#[derive(Debug, Default)]
struct State<'a> {
    size: (u32, u32),
    mode: Option<Mode>,
    interlaced: bool,
    palette: Option<&'a [u8]>,
    transparency: Option<Transparency>,
    /// The number of frames of an animation.
    frames: Option<u32>,
    /// Left, top, width and height in the last `fcTL`.
    frame: Option<[u32; 4]>,
    sequence: Option<u32>,
    /// Characters of text.
    text: u64,
}

/// What Pillow stores as the transparency of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transparency {
    /// One index of a palette.
    Index,
    /// A color, or an alpha for each index of a palette.
    Other,
    /// The text of a chunk with the key `transparency`.
    Text,
}

impl<'a> Chunks<'a> {
    /// Reads the chunks before the image data.
    ///
    /// # Errors
    /// When Pillow refuses one of them, or there is no image data.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, String> {
        let mut input = Input::new(bytes);
        input.seek(8);
        let mut state = State::default();
        let left = loop {
            let (name, length) = next(&mut input)?;
            match &name {
                b"IEND" => return Err("there is no image data".into()),
                b"IDAT" if state.mode.is_some() => break length,
                b"fdAT" => break state.frame_data(&mut input, length)?,
                _ => {
                    let data = input.take(length).ok_or_else(|| truncated(name))?;
                    state.apply(name, data)?;
                    let mut crc = Crc::new();
                    crc.update(&name);
                    crc.update(data);
                    if input.array().map(u32::from_be_bytes) != Some(crc.sum()) {
                        return Err(format!("the checksum of chunk {} is wrong", text(name)));
                    }
                }
            }
        };
        let mode = state.mode.ok_or("there is no IHDR of a known kind before the image data")?;
        let (width, height) = state.size;
        let size = Size { height, width };
        let frame = match state.frame {
            Some([left, top, width, height]) => Rect { top, left, height, width },
            None => size.whole(),
        };
        if !size.whole().fits(size) || !frame.fits(size) {
            return Err("the image is empty".into());
        }
        let palette = Box::new(palette(state.palette.unwrap_or_default()));
        if mode.is_palette() && state.palette.is_some_and(|palette| palette.len() / 3 > 256) {
            return Err("the palette has more than 256 colors".into());
        }
        // An image before the first frame control is not one of the frames of `acTL`.
        let animated = state.frames.is_some_and(|n| n > 1 || state.frame.is_none());
        let interlaced = state.interlaced;
        Ok(Self { input, state, animated, left, mode, size, interlaced, frame, palette })
    }

    /// The next piece of image data, which is not empty.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn data(&mut self) -> Result<&'a [u8], String> {
        while self.left == 0 {
            self.input.read(4);
            let (name, length) = next(&mut self.input)?;
            self.left = match &name {
                b"IDAT" | b"DDAT" => length,
                b"fdAT" => self.state.frame_data(&mut self.input, length)?,
                _ => return Err("the image data is truncated".into()),
            };
        }
        let count = self.left.min(PIECE);
        self.left -= count;
        let piece = self.input.read(count);
        if piece.is_empty() { Err("the image data is truncated".into()) } else { Ok(piece) }
    }

    /// Reads the chunks after the image data. Their checksums do not matter, and the file may end
    /// between two of them.
    ///
    /// # Errors
    /// When Pillow refuses one of them.
    pub(super) fn finish(mut self) -> Result<(), String> {
        self.input.read(self.left);
        loop {
            self.input.read(4);
            let Ok((name, length)) = next(&mut self.input) else { break };
            let length = match &name {
                b"IEND" => break,
                b"fcTL" if self.animated => break,
                b"fdAT" => self.state.frame_data(&mut self.input, length)?,
                _ => length,
            };
            let data = self.input.take(length).ok_or_else(|| truncated(name))?;
            if &name != b"IDAT" && &name != b"fdAT" {
                self.state.apply(name, data)?;
            }
        }
        // `Image.convert` also converts the transparent color.
        match self.state.transparency {
            Some(Transparency::Index) if self.mode.is_palette() && self.state.palette.is_none() => {
                Err("a color is transparent, and there is no palette".into())
            }
            Some(Transparency::Text) if self.mode.has_bytes() => {
                Err("a text is named transparency".into())
            }
            _ => Ok(()),
        }
    }
}

/// Reads the name and the length of a chunk.
fn next(input: &mut Input<'_>) -> Result<(Name, usize), String> {
    let ends = || "the file ends within a chunk".to_owned();
    let length = u32::from_be_bytes(input.array().ok_or_else(ends)?) as usize;
    let name: Name = input.array().ok_or_else(ends)?;
    if !name.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err(format!("a chunk is named {}", name.escape_ascii()));
    }
    Ok((name, length))
}

fn text(name: Name) -> String {
    String::from_utf8_lossy(&name).into_owned()
}

fn truncated(name: Name) -> String {
    format!("chunk {} is truncated", text(name))
}

/// The colors of a palette.
fn palette(stored: &[u8]) -> Palette {
    let mut palette = [[0; 3]; 256];
    for (color, stored) in palette.iter_mut().zip(stored.as_chunks().0) {
        *color = *stored;
    }
    palette
}

/// Four bytes of a chunk that is long enough.
fn number(data: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(data[at..at + 4].try_into().expect("4 bytes"))
}

impl<'a> State<'a> {
    /// What a chunk other than image data says.
    ///
    /// # Errors
    /// When Pillow refuses it.
    fn apply(&mut self, name: Name, data: &'a [u8]) -> Result<(), String> {
        let at_least = |bytes: usize| {
            if data.len() < bytes {
                Err(format!("chunk {} is too short", text(name)))
            } else {
                Ok(())
            }
        };
        match &name {
            b"IHDR" => {
                at_least(13)?;
                self.size = (number(data, 0), number(data, 4));
                self.mode = Mode::new(data[8], data[9]).or(self.mode);
                self.interlaced |= data[12] != 0;
                if data[11] != 0 {
                    return Err("the filter method is unknown".into());
                }
            }
            b"PLTE" if self.mode.is_some_and(Mode::is_palette) => self.palette = Some(data),
            b"tRNS" => {
                at_least(self.mode.map_or(0, Mode::transparency_bytes))?;
                let one = self.mode.is_some_and(Mode::is_palette) && one_is_transparent(data);
                self.transparency =
                    Some(if one { Transparency::Index } else { Transparency::Other });
            }
            b"gAMA" => at_least(4)?,
            b"cHRM" if !data.len().is_multiple_of(4) => {
                return Err("the length of cHRM is wrong".into());
            }
            b"sRGB" => at_least(1)?,
            b"pHYs" => at_least(9)?,
            b"iCCP" => text::check_profile(data)?,
            b"tEXt" | b"zTXt" | b"iTXt" => {
                if let Some((key, characters)) = text::read(name, data)? {
                    self.text += characters as u64;
                    self.store(key, characters);
                }
            }
            b"acTL" => {
                at_least(8)?;
                // A second one makes the file an ordinary PNG, as do impossible numbers of frames.
                let frames = Some(number(data, 0)).filter(|frames| (1..=1 << 31).contains(frames));
                self.frames = if self.frames.is_some() { None } else { frames };
            }
            b"fcTL" => {
                at_least(26)?;
                self.control_frame(data)?;
            }
            _ => {}
        }
        if self.text > text::MAX_TOTAL { Err("there is too much text".into()) } else { Ok(()) }
    }

    /// Pillow stores texts beside what it knows of the image itself, where they can replace that.
    fn store(&mut self, key: &[u8], characters: usize) {
        match key {
            b"interlace" => self.interlaced = characters > 0,
            b"transparency" => self.transparency = Some(Transparency::Text),
            // Not a box: the image is refused.
            b"bbox" => self.frame = Some([0; 4]),
            _ => {}
        }
    }

    /// `fcTL`, the part of an animation that the next image data covers.
    fn control_frame(&mut self, data: &[u8]) -> Result<(), String> {
        self.follow(number(data, 0))?;
        let [width, height, left, top] = [4, 8, 12, 16].map(|at| number(data, at));
        let inside = |start: u32, length: u32, size: u32| {
            u64::from(start) + u64::from(length) <= u64::from(size)
        };
        if !inside(left, width, self.size.0) || !inside(top, height, self.size.1) {
            return Err("a frame of the animation is outside of the image".into());
        }
        self.frame = Some([left, top, width, height]);
        Ok(())
    }

    /// The start of `fdAT`. Returns the length of the image data in it.
    fn frame_data(&mut self, input: &mut Input<'_>, length: usize) -> Result<usize, String> {
        let short = || "chunk fdAT is too short".to_owned();
        let left = length.checked_sub(4).ok_or_else(short)?;
        let sequence = u32::from_be_bytes(input.array().ok_or_else(short)?);
        if self.sequence.is_none() {
            return Err(OUT_OF_ORDER.into());
        }
        self.follow(sequence)?;
        Ok(left)
    }

    /// Checks that the chunks of an animation are numbered in order.
    fn follow(&mut self, sequence: u32) -> Result<(), String> {
        let expected = self.sequence.map_or(Some(0), |last| last.checked_add(1));
        self.sequence = Some(sequence);
        if expected == Some(sequence) { Ok(()) } else { Err(OUT_OF_ORDER.into()) }
    }
}

const OUT_OF_ORDER: &str = "the chunks of the animation are out of order";

/// Whether exactly one index is transparent and all others are opaque (`_simple_palette`, whose `$`
/// also matches before a line feed at the end).
fn one_is_transparent(alphas: &[u8]) -> bool {
    let one = |alphas: &[u8]| {
        let mut others = alphas.iter().filter(|&&alpha| alpha != 255);
        others.next() == Some(&0) && others.next().is_none()
    };
    one(alphas) || alphas.strip_suffix(b"\n").is_some_and(one)
}
