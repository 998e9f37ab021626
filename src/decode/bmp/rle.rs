//! Run-length encoding of bitmaps (`BmpRleDecoder`).

use super::super::input::Input;
use crate::geometry::Size;

/// Decodes the indices of an image, a byte each, without padding.
///
/// # Errors
/// When there are fewer than the image has pixels.
pub(super) fn expand(
    bytes: &[u8],
    start: usize,
    size: Size,
    rle4: bool,
) -> Result<Vec<u8>, &'static str> {
    let width = size.width as usize;
    let count = width * size.height as usize;
    let mut input = Input::new(bytes);
    input.seek(start);
    let mut data = Vec::new();
    let mut x = 0;
    while data.len() < count {
        let Some([length, value]) = input.array() else { break };
        match (length, value) {
            (0, 0) => {
                data.resize(data.len().next_multiple_of(width), 0_u8);
                x = 0;
            }
            (0, 1) => break,
            (0, 2) => {
                let Some([right, up]) = input.array::<2>() else { break };
                data.resize(data.len() + usize::from(right) + usize::from(up) * width, 0);
                x = data.len() % width;
            }
            (0, pixels) => {
                // Of an odd number of 4-bit pixels, Pillow misses the last.
                let length = usize::from(if rle4 { pixels / 2 } else { pixels });
                let stored = input.read(length);
                if rle4 {
                    data.extend(stored.iter().flat_map(|byte| [byte >> 4, byte & 15]));
                } else {
                    data.extend(stored);
                }
                if stored.len() < length {
                    break;
                }
                x += usize::from(pixels);
                input.seek(input.at().next_multiple_of(2));
            }
            (pixels, value) => {
                // What exceeds the row is dropped.
                let pixels = usize::from(pixels).min(width.saturating_sub(x));
                let pair = if rle4 { [value >> 4, value & 15] } else { [value; 2] };
                data.extend(pair.into_iter().cycle().take(pixels));
                x += pixels;
            }
        }
    }
    if data.len() < count { Err("the image data is truncated") } else { Ok(data) }
}
