//! One record in the index: its fields as 48 bytes, and where its entry points lie as 16.

use xxhash_rust::xxh3::xxh3_64;

use crate::decode::{Color, Format};
use crate::geometry::Size;

/// Bytes of a [`Record`] in the index.
pub(super) const RECORD: usize = 48;
/// Bytes of [`Points`] in the index.
pub(super) const POINTS: usize = 16;

/// What the index holds of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its class, from 0.
    pub label: u32,
    /// Height and width; 0 where a bad record does not even have a header.
    pub size: Size,
    /// Length of its bytes.
    pub bytes: u32,
    /// How it is stored; `None` for a bad record that is nothing known.
    pub format: Option<Format>,
    /// What its components mean; `None` with `format`.
    pub color: Option<Color>,
    /// Whether it is a progressive JPEG.
    pub progressive: bool,
    /// Whether it decodes.
    pub good: bool,
    /// XXH3-64 of its bytes.
    pub checksum: u64,
    /// Number of its shard; 0 in a folder.
    pub shard: u32,
    /// Where its bytes begin in the shard; 0 in a folder.
    pub offset: u64,
    /// Where its name lies in the names.
    pub(super) name: (u64, u16),
}

const FORMATS: [Format; 5] = [Format::Jpeg, Format::Png, Format::Bmp, Format::WebP, Format::Gif];
const COLORS: [Color; 6] =
    [Color::Gray, Color::Rgb, Color::YCbCr, Color::Cmyk, Color::Ycck, Color::Palette];

impl Record {
    pub(super) fn to_bytes(self) -> [u8; RECORD] {
        let code =
            |at: Option<usize>| at.map_or(0, |at| u8::try_from(at + 1).expect("a few kinds"));
        let format = code(FORMATS.iter().position(|&format| Some(format) == self.format));
        let color = code(COLORS.iter().position(|&color| Some(color) == self.color));
        let mut bytes = [0; RECORD];
        bytes[..8].copy_from_slice(&self.checksum.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.name.0.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.label.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.size.height.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.size.width.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.shard.to_le_bytes());
        bytes[44..46].copy_from_slice(&self.name.1.to_le_bytes());
        bytes[46] = format;
        bytes[47] = u8::from(self.good) | u8::from(self.progressive) << 1 | color << 2;
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; RECORD]) -> Self {
        let kind = |code: u8| usize::from(code).checked_sub(1);
        Self {
            checksum: u64_at(bytes, 0),
            offset: u64_at(bytes, 8),
            name: (u64_at(bytes, 16), u16::from_le_bytes([bytes[44], bytes[45]])),
            bytes: u32_at(bytes, 24),
            label: u32_at(bytes, 28),
            size: Size { height: u32_at(bytes, 32), width: u32_at(bytes, 36) },
            shard: u32_at(bytes, 40),
            format: kind(bytes[46]).and_then(|code| FORMATS.get(code).copied()),
            color: kind(bytes[47] >> 2).and_then(|code| COLORS.get(code).copied()),
            progressive: bytes[47] & 2 != 0,
            good: bytes[47] & 1 != 0,
        }
    }
}

/// Where a record's entry points lie, and the low half of their XXH3-64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Points {
    pub(super) offset: u64,
    pub(super) length: u32,
    pub(super) check: u32,
}

impl Points {
    /// Of entry points that are to lie at an offset.
    pub(super) fn of(entries: &[u8], offset: u64) -> Self {
        let length = u32::try_from(entries.len()).expect("a few hundredths of a record");
        Self { offset, length, check: check(entries) }
    }

    pub(super) fn to_bytes(self) -> [u8; POINTS] {
        let mut bytes = [0; POINTS];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12..].copy_from_slice(&self.check.to_le_bytes());
        bytes
    }
}

/// The low half of their XXH3-64.
#[expect(clippy::cast_possible_truncation, reason = "the low half")]
pub(super) fn check(entries: &[u8]) -> u32 {
    xxh3_64(entries) as u32
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}
