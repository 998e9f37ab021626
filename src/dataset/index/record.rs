//! One record in the index: its fields, and how they are stored in 48 bytes.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::super::unpack::{Codec, Packed};
use crate::decode::{Color, Format};
use crate::geometry::Size;

/// The fields of one record in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Class, from 0.
    pub label: u32,
    /// Height and width; 0 for a bad record whose header cannot be read.
    pub size: Size,
    /// Number of its bytes, decompressed.
    pub length: u32,
    /// Image format; `None` for a bad record whose format is unknown.
    pub format: Option<Format>,
    /// Meaning of its components; `None` if `format` is.
    pub color: Option<Color>,
    /// Whether it is a progressive JPEG.
    pub progressive: bool,
    /// Whether it decodes.
    pub good: bool,
    /// XXH3-64 of its bytes.
    pub checksum: u64,
    /// Number of its shard; 0 in an `ImageFolder`.
    pub shard: u32,
    /// Offset in the shard of its bytes, or of the compressed range that it is in; 0 in an `ImageFolder`.
    pub offset: u64,
    /// The range of its name in the section of names.
    pub(in crate::dataset) name: NameRange,
}

impl Record {
    /// The size of an image that has no header, which the decoder must be given.
    pub fn planar(&self) -> Option<Size> {
        (self.format == Some(Format::Planar)).then_some(self.size)
    }
}

/// A range of the index's section of names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::dataset) struct NameRange {
    pub(in crate::dataset) start: u64,
    pub(in crate::dataset) length: u16,
}

/// Format codes: 0 is unknown, else the index in this list plus 1. New formats are appended, because indexes hold the codes.
const FORMATS: [Format; 8] = [
    Format::Jpeg,
    Format::Png,
    Format::Bmp,
    Format::WebP,
    Format::Gif,
    Format::Pnm,
    Format::Tiff,
    Format::Planar,
];
/// Color codes, in the same way.
const COLORS: [Color; 6] =
    [Color::Gray, Color::Rgb, Color::YCbCr, Color::Cmyk, Color::Ycck, Color::Palette];

/// A [`Record`] as the index stores it.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub(in crate::dataset) struct StoredRecord {
    checksum: U64,
    offset: U64,
    name_start: U64,
    length: U32,
    label: U32,
    height: U32,
    width: U32,
    shard: U32,
    name_length: U16,
    format: u8,
    /// Bit 0: good; bit 1: progressive; bits 2 to 7: color.
    flags: u8,
}

const GOOD: u8 = 1;
const PROGRESSIVE: u8 = 2;
const COLOR_SHIFT: u32 = 2;

impl From<Record> for StoredRecord {
    fn from(record: Record) -> Self {
        let color = encode(&COLORS, record.color) << COLOR_SHIFT;
        let good = if record.good { GOOD } else { 0 };
        let progressive = if record.progressive { PROGRESSIVE } else { 0 };
        Self {
            checksum: record.checksum.into(),
            offset: record.offset.into(),
            name_start: record.name.start.into(),
            length: record.length.into(),
            label: record.label.into(),
            height: record.size.height.into(),
            width: record.size.width.into(),
            shard: record.shard.into(),
            name_length: record.name.length.into(),
            format: encode(&FORMATS, record.format),
            flags: good | progressive | color,
        }
    }
}

impl From<&StoredRecord> for Record {
    fn from(stored: &StoredRecord) -> Self {
        Self {
            label: stored.label.get(),
            size: Size { height: stored.height.get(), width: stored.width.get() },
            length: stored.length.get(),
            format: decode(&FORMATS, stored.format),
            color: decode(&COLORS, stored.flags >> COLOR_SHIFT),
            progressive: stored.flags & PROGRESSIVE != 0,
            good: stored.flags & GOOD != 0,
            checksum: stored.checksum.get(),
            shard: stored.shard.get(),
            offset: stored.offset.get(),
            name: NameRange { start: stored.name_start.get(), length: stored.name_length.get() },
        }
    }
}

/// A [`Packed`] as the index stores it, for each record. All of it is 0 for a record that is stored as it is.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, Default)]
#[repr(C)]
pub(in crate::dataset) struct StoredPacked {
    stored: U32,
    skip: U32,
    /// Snappy: bytes of the literal in which the range begins. Others: decompressed bytes of the page.
    extent: U32,
    codec: U32,
}

const SNAPPY: u32 = 1;
const GZIP: u32 = 2;
const ZSTD: u32 = 3;

impl From<Option<Packed>> for StoredPacked {
    fn from(packed: Option<Packed>) -> Self {
        let Some(Packed { codec, stored, skip }) = packed else { return Self::default() };
        let (codec, extent) = match codec {
            Codec::Snappy { literal } => (SNAPPY, literal),
            Codec::Gzip { page } => (GZIP, page),
            Codec::Zstd { page } => (ZSTD, page),
        };
        Self {
            stored: stored.into(),
            skip: skip.into(),
            extent: extent.into(),
            codec: codec.into(),
        }
    }
}

impl StoredPacked {
    /// `None` if the record is stored as it is.
    ///
    /// # Errors
    /// When there is no such codec.
    pub(super) fn packed(self) -> Result<Option<Packed>, String> {
        let extent = self.extent.get();
        let codec = match self.codec.get() {
            0 => return Ok(None),
            SNAPPY => Codec::Snappy { literal: extent },
            GZIP => Codec::Gzip { page: extent },
            ZSTD => Codec::Zstd { page: extent },
            code => return Err(format!("its compression {code} needs a newer forebay")),
        };
        Ok(Some(Packed { codec, stored: self.stored.get(), skip: self.skip.get() }))
    }
}

/// Code of a value: 0 for `None`, else its index in the list plus 1.
fn encode<T: Copy + PartialEq>(list: &[T], value: Option<T>) -> u8 {
    let index = list.iter().position(|&item| Some(item) == value);
    index.map_or(0, |index| u8::try_from(index + 1).expect("lists are short"))
}

/// Value of a code; `None` for 0 and for codes that do not exist.
fn decode<T: Copy>(list: &[T], code: u8) -> Option<T> {
    list.get(usize::from(code).checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compressed_range_is_stored_in_16_fixed_bytes() {
        let packed = |codec| Some(Packed { codec, stored: 0x0102_0304, skip: 5 });
        for (codec, expected) in [
            (Codec::Snappy { literal: 6 }, [4, 3, 2, 1, 5, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0, 0]),
            (Codec::Gzip { page: 7 }, [4, 3, 2, 1, 5, 0, 0, 0, 7, 0, 0, 0, 2, 0, 0, 0]),
            (Codec::Zstd { page: 8 }, [4, 3, 2, 1, 5, 0, 0, 0, 8, 0, 0, 0, 3, 0, 0, 0]),
        ] {
            let stored = StoredPacked::from(packed(codec));
            assert_eq!(stored.as_bytes(), expected);
            assert_eq!(stored.packed(), Ok(packed(codec)));
        }
        assert_eq!(StoredPacked::from(None).packed(), Ok(None));
        let unknown = StoredPacked { codec: 9.into(), ..StoredPacked::default() };
        assert!(unknown.packed().unwrap_err().contains("needs a newer forebay"));
    }

    #[test]
    fn a_record_is_stored_in_48_fixed_bytes() {
        let record = Record {
            label: 0x0102_0304,
            size: Size { height: 375, width: 500 },
            length: 110_000,
            format: Some(Format::Png),
            color: Some(Color::Palette),
            progressive: true,
            good: true,
            checksum: 0x1122_3344_5566_7788,
            shard: 7,
            offset: 1 << 33,
            name: NameRange { start: 99, length: 513 },
        };
        let stored = StoredRecord::from(record);
        // These bytes are part of the file format of version 1.
        let expected = [
            &[0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11][..], // checksum
            &[0, 0, 0, 0, 2, 0, 0, 0],                             // offset
            &[99, 0, 0, 0, 0, 0, 0, 0],                            // start of the name
            &[0xB0, 0xAD, 1, 0],                                   // length
            &[4, 3, 2, 1],                                         // label
            &[0x77, 1, 0, 0],                                      // height
            &[0xF4, 1, 0, 0],                                      // width
            &[7, 0, 0, 0],                                         // shard
            &[1, 2],                                               // length of the name
            &[2, 0b0001_1011],                                     // format and flags
        ];
        assert_eq!(stored.as_bytes(), expected.concat());
        assert_eq!(Record::from(&stored), record);
    }
}
