//! A contact sheet: pictures as one image, each with a caption below.

use std::borrow::Cow;

use font8x8::UnicodeFonts as _;
use image::{Rgb, RgbImage};

/// One picture of the sheet.
#[derive(Clone, Debug)]
pub struct Tile<'a> {
    /// Interleaved RGB, row by row.
    pub pixels: &'a [u8],
    /// Pixels of a row.
    pub width: u32,
    /// Number of rows.
    pub height: u32,
    /// Lines of text below the tile: the first one is emphasized, long ones are wrapped.
    pub caption: Vec<String>,
}

const GLYPH: u32 = 8;
const LINE: u32 = GLYPH + 4;
const MARGIN: u32 = 16;
const GAP: u32 = 14;
const PADDING: u32 = 8;
/// Smallest width, so that captions are readable; smaller tiles are enlarged by whole factors.
const MIN_WIDTH: u32 = 160;

const PAPER: Rgb<u8> = Rgb([246, 245, 242]);
const CARD: Rgb<u8> = Rgb([255, 255, 255]);
const EDGE: Rgb<u8> = Rgb([214, 211, 204]);
const INK: Rgb<u8> = Rgb([28, 28, 32]);
const FAINT: Rgb<u8> = Rgb([104, 102, 98]);

/// Lays tiles out in a grid, in order, with sides of about 4:3.
///
/// # Panics
/// When a tile's pixels do not fill its width and height, or a side of the sheet exceeds `u32`.
pub fn sheet(tiles: &[Tile<'_>]) -> RgbImage {
    let cards: Vec<Card<'_>> = tiles.iter().map(Card::new).collect();
    let cell_width = cards.iter().map(Card::width).max().unwrap_or(0);
    let cell_height = cards.iter().map(Card::height).max().unwrap_or(0);
    let columns = columns(tiles.len(), cell_width, cell_height);
    let rows = u32::try_from(tiles.len()).expect("a sheet has few tiles").div_ceil(columns);
    let side = |count: u32, cell: u32| 2 * MARGIN + count * cell + count.saturating_sub(1) * GAP;
    let (width, height) = (side(columns, cell_width), side(rows, cell_height));
    let mut sheet = RgbImage::from_pixel(width, height, PAPER);
    for (k, card) in (0u32..).zip(&cards) {
        let left = MARGIN + k % columns * (cell_width + GAP);
        let top = MARGIN + k / columns * (cell_height + GAP);
        card.draw(&mut sheet, [left, top], [cell_width, cell_height]);
    }
    sheet
}

/// The number of columns that brings the sheet closest to 4:3.
fn columns(count: usize, cell_width: u32, cell_height: u32) -> u32 {
    let count = u32::try_from(count).expect("a sheet has few tiles").max(1);
    let shape = |columns: u32| {
        let rows = count.div_ceil(columns);
        let ratio = f64::from(columns * cell_width.max(1)) / f64::from(rows * cell_height.max(1));
        (ratio / (4.0 / 3.0)).ln().abs()
    };
    (1..=count).min_by(|&a, &b| shape(a).total_cmp(&shape(b))).expect("at least one column")
}

/// A tile with its scale and its wrapped caption.
struct Card<'a> {
    tile: &'a Tile<'a>,
    scale: u32,
    lines: Vec<(Cow<'a, str>, Rgb<u8>)>,
}

impl<'a> Card<'a> {
    fn new(tile: &'a Tile<'a>) -> Self {
        let (width, height) = (tile.width as usize, tile.height as usize);
        assert_eq!(tile.pixels.len(), width * height * 3, "pixels of a {width} x {height} tile");
        let scale = MIN_WIDTH.div_ceil(tile.width.max(1)).clamp(1, 8);
        let room = (tile.width * scale / GLYPH).max(1) as usize;
        let lines = tile
            .caption
            .iter()
            .enumerate()
            .flat_map(|(k, text)| {
                let ink = if k == 0 { INK } else { FAINT };
                wrap(text, room).into_iter().map(move |line| (line, ink))
            })
            .collect();
        Self { tile, scale, lines }
    }

    fn width(&self) -> u32 {
        self.tile.width * self.scale + 2 * PADDING
    }

    fn height(&self) -> u32 {
        let lines = u32::try_from(self.lines.len()).expect("captions are short");
        let text = if lines > 0 { PADDING + lines * LINE - (LINE - GLYPH) } else { 0 };
        self.tile.height * self.scale + 2 * PADDING + text
    }

    fn draw(&self, sheet: &mut RgbImage, [left, top]: [u32; 2], cell: [u32; 2]) {
        fill(sheet, [left - 1, top - 1], cell.map(|side| side + 2), EDGE);
        fill(sheet, [left, top], cell, CARD);
        let (left, top) = (left + PADDING, top + PADDING);
        let (height, width) = (self.tile.height * self.scale, self.tile.width * self.scale);
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            let at = (y / self.scale * self.tile.width + x / self.scale) as usize * 3;
            let pixel = &self.tile.pixels[at..at + 3];
            sheet.put_pixel(left + x, top + y, Rgb([pixel[0], pixel[1], pixel[2]]));
        }
        for (k, (text, ink)) in (0u32..).zip(&self.lines) {
            write(sheet, left, top + height + PADDING + k * LINE, text, *ink);
        }
    }
}

/// Wraps a text into lines of at most `room` characters, at spaces if possible.
fn wrap(text: &str, room: usize) -> Vec<Cow<'_, str>> {
    let mut lines: Vec<Cow<'_, str>> = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        let letters: Vec<char> = word.chars().collect();
        let used = line.chars().count();
        if used > 0 && used + 1 + letters.len() <= room {
            line.push(' ');
            line.push_str(word);
            continue;
        }
        if used > 0 {
            lines.push(Cow::Owned(std::mem::take(&mut line)));
        }
        let mut pieces = letters.chunks(room).map(|piece| piece.iter().collect::<String>());
        line = pieces.next_back().unwrap_or_default();
        lines.extend(pieces.map(Cow::Owned));
    }
    lines.push(Cow::Owned(line));
    lines
}

fn write(sheet: &mut RgbImage, left: u32, top: u32, text: &str, ink: Rgb<u8>) {
    for (k, letter) in (0u32..).zip(text.chars()) {
        let glyph = font8x8::BASIC_FONTS
            .get(letter)
            .or_else(|| font8x8::LATIN_FONTS.get(letter))
            .or_else(|| font8x8::BASIC_FONTS.get('?'))
            .expect("the font has a question mark");
        for (y, bits) in (0u32..).zip(glyph) {
            for x in (0..GLYPH).filter(|x| bits >> x & 1 == 1) {
                sheet.put_pixel(left + k * GLYPH + x, top + y, ink);
            }
        }
    }
}

fn fill(sheet: &mut RgbImage, [left, top]: [u32; 2], [width, height]: [u32; 2], color: Rgb<u8>) {
    for y in top..top + height {
        for x in left..left + width {
            sheet.put_pixel(x, y, color);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(pixels: &[u8], side: u32, caption: &[&str]) -> Tile<'static> {
        let pixels: &'static [u8] = pixels.to_vec().leak();
        let caption = caption.iter().map(ToString::to_string).collect();
        Tile { pixels, width: side, height: side, caption }
    }

    #[test]
    fn pixels_are_drawn_at_their_place_in_the_grid() {
        let red = [255u8, 0, 0].repeat(160 * 160);
        let blue = [0u8, 0, 255].repeat(160 * 160);
        let made = sheet(&[tile(&red, 160, &["a"]), tile(&blue, 160, &["b"])]);
        let (first, cell) = (MARGIN + PADDING, 160 + 2 * PADDING);
        assert_eq!(made.get_pixel(first, first).0, [255, 0, 0]);
        assert_eq!(made.get_pixel(first + 159, first + 159).0, [255, 0, 0]);
        assert_eq!(made.get_pixel(first + cell + GAP, first).0, [0, 0, 255]);
    }

    #[test]
    fn captions_stay_inside_their_tile() {
        let pixels = [9u8; 3].repeat(160 * 160);
        let long = "rotate 21.3, then averyveryverylongwordwithoutanyspaces";
        let made = sheet(&[tile(&pixels, 160, &[long, "\u{1f600} is not in the font"])]);
        let right = MARGIN + PADDING + 160;
        let inked =
            |x: u32| (0..made.height()).any(|y| [INK, FAINT].contains(made.get_pixel(x, y)));
        assert!((MARGIN + PADDING..right).any(inked));
        assert!(!(right..made.width()).any(inked));
    }

    #[test]
    fn lines_wrap_at_spaces_before_they_wrap_within_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert_eq!(wrap("", 3), [""]);
    }

    #[test]
    fn small_tiles_are_enlarged_by_whole_factors() {
        let pixels = [9u8; 3].repeat(32 * 32);
        assert_eq!(sheet(&[tile(&pixels, 32, &[])]).width(), 2 * (MARGIN + PADDING) + 160);
    }

    #[test]
    fn no_tiles_make_an_empty_sheet() {
        assert_eq!(sheet(&[]).get_pixel(0, 0), &PAPER);
    }
}
