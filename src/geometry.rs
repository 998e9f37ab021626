//! Sizes, boxes and views of RGB pixels: the types that all stages share.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Height and width in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Size {
    /// The number of rows.
    pub height: u32,
    /// The number of columns.
    pub width: u32,
}

impl Size {
    /// A square of the given side.
    pub const fn square(side: u32) -> Self {
        Self { height: side, width: side }
    }

    /// The box that covers an image of this size.
    pub const fn whole(self) -> Rect {
        Rect { top: 0, left: 0, height: self.height, width: self.width }
    }

    /// The number of bytes of an RGB image of this size, of 8 bits a channel.
    pub const fn rgb_bytes(self) -> usize {
        self.height as usize * self.width as usize * 3
    }
}

/// A box in an image, in pixels: rows `top..top+height`, columns `left..left+width`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rect {
    /// The first row.
    pub top: u32,
    /// The first column.
    pub left: u32,
    /// The number of rows.
    pub height: u32,
    /// The number of columns.
    pub width: u32,
}

impl Rect {
    /// Height and width.
    pub const fn size(self) -> Size {
        Size { height: self.height, width: self.width }
    }

    /// The smallest box that contains both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        let (top, left) = (self.top.min(other.top), self.left.min(other.left));
        let bottom = (self.top + self.height).max(other.top + other.height);
        let right = (self.left + self.width).max(other.left + other.width);
        Self { top, left, height: bottom - top, width: right - left }
    }

    /// The number of pixels in the box.
    pub const fn area(self) -> u64 {
        self.height as u64 * self.width as u64
    }

    /// Whether the box is not empty and is inside an image of the given size.
    pub const fn fits(self, size: Size) -> bool {
        self.height > 0
            && self.width > 0
            && self.top as u64 + self.height as u64 <= size.height as u64
            && self.left as u64 + self.width as u64 <= size.width as u64
    }
}

/// The filter of a geometric augmentation: those that Pillow's `Image.transform` and `Image.rotate` have.
///
/// Pillow has two cubics: a = -0.5 for a resize, and a = -1 here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// The nearest pixel.
    Nearest,
    /// Between 2 x 2 pixels.
    Bilinear,
    /// Between 4 x 4 pixels.
    Bicubic,
}

/// The filter of a resize: those of Pillow's `Image.resize`. All but the first are widened where the
/// image shrinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResizeFilter {
    /// The nearest pixel.
    Nearest,
    /// The mean of the pixels that an output covers.
    Box,
    /// Triangle.
    Bilinear,
    /// A cosine window over a sinc of one lobe.
    Hamming,
    /// Keys' cubic with a = -0.5.
    Bicubic,
    /// A sinc of three lobes.
    Lanczos,
}

impl ResizeFilter {
    /// All filters.
    pub const ALL: [Self; 6] =
        [Self::Nearest, Self::Box, Self::Bilinear, Self::Hamming, Self::Bicubic, Self::Lanczos];
}

/// Pixels that are added around a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Padding {
    /// Rows above.
    pub top: u32,
    /// Columns to the left.
    pub left: u32,
    /// Rows below.
    pub bottom: u32,
    /// Columns to the right.
    pub right: u32,
    /// The values of the pixels.
    #[serde(flatten)]
    pub mode: PadMode,
}

/// The values of padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "mode", content = "fill", rename_all = "lowercase")]
pub enum PadMode {
    /// The picture, mirrored at its edges (NumPy's `reflect`).
    Reflect,
    /// A color (torchvision's `constant`).
    #[serde(rename = "constant")]
    Fill([u8; 3]),
}

impl Padding {
    /// The size of a picture of this size with its padding.
    pub const fn around(&self, size: Size) -> Size {
        Size {
            height: self.top + size.height + self.bottom,
            width: self.left + size.width + self.right,
        }
    }
}

/// A view of an image: interleaved RGB pixels of 8 bits a channel, in rows `stride` bytes apart.
#[derive(Clone, Copy)]
pub struct View<'a> {
    data: &'a [u8],
    stride: usize,
    size: Size,
}

impl<'a> View<'a> {
    /// A view of tightly packed pixels.
    ///
    /// # Panics
    /// Panics if the length of `data` is not `size.rgb_bytes()`.
    pub fn new(data: &'a [u8], size: Size) -> Self {
        assert_eq!(data.len(), size.rgb_bytes(), "pixels of a {size:?} image");
        Self { data, stride: size.width as usize * 3, size }
    }

    /// Height and width of the view.
    pub const fn size(&self) -> Size {
        self.size
    }

    /// The number of bytes from one row to the next.
    pub const fn stride(&self) -> usize {
        self.stride
    }

    /// The bytes from the first pixel of the first row to the last pixel of the last row.
    pub const fn data(&self) -> &'a [u8] {
        self.data
    }

    /// The part of the view inside a box.
    ///
    /// # Panics
    /// Panics if the box is empty or not inside the view.
    #[must_use]
    pub fn crop(&self, rect: Rect) -> Self {
        assert!(rect.fits(self.size), "box {rect:?} in a view of {:?}", self.size);
        let first = rect.top as usize * self.stride + rect.left as usize * 3;
        let last = first + (rect.height as usize - 1) * self.stride + rect.width as usize * 3;
        Self { data: &self.data[first..last], stride: self.stride, size: rect.size() }
    }

    /// Row `y`: `3 * width` bytes.
    pub fn row(&self, y: u32) -> &'a [u8] {
        let first = y as usize * self.stride;
        &self.data[first..first + self.size.width as usize * 3]
    }
}

impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "View({}x{}, stride {})", self.size.height, self.size.width, self.stride)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crop_of_a_crop_is_relative_to_the_first_crop() {
        let size = Size { height: 5, width: 7 };
        let pixels: Vec<u8> = (0..size.rgb_bytes()).map(|i| u8::try_from(i).unwrap()).collect();
        let outer = View::new(&pixels, size).crop(Rect { top: 1, left: 2, height: 4, width: 4 });
        let inner = outer.crop(Rect { top: 2, left: 1, height: 1, width: 2 });
        assert_eq!(inner.row(0), &pixels[(3 * 7 + 3) * 3..(3 * 7 + 5) * 3]);
    }

    #[test]
    fn a_union_is_the_smallest_box_around_both() {
        let (a, b) = (
            Rect { top: 1, left: 8, height: 2, width: 4 },
            Rect { top: 2, left: 3, height: 9, width: 6 },
        );
        assert_eq!(a.union(b), Rect { top: 1, left: 3, height: 10, width: 9 });
        assert_eq!((a.union(b), a.union(b).area()), (b.union(a), 90));
    }

    #[test]
    fn a_box_past_the_edge_of_the_image_does_not_fit() {
        let size = Size { height: 5, width: 7 };
        assert!(size.whole().fits(size));
        assert!(!Rect { top: 1, left: 0, height: 5, width: 1 }.fits(size));
        assert!(!Rect { top: u32::MAX, left: 0, height: 2, width: 1 }.fits(size));
        assert!(!Rect { top: 0, left: 0, height: 0, width: 1 }.fits(size));
    }
}
