//! Where the bytes of records come from: what users have, in place and unconverted, and an index
//! beside it.
//!
//! ```text
//!   ImageFolder  root/class/**/*.JPEG      WebDataset  train-{000000..000009}.tar
//!          \                                   /
//!           build: list, decode, checksum  (forebay index)
//!                          |
//!              index file: records, classes, digest
//!                          |
//!   Dataset: record id -> label, size, bytes  (checksum compared at each read)
//! ```
//!
//! Record ids are places in dataset order, 0 to `len - 1`. A record that does not decode is bad; it
//! keeps its id, and the next good one in dataset order takes its place, as in timm.

mod build;
mod error;
mod folder;
mod index;
mod inspect;
mod map;
mod record;
mod shard;
mod source;
mod tar;
mod webdataset;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

pub use build::{Progress, build};
pub use error::DatasetError;
use forebay_types::Digest;
pub use inspect::{BadRecord, ClassCount, Spread, Summary};
pub use record::Record;
pub use source::index_path;

use index::Index;
use shard::Shard;
use source::Source;

/// A dataset that has been indexed.
#[derive(Debug)]
pub struct Dataset {
    index: Index,
    place: Place,
}

/// Where the bytes are.
#[derive(Debug)]
enum Place {
    Folder(PathBuf),
    Tars(Vec<Shard>),
}

impl Dataset {
    /// Opens a dataset by the path that it was indexed by, and validates its index.
    pub fn open(path: &Path, index_dir: Option<&Path>) -> Result<Self, DatasetError> {
        let source = Source::find(path)?;
        let file = index_path(path, index_dir);
        if !file.exists() {
            return Err(DatasetError::NoIndex { path: path.into(), index: file });
        }
        let index = Index::open(&file)?;
        if index.len() == 0 {
            return Err(DatasetError::Empty { path: path.into() });
        }
        if let Some((0, reason)) = index.bad.first()
            && index.bad.len() == index.len()
        {
            let name = index.name(&index.record(0)).to_owned();
            let (records, reason) = (index.len() as u64, reason.clone());
            return Err(DatasetError::AllBad { records, name, reason });
        }
        let place = match source {
            Source::Folder { root } if !index.is_tars => Place::Folder(root),
            Source::Tars { base, shards } if index.is_tars => {
                Place::Tars(open_shards(&index, &base, &shards)?)
            }
            _ => {
                let what = "it was made of another kind of dataset".to_owned();
                return Err(DatasetError::Index { path: file, what });
            }
        };
        Ok(Self { index, place })
    }

    /// How many records there are, bad ones included.
    pub const fn len(&self) -> u64 {
        self.index.len() as u64
    }

    /// Never: a dataset without records is refused.
    pub const fn is_empty(&self) -> bool {
        self.index.len() == 0
    }

    /// BLAKE3 of the classes and of each record's name, label, length, checksum and verdict: equal
    /// for equal copies, wherever they lie.
    pub const fn digest(&self) -> Digest {
        self.index.digest
    }

    /// Names of the classes, by label.
    pub fn classes(&self) -> &[String] {
        &self.index.classes
    }

    /// The bad records, in order, and why each is bad.
    pub fn bad(&self) -> impl ExactSizeIterator<Item = (u64, &str)> {
        self.index.bad.iter().map(|(id, reason)| (*id, reason.as_str()))
    }

    /// What the index holds of a record.
    ///
    /// # Panics
    /// When `id` is not below [`len`](Self::len).
    pub fn record(&self, id: u64) -> Record {
        self.index.record(usize::try_from(id).expect("a record id"))
    }

    /// A record's path relative to the folder; for tars, shard and name of the member.
    ///
    /// # Panics
    /// When `id` is not below [`len`](Self::len).
    pub fn name(&self, id: u64) -> &str {
        self.index.name(&self.record(id))
    }

    /// The record itself if it is good, else the next good one in dataset order, the first coming
    /// after the last.
    pub fn good_or_next(&self, id: u64) -> u64 {
        let runs = &self.index.bad_runs;
        let past_run = |id: u64| {
            let next = runs.partition_point(|run| run.start <= id);
            let run = next.checked_sub(1).map(|place| &runs[place]);
            run.filter(|run| run.contains(&id)).map_or(id, |run| run.end)
        };
        match past_run(id) {
            next if next < self.len() => next,
            // Some record is good, so the run at the start ends before the last record.
            _ => past_run(0),
        }
    }

    /// The bytes of a record, read into `scratch` and compared with the checksum of the index.
    ///
    /// # Panics
    /// When `id` is not below [`len`](Self::len).
    pub fn read<'a>(&self, id: u64, scratch: &'a mut Vec<u8>) -> Result<&'a [u8], DatasetError> {
        let record = self.record(id);
        let name = self.index.name(&record);
        match &self.place {
            Place::Tars(shards) => {
                shards[record.shard as usize].read(record.offset, record.bytes, scratch)?;
            }
            Place::Folder(root) => read_file(&root.join(name), scratch, record.bytes)?,
        }
        let bytes = scratch.as_slice();
        let changed = |what| DatasetError::Changed { name: name.to_owned(), what };
        if bytes.len() != record.bytes as usize {
            return Err(changed(format!("its length, {} bytes before", record.bytes)));
        }
        if xxh3_64(bytes) != record.checksum {
            return Err(changed("another checksum".into()));
        }
        Ok(bytes)
    }

    /// A record's entry points for the decoder; empty where it has none.
    ///
    /// # Panics
    /// When `id` is not below [`len`](Self::len).
    pub fn entry_points(&self, id: u64) -> Result<&[u8], DatasetError> {
        let entries = self.index.entries(usize::try_from(id).expect("a record id"));
        entries.ok_or_else(|| DatasetError::Entries { name: self.name(id).to_owned() })
    }

    /// Counts, sizes, formats, classes and bad records.
    pub fn summary(&self) -> Summary {
        Summary::of(self)
    }
}

/// Opens the shards, which must be those that were indexed.
fn open_shards(index: &Index, base: &Path, shards: &[String]) -> Result<Vec<Shard>, DatasetError> {
    if !index.shards.iter().map(|(name, _)| name).eq(shards) {
        let what = format!("{} shards, {} before", shards.len(), index.shards.len());
        return Err(DatasetError::Changed { name: base.display().to_string(), what });
    }
    let shards = (0..).zip(&index.shards);
    shards.map(|(number, (name, size))| Shard::open(base.join(name), *size, number)).collect()
}

/// Reads a file into a buffer that is kept: all of it if it has at most `limit` bytes, else one byte
/// more than that.
fn read_file(path: &Path, buffer: &mut Vec<u8>, limit: u32) -> Result<(), DatasetError> {
    buffer.clear();
    let file = File::open(path).map_err(DatasetError::io("open", path))?;
    let mut file = file.take(u64::from(limit) + 1);
    file.read_to_end(buffer).map_err(DatasetError::io("read", path))?;
    Ok(())
}
