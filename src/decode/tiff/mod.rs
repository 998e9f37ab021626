//! TIFF, by the `tiff` crate, for those kinds of files whose pixels are equal to Pillow's: gray of 1, 8
//! and 16 bits, RGB and RGBA of 8 and 16 bits, CMYK of 8 bits; in strips or tiles, not compressed or by
//! LZW, Deflate or `PackBits`. All other kinds are refused.

mod compressed;

use std::io::Cursor;

use tiff::decoder::ifd::Value;
use tiff::decoder::{ChunkType, Decoder, DecodingResult, Limits};
use tiff::tags::Tag;
use tiff::{ColorType, TiffError};

use super::error::DecodeError;
use super::format::{Color, Format, Header};
use crate::geometry::Size;

/// The tags that must be of the type of their definition. Pillow fails on some others, and `tiff` takes them.
const NUMBERS: [Tag; 19] = [
    Tag::ImageWidth,
    Tag::ImageLength,
    Tag::BitsPerSample,
    Tag::Compression,
    Tag::PhotometricInterpretation,
    Tag::FillOrder,
    Tag::Orientation,
    Tag::SamplesPerPixel,
    Tag::PlanarConfiguration,
    Tag::Predictor,
    Tag::ExtraSamples,
    Tag::SampleFormat,
    Tag::RowsPerStrip,
    Tag::StripOffsets,
    Tag::StripByteCounts,
    Tag::TileWidth,
    Tag::TileLength,
    Tag::TileOffsets,
    Tag::TileByteCounts,
];

/// A file after its header.
struct Image<'a> {
    decoder: Decoder<Cursor<&'a [u8]>>,
    size: Size,
    color: ColorType,
    compression: u16,
}

/// Reads the header.
///
/// # Errors
/// When it is malformed, or the file is of a kind that is not decoded here.
pub(super) fn probe(bytes: &[u8]) -> Result<Header, DecodeError> {
    let image = open(bytes)?;
    let color = match image.color {
        ColorType::Gray(_) => Color::Gray,
        ColorType::CMYK(_) => Color::Cmyk,
        _ => Color::Rgb,
    };
    Ok(Header { format: Format::Tiff, size: image.size, color, progressive: false })
}

/// Decodes the whole image to RGB.
///
/// # Errors
/// As [`probe`], and when the data is truncated or malformed.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    open(bytes)?.rgb()
}

fn open(bytes: &[u8]) -> Result<Image<'_>, DecodeError> {
    // Pillow reads the offsets of big-endian files of 64 bits as those of 32 bits.
    if !matches!(bytes, [b'I', b'I', 0x2A | 0x2B, 0, ..] | [b'M', b'M', 0, 0x2A, ..]) {
        return Err(unsupported("this byte order"));
    }
    if has_a_tag_twice(bytes).unwrap_or(false) {
        return Err(unsupported("a tag that is there twice"));
    }
    let mut decoder = Decoder::new(Cursor::new(bytes)).map_err(malformed)?;
    let (width, height) = decoder.dimensions().map_err(malformed)?;
    for tag in NUMBERS {
        if decoder.find_tag(tag).map_err(malformed)?.is_some_and(|value| !is_number(&value)) {
            return Err(unsupported("a tag of an unusual type"));
        }
    }
    let rows = decoder.find_tag_unsigned(Tag::RowsPerStrip).map_err(malformed)?.unwrap_or(u32::MAX);
    let mut tag = |tag: Tag, default: u16| {
        decoder
            .find_tag_unsigned::<u16>(tag)
            .map(|value| value.unwrap_or(default))
            .map_err(malformed)
    };
    let (compression, predictor) = (tag(Tag::Compression, 1)?, tag(Tag::Predictor, 1)?);
    let photometric = tag(Tag::PhotometricInterpretation, 0)?;
    if width == 0 || height == 0 {
        return Err(unsupported("no pixels"));
    }
    if !compressed::LOSSLESS.contains(&compression) {
        return Err(unsupported("this compression"));
    }
    if predictor > 2 || (predictor != 1 && (compression == 1 || compression == 32_773)) {
        return Err(unsupported("this predictor"));
    }
    if compression != 1 && rows != u32::MAX && i32::try_from(rows).is_err() {
        return Err(unsupported("this number of rows in a strip"));
    }
    if tag(Tag::PlanarConfiguration, 1)? != 1 {
        return Err(unsupported("separate planes"));
    }
    if tag(Tag::FillOrder, 1)? != 1 {
        return Err(unsupported("reversed bits"));
    }
    if tag(Tag::Orientation, 1)? != 1 {
        return Err(unsupported("an orientation"));
    }
    let formats = decoder.find_tag_unsigned_vec::<u16>(Tag::SampleFormat).map_err(malformed)?;
    if formats.is_some_and(|formats| formats.iter().any(|&format| format != 1)) {
        return Err(unsupported("signed or float samples"));
    }
    let color = decoder.colortype().map_err(malformed)?;
    let extra = decoder.find_tag_unsigned_vec::<u16>(Tag::ExtraSamples).map_err(malformed)?;
    match (color, &extra.unwrap_or_default()[..]) {
        (_, []) | (ColorType::RGBA(_), [0 | 2]) => {}
        (ColorType::RGBA(_), [1]) => return Err(unsupported("premultiplied alpha")),
        _ => return Err(unsupported("these extra samples")),
    }
    match (color, photometric) {
        (ColorType::Gray(1 | 8), 0 | 1)
        | (ColorType::Gray(16), 1)
        | (ColorType::RGB(8 | 16) | ColorType::RGBA(8 | 16), 2)
        | (ColorType::CMYK(8), 5) => {}
        _ => return Err(unsupported("this kind of samples")),
    }
    Ok(Image { decoder, size: Size { height, width }, color, compression })
}

/// Whether the first directory has a tag twice: Pillow takes the last one, and libtiff the first. `None` if the directory
/// is not there.
fn has_a_tag_twice(bytes: &[u8]) -> Option<bool> {
    let is_big_endian = bytes.starts_with(b"MM");
    let number = |at: u64, length: u64| {
        let (start, end) =
            (usize::try_from(at).ok()?, usize::try_from(at.checked_add(length)?).ok()?);
        let shift = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        let bytes = bytes.get(start..end)?.iter();
        Some(if is_big_endian { bytes.fold(0, shift) } else { bytes.rev().fold(0, shift) })
    };
    let (start, count, entry) = if bytes.get(2) == Some(&0x2B) {
        let start = number(8, 8)?;
        (start.checked_add(8)?, number(start, 8)?, 20)
    } else {
        let start = number(4, 4)?;
        (start + 2, number(start, 2)?, 12)
    };
    let tag = |index: u64| number(start.checked_add(index.checked_mul(entry)?)?, 2);
    let mut tags: Vec<u64> = (0..count).map_while(tag).collect();
    tags.sort_unstable();
    Some(tags.windows(2).any(|pair| pair[0] == pair[1]))
}

fn is_number(value: &Value) -> bool {
    match value {
        Value::Short(_) | Value::Unsigned(_) | Value::UnsignedBig(_) => true,
        Value::List(values) => values.iter().all(is_number),
        _ => false,
    }
}

/// Checks what [`decode`] does not notice: `tiff` reads no more of a tile than the image covers, and takes some damaged
/// data, while libtiff decompresses whole tiles and refuses them for any damage.
///
/// # Errors
/// When libtiff refuses the data.
pub(super) fn verify(bytes: &[u8]) -> Result<(), DecodeError> {
    let Image { mut decoder, color, compression, .. } = open(bytes)?;
    let tiled = decoder.get_chunk_type() == ChunkType::Tile;
    let tags = if tiled {
        [Tag::TileOffsets, Tag::TileByteCounts]
    } else {
        [Tag::StripOffsets, Tag::StripByteCounts]
    };
    let [offsets, lengths] =
        tags.map(|tag| decoder.find_tag_unsigned_vec::<usize>(tag).map_err(malformed));
    let (offsets, lengths) = (offsets?.unwrap_or_default(), lengths?.unwrap_or_default());
    for (index, (start, length)) in (0..).zip(offsets.into_iter().zip(lengths)) {
        let (width, height) =
            if tiled { decoder.chunk_dimensions() } else { decoder.chunk_data_dimensions(index) };
        let bits = usize::from(color.bit_depth()) * usize::from(color.num_samples());
        let wanted = (width as usize * bits).div_ceil(8) * height as usize;
        let data = start.checked_add(length).and_then(|end| bytes.get(start..end));
        compressed::check(compression, data, wanted).map_err(|what| {
            let reason = format!("a strip or a tile is {what}");
            DecodeError::Malformed { format: Format::Tiff, reason }
        })?;
    }
    Ok(())
}

impl Image<'_> {
    fn rgb(mut self) -> Result<Vec<u8>, DecodeError> {
        let bytes = self.size.rgb_bytes() / 3 * 8;
        let mut limits = Limits::default();
        limits.decoding_buffer_size = bytes;
        limits.intermediate_buffer_size = bytes + (64 << 20);
        self.decoder = self.decoder.with_limits(limits);
        let samples = self.decoder.read_image().map_err(malformed)?;
        let width = self.size.width as usize;
        let rgb: Vec<u8> = match (self.color, samples) {
            (ColorType::Gray(1), DecodingResult::U8(packed)) => {
                let rows = packed.chunks_exact(width.div_ceil(8));
                let bit = |row: &[u8], x: usize| row[x / 8] >> (7 - x % 8) & 1;
                rows.flat_map(|row| (0..width).flat_map(move |x| [bit(row, x) * 255; 3])).collect()
            }
            (ColorType::Gray(8), DecodingResult::U8(gray)) => {
                gray.into_iter().flat_map(|gray| [gray; 3]).collect()
            }
            // Mode I;16 holds plain numbers, which `convert('RGB')` clips.
            (ColorType::Gray(16), DecodingResult::U16(gray)) => {
                gray.into_iter().flat_map(|gray| [u8::try_from(gray).unwrap_or(255); 3]).collect()
            }
            (ColorType::RGB(8), DecodingResult::U8(rgb)) => rgb,
            (ColorType::RGB(16), DecodingResult::U16(rgb)) => {
                rgb.into_iter().map(|value| value.to_be_bytes()[0]).collect()
            }
            (ColorType::RGBA(8), DecodingResult::U8(rgba)) => {
                rgba.as_chunks().0.iter().flat_map(|&[r, g, b, _]| [r, g, b]).collect()
            }
            (ColorType::RGBA(16), DecodingResult::U16(rgba)) => {
                let pixels = rgba.as_chunks().0.iter();
                pixels
                    .flat_map(|&[r, g, b, _]| [r, g, b].map(|v: u16| v.to_be_bytes()[0]))
                    .collect()
            }
            (ColorType::CMYK(8), DecodingResult::U8(inks)) => {
                inks.as_chunks().0.iter().flat_map(|&inks| rgb_of(inks)).collect()
            }
            _ => return Err(unsupported("this kind of samples")),
        };
        if rgb.len() != self.size.rgb_bytes() {
            return Err(unsupported("this number of samples"));
        }
        Ok(rgb)
    }
}

/// Pillow's conversion of inks that are not inverted (`cmyk2rgb` in Convert.c).
fn rgb_of([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let light = 255 - k;
    [c, m, y].map(|ink| {
        let product = u32::from(ink) * u32::from(light) + 128;
        light - u8::try_from(((product >> 8) + product) >> 8).expect("at most the light")
    })
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn malformed(error: TiffError) -> DecodeError {
    DecodeError::Malformed { format: Format::Tiff, reason: error.to_string() }
}

const fn unsupported(what: &'static str) -> DecodeError {
    DecodeError::Unsupported { format: Format::Tiff, what }
}
