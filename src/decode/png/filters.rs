//! The filters of rows (PNG specification, section 9).

use super::mode::Mode;

/// Undoes the filter of a row.
///
/// # Errors
/// When the filter is unknown.
pub(super) fn undo(filter: u8, mode: Mode, row: &mut [u8], above: &[u8]) -> Result<(), String> {
    match (filter, mode.bits().div_ceil(8)) {
        (0, _) => {}
        (2, _) => {
            for (byte, above) in row.iter_mut().zip(above) {
                *byte = byte.wrapping_add(*above);
            }
        }
        (1 | 3 | 4, 1) => undo_pixels::<1>(filter, row, above),
        (1 | 3 | 4, 2) => undo_pixels::<2>(filter, row, above),
        (1 | 3 | 4, 3) => undo_pixels::<3>(filter, row, above),
        (1 | 3 | 4, 4) => undo_pixels::<4>(filter, row, above),
        (1 | 3 | 4, 6) => undo_pixels::<6>(filter, row, above),
        (1 | 3 | 4, _) => undo_pixels::<8>(filter, row, above),
        _ => return Err(format!("a row has the unknown filter {filter}")),
    }
    Ok(())
}

/// Undoes a filter that refers to the pixel on the left, for pixels of `N` bytes.
fn undo_pixels<const N: usize>(filter: u8, row: &mut [u8], above: &[u8]) {
    let (row, above) = (row.as_chunks_mut::<N>().0, above.as_chunks::<N>().0);
    match filter {
        1 => each(row, above, |left, _, _| left),
        3 => each(row, above, |left, above, _| u8::midpoint(left, above)),
        _ => each(row, above, paeth),
    }
}

/// Adds to each byte what `predict` makes of those to the left, above, and above on the left.
fn each<const N: usize>(
    row: &mut [[u8; N]],
    above: &[[u8; N]],
    predict: impl Fn(u8, u8, u8) -> u8,
) {
    let (mut left, mut corner) = ([0; N], [0; N]);
    for (pixel, above) in row.iter_mut().zip(above) {
        for i in 0..N {
            left[i] = pixel[i].wrapping_add(predict(left[i], above[i], corner[i]));
        }
        *pixel = left;
        corner = *above;
    }
}

/// The one of the three neighbors that is nearest to `left + above - corner`.
fn paeth(left: u8, above: u8, corner: u8) -> u8 {
    let [a, b, c] = [left, above, corner].map(i16::from);
    let (by_left, by_above) = ((b - c).abs(), (a - c).abs());
    let by_corner = (a + b - 2 * c).abs();
    let second = if by_above <= by_corner { above } else { corner };
    if by_left <= by_above.min(by_corner) { left } else { second }
}
