//! The table of synsets in the development kit of ILSVRC: `meta.mat`, a MAT file of version 5 with a
//! compressed array of structures.
//!
//! ```text
//! element  type u32, bytes u32, data, padding to 8; or type u16, bytes u16, data in 4 bytes
//! matrix   elements: flags, dimensions, name, and for a structure the length of field names, the field
//!          names, and a matrix for each field of each structure
//! ```

use std::io::Read as _;

use flate2::read::ZlibDecoder;

/// Most bytes of the decompressed arrays. That of ILSVRC 2012 has 2 MB.
const MAX_BYTES: u64 = 64 << 20;

/// Types of elements.
const INT8: u32 = 1;
const UINT8: u32 = 2;
const INT16: u32 = 3;
const UINT16: u32 = 4;
const INT32: u32 = 5;
const UINT32: u32 = 6;
const DOUBLE: u32 = 9;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;
const UTF8: u32 = 16;

/// The class of an array of structures.
const STRUCT: u8 = 2;

/// A row of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Synset {
    /// `ILSVRC2012_ID`, from 1.
    pub(super) id: u32,
    pub(super) wnid: String,
    pub(super) words: String,
    /// Synsets below it; 0 for those that images are labeled with.
    pub(super) children: u32,
}

/// Reads the table. `None` if the file is another one or damaged.
pub(super) fn synsets(file: &[u8]) -> Option<Vec<Synset>> {
    if file.get(126..128)? != b"IM" {
        return None;
    }
    // All arrays together have a limit, because each may be a bomb.
    let mut left = MAX_BYTES;
    for (kind, data) in Elements(file.get(128..)?) {
        let mut decompressed = Vec::new();
        let matrix = match kind {
            MATRIX => data,
            COMPRESSED => {
                let read = ZlibDecoder::new(data).take(left).read_to_end(&mut decompressed);
                left -= read.ok()? as u64;
                let (MATRIX, matrix) = Elements(&decompressed).next()? else { continue };
                matrix
            }
            _ => continue,
        };
        if let Some(synsets) = table(matrix) {
            return Some(synsets);
        }
    }
    None
}

/// The rows of an array of structures that is the table.
fn table(matrix: &[u8]) -> Option<Vec<Synset>> {
    let mut elements = Elements(matrix);
    let (_, flags) = elements.next()?;
    if *flags.first()? != STRUCT {
        return None;
    }
    let (_, dimensions) = elements.next()?;
    let (_, _name) = elements.next()?;
    let (_, width) = elements.next()?;
    let width = usize::try_from(u32::from_le_bytes(*width.first_chunk()?)).ok()?;
    let (_, names) = elements.next()?;
    if width == 0 {
        return None;
    }
    let names: Vec<&[u8]> = names
        .chunks_exact(width)
        .map(|name| name.split(|&byte| byte == 0).next().unwrap_or_default())
        .collect();
    let known: [&[u8]; 4] = [b"ILSVRC2012_ID", b"WNID", b"words", b"num_children"];
    if !known.iter().all(|name| names.contains(name)) {
        return None;
    }
    let sides = dimensions.as_chunks::<4>().0.iter().map(|side| u32::from_le_bytes(*side));
    let rows = sides.map(u64::from).try_fold(1_u64, u64::checked_mul)?;
    let mut synsets = Vec::new();
    for _ in 0..rows {
        let mut synset = Synset::default();
        for name in &names {
            let (MATRIX, value) = elements.next()? else { return None };
            match *name {
                b"ILSVRC2012_ID" => synset.id = number(value)?,
                b"WNID" => synset.wnid = text(value)?,
                b"words" => synset.words = text(value)?,
                b"num_children" => synset.children = number(value)?,
                _ => {}
            }
        }
        synsets.push(synset);
    }
    Some(synsets)
}

/// The elements of a file or matrix.
struct Elements<'a>(&'a [u8]);

impl<'a> Iterator for Elements<'a> {
    type Item = (u32, &'a [u8]);

    /// The type and the data of the next element. `None` at the end, and if it is truncated.
    fn next(&mut self) -> Option<(u32, &'a [u8])> {
        let (tag, rest) = self.0.split_first_chunk::<4>()?;
        let tag = u32::from_le_bytes(*tag);
        if tag >> 16 != 0 {
            let (data, rest) = rest.split_at_checked(4)?;
            self.0 = rest;
            return Some((tag & 0xFFFF, data.get(..(tag >> 16) as usize)?));
        }
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (data, rest) = rest.split_at_checked(length)?;
        let padding = if tag == COMPRESSED { 0 } else { length.next_multiple_of(8) - length };
        self.0 = rest.get(padding..).unwrap_or_default();
        Some((tag, data))
    }
}

/// The values of a matrix: their type and bytes.
fn values(matrix: &[u8]) -> Option<(u32, &[u8])> {
    Elements(matrix).nth(3)
}

/// A matrix of one whole number.
fn number(matrix: &[u8]) -> Option<u32> {
    let (kind, data) = values(matrix)?;
    match kind {
        INT8 | UINT8 => data.first().map(|&byte| byte.into()),
        INT16 | UINT16 => Some(u16::from_le_bytes(*data.first_chunk()?).into()),
        INT32 | UINT32 => Some(u32::from_le_bytes(*data.first_chunk()?)),
        DOUBLE => {
            let value = f64::from_le_bytes(*data.first_chunk()?);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "saturates"
            )]
            let whole = value as u32;
            Some(whole)
        }
        _ => None,
    }
}

/// A matrix of characters.
fn text(matrix: &[u8]) -> Option<String> {
    let (kind, data) = values(matrix)?;
    match kind {
        UINT16 => {
            let units: Vec<u16> =
                data.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
            Some(String::from_utf16_lossy(&units))
        }
        INT8 | UINT8 | UTF8 => Some(String::from_utf8_lossy(data).into_owned()),
        _ => None,
    }
}
