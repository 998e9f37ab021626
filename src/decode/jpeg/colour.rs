//! Component samples to RGB, bit-equal to libjpeg-turbo's conversion and, for CMYK, to Pillow's.

#[cfg(target_arch = "x86_64")]
#[path = "colour_avx2.rs"]
mod avx2;

use super::marker::Headers;

/// What the components of an image are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Gray,
    Ycc,
    Rgb,
    Cmyk,
    Ycck,
}

impl Colour {
    /// What libjpeg takes `components` for, by the markers of the file: JFIF, then Adobe, then the
    /// components' ids.
    pub(super) fn of(headers: &Headers<'_>, ids: &[u8]) -> Self {
        match (ids, headers.adobe) {
            ([_], _) => Self::Gray,
            (_, Some(0)) if ids.len() == 3 && !headers.jfif => Self::Rgb,
            (b"RGB", None) if !headers.jfif => Self::Rgb,
            ([_, _, _], _) => Self::Ycc,
            (_, None | Some(0)) => Self::Cmyk,
            (_, Some(_)) => Self::Ycck,
        }
    }
}

/// One row of pixels from rows of samples, all `out.len() / 3` long.
pub(super) fn row(colour: Colour, samples: [&[u8]; 4], out: &mut [u8]) {
    let [a, b, c, d] = samples;
    match colour {
        Colour::Gray => {
            for (pixel, &gray) in out.as_chunks_mut().0.iter_mut().zip(a) {
                *pixel = [gray; 3];
            }
        }
        Colour::Rgb => {
            for (pixel, ((&r, &g), &b)) in
                out.as_chunks_mut().0.iter_mut().zip(a.iter().zip(b).zip(c))
            {
                *pixel = [r, g, b];
            }
        }
        Colour::Ycc => ycc(a, b, c, out),
        Colour::Ycck => {
            ycc(a, b, c, out);
            // libjpeg: C, M, Y are what R, G, B would be, inverted.
            for (pixel, &k) in out.as_chunks_mut().0.iter_mut().zip(d) {
                *pixel = cmyk(pixel.map(|sample| 255 - sample), k);
            }
        }
        Colour::Cmyk => {
            for (x, pixel) in out.as_chunks_mut().0.iter_mut().enumerate() {
                *pixel = cmyk([a[x], b[x], c[x]], d[x]);
            }
        }
    }
}

/// Pillow's conversion of one pixel, which takes all CMYK for inverted, as Adobe writes it.
fn cmyk(light: [u8; 3], light_black: u8) -> [u8; 3] {
    let most = i32::from(light_black);
    light.map(|light| {
        let product = i32::from(255 - light) * most + 128;
        (most - (((product >> 8) + product) >> 8)).clamp(0, 255) as u8
    })
}

fn ycc(y: &[u8], cb: &[u8], cr: &[u8], out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(kernel) = avx2::Kernel::new() {
        return kernel.ycc(y, cb, cr, out);
    }
    ycc_scalar(y, cb, cr, out);
}

fn ycc_scalar(y: &[u8], cb: &[u8], cr: &[u8], out: &mut [u8]) {
    for (pixel, ((&y, &cb), &cr)) in out.as_chunks_mut().0.iter_mut().zip(y.iter().zip(cb).zip(cr))
    {
        *pixel = pixel_of(y, cb, cr);
    }
}

/// JFIF's conversion with 16 fraction bits.
fn pixel_of(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    // round(x * 2^16)
    const F_0_344: i32 = 22_554;
    const F_0_714: i32 = 46_802;
    const F_1_402: i32 = 91_881;
    const F_1_772: i32 = 116_130;
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    [
        y + ((F_1_402 * cr + HALF) >> 16),
        y + ((HALF - F_0_344 * cb - F_0_714 * cr) >> 16),
        y + ((F_1_772 * cb + HALF) >> 16),
    ]
    .map(|sample| sample.clamp(0, 255) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simd_equals_scalar_for_all_chroma() {
        for y in [0, 1, 77, 128, 254, 255] {
            for cb in 0..=255 {
                let cr: Vec<u8> = (0..=255).collect();
                let (y, cb) = ([y; 256], [cb; 256]);
                let (mut fast, mut plain) = ([0; 768], [0; 768]);
                ycc(&y, &cb, &cr, &mut fast);
                ycc_scalar(&y, &cb, &cr, &mut plain);
                assert_eq!(fast, plain, "y {} cb {}", y[0], cb[0]);
            }
        }
    }

    #[test]
    fn simd_equals_scalar_for_all_widths() {
        let samples: Vec<u8> = (0..300_u32).map(|i| ((i * i) >> 3) as u8).collect();
        for width in 1..100 {
            let [y, cb, cr] = [0, 70, 150].map(|from| &samples[from..from + width]);
            let (mut fast, mut plain) = (vec![0; 3 * width], vec![0; 3 * width]);
            ycc(y, cb, cr, &mut fast);
            ycc_scalar(y, cb, cr, &mut plain);
            assert_eq!(fast, plain, "width {width}");
        }
    }

    #[test]
    fn primary_colours() {
        // JFIF's matrix, by hand.
        assert_eq!(pixel_of(128, 128, 128), [128; 3]);
        assert_eq!(pixel_of(76, 85, 255), [254, 0, 0]);
        assert_eq!(pixel_of(29, 255, 107), [0, 0, 254]);
    }
}
