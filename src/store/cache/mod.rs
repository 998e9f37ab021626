//! A cache of shards on a local disk, bounded in bytes and shared by all processes of a host.
//!
//! ```text
//!   FOLDER/forebay-cache     says whose folder it is; every process holds a shared lock on it
//!   FOLDER/used              bytes that are taken, as a number of 8 bytes; changed under a lock
//!   FOLDER/shards/ID         a sparse file for each shard (see `shard`); ID is a hash of the object's address,
//!                            size and tag, so that an object that changed has another file
//! ```
//!
//! Every epoch reads every record once, in another order. Whatever a cache evicts is therefore needed again, and a
//! cache that evicts the oldest block has always just evicted the next one. So **nothing is evicted**: blocks are
//! added until the limit is reached, and from then on the cache is a fixed part of the dataset, which every epoch
//! hits. Nothing in the folder is ever deleted by forebay; a folder that is no longer needed is deleted by its owner.
//!
//! **Crashes.** A block counts only after its bytes were written. A process that is killed in between leaves bytes
//! that nobody reads, and a reservation in `used` that nobody needs. The first process that opens the cache when no
//! other has it open counts again. After a crash of the machine a block may count without its bytes: records have
//! checksums, so it is found, fetched again and counted as damaged.
//!
//! **A disk that is full** or cannot be written stops the cache from growing. Reads go on without it. A block that
//! cannot be read is fetched and written again, once; if it cannot be read then either, this process does without it.

mod shard;

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use forebay_types::file;

use super::error::StoreError;
use crate::sync::lock;

use shard::Failure;
pub(super) use shard::{BLOCK, CachedShard, Part};

/// Content of the file that says whose folder it is.
const MARK: &[u8] = b"forebay cache 1\n";

/// A cache folder that is open.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    limit: u64,
    /// Locked, shared, for as long as the cache is open.
    _presence: File,
    used: Mutex<File>,
    /// Set once there was no room for something, or the disk failed: nothing is added any more.
    is_full: AtomicBool,
    has_failed: AtomicBool,
    given_up: AtomicU64,
}

impl Cache {
    /// Opens the cache in a folder, which is created if there is none. Blocks are added to it up to a limit in
    /// bytes; what other processes added counts.
    ///
    /// # Errors
    /// When the folder cannot be created or written, or holds something else than a cache.
    pub fn open(folder: &Path, limit: u64) -> Result<Self, StoreError> {
        let failed = StoreError::io("write", folder);
        fs::create_dir_all(folder).map_err(&failed)?;
        let presence = open_mark(folder)?;
        fs::create_dir_all(folder.join("shards")).map_err(&failed)?;
        let (used, _metadata) =
            file::open_to_write(&folder.join("used")).map_err(io::Error::from).map_err(&failed)?;
        if presence.try_lock().is_ok() {
            // No other process has it open, so that no block is on its way.
            let bytes = count(&folder.join("shards")).map_err(&failed)?;
            used.write_all_at(&bytes.to_le_bytes(), 0).map_err(&failed)?;
        }
        presence.lock_shared().map_err(&failed)?;
        Ok(Self {
            folder: folder.into(),
            limit,
            _presence: presence,
            used: Mutex::new(used),
            is_full: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            given_up: AtomicU64::new(0),
        })
    }

    /// The same cache with another limit.
    #[must_use]
    pub fn with_limit(self, limit: u64) -> Self {
        Self { limit, ..self }
    }

    /// Folder that it is in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes that it may take.
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes that it takes, of all processes.
    pub fn used(&self) -> u64 {
        number(&lock(&self.used)).unwrap_or(0)
    }

    /// Whether the disk failed, so that nothing is added any more.
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    /// Blocks that the disk could not read, not even after they were written again.
    pub fn given_up_blocks(&self) -> u64 {
        self.given_up.load(Ordering::Relaxed)
    }

    /// The disk could not read the block of a byte. Returns whether it is to be written again.
    pub(super) fn fail(&self, shard: &CachedShard, at: u64) -> bool {
        let failure = shard.fail(at);
        if failure == Failure::Second {
            self.given_up.fetch_add(1, Ordering::Relaxed);
        }
        failure == Failure::First
    }

    /// Whether blocks may be added.
    pub(super) fn may_grow(&self) -> bool {
        !self.is_full.load(Ordering::Relaxed)
    }

    /// The file of a shard, which is created if there is none. `None` if there is no room for it.
    ///
    /// # Errors
    /// When the file cannot be created or opened, or is not one of this cache.
    pub(super) fn shard(
        &self,
        url: &str,
        size: u64,
        tag: &str,
    ) -> Result<Option<CachedShard>, StoreError> {
        let path = self.folder.join("shards").join(shard::id(url, size, tag));
        let used = lock(&self.used);
        let _guard = Locked::new(&used).map_err(StoreError::io("write", &self.folder))?;
        if let Some(shard) = CachedShard::open(&path, size)? {
            return Ok(Some(shard));
        }
        let bytes = shard::overhead(size);
        if !self.take(&used, bytes).map_err(StoreError::io("write", &self.folder))? {
            return Ok(None);
        }
        CachedShard::create(&path, url, size, tag).map(Some)
    }

    /// Reserves bytes; false if there is no room for them.
    pub(super) fn reserve(&self, bytes: u64) -> bool {
        if self.is_full.load(Ordering::Relaxed) {
            return false;
        }
        let used = lock(&self.used);
        let taken = Locked::new(&used).and_then(|_guard| self.take(&used, bytes));
        taken.unwrap_or_else(|_error| {
            self.stop();
            false
        })
    }

    /// Gives reserved bytes back.
    pub(super) fn release(&self, bytes: u64) {
        let used = lock(&self.used);
        let released = Locked::new(&used).and_then(|_guard| give_back(&used, bytes));
        // What cannot be given back stays reserved, which keeps the bound.
        drop(released);
    }

    /// Adds whole blocks to a shard, for which bytes were reserved. Those that another process has added since then
    /// need no place of their own, and their part of the reservation is given back.
    ///
    /// # Errors
    /// When the file system refuses. The reservation is then left.
    pub(super) fn add(
        &self,
        shard: &CachedShard,
        start: u64,
        bytes: &[u8],
        reserved: u64,
    ) -> io::Result<()> {
        shard.write(start, bytes)?;
        let used = lock(&self.used);
        let _guard = Locked::new(&used)?;
        let added = shard.count(start..start + bytes.len() as u64)?;
        // As in `release`.
        drop(give_back(&used, reserved.saturating_sub(added * BLOCK)));
        Ok(())
    }

    /// Forgets the blocks of a range, because they are wrong. Returns the ranges of those that counted, whose place
    /// is then the caller's.
    pub(super) fn forget(&self, shard: &CachedShard, range: &Range<u64>) -> Vec<Range<u64>> {
        let used = lock(&self.used);
        // Without the lock, two processes could give the same place back.
        Locked::new(&used).map_or(Vec::new(), |_guard| shard.forget(range))
    }

    /// Adds nothing any more, because the disk failed.
    pub(super) fn stop(&self) {
        self.is_full.store(true, Ordering::Relaxed);
        self.has_failed.store(true, Ordering::Relaxed);
    }

    /// Adds to the bytes in use if they stay within the limit. The file is locked.
    fn take(&self, used: &File, bytes: u64) -> io::Result<bool> {
        let sum = number(used)?.saturating_add(bytes);
        if sum > self.limit {
            // There may be room for less, but what is cached does not change from here on.
            self.is_full.store(true, Ordering::Relaxed);
            return Ok(false);
        }
        used.write_all_at(&sum.to_le_bytes(), 0)?;
        Ok(true)
    }
}

/// A lock between processes, on an open file that has a lock between threads.
struct Locked<'a>(&'a File);

impl<'a> Locked<'a> {
    fn new(file: &'a File) -> io::Result<Self> {
        file.lock()?;
        Ok(Self(file))
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // It fails only if the file is not locked.
        drop(self.0.unlock());
    }
}

/// The bytes in use; 0 in a new file.
fn number(used: &File) -> io::Result<u64> {
    let mut bytes = [0; 8];
    match used.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(u64::from_le_bytes(bytes)),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(0),
        Err(error) => Err(error),
    }
}

/// Subtracts from the bytes in use. The file is locked.
fn give_back(used: &File, bytes: u64) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    let left = number(used)?.saturating_sub(bytes);
    used.write_all_at(&left.to_le_bytes(), 0)
}

/// Opens the file that says whose folder it is. Only in a folder that is otherwise empty it is created: a folder
/// with other files is somebody else's.
fn open_mark(folder: &Path) -> Result<File, StoreError> {
    let failed = StoreError::io("write", folder);
    let path = folder.join("forebay-cache");
    if !path.exists() {
        for entry in fs::read_dir(folder).map_err(&failed)? {
            let name = entry.map_err(&failed)?.file_name();
            // A volume has this folder when it is new.
            if name != "lost+found" && name != "forebay-cache" {
                let what = format!(
                    "it has other files, such as {}; name an empty folder",
                    name.to_string_lossy()
                );
                return Err(StoreError::Cache { path: folder.into(), what });
            }
        }
    }
    let (mark, metadata) = file::open_to_write(&path)
        .map_err(io::Error::from)
        .map_err(StoreError::io("open", &path))?;
    let mut found = vec![0; MARK.len()];
    if metadata.len() == 0 {
        mark.write_all_at(MARK, 0).map_err(&failed)?;
    } else if mark.read_exact_at(&mut found, 0).is_err() || found != MARK {
        let what =
            "the file forebay-cache in it is of another version of forebay; name another folder";
        return Err(StoreError::Cache { path: folder.into(), what: what.to_owned() });
    }
    Ok(mark)
}

/// Bytes that the files of the shards take.
fn count(shards: &Path) -> io::Result<u64> {
    let mut bytes = 0_u64;
    for entry in fs::read_dir(shards)? {
        bytes = bytes.saturating_add(shard::taken(&entry?.path()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
