//! WebP: the first frame, as Pillow reads it by libwebp's animation decoder.
//!
//! The pixels are decoded by the `image-webp` crate. The structure of the file is read here, because
//! libwebp judges it differently, and draws the first frame onto a black canvas without blending it.
//! Damaged data, of which the crate makes something else than libwebp, is found by [`lossy`] and
//! [`lossless`].

mod bits;
mod container;
mod lossless;
mod lossy;
mod tables;

use std::io::Cursor;

use image_webp::{DecodingError, WebPDecoder};

use self::container::{Frame, Image};
use super::error::DecodeError;
use super::format::{Color, Format, Header};

/// Reads the header.
///
/// # Errors
/// When libwebp refuses the structure of the file.
pub(super) fn probe(bytes: &[u8]) -> Result<Header, DecodeError> {
    let frame = container::open(bytes).map_err(malformed)?;
    Ok(Header { format: Format::WebP, size: frame.canvas, color: Color::Rgb, progressive: false })
}

/// Checks what [`decode`] does not notice.
///
/// # Errors
/// When libwebp refuses the file, or when the decoder would make other pixels of it than libwebp.
pub(super) fn verify(bytes: &[u8]) -> Result<(), DecodeError> {
    let Image { size, lossless, data, alpha } = container::open(bytes).map_err(malformed)?.image;
    let (width, height) = (size.width, size.height);
    let checked = match alpha {
        _ if lossless => lossless::check(&data[5..], width, height),
        // The first byte says how alpha is compressed.
        Some([head, alpha @ ..]) if head & 3 == 1 => {
            lossless::check(alpha, width, height).and_then(|()| lossy::check(data))
        }
        _ => lossy::check(data),
    };
    checked.map_err(|reason| match reason {
        lossy::OVERFLOW | lossless::EQUAL_SYMBOLS => unsupported(reason),
        _ => malformed(reason),
    })
}

/// Decodes the first frame to RGB.
///
/// # Errors
/// When Pillow refuses the file.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let Frame { canvas, rect, image } = container::open(bytes).map_err(malformed)?;
    if image.alpha.is_some_and(|alpha| alpha.first().is_some_and(|head| head >> 6 != 0)) {
        return Err(malformed("chunk ALPH has reserved bits"));
    }
    let (pixels, channels) = decode_image(&image).map_err(|error| match error {
        DecodingError::ColorSpaceInvalid(_) => unsupported("another color space"),
        _ => malformed(error),
    })?;
    let width = rect.width as usize;
    let mut out = vec![0; canvas.rgb_bytes()];
    let stride = canvas.width as usize * 3;
    let rows = out.chunks_exact_mut(stride).skip(rect.top as usize);
    for (row, pixels) in rows.zip(pixels.chunks_exact(width * channels)) {
        let row = &mut row[rect.left as usize * 3..][..width * 3];
        for (out, pixel) in row.as_chunks_mut::<3>().0.iter_mut().zip(pixels.chunks_exact(channels))
        {
            out.copy_from_slice(&pixel[..3]);
        }
    }
    Ok(out)
}

/// Decodes an image, and its alpha because damage in it makes the file bad. Returns the pixels and the
/// number of their channels.
fn decode_image(image: &Image<'_>) -> Result<(Vec<u8>, usize), DecodingError> {
    let mut decoder = WebPDecoder::new(Cursor::new(file_of(image)))?;
    let mut pixels = vec![0; decoder.output_buffer_size().ok_or(DecodingError::ImageTooLarge)?];
    decoder.read_image(&mut pixels)?;
    Ok((pixels, if decoder.has_alpha() { 4 } else { 3 }))
}

/// A file of one image for the decoder.
fn file_of(image: &Image<'_>) -> Vec<u8> {
    let mut chunks = b"WEBP".to_vec();
    let mut push = |name: &[u8; 4], data: &[u8]| {
        chunks.extend(name);
        chunks.extend(length(data.len()));
        chunks.extend(data);
        chunks.resize(chunks.len().next_multiple_of(2), 0);
    };
    if let Some(alpha) = image.alpha {
        let side = |side: u32| (side - 1).to_le_bytes();
        let ([w0, w1, w2, _], [h0, h1, h2, _]) = (side(image.size.width), side(image.size.height));
        push(b"VP8X", &[16, 0, 0, 0, w0, w1, w2, h0, h1, h2]);
        push(b"ALPH", alpha);
    }
    push(if image.lossless { b"VP8L" } else { b"VP8 " }, image.data);
    [b"RIFF", &length(chunks.len())[..], &chunks].concat()
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("the parts of a record").to_le_bytes()
}

/// libwebp may open the file, and `image-webp` does not, or makes other pixels of it.
const fn unsupported(what: &'static str) -> DecodeError {
    DecodeError::Unsupported { format: Format::WebP, what }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn malformed(reason: impl ToString) -> DecodeError {
    DecodeError::Malformed { format: Format::WebP, reason: reason.to_string() }
}
