//! Reads records as byte ranges of shards.
//!
//! A *shard* is a file that holds records: a tar with thousands of them, or an image file that is one
//! record. A [`Store`] reads ranges of shards into buffers of its callers and detects shards that
//! changed since they were indexed. It knows nothing about images, labels or tar headers; layouts
//! (`dataset/layouts`) find the records, and the index says which range each of them is.
//!
//! ```text
//!   layouts: list shards, find records  ->  index
//!                                             |
//!   record id  ->  ByteRange {shard, offset, length}  ->  Store  ->  bytes, checksum verified
//! ```
//!
//! A range is a plain value that exists before anything is read, and a record's range follows from
//! its id alone. Callers know the records of a microbatch from its name, long before they need the
//! bytes. So a [`RemoteStore`], whose reads are slow, is given ranges ahead of time, has many of them in
//! flight, and answers a worker's read from memory or disk.
//!
//! - `file`: regular files.
//! - `bucket`: the interface behind which the network is.
//! - `cache`: blocks of objects on a local disk.
//! - `remote`: reads from buckets, through the cache and memory.
//!
//! Shards are read with `pread` and not mapped: touching a mapped page that is no longer part of the
//! file, because the file was truncated, kills the process by a signal. A read reports it as an error.

mod bucket;
mod cache;
mod error;
mod file;
mod remote;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub use bucket::{Bucket, Object, OnFetched, Traffic};
pub(crate) use bucket::{read as read_object, stopped, url_of};
pub use cache::Cache;
pub use error::StoreError;
pub(crate) use file::RegularFile;
pub(crate) use remote::{Location, OnReady, RemoteStore, StoreRuns, Want};
pub use remote::{Storage, StorageTotals};

use crate::sync::lock;

/// Largest record in bytes. It bounds the memory that a damaged or hostile file can make a worker
/// allocate; the largest image that is decoded has half as many bytes uncompressed.
pub(crate) const MAX_RECORD: u32 = 1 << 30;

/// Number of shards that are kept open. Datasets may have more shards than a process may have open
/// files, so the others are opened for each record, which takes microseconds where a record takes
/// half a millisecond.
const KEPT_OPEN: usize = 256;

/// The bytes of a record: a range of a shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ByteRange<'a> {
    pub(crate) shard: ShardKey<'a>,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

/// Identifies a shard of a store.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ShardKey<'a> {
    /// A shard that holds many records, by its number in the index.
    Number(u32),
    /// A file that is a single record, by its path relative to the root. There may be millions, so the
    /// store keeps nothing about them.
    File(&'a str),
}

/// The shards of a dataset on a local file system.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    shards: Vec<Shard>,
}

/// A shard that holds many records.
#[derive(Debug)]
struct Shard {
    path: PathBuf,
    /// Bytes when it was indexed.
    size: u64,
    /// Kept open for the first [`KEPT_OPEN`] shards.
    file: Option<Mutex<Arc<RegularFile>>>,
}

impl Store {
    /// Opens the store at a root folder. `shards` are the names, relative to the root, and sizes of the
    /// shards that hold many records.
    ///
    /// # Errors
    /// When a shard cannot be opened or does not have its size.
    pub(crate) fn open(root: PathBuf, shards: &[(String, u64)]) -> Result<Self, StoreError> {
        let open = |(number, (name, size)): (usize, &(String, u64))| {
            let path = root.join(name);
            let file = open_shard(&path, *size)?;
            let file = (number < KEPT_OPEN).then(|| Mutex::new(Arc::new(file)));
            Ok(Shard { path, size: *size, file })
        };
        let shards = shards.iter().enumerate().map(open).collect::<Result<_, StoreError>>()?;
        Ok(Self { root, shards })
    }

    /// Reads a range and asks `is_right` whether it is what was indexed. The index has checksums of records, and not
    /// of the compressed ranges that they are in.
    ///
    /// If that fails in a shard that is kept open, the shard is opened again, once: its file may have
    /// been replaced, or its handle may be stale, while the path leads to the right bytes.
    ///
    /// # Errors
    /// When the bytes cannot be read or are not those that were indexed.
    pub(crate) fn read_checked(
        &self,
        range: ByteRange<'_>,
        buffer: &mut Vec<u8>,
        mut is_right: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let mut read = |buffer: &mut Vec<u8>| {
            self.read(range, buffer)?;
            if is_right(buffer) { Ok(()) } else { Err(StoreError::ChecksumMismatch) }
        };
        match read(buffer) {
            Err(_) if self.reopen(range.shard) => read(buffer),
            result => result,
        }
    }

    /// Opens a shard that is kept open again; false if it is not, or cannot be opened.
    fn reopen(&self, shard: ShardKey<'_>) -> bool {
        let ShardKey::Number(number) = shard else { return false };
        let Shard { path, size, file } = &self.shards[number as usize];
        let Some(file) = file else { return false };
        let opened = open_shard(path, *size).map(Arc::new);
        opened.map(|opened| *lock(file) = opened).is_ok()
    }

    /// Reads a range.
    ///
    /// # Errors
    /// When the shard cannot be read, or changed its size since it was indexed.
    ///
    /// # Panics
    /// When there is no shard of that number.
    pub(crate) fn read(
        &self,
        range: ByteRange<'_>,
        buffer: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let ByteRange { shard, offset, length } = range;
        match shard {
            ShardKey::Number(number) => self.shards[number as usize].read(offset, length, buffer),
            ShardKey::File(name) => {
                let file = RegularFile::open(&self.root.join(name))?;
                if file.size() != u64::from(length) {
                    return Err(StoreError::LengthMismatch { found: file.size(), indexed: length });
                }
                buffer.resize(length as usize, 0);
                file.read_at(offset, buffer).map_err(|error| match &error {
                    // It became shorter in the meantime.
                    StoreError::Io { error: end, .. } if end.kind() == ErrorKind::UnexpectedEof => {
                        let found = file.file().metadata().map_or(0, |metadata| metadata.len());
                        StoreError::LengthMismatch { found, indexed: length }
                    }
                    _ => error,
                })
            }
        }
    }

    /// Reads a file that is a single record of unknown length.
    ///
    /// # Errors
    /// When it cannot be read or is larger than [`MAX_RECORD`].
    pub(crate) fn read_file(&self, name: &str, buffer: &mut Vec<u8>) -> Result<(), StoreError> {
        RegularFile::open(&self.root.join(name))?.read_whole(buffer, MAX_RECORD, "a record")
    }
}

impl Shard {
    fn read(&self, offset: u64, length: u32, buffer: &mut Vec<u8>) -> Result<(), StoreError> {
        let file = match &self.file {
            Some(file) => Arc::clone(&lock(file)),
            None => Arc::new(open_shard(&self.path, self.size)?),
        };
        buffer.resize(length as usize, 0);
        file.read_at(offset, buffer).map_err(|error| {
            // A shard that is kept open may have been truncated since.
            let found = file.file().metadata().map_or(self.size, |metadata| metadata.len());
            if found == self.size { error } else { changed(&self.path, found, self.size) }
        })
    }
}

/// Opens a shard that must have a size.
fn open_shard(path: &Path, size: u64) -> Result<RegularFile, StoreError> {
    let file = RegularFile::open(path)?;
    if file.size() == size { Ok(file) } else { Err(changed(path, file.size(), size)) }
}

fn changed(path: &Path, found: u64, indexed: u64) -> StoreError {
    StoreError::ShardChanged { path: path.into(), found, indexed }
}
