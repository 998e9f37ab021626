//! JPEG by zune-jpeg, with libjpeg's idea of what the components mean.
//!
//! zune-jpeg takes the colour space from other markers than libjpeg does, so wherever the two
//! disagree, and for CMYK, whose conversion Pillow does itself, the components are taken raw and
//! converted here.

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

use super::{Color, DecodeError, Header, grown};

/// Decodes into `pixels`, which holds exactly the RGB image of the header's size.
pub(super) fn decode(
    bytes: &[u8],
    header: &Header,
    pixels: &mut [u8],
    raw: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    let options = DecoderOptions::new_fast()
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut zune = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    zune.decode_headers().map_err(unsupported)?;
    let (width, height) = zune.dimensions().unwrap_or_default();
    if width * height * 3 != pixels.len() {
        return Err(DecodeError::Unsupported { reason: "two sizes in one file".into() });
    }
    let stored = stored(zune.input_colorspace(), header.color)?;
    match (header.color, stored) {
        (Color::Gray, _) | (Color::YCbCr, ColorSpace::YCbCr) | (Color::Rgb, ColorSpace::RGB) => {
            zune.decode_into(pixels).map_err(unsupported)
        }
        (Color::Rgb, _) => {
            zune.set_options(options.jpeg_set_out_colorspace(stored));
            zune.decode_into(pixels).map_err(unsupported)
        }
        (Color::YCbCr, _) => {
            zune.decode_into(pixels).map_err(unsupported)?;
            pixels.as_chunks_mut().0.iter_mut().for_each(|pixel| *pixel = rgb_from_ycc(*pixel));
            Ok(())
        }
        (color, _) => {
            let raw = grown(raw, pixels.len() / 3 * 4);
            zune.set_options(options.jpeg_set_out_colorspace(stored));
            zune.decode_into(raw).map_err(unsupported)?;
            for (pixel, inks) in pixels.as_chunks_mut::<3>().0.iter_mut().zip(raw.as_chunks().0) {
                *pixel = rgb_from_inks(*inks, color);
            }
            Ok(())
        }
    }
}

/// zune-jpeg's idea of the components, as it will be when it decodes.
fn stored(zune: Option<ColorSpace>, color: Color) -> Result<ColorSpace, DecodeError> {
    match (color, zune) {
        (Color::Gray, Some(space)) => Ok(space),
        (Color::Rgb | Color::YCbCr, Some(ColorSpace::RGB | ColorSpace::CMYK)) => {
            Ok(ColorSpace::RGB)
        }
        (Color::Rgb | Color::YCbCr, Some(ColorSpace::YCbCr | ColorSpace::YCCK)) => {
            Ok(ColorSpace::YCbCr)
        }
        (Color::Cmyk | Color::Ycck, Some(space @ (ColorSpace::CMYK | ColorSpace::YCCK))) => {
            Ok(space)
        }
        (_, space) => Err(DecodeError::Unsupported {
            reason: format!("components {color:?} are taken for {space:?}"),
        }),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unsupported(error: DecodeErrors) -> DecodeError {
    // Some of its messages end with a line break.
    let reason = format!("zune-jpeg: {error:?}").replace('\n', " ");
    DecodeError::Unsupported { reason }
}

/// libjpeg's YCbCr to RGB (jdcolor.c): 16-bit fixed point.
fn rgb_from_ycc([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let clamp = |value: i32| u8::try_from(value.clamp(0, 255)).expect("clamped");
    [
        clamp(y + ((91_881 * cr + HALF) >> 16)),
        clamp(y + ((-22_554 * cb - 46_802 * cr + HALF) >> 16)),
        clamp(y + ((116_130 * cb + HALF) >> 16)),
    ]
}

/// Pillow's CMYK to RGB (`cmyk2rgb` in Convert.c) of inks that are stored inverted.
fn rgb_from_inks([c, m, y, k]: [u8; 4], color: Color) -> [u8; 3] {
    // libjpeg's YCCK to CMYK gives 255 - RGB, and K as it is.
    let inks = if color == Color::Ycck {
        rgb_from_ycc([c, m, y]).map(|value| 255 - value)
    } else {
        [c, m, y]
    };
    // With the inversion undone, 255 - K is the stored K.
    inks.map(|ink| {
        let product = u32::from(255 - ink) * u32::from(k) + 128;
        k - u8::try_from(((product >> 8) + product) >> 8).expect("at most k")
    })
}
