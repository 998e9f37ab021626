//! The values of a column chunk, in the order of its rows.

use std::sync::Arc;

use super::super::classes::Label;
use super::fault::Fault;
use super::footer::{Chunk, Column, Type};
use super::hybrid;
use super::page::{Buffers, Encoding, Page, Pages};
use super::places::{self, Image};
use crate::store::RegularFile;

const MALFORMED: &str = "the values of a page are malformed";

/// The values of a chunk of `rows` rows; `None` where they are null. `plain` finds the values of a page that are not
/// encoded as indexes of a dictionary, and `check` is scratch memory for it.
///
/// # Errors
/// When a page cannot be read, or the values are malformed.
fn read<T: Clone>(
    file: &RegularFile,
    column: &Column,
    chunk: &Chunk,
    rows: u64,
    buffers: &mut Buffers,
    plain: impl Fn(&Page<'_>, usize, &mut Vec<u8>) -> Result<Vec<T>, Fault>,
) -> Result<Vec<Option<T>>, Fault> {
    if let Some(why) = chunk.refused {
        return Err(why.into());
    }
    if chunk.values != rows {
        let values = chunk.values;
        return Err(Fault::text(format!("it has {values} values, and its row group {rows} rows")));
    }
    let rows = usize::try_from(rows).expect("bounded when the footer was read");
    let mut pages = Pages::new(file, column, chunk);
    let (mut values, mut dictionary) = (Vec::new(), Vec::new());
    let mut check = std::mem::take(&mut buffers.check);
    while values.len() < rows {
        let offset = pages.at();
        let at = |fault: Fault| fault.at(format!("at byte {offset}"));
        let Some(page) = pages.next(rows - values.len(), buffers).map_err(at)? else {
            return Err("its pages have fewer values than its row group has rows".into());
        };
        if page.is_dictionary {
            dictionary = plain(&page, page.rows, &mut check).map_err(at)?;
            continue;
        }
        let count = page.count();
        let mut found = match page.encoding {
            Encoding::Plain => plain(&page, count, &mut check).map_err(at)?,
            Encoding::Dictionary => {
                let indexes =
                    indexes(&page, count).ok_or(MALFORMED).map_err(|what| at(what.into()))?;
                let value = |index: &u32| dictionary.get(*index as usize).cloned();
                let found: Option<Vec<T>> = indexes.iter().map(value).collect();
                found.ok_or(MALFORMED).map_err(|what| at(what.into()))?
            }
        }
        .into_iter();
        match &page.present {
            None => values.extend(found.map(Some)),
            Some(present) => {
                values.extend(present.iter().map(|is| if *is { found.next() } else { None }));
            }
        }
    }
    buffers.check = check;
    Ok(values)
}

/// The indexes of a page's values in the dictionary.
fn indexes(page: &Page<'_>, count: usize) -> Option<Vec<u32>> {
    if count == 0 {
        return Some(Vec::new());
    }
    let (&width, bytes) = page.bytes.get(page.values..)?.split_first()?;
    hybrid::decode(bytes, width, count)
}

/// The ranges of plain strings of bytes in a page.
fn strings(page: &Page<'_>, count: usize) -> Option<Vec<(usize, usize)>> {
    let (mut at, mut ranges) = (page.values, Vec::new());
    for _ in 0..count {
        let length = page.bytes.get(at..)?.first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        at += 4;
        if length > page.bytes.len() - at {
            return None;
        }
        ranges.push((at, length));
        at += length;
    }
    Some(ranges)
}

/// Reads the locations of images.
///
/// # Errors
/// As those of [`read`].
pub(super) fn images(
    file: &RegularFile,
    column: &Column,
    chunk: &Chunk,
    rows: u64,
    buffers: &mut Buffers,
) -> Result<Vec<Option<Image>>, Fault> {
    read(file, column, chunk, rows, buffers, |page, count, check| {
        let ranges = strings(page, count).ok_or(MALFORMED)?;
        Ok(ranges.into_iter().map(|(at, length)| places::find(page, at, length, check)).collect())
    })
}

/// Reads labels, which are numbers or text.
///
/// # Errors
/// As those of [`read`], and when text is not UTF-8.
pub(super) fn labels(
    file: &RegularFile,
    column: &Column,
    chunk: &Chunk,
    rows: u64,
    buffers: &mut Buffers,
) -> Result<Vec<Option<Label>>, Fault> {
    let kind = column.kind;
    read(file, column, chunk, rows, buffers, |page, count, _check| {
        let numbers = |width: usize, parse: fn(&[u8]) -> i64| {
            let bytes = page.bytes.get(page.values..)?.get(..count.checked_mul(width)?)?;
            Some(bytes.chunks_exact(width).map(|bytes| Label::Number(parse(bytes))).collect())
        };
        let found = match kind {
            Type::INT32 => {
                numbers(4, |bytes| i32::from_le_bytes(bytes.try_into().expect("4 bytes")).into())
            }
            Type::INT64 => {
                numbers(8, |bytes| i64::from_le_bytes(bytes.try_into().expect("8 bytes")))
            }
            _ => {
                let ranges = strings(page, count).ok_or(MALFORMED)?;
                let text = |(at, length): (usize, usize)| {
                    let text = str::from_utf8(&page.bytes[at..at + length]).ok()?;
                    Some(Label::Text(text.into()))
                };
                let texts: Option<Vec<Label>> = ranges.into_iter().map(text).collect();
                return texts.ok_or_else(|| "a label is not UTF-8".into());
            }
        };
        found.ok_or_else(|| MALFORMED.into())
    })
}

/// Reads text, with nothing for what is not UTF-8.
///
/// # Errors
/// As those of [`read`].
pub(super) fn texts(
    file: &RegularFile,
    column: &Column,
    chunk: &Chunk,
    rows: u64,
    buffers: &mut Buffers,
) -> Result<Vec<Option<Arc<str>>>, Fault> {
    read(file, column, chunk, rows, buffers, |page, count, _check| {
        let ranges = strings(page, count).ok_or(MALFORMED)?;
        let text = |(at, length): (usize, usize)| {
            str::from_utf8(&page.bytes[at..at + length]).unwrap_or_default().into()
        };
        Ok(ranges.into_iter().map(text).collect())
    })
}
