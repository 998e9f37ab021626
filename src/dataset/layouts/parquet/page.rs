//! The pages of a column chunk: their headers, levels and values.
//!
//! ```text
//!   version 1   header | compressed: levels, values
//!   version 2   header | levels | compressed: values
//! ```

use super::fault::Fault;
use super::footer::{Chunk, Column};
use super::hybrid;
use super::thrift::{Compact, Fields, Kind};
use crate::dataset::unpack::snappy::{self, Element};
use crate::dataset::unpack::{self, Codec, MAX_PAGE};
use crate::store::RegularFile;

/// Bytes that are read for a header at first, and at most. Statistics may make headers long.
const HEADER: usize = 1 << 10;
const MAX_HEADER: usize = 16 << 20;

/// Most elements of a Snappy page that are kept to find places to start. Only pages with images that
/// compress well have more.
const MAX_ELEMENTS: usize = 4 << 20;

/// Decompressed bytes per compressed byte, at most, and what any page may have. Images compress far less;
/// the limit bounds the time that a hostile file takes.
const MAX_RATIO: u64 = 4096;
const SMALL_PAGE: u64 = 1 << 20;

/// How the values of a page are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Plain,
    Dictionary,
}

impl Encoding {
    fn from_code(code: i64) -> Result<Self, Fault> {
        let other = match code {
            0 => return Ok(Self::Plain),
            2 | 8 => return Ok(Self::Dictionary),
            3 => "RLE",
            4 => "BIT_PACKED",
            5 => "DELTA_BINARY_PACKED",
            6 => "DELTA_LENGTH_BYTE_ARRAY",
            7 => "DELTA_BYTE_ARRAY",
            9 => "BYTE_STREAM_SPLIT",
            _ => "of an unknown kind",
        };
        Err(Fault::text(format!(
            "the encoding {other} is not supported; write it with plain or dictionary encoding"
        )))
    }
}

/// How the pages of a chunk are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Snappy,
    Gzip,
    Zstd,
}

impl Compression {
    fn from_code(code: i64) -> Result<Self, Fault> {
        let other = match code {
            0 => return Ok(Self::None),
            1 => return Ok(Self::Snappy),
            2 => return Ok(Self::Gzip),
            6 => return Ok(Self::Zstd),
            3 => "LZO",
            4 => "BROTLI",
            5 => "LZ4",
            7 => "LZ4_RAW",
            _ => "of an unknown kind",
        };
        Err(Fault::text(format!(
            "the compression {other} is not supported; write it with none, snappy, zstd or gzip"
        )))
    }
}

/// The buffers of a thread, for one page after another.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    header: Vec<u8>,
    stored: Vec<u8>,
    unpacked: Vec<u8>,
    elements: Vec<Element>,
    /// For verification of places.
    pub(super) check: Vec<u8>,
}

/// A page of values.
#[derive(Debug)]
pub(super) struct Page<'a> {
    pub(super) is_dictionary: bool,
    pub(super) encoding: Encoding,
    /// For each row, whether it has a value; `None` if all have.
    pub(super) present: Option<Vec<bool>>,
    /// Number of rows; of values, for a dictionary.
    pub(super) rows: usize,
    /// Where the values begin in `bytes`.
    pub(super) values: usize,
    /// The decompressed bytes.
    pub(super) bytes: &'a [u8],
    pub(super) compression: Compression,
    /// The bytes as they are stored, and their offset in the file.
    pub(super) stored: &'a [u8],
    pub(super) offset: u64,
    /// The first elements of the bytes, if they are compressed by Snappy.
    pub(super) elements: &'a [Element],
    /// Whether these are all of them.
    pub(super) has_all_elements: bool,
}

impl Page<'_> {
    /// Number of values that are not null.
    pub(super) fn count(&self) -> usize {
        self.present.as_ref().map_or(self.rows, |present| present.iter().filter(|is| **is).count())
    }
}

/// A header as it is stored. Lengths are in bytes.
#[derive(Debug, Default)]
struct Header {
    kind: i64,
    unpacked: u32,
    stored: u32,
    checksum: Option<u32>,
    rows: u32,
    encoding: i64,
    /// Version 1: the encoding of definition levels.
    levels: i64,
    /// Version 2: lengths of the levels of both kinds, which are not compressed.
    definition: u32,
    repetition: u32,
    is_compressed: bool,
}

const DATA: i64 = 0;
const DICTIONARY: i64 = 2;
const DATA_V2: i64 = 3;
/// The encoding of levels.
const RLE: i64 = 3;

/// Walks the pages of a chunk.
#[derive(Debug)]
pub(super) struct Pages<'a> {
    file: &'a RegularFile,
    column: &'a Column,
    chunk: &'a Chunk,
    /// Offset of the next header.
    at: u64,
}

impl<'a> Pages<'a> {
    pub(super) const fn new(file: &'a RegularFile, column: &'a Column, chunk: &'a Chunk) -> Self {
        Self { file, column, chunk, at: chunk.start }
    }

    /// Offset of the next page.
    pub(super) const fn at(&self) -> u64 {
        self.at
    }

    /// Reads and decompresses the next page: of at most `max_rows` rows, or a dictionary. `None` at the end.
    ///
    /// # Errors
    /// When the page cannot be read, is malformed, or is stored in a way that is not supported.
    pub(super) fn next<'b>(
        &mut self,
        max_rows: usize,
        buffers: &'b mut Buffers,
    ) -> Result<Option<Page<'b>>, Fault> {
        loop {
            if self.at >= self.chunk.end {
                return Ok(None);
            }
            let (header, length) = self.header(&mut buffers.header)?;
            let offset = self.at + length;
            let end = offset + u64::from(header.stored);
            if end > self.chunk.end {
                return Err("a page is longer than its column chunk".into());
            }
            self.at = end;
            if [DATA, DICTIONARY, DATA_V2].contains(&header.kind) {
                return self.page(&header, offset, max_rows, buffers).map(Some);
            }
        }
    }

    /// Reads the next header. Returns it with its length.
    fn header(&self, bytes: &mut Vec<u8>) -> Result<(Header, u64), Fault> {
        let rest = usize::try_from(self.chunk.end - self.at).unwrap_or(usize::MAX);
        let mut window = HEADER.min(rest);
        loop {
            bytes.resize(window, 0);
            self.file.read_at(self.at, bytes)?;
            let mut compact = Compact::new(bytes);
            if let Some(header) = header(&mut compact) {
                return Ok((header, (window - compact.rest()) as u64));
            }
            if window >= rest.min(MAX_HEADER) {
                return Err("the header of a page is malformed or truncated".into());
            }
            window = (window * 4).min(rest).min(MAX_HEADER);
        }
    }

    fn page<'b>(
        &self,
        header: &Header,
        offset: u64,
        max_rows: usize,
        buffers: &'b mut Buffers,
    ) -> Result<Page<'b>, Fault> {
        let Buffers { stored, unpacked, elements, .. } = buffers;
        if header.stored.max(header.unpacked) as usize > MAX_PAGE {
            return Err("a page is larger than the limit of 1 GiB; write smaller row groups".into());
        }
        let (is_dictionary, is_v2) = (header.kind == DICTIONARY, header.kind == DATA_V2);
        let rows = header.rows as usize;
        if !is_dictionary && rows > max_rows {
            return Err("its pages have more values than its row group has rows".into());
        }
        // A dictionary may have values that no row has, such as those of rows that were filtered out. Each takes bytes.
        if is_dictionary && rows > header.unpacked as usize {
            return Err("a dictionary claims more values than it has bytes".into());
        }
        stored.resize(header.stored as usize, 0);
        self.file.read_at(offset, stored)?;
        if header.checksum.is_some_and(|checksum| checksum != crc(stored)) {
            return Err("the checksum of a page is wrong: the file is damaged; restore it".into());
        }
        // Levels of version 2 are before the compressed bytes.
        let levels =
            if is_v2 { header.repetition as usize + header.definition as usize } else { 0 };
        let (levels, stored) =
            stored.split_at_checked(levels).ok_or("the levels of a page are malformed")?;
        let unpacked_length = header.unpacked.checked_sub(u32::try_from(levels.len()).unwrap_or(0));
        let unpacked_length = unpacked_length.ok_or("the levels of a page are malformed")?;
        let compression = match Compression::from_code(self.chunk.codec)? {
            // An empty page of version 2 has no compressed bytes either.
            _ if is_v2 && (!header.is_compressed || stored.is_empty()) => Compression::None,
            compression => compression,
        };
        elements.clear();
        let mut has_all_elements = true;
        let note = |element| {
            has_all_elements = elements.len() < MAX_ELEMENTS;
            if has_all_elements {
                elements.push(element);
            }
        };
        let bytes = unpack(compression, stored, unpacked_length, unpacked, note)?;
        let mut values = 0;
        let mut present = None;
        if !is_dictionary && self.column.max_definition > 0 {
            let levels = if is_v2 {
                &levels[header.repetition as usize..]
            } else {
                if header.levels != RLE {
                    return Err("the encoding BIT_PACKED of levels is not supported".into());
                }
                let (levels, length) =
                    v1_levels(bytes).ok_or("the levels of a page are malformed")?;
                values = length;
                levels
            };
            let max = self.column.max_definition;
            let width = u8::try_from(max.ilog2() + 1).expect("a few bits");
            let levels = hybrid::decode(levels, width, rows);
            let levels = levels.ok_or("the levels of a page are malformed")?;
            if !levels.iter().all(|level| *level == u32::from(max)) {
                present = Some(levels.iter().map(|level| *level == u32::from(max)).collect());
            }
        }
        Ok(Page {
            is_dictionary,
            encoding: Encoding::from_code(header.encoding)?,
            present,
            rows,
            values,
            bytes,
            compression,
            stored,
            offset: offset + levels.len() as u64,
            elements,
            has_all_elements,
        })
    }
}

/// Decompresses a page, unless it is not compressed.
fn unpack<'b>(
    compression: Compression,
    stored: &'b [u8],
    length: u32,
    unpacked: &'b mut Vec<u8>,
    note: impl FnMut(Element),
) -> Result<&'b [u8], Fault> {
    if u64::from(length) > stored.len() as u64 * MAX_RATIO + SMALL_PAGE {
        return Err(
            "a page claims to be more than 4096 times as long as its compressed bytes".into()
        );
    }
    let done = match compression {
        Compression::None => {
            let right = stored.len() == length as usize;
            return if right { Ok(stored) } else { Err("a page is truncated".into()) };
        }
        Compression::Snappy => snappy::decompress(stored, unpacked, note)
            .filter(|()| unpacked.len() == length as usize),
        Compression::Gzip => unpack::decompress(Codec::Gzip { page: length }, stored, unpacked),
        Compression::Zstd => unpack::decompress(Codec::Zstd { page: length }, stored, unpacked),
    };
    done.ok_or("a page does not decompress: the file is damaged; restore it")?;
    Ok(unpacked)
}

/// The levels at the front of a page of version 1, and the offset of the values behind them.
fn v1_levels(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    Some((rest.get(..length)?, length + 4))
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn header(compact: &mut Compact<'_>) -> Option<Header> {
    let mut header = Header { is_compressed: true, ..Header::default() };
    let mut fields = Fields::default();
    while let Some((id, kind)) = compact.field(&mut fields)? {
        match id {
            1 => header.kind = compact.int(kind)?,
            2 => header.unpacked = length(compact, kind)?,
            3 => header.stored = length(compact, kind)?,
            // The format calls it a signed number.
            4 => {
                let checksum = i32::try_from(compact.int(kind)?).ok()?;
                header.checksum = Some(checksum.cast_unsigned());
            }
            5 | 7 | 8 if kind == Kind::Struct => values_header(compact, id, &mut header)?,
            _ => compact.skip(kind)?,
        }
    }
    Some(header)
}

/// Parses the part of a header that depends on the kind of the page: field 5 for version 1, 7 for a
/// dictionary, 8 for version 2.
fn values_header(compact: &mut Compact<'_>, of: i16, header: &mut Header) -> Option<()> {
    let mut fields = Fields::default();
    while let Some((id, kind)) = compact.field(&mut fields)? {
        match (of, id) {
            (_, 1) => header.rows = length(compact, kind)?,
            (5 | 7, 2) | (8, 4) => header.encoding = compact.int(kind)?,
            (5, 3) => header.levels = compact.int(kind)?,
            (8, 5) => header.definition = length(compact, kind)?,
            (8, 6) => header.repetition = length(compact, kind)?,
            (8, 7) => match kind {
                Kind::Bool(is_compressed) => header.is_compressed = is_compressed,
                _ => return None,
            },
            _ => compact.skip(kind)?,
        }
    }
    Some(())
}

fn length(compact: &mut Compact<'_>, kind: Kind) -> Option<u32> {
    let number = compact.int(kind)?;
    i32::try_from(number).ok().and_then(|number| u32::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use super::super::footer::Type;
    use super::*;

    #[test]
    fn a_dictionary_may_have_more_values_than_there_are_rows_and_not_than_it_has_bytes() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x");
        // A page of a dictionary (kind 2) of 4 bytes: its header, with the number of its values, and its bytes.
        let with = |values: u8| {
            let header = [0x15, 4, 0x15, 8, 0x15, 8, 0x4C, 0x15, 2 * values, 0x15, 0, 0, 0];
            std::fs::write(&path, [&header[..], &[0; 4]].concat()).unwrap();
            let file = RegularFile::open(&path).unwrap();
            let column = Column {
                path: "x".to_owned(),
                kind: Type::BYTE_ARRAY,
                max_definition: 0,
                is_list: false,
                is_text: false,
            };
            let chunk = Chunk { codec: 0, values: 1, start: 0, end: file.size(), refused: None };
            let mut buffers = Buffers::default();
            let page = Pages::new(&file, &column, &chunk).next(1, &mut buffers);
            page.map(|page| page.unwrap().rows).map_err(|fault| match fault {
                Fault::Text(what) => what,
                Fault::Store(error) => error.to_string(),
            })
        };
        assert_eq!(with(3), Ok(3));
        assert!(with(5).unwrap_err().contains("more values than it has bytes"));
    }
}
