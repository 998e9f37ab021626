//! Makes the index: lists the records, reads, decodes and checksums each, writes one file.

use std::fs::{self, File};
use std::io::{BufWriter, Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use forebay_types::Digest;
use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::index::{ENTRY, HEADER, LAZY, MAGIC, REQUIRED, VERSION, kind, write_strings};
use super::map::map;
use super::record::{Points, RECORD};
use super::shard::Shard;
use super::source::{Source, index_path};
use super::{Dataset, DatasetError, Record, Summary, folder, read_file, webdataset};
use crate::decode::{self, DecodeError, Decoder};
use crate::geometry::Size;

/// Labels of tars without a `classes.txt` are below this.
const MAX_NUMBERED_CLASSES: u32 = 1 << 20;

/// How far the work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Records checked so far.
    pub done: u64,
    /// Records there are.
    pub total: u64,
}

/// Indexes the dataset at a path on `threads` threads. The index appears whole, by a rename, or not at
/// all: killed half way, the earlier one stays.
///
/// A file that cannot be read is an error; a record that does not decode is bad.
pub fn build(
    path: &Path,
    index_dir: Option<&Path>,
    threads: usize,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Summary, DatasetError> {
    let threads = threads.max(1);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|number| format!("index-{number}"))
        .build()
        .map_err(|error| {
            DatasetError::io("start threads for", path)(std::io::Error::other(error))
        })?;
    let listing = pool.install(|| Listing::of(path))?;
    if listing.entries.is_empty() {
        return Err(DatasetError::Empty { path: path.into() });
    }
    let file = index_path(path, index_dir);
    let mut spill = Spill::new(folder_of(&file))?;
    let checked = pool.install(|| listing.check(&mut spill, progress))?;
    write(&file, &listing.sections(&checked), Some(spill))?;
    Ok(Dataset::open(path, index_dir)?.summary())
}

/// A record before anybody looked into it.
struct Entry {
    name: String,
    label: u32,
    shard: u32,
    offset: u64,
    /// In a shard; unknown in a folder.
    length: u32,
}

/// What there is to index.
struct Listing {
    root: PathBuf,
    classes: Vec<String>,
    /// By name; none in a folder.
    shards: Vec<(String, Shard)>,
    entries: Vec<Entry>,
}

/// A record that was looked into.
struct Checked {
    record: Record,
    points: Points,
    /// Why it is bad, if it is.
    reason: Option<String>,
}

/// Records that are looked into before their entry points are written away: what all records have
/// does not fit into memory.
const CHUNK: usize = 2048;

/// Entry points on their way into the index: a file without a name, in the folder of the index.
pub(super) struct Spill {
    file: BufWriter<File>,
    folder: PathBuf,
    length: u64,
}

impl Spill {
    pub(super) fn new(folder: &Path) -> Result<Self, DatasetError> {
        let failed = || DatasetError::io("write", folder);
        fs::create_dir_all(folder).map_err(failed())?;
        let file = tempfile::tempfile_in(folder).map_err(failed())?;
        Ok(Self { file: BufWriter::new(file), folder: folder.into(), length: 0 })
    }

    /// Adds a record's entry points.
    pub(super) fn push(&mut self, entries: &[u8]) -> Result<Points, DatasetError> {
        let points = Points::of(entries, self.length);
        self.file.write_all(entries).map_err(DatasetError::io("write", &self.folder))?;
        self.length += entries.len() as u64;
        Ok(points)
    }

    fn copy_to(self, to: &mut File) -> std::io::Result<()> {
        let mut file = self.file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.rewind()?;
        std::io::copy(&mut file, to)?;
        Ok(())
    }
}

/// The folder that a file is or will be in.
fn folder_of(file: &Path) -> &Path {
    let folder = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

impl Listing {
    fn of(path: &Path) -> Result<Self, DatasetError> {
        match Source::find(path)? {
            Source::Folder { root } => {
                let (classes, files) = folder::scan(&root)?;
                let entry = |file: folder::ImageFile| Entry {
                    name: file.name,
                    label: file.label,
                    shard: 0,
                    offset: 0,
                    length: 0,
                };
                let entries = files.into_iter().map(entry).collect();
                Ok(Self { root, classes, shards: Vec::new(), entries })
            }
            Source::Tars { base, shards } => Self::of_tars(base, shards),
        }
    }

    fn of_tars(base: PathBuf, shards: Vec<String>) -> Result<Self, DatasetError> {
        let list = |(number, name): (usize, String)| {
            let path = base.join(&name);
            let map = map(&path)?;
            let samples = webdataset::scan(&path, &map)?;
            Ok(((name, Shard::open(path, map.len() as u64, number)?), samples))
        };
        let listed: Vec<_> =
            shards.into_par_iter().enumerate().map(list).collect::<Result<_, DatasetError>>()?;
        let (shards, samples): (Vec<_>, Vec<Vec<webdataset::Sample>>) = listed.into_iter().unzip();
        let mut entries = Vec::with_capacity(samples.iter().map(Vec::len).sum());
        for ((number, (shard, _)), samples) in (0..).zip(&shards).zip(samples) {
            entries.extend(samples.into_iter().map(|sample| Entry {
                name: format!("{shard}/{}", sample.name),
                label: sample.label,
                shard: number,
                offset: sample.offset,
                length: sample.length,
            }));
        }
        let classes = classes_of_tars(&base, &entries)?;
        Ok(Self { root: base, classes, shards, entries })
    }

    /// Looks into every record.
    fn check(
        &self,
        spill: &mut Spill,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Vec<Checked>, DatasetError> {
        let total = self.entries.len() as u64;
        let done = AtomicU64::new(0);
        let mut all = Vec::with_capacity(self.entries.len());
        for chunk in self.entries.chunks(CHUNK) {
            let checked: Vec<(Record, Result<Vec<u8>, DecodeError>)> = chunk
                .par_iter()
                // A worker's buffers are worth a few dozen images.
                .with_min_len(32)
                .map_init(<(Decoder, Vec<u8>)>::default, |(decoder, buffer), entry| {
                    let checked = self.check_one(entry, decoder, buffer)?;
                    progress(Progress { done: done.fetch_add(1, Ordering::Relaxed) + 1, total });
                    Ok(checked)
                })
                .collect::<Result<_, DatasetError>>()?;
            for (record, verdict) in checked {
                let (entries, reason) = match verdict {
                    Ok(entries) => (entries, None),
                    Err(error) => (Vec::new(), Some(error.to_string())),
                };
                all.push(Checked { record, points: spill.push(&entries)?, reason });
            }
        }
        Ok(all)
    }

    fn check_one(
        &self,
        entry: &Entry,
        decoder: &mut Decoder,
        buffer: &mut Vec<u8>,
    ) -> Result<(Record, Result<Vec<u8>, DecodeError>), DatasetError> {
        match self.shards.get(entry.shard as usize) {
            Some((_, shard)) => shard.read(entry.offset, entry.length, buffer)?,
            None => read_file(&self.root.join(&entry.name), buffer, u32::MAX)?,
        }
        let bytes = buffer.as_slice();
        let length = u32::try_from(bytes.len()).map_err(|error| {
            DatasetError::io("index", self.root.join(&entry.name))(std::io::Error::other(error))
        })?;
        let verdict = decode::verify(bytes, decoder);
        let header = decode::probe(bytes).ok();
        let record = Record {
            label: entry.label,
            size: header.map_or(Size { height: 0, width: 0 }, |header| header.size),
            bytes: length,
            format: header.map(|header| header.format),
            color: header.map(|header| header.color),
            progressive: header.is_some_and(|header| header.progressive),
            good: verdict.is_ok(),
            checksum: xxh3_64(bytes),
            shard: entry.shard,
            offset: entry.offset,
            name: (0, 0),
        };
        Ok((record, verdict.map(|(_, entries)| entries)))
    }

    fn sections(&self, checked: &[Checked]) -> Vec<(u32, Vec<u8>)> {
        let mut records = Vec::with_capacity(checked.len() * RECORD);
        let mut names = Vec::new();
        for (entry, Checked { record, .. }) in self.entries.iter().zip(checked) {
            let length = u16::try_from(entry.name.len()).expect("names are bounded when listed");
            let record = Record { name: (names.len() as u64, length), ..*record };
            records.extend(record.to_bytes());
            names.extend(entry.name.as_bytes());
        }
        let mut meta = self.digest(checked).0.to_vec();
        meta.push(u8::from(!self.shards.is_empty()));
        let sizes = self.shards.iter().flat_map(|(_, shard)| shard.size().to_le_bytes());
        let bad = (0_u64..).zip(checked).filter(|(_, checked)| !checked.record.good);
        let reasons = checked.iter().filter_map(|checked| checked.reason.as_deref());
        vec![
            (kind::META, meta),
            (kind::SHARD_SIZES, sizes.collect()),
            (kind::SHARD_NAMES, write_strings(self.shards.iter().map(|(name, _)| name.as_str()))),
            (kind::CLASSES, write_strings(self.classes.iter().map(String::as_str))),
            (kind::RECORDS, records),
            (kind::NAMES, names),
            (kind::BAD, bad.flat_map(|(id, _)| id.to_le_bytes()).collect()),
            (kind::REASONS, write_strings(reasons)),
            (kind::POINTS, checked.iter().flat_map(|checked| checked.points.to_bytes()).collect()),
        ]
    }

    fn digest(&self, checked: &[Checked]) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"forebay dataset 1");
        let string = |text: &str, hasher: &mut blake3::Hasher| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        hasher.update(&(self.classes.len() as u64).to_le_bytes());
        self.classes.iter().for_each(|class| string(class, &mut hasher));
        hasher.update(&(checked.len() as u64).to_le_bytes());
        for (entry, Checked { record, .. }) in self.entries.iter().zip(checked) {
            string(&entry.name, &mut hasher);
            hasher.update(&record.label.to_le_bytes());
            hasher.update(&record.bytes.to_le_bytes());
            hasher.update(&record.checksum.to_le_bytes());
            hasher.update(&[u8::from(record.good)]);
        }
        Digest(*hasher.finalize().as_bytes())
    }
}

/// The lines of `classes.txt` beside the shards, else the numbers of the labels.
fn classes_of_tars(base: &Path, entries: &[Entry]) -> Result<Vec<String>, DatasetError> {
    let path = base.join("classes.txt");
    let most = entries.iter().max_by_key(|entry| entry.label);
    let label_error = |entry: &Entry, classes| DatasetError::Label {
        name: entry.name.clone(),
        label: entry.label,
        classes,
    };
    let classes: Vec<String> = match fs::read_to_string(&path) {
        Ok(text) => text.lines().map(str::trim).filter(|l| !l.is_empty()).map(Into::into).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let count = most.map_or(0, |entry| entry.label.saturating_add(1));
            (0..count.min(MAX_NUMBERED_CLASSES)).map(|label| label.to_string()).collect()
        }
        Err(error) => return Err(DatasetError::io("read", path)(error)),
    };
    match most {
        Some(entry) if entry.label as usize >= classes.len() => {
            Err(label_error(entry, classes.len()))
        }
        _ => Ok(classes),
    }
}

/// Writes the sections to a new file, which then takes the name. The entry points come last.
pub(super) fn write(
    path: &Path,
    sections: &[(u32, Vec<u8>)],
    spill: Option<Spill>,
) -> Result<(), DatasetError> {
    let failed = || DatasetError::io("write", path);
    let count = sections.len() + usize::from(spill.is_some());
    let mut table = Vec::with_capacity(count * ENTRY);
    let mut at = (HEADER + count * ENTRY).next_multiple_of(8) as u64;
    let first = HEADER + count * ENTRY;
    let mut row = |kind: u32, flags: u32, length: u64, xxh3: u64| {
        table.extend(kind.to_le_bytes());
        table.extend(flags.to_le_bytes());
        for number in [at, length, xxh3] {
            table.extend(number.to_le_bytes());
        }
        let end = at + length;
        at = end.next_multiple_of(8);
        end
    };
    let mut end = 0;
    for (kind, bytes) in sections {
        let flags = if *kind == kind::POINTS { 0 } else { REQUIRED };
        end = row(*kind, flags, bytes.len() as u64, xxh3_64(bytes)).next_multiple_of(8);
    }
    if let Some(spill) = &spill {
        end = row(kind::ENTRIES, LAZY, spill.length, 0);
    }
    let mut head = MAGIC.to_vec();
    head.extend(VERSION.to_le_bytes());
    head.extend(u32::try_from(count).expect("a few").to_le_bytes());
    head.extend(end.to_le_bytes());
    head.extend(xxh3_64(&table).to_le_bytes());
    head.extend(table);
    head.resize(first.next_multiple_of(8), 0);

    let folder = folder_of(path);
    fs::create_dir_all(folder).map_err(failed())?;
    let mut file = tempfile::Builder::new()
        .prefix(".forebay-")
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(failed())?;
    file.write_all(&head).map_err(failed())?;
    for (_, bytes) in sections {
        file.write_all(bytes).map_err(failed())?;
        let padding = bytes.len().next_multiple_of(8) - bytes.len();
        file.write_all(&[0; 8][..padding]).map_err(failed())?;
    }
    if let Some(spill) = spill {
        spill.copy_to(file.as_file_mut()).map_err(failed())?;
    }
    file.as_file().sync_all().map_err(failed())?;
    file.persist(path).map_err(|error| failed()(error.error))?;
    Ok(())
}
