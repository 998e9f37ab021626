//! The kinds of pixels of a PNG, and their conversion to RGB as Pillow does it.

use super::super::format::Color;

/// A color type and a bit depth that PNG allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mode {
    kind: Kind,
    depth: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Gray,
    Rgb,
    Palette,
    GrayAlpha,
    Rgba,
}

/// The colors of the 256 indices. Those that the file does not define are black.
pub(super) type Palette = [[u8; 3]; 256];

impl Mode {
    /// The kind of pixels with these numbers in IHDR.
    pub(super) const fn new(depth: u8, color: u8) -> Option<Self> {
        let kind = match (color, depth) {
            (0, 1 | 2 | 4 | 8 | 16) => Kind::Gray,
            (2, 8 | 16) => Kind::Rgb,
            (3, 1 | 2 | 4 | 8) => Kind::Palette,
            (4, 8 | 16) => Kind::GrayAlpha,
            (6, 8 | 16) => Kind::Rgba,
            _ => return None,
        };
        Some(Self { kind, depth })
    }

    pub(super) const fn color(self) -> Color {
        match self.kind {
            Kind::Gray | Kind::GrayAlpha => Color::Gray,
            Kind::Rgb | Kind::Rgba => Color::Rgb,
            Kind::Palette => Color::Palette,
        }
    }

    pub(super) const fn is_palette(self) -> bool {
        matches!(self.kind, Kind::Palette)
    }

    /// Whether Pillow keeps one byte for each pixel (modes L and P).
    pub(super) const fn has_bytes(self) -> bool {
        matches!((self.kind, self.depth), (Kind::Palette, _) | (Kind::Gray, 2 | 4 | 8))
    }

    /// The number of bytes that `tRNS` must have.
    pub(super) const fn transparency_bytes(self) -> usize {
        match self.kind {
            Kind::Gray => 2,
            Kind::Rgb => 6,
            _ => 0,
        }
    }

    /// Bits of a pixel.
    pub(super) const fn bits(self) -> usize {
        let channels = match self.kind {
            Kind::Gray | Kind::Palette => 1,
            Kind::GrayAlpha => 2,
            Kind::Rgb => 3,
            Kind::Rgba => 4,
        };
        channels * self.depth as usize
    }

    /// Converts the pixels of a row. Colors of 16 bits keep their high byte, but 16-bit gray (mode
    /// I;16, which holds plain numbers) is clipped at 255; alpha is dropped.
    pub(super) fn rgb(self, row: &[u8], palette: &Palette, out: &mut [u8]) {
        let out = out.as_chunks_mut::<3>().0;
        match (self.kind, self.depth) {
            (Kind::Rgb, 8) => out.as_flattened_mut().copy_from_slice(row),
            (Kind::Rgb, _) => each(row, out, |&[r, _, g, _, b, _]| [r, g, b]),
            (Kind::Rgba, 8) => each(row, out, |&[r, g, b, _]| [r, g, b]),
            (Kind::Rgba, _) => each(row, out, |&[r, _, g, _, b, _, _, _]| [r, g, b]),
            (Kind::GrayAlpha, 8) => each(row, out, |&[gray, _]| [gray; 3]),
            (Kind::GrayAlpha, _) => each(row, out, |&[gray, _, _, _]| [gray; 3]),
            (Kind::Gray, 16) => {
                each(row, out, |&[high, low]| [if high == 0 { low } else { 255 }; 3]);
            }
            (Kind::Gray, 8) => each(row, out, |&[gray]| [gray; 3]),
            (Kind::Palette, 8) => each(row, out, |&[index]| palette[usize::from(index)]),
            (Kind::Gray, depth) => {
                let white = (1_u16 << depth) - 1;
                let scale = u8::try_from(255 / white).expect("at most 255");
                samples(row, depth, out, |gray| [gray * scale; 3]);
            }
            (Kind::Palette, depth) => {
                samples(row, depth, out, |index| palette[usize::from(index)]);
            }
        }
    }
}

/// Converts pixels of `N` bytes.
fn each<const N: usize>(row: &[u8], out: &mut [[u8; 3]], convert: impl Fn(&[u8; N]) -> [u8; 3]) {
    for (pixel, out) in row.as_chunks().0.iter().zip(out) {
        *out = convert(pixel);
    }
}

/// Converts samples of at most 8 bits, the first in the high bits.
fn samples(row: &[u8], depth: u8, out: &mut [[u8; 3]], convert: impl Fn(u8) -> [u8; 3]) {
    let per_byte = usize::from(8 / depth);
    for (byte, out) in row.iter().zip(out.chunks_mut(per_byte)) {
        let mut bits = u16::from(*byte);
        for out in out {
            bits <<= depth;
            let [high, low] = bits.to_be_bytes();
            *out = convert(high);
            bits = u16::from(low);
        }
    }
}
