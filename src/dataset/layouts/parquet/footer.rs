//! The footer of a Parquet file: its columns, its row groups, and where each column is stored.

use super::fault::Fault;
use super::thrift::{Compact, Fields, Kind};
use crate::store::RegularFile;

const MAGIC: &[u8; 4] = b"PAR1";
/// Magic of a file whose footer is encrypted.
const ENCRYPTED: &[u8; 4] = b"PARE";

/// Largest footer.
const MAX_FOOTER: u64 = 256 << 20;

/// Most rows of a row group.
const MAX_ROWS: u64 = 1 << 24;

/// Most columns, longest path, and deepest nesting of one.
const MAX_COLUMNS: usize = 10_000;
const MAX_PATH: usize = 4096;
const MAX_DEPTH: usize = 16;

/// Most structs of each kind that are parsed, so that a footer of empty ones takes a small multiple of its size: nodes of
/// the tree of columns, row groups, their columns in all, and pairs of metadata.
const MAX_NODES: usize = 100_000;
const MAX_GROUPS: usize = 1 << 20;
const MAX_CHUNKS: usize = 4 << 20;
const MAX_PAIRS: usize = 100_000;

/// The kind of a column's values, by its number in the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Type(pub(super) i64);

impl Type {
    pub(super) const INT32: Self = Self(1);
    pub(super) const INT64: Self = Self(2);
    pub(super) const BYTE_ARRAY: Self = Self(6);

    pub(super) fn name(self) -> &'static str {
        let names = [
            "boolean",
            "int32",
            "int64",
            "int96",
            "float",
            "double",
            "bytes",
            "bytes of one length",
        ];
        usize::try_from(self.0).ok().and_then(|at| names.get(at)).unwrap_or(&"unknown")
    }
}

/// A column of values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    /// Names from the outermost struct to the column, joined by dots.
    pub(super) path: String,
    pub(super) kind: Type,
    /// Level of a value that is not null: the number of parts of the path that may be null.
    pub(super) max_definition: u8,
    /// Whether it is in a list, so that a row may have several values.
    pub(super) is_list: bool,
    /// Whether its bytes are declared to be text.
    pub(super) is_text: bool,
}

/// The values of one column in one row group.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub(super) codec: i64,
    pub(super) values: u64,
    /// Range of its pages in the file.
    pub(super) start: u64,
    pub(super) end: u64,
    /// Why it cannot be read: it is encrypted, or in another file.
    pub(super) refused: Option<&'static str>,
}

/// Some rows, stored column by column.
#[derive(Clone, Debug)]
pub(super) struct RowGroup {
    pub(super) rows: u64,
    pub(super) chunks: Vec<Chunk>,
}

#[derive(Debug)]
pub(super) struct Footer {
    pub(super) columns: Vec<Column>,
    pub(super) groups: Vec<RowGroup>,
    /// What the `datasets` library stores about the columns, as JSON.
    pub(super) huggingface: Option<String>,
}

impl Footer {
    /// Reads the footer at the end of a file.
    ///
    /// # Errors
    /// When the file cannot be read, is not Parquet, or is malformed.
    pub(super) fn read(file: &RegularFile) -> Result<Self, Fault> {
        let size = file.size();
        let (mut head, mut tail) = ([0; 4], [0; 8]);
        if size < 12 {
            return Err(Fault::text(format!("it has {size} bytes and is not a Parquet file")));
        }
        file.read_at(0, &mut head)?;
        file.read_at(size - 8, &mut tail)?;
        let (length, magic) = tail.split_first_chunk::<4>().expect("8 bytes");
        if head == *ENCRYPTED || magic == ENCRYPTED {
            return Err(
                "it is encrypted, which is not supported; write it without encryption".into()
            );
        }
        if head != *MAGIC {
            return Err("it does not begin with PAR1: it is not a Parquet file".into());
        }
        if magic != MAGIC {
            return Err("it does not end with PAR1: it is truncated; restore it".into());
        }
        let length = u64::from(u32::from_le_bytes(*length));
        let end = size - 8;
        let start = end.checked_sub(length).filter(|start| *start >= 4 && length <= MAX_FOOTER);
        let Some(start) = start else {
            return Err(Fault::text(format!("its footer of {length} bytes is malformed")));
        };
        let mut bytes = vec![0; usize::try_from(length).expect("bounded")];
        file.read_at(start, &mut bytes)?;
        let footer = parse(&bytes).ok_or("its footer is malformed")?;
        footer.check(size, start)?;
        Ok(footer)
    }

    /// Bounds what the row groups claim. Each row takes more than a byte of a file, and chunks do not
    /// overlap, so that reading all of them takes a time in proportion to the file's size.
    fn check(&self, size: u64, end: u64) -> Result<(), Fault> {
        let (mut rows, mut stored) = (0_u64, 0_u64);
        for (number, group) in self.groups.iter().enumerate() {
            let fault = |what| Err(Fault::text(format!("row group {number} {what}")));
            rows = rows.saturating_add(group.rows);
            if group.rows > MAX_ROWS {
                return fault("has more than 16,777,216 rows; write smaller row groups");
            }
            if rows > size {
                return fault("claims more rows than the file has bytes");
            }
            if group.chunks.len() != self.columns.len() {
                return fault("does not have all columns");
            }
            for chunk in &group.chunks {
                stored = stored.saturating_add(chunk.end.saturating_sub(chunk.start));
                let inside = 4 <= chunk.start && chunk.start <= chunk.end && chunk.end <= end;
                if chunk.refused.is_none() && (!inside || stored > size) {
                    return fault("is outside of the file, which is damaged or truncated");
                }
            }
        }
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Option<Footer> {
    let (mut compact, mut fields) = (Compact::new(bytes), Fields::default());
    let (mut columns, mut groups, mut huggingface) = (None, Vec::new(), None);
    let mut chunks = MAX_CHUNKS;
    while let Some((id, kind)) = compact.field(&mut fields)? {
        match id {
            2 => columns = Some(schema(&mut compact, kind)?),
            4 => {
                groups =
                    list(&mut compact, kind, MAX_GROUPS, |group| row_group(group, &mut chunks))?;
            }
            5 => {
                let pairs = list(&mut compact, kind, MAX_PAIRS, key_value)?;
                let found = pairs.into_iter().find(|(key, _)| *key == "huggingface");
                huggingface = found.map(|(_, value)| value.to_owned());
            }
            _ => compact.skip(kind)?,
        }
    }
    Some(Footer { columns: columns?, groups, huggingface })
}

/// Parses a list of structs, of which there are `most` at most.
fn list<'a, T>(
    compact: &mut Compact<'a>,
    kind: Kind,
    most: usize,
    mut item: impl FnMut(&mut Compact<'a>) -> Option<T>,
) -> Option<Vec<T>> {
    let (count, kind) = compact.list(kind)?;
    if kind != Kind::Struct || count > most {
        return None;
    }
    (0..count).map(|_| item(compact)).collect()
}

fn key_value<'a>(compact: &mut Compact<'a>) -> Option<(&'a str, &'a str)> {
    let (mut key, mut value, mut fields) = ("", "", Fields::default());
    while let Some((id, kind)) = compact.field(&mut fields)? {
        match id {
            1 => key = compact.text(kind)?,
            // Values of others need not be text.
            2 => value = str::from_utf8(compact.binary(kind)?).unwrap_or_default(),
            _ => compact.skip(kind)?,
        }
    }
    Some((key, value))
}

/// A node of the tree of columns.
struct Node<'a> {
    name: &'a str,
    kind: Option<Type>,
    /// 0 required, 1 optional, 2 repeated.
    repetition: i64,
    children: i64,
    is_text: bool,
}

/// The number of text as a type, in the older and in the newer list of them.
const CONVERTED_TEXT: i64 = 0;
const LOGICAL_TEXT: i16 = 1;

fn node<'a>(compact: &mut Compact<'a>) -> Option<Node<'a>> {
    let mut node = Node { name: "", kind: None, repetition: 0, children: 0, is_text: false };
    let mut fields = Fields::default();
    while let Some((id, kind)) = compact.field(&mut fields)? {
        match id {
            1 => node.kind = Some(Type(compact.int(kind)?)),
            3 => node.repetition = compact.int(kind)?,
            4 => node.name = compact.text(kind)?,
            5 => node.children = compact.int(kind)?,
            6 => node.is_text |= compact.int(kind)? == CONVERTED_TEXT,
            // A union: a struct with one field.
            10 if kind == Kind::Struct => {
                let mut union = Fields::default();
                while let Some((id, kind)) = compact.field(&mut union)? {
                    node.is_text |= id == LOGICAL_TEXT;
                    compact.skip(kind)?;
                }
            }
            _ => compact.skip(kind)?,
        }
    }
    Some(node)
}

/// Parses the tree of columns, which is stored in preorder, and collects its leaves.
fn schema(compact: &mut Compact<'_>, kind: Kind) -> Option<Vec<Column>> {
    let nodes = list(compact, kind, MAX_NODES, node)?;
    let (root, mut rest) = nodes.split_first()?;
    let mut columns = Vec::new();
    let top = Column {
        path: String::new(),
        kind: Type(-1),
        max_definition: 0,
        is_list: false,
        is_text: false,
    };
    for _ in 0..root.children {
        rest = collect(rest, &top, MAX_DEPTH, &mut columns)?;
    }
    rest.is_empty().then_some(columns)
}

/// Adds the leaves of the first node. Returns the nodes behind it.
fn collect<'n, 'a>(
    nodes: &'n [Node<'a>],
    parent: &Column,
    depth: usize,
    columns: &mut Vec<Column>,
) -> Option<&'n [Node<'a>]> {
    let (node, mut rest) = nodes.split_first()?;
    let depth = depth.checked_sub(1)?;
    let dot = if parent.path.is_empty() { "" } else { "." };
    let mut column = Column {
        path: format!("{}{dot}{}", parent.path, node.name),
        kind: node.kind.unwrap_or(Type(-1)),
        max_definition: parent.max_definition + u8::from(node.repetition != 0),
        is_list: parent.is_list || node.repetition == 2,
        is_text: node.is_text,
    };
    if column.path.len() > MAX_PATH {
        return None;
    }
    if node.children > 0 {
        column.kind = Type(-1);
        for _ in 0..node.children {
            rest = collect(rest, &column, depth, columns)?;
        }
    } else if node.kind.is_some() {
        columns.push(column);
    }
    (columns.len() <= MAX_COLUMNS).then_some(rest)
}

/// Parses a row group of at most `chunks` columns, which become fewer by those that it has.
fn row_group(compact: &mut Compact<'_>, chunks: &mut usize) -> Option<RowGroup> {
    let (mut group, mut fields) = (RowGroup { rows: 0, chunks: Vec::new() }, Fields::default());
    while let Some((id, kind)) = compact.field(&mut fields)? {
        match id {
            1 => {
                let most = (*chunks).min(MAX_COLUMNS);
                group.chunks = list(compact, kind, most, chunk)?;
                *chunks -= group.chunks.len();
            }
            3 => group.rows = u64::try_from(compact.int(kind)?).ok()?,
            _ => compact.skip(kind)?,
        }
    }
    Some(group)
}

fn chunk(compact: &mut Compact<'_>) -> Option<Chunk> {
    let mut chunk = Chunk { codec: 0, values: 0, start: 0, end: 0, refused: None };
    let (mut fields, mut has_metadata) = (Fields::default(), false);
    while let Some((id, kind)) = compact.field(&mut fields)? {
        match id {
            1 => {
                compact.skip(kind)?;
                chunk.refused = Some("is in another file, which is not supported");
            }
            3 if kind == Kind::Struct => {
                column_metadata(compact, &mut chunk)?;
                has_metadata = true;
            }
            8 => {
                compact.skip(kind)?;
                chunk.refused = Some("is encrypted, which is not supported");
            }
            _ => compact.skip(kind)?,
        }
    }
    (has_metadata || chunk.refused.is_some()).then_some(chunk)
}

fn column_metadata(compact: &mut Compact<'_>, chunk: &mut Chunk) -> Option<()> {
    let (mut fields, mut stored, mut data, mut dictionary) = (Fields::default(), 0, 0, 0);
    while let Some((id, kind)) = compact.field(&mut fields)? {
        let mut number = || u64::try_from(compact.int(kind)?).ok();
        match id {
            4 => chunk.codec = compact.int(kind)?,
            5 => chunk.values = number()?,
            7 => stored = number()?,
            9 => data = number()?,
            11 => dictionary = number()?,
            _ => compact.skip(kind)?,
        }
    }
    // Some writers say 0 where there is no dictionary.
    chunk.start = if dictionary > 0 { dictionary.min(data) } else { data };
    chunk.end = chunk.start.checked_add(stored)?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field that is a list of empty structs, behind `difference` fields that are not there.
    fn empty_structs(difference: u8, count: usize) -> Vec<u8> {
        let mut bytes = vec![difference << 4 | 9, 0xFC];
        let mut rest = count;
        while rest >= 128 {
            bytes.push(0x80 | u8::try_from(rest & 127).unwrap());
            rest >>= 7;
        }
        bytes.push(u8::try_from(rest).unwrap());
        bytes.resize(bytes.len() + count, 0);
        bytes
    }

    #[test]
    fn a_footer_of_empty_structs_is_refused_before_they_take_memory() {
        let schema_of = |bytes: &[u8]| schema(&mut Compact::new(bytes), Kind::List);
        // A root without children.
        let schema = empty_structs(2, 1);
        let of = |more: Vec<u8>| parse(&[schema.clone(), more, vec![0]].concat());
        assert_eq!(of(Vec::new()).unwrap().groups.len(), 0);
        assert_eq!(of(empty_structs(2, 1000)).unwrap().groups.len(), 1000);
        assert!(of(empty_structs(2, MAX_GROUPS + 1)).is_none());
        assert!(of(empty_structs(3, MAX_PAIRS + 1)).is_none());
        let nodes = empty_structs(2, MAX_NODES + 1);
        assert!(schema_of(&nodes[1..]).is_none());
    }
}
