//! Pads a window to the size of the slot (torchvision's `pad` of Pillow's images).

use crate::geometry::{PadMode, Padding, View};

/// Writes a window and the pixels around it to `slot`, mirrored as `flip` (left to right) and `vflip`
/// (top to bottom) say.
pub(super) fn place(
    window: View<'_>,
    padding: &Padding,
    [flip, vflip]: [bool; 2],
    slot: &mut [u8],
) {
    let size = window.size();
    let out = padding.around(size);
    let row_bytes = out.width as usize * 3;
    let after = out.width - padding.right;
    for (index, row) in (0..out.height).zip(slot.chunks_exact_mut(row_bytes)) {
        let y = if vflip { out.height - 1 - index } else { index };
        let (pixels, _) = row.as_chunks_mut::<3>();
        let inside = (padding.top..out.height - padding.bottom).contains(&y);
        match padding.mode {
            PadMode::Fill(color) if !inside => pixels.fill(color),
            PadMode::Fill(color) => {
                pixels[..padding.left as usize].fill(color);
                pixels[after as usize..].fill(color);
                copy_row(window, y - padding.top, padding.left, pixels);
            }
            PadMode::Reflect => {
                copy_row(window, reflect(y, padding.top, size.height), padding.left, pixels);
                for x in (0..padding.left).chain(after..out.width) {
                    let from = padding.left + reflect(x, padding.left, size.width);
                    pixels[x as usize] = pixels[from as usize];
                }
            }
        }
        if flip {
            pixels.reverse();
        }
    }
}

/// Copies row `y` of the window to the pixels from `left` on.
fn copy_row(window: View<'_>, y: u32, left: u32, pixels: &mut [[u8; 3]]) {
    let (row, _) = window.row(y).as_chunks::<3>();
    pixels[left as usize..][..row.len()].copy_from_slice(row);
}

/// The position in a window of `count` pixels that a position of the padded one has, where `before`
/// pixels are in front of it. Pixels at the ends are not repeated (NumPy's `reflect`), and padding that
/// is wider than the window is reflected again. A single pixel is repeated.
fn reflect(position: u32, before: u32, count: u32) -> u32 {
    let period = 2 * (i64::from(count) - 1);
    if period == 0 {
        return 0;
    }
    let at = (i64::from(position) - i64::from(before)).rem_euclid(period);
    u32::try_from(at.min(period - at)).expect("at most half of a period of 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Size;

    #[test]
    fn reflections_do_not_repeat_the_ends_and_go_on_past_the_window() {
        let reflected = |before, count| {
            (0..before + count + 5).map(|at| reflect(at, before, count)).collect::<Vec<_>>()
        };
        // numpy.pad(range(3), (4, 5), "reflect"), of range(2) and of range(1).
        assert_eq!(reflected(4, 3), [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1]);
        assert_eq!(reflected(2, 2), [0, 1, 0, 1, 0, 1, 0, 1, 0]);
        assert_eq!(reflected(1, 1), [0; 7]);
    }

    #[test]
    fn flips_are_of_the_padded_picture() {
        let size = Size { height: 1, width: 2 };
        let pixels = [1, 1, 1, 2, 2, 2];
        let mode = PadMode::Fill([9; 3]);
        let padding = Padding { top: 1, left: 1, bottom: 0, right: 0, mode };
        let placed = |flips| {
            let mut slot = [0; 18];
            place(View::new(&pixels, size), &padding, flips, &mut slot);
            slot.as_chunks::<3>().0.iter().map(|pixel| pixel[0]).collect::<Vec<_>>()
        };
        assert_eq!(placed([false, false]), [9, 9, 9, 9, 1, 2]);
        assert_eq!(placed([true, false]), [9, 9, 9, 2, 1, 9]);
        assert_eq!(placed([true, true]), [2, 1, 9, 9, 9, 9]);
    }
}
