//! Writes an index file.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, IntoInnerError, Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use forebay_types::Digest;
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::IntoBytes as _;

use super::super::layouts::{About, Layout, Skipped};
use super::super::unpack::Packed;
use super::format::{
    LAZY, MAGIC, REQUIRED, StoredHeader, StoredPoints, StoredSection, VERSION, kind, write_strings,
};
use super::record::{NameRange, Record, StoredPacked, StoredRecord};
use crate::store::StoreError;

/// Sections start at multiples of this many bytes.
const ALIGNMENT: usize = 8;

/// The contents of an index, apart from entry points.
pub(in crate::dataset) struct Contents<'a> {
    pub(in crate::dataset) digest: Digest,
    pub(in crate::dataset) layout: Layout,
    pub(in crate::dataset) shards: &'a [(String, u64)],
    /// Tags of the shards, if they are objects of a bucket.
    pub(in crate::dataset) tags: &'a [String],
    pub(in crate::dataset) classes: &'a [String],
    pub(in crate::dataset) skipped: &'a [Skipped],
    pub(in crate::dataset) about: &'a About,
    pub(in crate::dataset) records: Vec<IndexedRecord<'a>>,
}

/// A record with what the index holds about it in other sections.
pub(in crate::dataset) struct IndexedRecord<'a> {
    pub(in crate::dataset) name: &'a str,
    /// Its `name` is not used.
    pub(in crate::dataset) record: Record,
    pub(in crate::dataset) points: StoredPoints,
    /// The compressed range that it is in, if it is in one.
    pub(in crate::dataset) packed: Option<Packed>,
    /// The reason why it is bad, if it is.
    pub(in crate::dataset) reason: Option<&'a str>,
}

impl Contents<'_> {
    /// The sections, in the order in which they are written.
    pub(in crate::dataset) fn sections(&self) -> Vec<(u32, Vec<u8>)> {
        let (mut records, mut names, mut points) = (Vec::new(), Vec::new(), Vec::new());
        for IndexedRecord { name, record, points: point, .. } in &self.records {
            let length = u16::try_from(name.len()).expect("names are bounded when listed");
            let name_range = NameRange { start: names.len() as u64, length };
            records.extend_from_slice(
                StoredRecord::from(Record { name: name_range, ..*record }).as_bytes(),
            );
            names.extend_from_slice(name.as_bytes());
            points.extend_from_slice(point.as_bytes());
        }
        let meta = [&self.digest.0[..], &[self.layout.code()]].concat();
        let shard_sizes = self.shards.iter().flat_map(|(_, size)| size.to_le_bytes());
        let shard_names = self.shards.iter().map(|(name, _)| name.as_str());
        let bad = (0_u64..).zip(&self.records).filter(|(_, indexed)| !indexed.record.good);
        let reasons = self.records.iter().filter_map(|indexed| indexed.reason);
        let mut sections = vec![
            (kind::META, meta),
            (kind::SHARD_SIZES, shard_sizes.collect()),
            (kind::SHARD_NAMES, write_strings(shard_names)),
            (kind::CLASSES, write_strings(self.classes.iter().map(String::as_str))),
            (kind::RECORDS, records),
            (kind::NAMES, names),
            (kind::BAD, bad.flat_map(|(id, _)| id.to_le_bytes()).collect()),
            (kind::REASONS, write_strings(reasons)),
            (kind::POINTS, points),
        ];
        if !self.skipped.is_empty() {
            let counts = self.skipped.iter().flat_map(|skipped| skipped.count.to_le_bytes());
            let texts: Vec<String> = self
                .skipped
                .iter()
                .flat_map(|s| [s.reason.clone(), s.examples.join("\0")])
                .collect();
            sections.push((kind::SKIPPED, counts.collect()));
            sections.push((kind::SKIPPED_REASONS, write_strings(texts.iter().map(String::as_str))));
        }
        let About { words, facts } = self.about;
        if !words.is_empty() {
            sections.push((kind::WORDS, write_strings(words.iter().map(String::as_str))));
        }
        if !facts.is_empty() {
            let texts = facts.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]);
            sections.push((kind::FACTS, write_strings(texts)));
        }
        if self.records.iter().any(|indexed| indexed.packed.is_some()) {
            let packed = self.records.iter().map(|indexed| StoredPacked::from(indexed.packed));
            sections.push((kind::PACKED, packed.collect::<Vec<_>>().as_bytes().to_vec()));
        }
        if !self.tags.is_empty() {
            let tags = write_strings(self.tags.iter().map(String::as_str));
            sections.push((kind::SHARD_TAGS, tags));
        }
        sections
    }
}

/// Entry points on their way into the index. Those of a whole dataset do not fit into memory, so they
/// are collected in an unnamed file in the folder of the index.
pub(in crate::dataset) struct EntryPointsFile {
    file: BufWriter<File>,
    folder: PathBuf,
    length: u64,
}

impl EntryPointsFile {
    /// Creates the file, and the folder if there is none.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(in crate::dataset) fn create(folder: &Path) -> Result<Self, StoreError> {
        let failed = StoreError::io("write", folder);
        fs::create_dir_all(folder).map_err(&failed)?;
        let file = tempfile::tempfile_in(folder).map_err(&failed)?;
        Ok(Self { file: BufWriter::new(file), folder: folder.into(), length: 0 })
    }

    /// Appends the entry points of a record.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(in crate::dataset) fn push(
        &mut self,
        entry_points: &[u8],
    ) -> Result<StoredPoints, StoreError> {
        let points = StoredPoints::new(entry_points, self.length);
        self.file.write_all(entry_points).map_err(StoreError::io("write", &self.folder))?;
        self.length += entry_points.len() as u64;
        Ok(points)
    }

    fn copy_to(self, index: &mut File) -> io::Result<()> {
        let mut file = self.file.into_inner().map_err(IntoInnerError::into_error)?;
        file.rewind()?;
        io::copy(&mut file, index)?;
        Ok(())
    }
}

/// Writes an index to a temporary file, which is then renamed: the index appears whole or not at all.
/// The entry points are the last section, because they are not in memory.
///
/// # Errors
/// When the file system refuses.
pub(in crate::dataset) fn write(
    path: &Path,
    sections: &[(u32, Vec<u8>)],
    entry_points: Option<EntryPointsFile>,
) -> Result<(), StoreError> {
    let head = head(sections, entry_points.as_ref().map(|file| file.length));
    let failed = StoreError::io("write", path);
    let folder = folder_of(path);
    fs::create_dir_all(folder).map_err(&failed)?;
    let mut file = tempfile::Builder::new()
        .prefix(".forebay-")
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(&failed)?;
    let mut write_padded = |bytes: &[u8]| {
        let padding = bytes.len().next_multiple_of(ALIGNMENT) - bytes.len();
        file.write_all(bytes)?;
        file.write_all(&[0; ALIGNMENT][..padding])
    };
    write_padded(&head).map_err(&failed)?;
    for (_, bytes) in sections {
        write_padded(bytes).map_err(&failed)?;
    }
    if let Some(entry_points) = entry_points {
        entry_points.copy_to(file.as_file_mut()).map_err(&failed)?;
    }
    file.as_file().sync_all().map_err(&failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// The header and the table of sections.
fn head(sections: &[(u32, Vec<u8>)], entry_points: Option<u64>) -> Vec<u8> {
    let count = sections.len() + usize::from(entry_points.is_some());
    let length = size_of::<StoredHeader>() + count * size_of::<StoredSection>();
    let mut offset = length.next_multiple_of(ALIGNMENT) as u64;
    let mut table = Vec::with_capacity(count);
    for (kind, bytes) in sections {
        let optional = [
            kind::POINTS,
            kind::SKIPPED,
            kind::SKIPPED_REASONS,
            kind::WORDS,
            kind::FACTS,
            kind::SHARD_TAGS,
        ];
        table.push(StoredSection {
            kind: (*kind).into(),
            flags: if optional.contains(kind) { 0 } else { REQUIRED }.into(),
            offset: offset.into(),
            length: (bytes.len() as u64).into(),
            checksum: xxh3_64(bytes).into(),
        });
        offset += bytes.len().next_multiple_of(ALIGNMENT) as u64;
    }
    if let Some(length) = entry_points {
        table.push(StoredSection {
            kind: kind::ENTRIES.into(),
            flags: LAZY.into(),
            offset: offset.into(),
            length: length.into(),
            checksum: 0.into(),
        });
        offset += length;
    }
    let header = StoredHeader {
        magic: MAGIC,
        version: VERSION.into(),
        sections: u32::try_from(count).expect("a few sections").into(),
        file_length: offset.into(),
        table_checksum: xxh3_64(table.as_bytes()).into(),
    };
    [header.as_bytes(), table.as_bytes()].concat()
}

/// Folder that a file is or will be in.
pub(in crate::dataset) fn folder_of(file: &Path) -> &Path {
    let folder = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}
