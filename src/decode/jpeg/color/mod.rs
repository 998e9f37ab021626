//! Component samples to RGB, bit-equal to libjpeg-turbo's conversion and, for CMYK, to Pillow's.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod scalar;

use crate::decode::format::Color;
use crate::simd::Simd;

/// Writes one row of pixels from rows of samples, each `out.len() / 3` long.
pub(super) fn row(simd: Simd, color: Color, samples: [&[u8]; 4], out: &mut [u8]) {
    let [a, b, c, d] = samples;
    match color {
        Color::Palette => unreachable!("JPEG has no palettes"),
        Color::Gray => {
            for (pixel, &gray) in out.as_chunks_mut().0.iter_mut().zip(a) {
                *pixel = [gray; 3];
            }
        }
        Color::Rgb => {
            for (pixel, ((&r, &g), &b)) in
                out.as_chunks_mut().0.iter_mut().zip(a.iter().zip(b).zip(c))
            {
                *pixel = [r, g, b];
            }
        }
        Color::YCbCr => ycc(simd, a, b, c, out),
        Color::Ycck => {
            ycc(simd, a, b, c, out);
            // libjpeg converts YCCK to CMYK: C, M and Y are 255 minus R, G and B; K is unchanged.
            for (pixel, &k) in out.as_chunks_mut().0.iter_mut().zip(d) {
                *pixel = cmyk(pixel.map(|sample| 255 - sample), k);
            }
        }
        Color::Cmyk => {
            for (x, pixel) in out.as_chunks_mut().0.iter_mut().enumerate() {
                *pixel = cmyk([a[x], b[x], c[x]], d[x]);
            }
        }
    }
}

/// Pillow's conversion of one pixel (`cmyk2rgb` in Convert.c). Pillow assumes that every CMYK JPEG
/// stores inverted inks, as Adobe's do: 255 is no ink.
fn cmyk(inverted: [u8; 3], inverted_black: u8) -> [u8; 3] {
    let black = i32::from(inverted_black);
    inverted.map(|ink| {
        let product = i32::from(255 - ink) * black + 128;
        (black - (((product >> 8) + product) >> 8)).clamp(0, 255) as u8
    })
}

fn ycc(simd: Simd, y: &[u8], cb: &[u8], cr: &[u8], out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = simd.avx2() {
        return avx2::ycc(avx2, y, cb, cr, out);
    }
    scalar::ycc(y, cb, cr, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asserts that every level converts a row as plain Rust does.
    fn assert_levels_agree(y: &[u8], cb: &[u8], cr: &[u8]) {
        let converted = |simd| {
            let mut out = vec![0; 3 * y.len()];
            ycc(simd, y, cb, cr, &mut out);
            out
        };
        let scalar = converted(Simd::SCALAR);
        for simd in Simd::all() {
            assert_eq!(converted(simd), scalar, "{simd:?}: y {y:?} cb {cb:?} cr {cr:?}");
        }
    }

    #[test]
    fn every_level_gives_the_same_pixels_for_all_chroma() {
        let cr: Vec<u8> = (0..=255).collect();
        for y in [0, 1, 77, 128, 254, 255] {
            for cb in 0..=255 {
                assert_levels_agree(&[y; 256], &[cb; 256], &cr);
            }
        }
    }

    #[test]
    fn every_level_gives_the_same_pixels_for_all_widths() {
        let samples: Vec<u8> = (0..300_u32).map(|i| ((i * i) >> 3) as u8).collect();
        for width in 1..100 {
            let [y, cb, cr] = [0, 70, 150].map(|from| &samples[from..from + width]);
            assert_levels_agree(y, cb, cr);
        }
    }

    #[test]
    fn primary_colors_are_those_of_jfif() {
        // Computed by hand from JFIF's matrix.
        assert_eq!(scalar::pixel_of(128, 128, 128), [128; 3]);
        assert_eq!(scalar::pixel_of(76, 85, 255), [254, 0, 0]);
        assert_eq!(scalar::pixel_of(29, 255, 107), [0, 0, 254]);
    }
}
