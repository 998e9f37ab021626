//! The cached blocks of one shard, in one sparse file.
//!
//! ```text
//!   0      header: mark (16 bytes), size of the shard (u64), bytes of a block (u64), then the address and the tag of
//!          the object as text, for people
//!   4096   one byte for each block: 1 if it is there, else 0
//!   ...    at the next multiple of 4096: the bytes of the shard, each block at its own place
//! ```
//!
//! States change under the lock of the cache, so that two processes that fetch the same block take its place once.
//! A process keeps a copy of the states, and looks into the file for blocks that others may have added.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use forebay_types::file::{self, OpenError};

use super::super::error::StoreError;
use crate::sync::lock;

/// Bytes of a block.
pub(in crate::store) const BLOCK: u64 = 64 << 10;

const MARK: &[u8; 16] = b"forebay shard 1\n";

/// Bytes of the header, and alignment of what follows.
const HEADER: u64 = 4096;

/// Most bytes of the text in the header.
const ABOUT: usize = 4096 - 32;

const ABSENT: u8 = 0;
const PRESENT: u8 = 1;
/// In the copy of a process: it fetched the block itself, and has not read it since. In the file that is `PRESENT`.
const FRESH: u8 = 2;
/// In the copy of a process: the disk could not read it, not even after it was written again. It stays so.
const GIVEN_UP: u8 = 3;

/// A part of a range: its bytes are all in the cache, or none is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Part {
    pub(in crate::store) range: Range<u64>,
    pub(in crate::store) is_cached: bool,
}

/// A failure to read a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    First,
    /// It was written again since the first one.
    Second,
    /// Another reader has found it.
    Known,
}

/// The cached blocks of a shard.
#[derive(Debug)]
pub(in crate::store) struct CachedShard {
    path: PathBuf,
    /// Kept open, or opened for each access.
    file: Option<File>,
    size: u64,
    states: Vec<AtomicU8>,
    /// Blocks that the disk could not read once.
    failed: Mutex<BTreeSet<usize>>,
}

/// Name of the file of an object.
pub(super) fn id(url: &str, size: u64, tag: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    for text in [url.as_bytes(), tag.as_bytes()] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text);
    }
    hasher.update(&size.to_le_bytes());
    hasher.finalize().to_hex()[..32].to_owned()
}

/// Bytes that the file of a shard takes without a block.
pub(super) fn overhead(size: u64) -> u64 {
    HEADER + size.div_ceil(BLOCK).next_multiple_of(HEADER)
}

/// Bytes that a file takes of the cache; 0 if it is none of the cache's.
pub(super) fn taken(path: &Path) -> u64 {
    let Ok((file, metadata)) = file::open(path) else { return 0 };
    let Some(size) = size_of_valid(&file, metadata.len()) else { return 0 };
    let states = read_states(&file, size).unwrap_or_default();
    let blocks: u64 = states.into_iter().map(|state| u64::from(state == PRESENT)).sum();
    overhead(size) + BLOCK * blocks
}

/// Size of the shard whose file this is; `None` if it is none.
fn size_of_valid(file: &File, length: u64) -> Option<u64> {
    let mut header = [0; 32];
    file.read_exact_at(&mut header, 0).ok()?;
    let number = |at: usize| u64::from_le_bytes(*header[at..].first_chunk().expect("8 bytes"));
    let size = number(16);
    let valid = header.starts_with(MARK) && number(24) == BLOCK;
    (valid && size.checked_add(overhead(size)) == Some(length)).then_some(size)
}

fn read_states(file: &File, size: u64) -> io::Result<Vec<u8>> {
    let blocks = usize::try_from(size.div_ceil(BLOCK)).map_err(io::Error::other)?;
    let mut states = vec![0; blocks];
    file.read_exact_at(&mut states, HEADER)?;
    Ok(states)
}

impl CachedShard {
    /// Opens the file of a shard. `None` if there is none, or if a process was killed while it created it. The cache
    /// is locked.
    ///
    /// # Errors
    /// When it cannot be read, or is not a file of the cache.
    pub(super) fn open(path: &Path, size: u64) -> Result<Option<Self>, StoreError> {
        let (file, metadata) = match file::open_to_write_existing(path) {
            Ok(opened) => opened,
            Err(OpenError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(StoreError::io("open", path)(error.into())),
        };
        let mut mark = [0; 16];
        let unfinished = file.read_exact_at(&mut mark, 0).is_err() || mark == [0; 16];
        if unfinished {
            return Ok(None);
        }
        if size_of_valid(&file, metadata.len()) != Some(size) {
            let what = "it is not a file of this cache, or damaged; remove it".to_owned();
            return Err(StoreError::Cache { path: path.into(), what });
        }
        let states = read_states(&file, size).map_err(StoreError::io("read", path))?;
        let known = |state| AtomicU8::new(if state == PRESENT { PRESENT } else { ABSENT });
        let states = states.into_iter().map(known).collect();
        Ok(Some(Self {
            path: path.into(),
            file: Some(file),
            size,
            states,
            failed: Mutex::default(),
        }))
    }

    /// Creates the file of a shard. Its mark is written last. The cache is locked.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(super) fn create(path: &Path, url: &str, size: u64, tag: &str) -> Result<Self, StoreError> {
        let failed = StoreError::io("write", path);
        let (file, _metadata) =
            file::open_to_write(path).map_err(io::Error::from).map_err(&failed)?;
        let write = || {
            file.set_len(overhead(size).checked_add(size).ok_or(io::ErrorKind::FileTooLarge)?)?;
            let about = format!("{url}\n{tag}\n");
            let about = &about.as_bytes()[..about.len().min(ABOUT)];
            file.write_all_at(about, 32)?;
            file.write_all_at(&size.to_le_bytes(), 16)?;
            file.write_all_at(&BLOCK.to_le_bytes(), 24)?;
            file.write_all_at(MARK, 0)
        };
        write().map_err(&failed)?;
        let states = (0..size.div_ceil(BLOCK)).map(|_| AtomicU8::new(ABSENT)).collect();
        Ok(Self { path: path.into(), file: Some(file), size, states, failed: Mutex::default() })
    }

    /// Closes the file until it is needed: the number of open files of a process is limited.
    pub(in crate::store) fn close(&mut self) {
        self.file = None;
    }

    fn with_file<T>(&self, work: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        match &self.file {
            Some(file) => work(file),
            None => work(&file::open_to_write_existing(&self.path)?.0),
        }
    }

    /// The parts of a range within the shard, in order.
    pub(in crate::store) fn parts(&self, range: Range<u64>) -> Vec<Part> {
        let blocks = block_numbers(&range);
        if blocks.clone().any(|block| self.state(block) == ABSENT) {
            self.refresh(blocks.clone());
        }
        let mut parts: Vec<Part> = Vec::new();
        for block in blocks {
            let start = range.start.max(block as u64 * BLOCK);
            let end = range.end.min((block as u64 + 1) * BLOCK);
            let is_cached = ![ABSENT, GIVEN_UP].contains(&self.state(block));
            match parts.last_mut() {
                Some(last) if last.is_cached == is_cached => last.range.end = end,
                _ => parts.push(Part { range: start..end, is_cached }),
            }
        }
        parts
    }

    /// Number of blocks of a range that are not in the cache.
    pub(in crate::store) fn missing(&self, range: &Range<u64>) -> u64 {
        block_numbers(range).filter(|&block| self.state(block) == ABSENT).count() as u64
    }

    /// Whether a block of a range was given up.
    pub(in crate::store) fn has_given_up(&self, range: &Range<u64>) -> bool {
        block_numbers(range).any(|block| self.state(block) == GIVEN_UP)
    }

    /// The disk could not read the block of a byte. The first time, it is to be written again: a disk replaces a bad
    /// sector when it is written. The second time, it is given up.
    pub(super) fn fail(&self, at: u64) -> Failure {
        let block = block_numbers(&(at..at + 1)).start;
        let mut failed = lock(&self.failed);
        if [ABSENT, GIVEN_UP].contains(&self.state(block)) {
            return Failure::Known;
        }
        if failed.insert(block) {
            return Failure::First;
        }
        self.states[block].store(GIVEN_UP, Ordering::Release);
        Failure::Second
    }

    fn state(&self, block: usize) -> u8 {
        self.states[block].load(Ordering::Acquire)
    }

    /// Looks for blocks that other processes added.
    fn refresh(&self, blocks: Range<usize>) {
        let mut found = vec![0; blocks.len()];
        let read = |file: &File| file.read_exact_at(&mut found, HEADER + blocks.start as u64);
        // What cannot be read is not there.
        if self.with_file(read).is_err() {
            return;
        }
        for (block, found) in blocks.zip(found) {
            if found == PRESENT {
                let (order, failed) = (Ordering::AcqRel, Ordering::Acquire);
                // If it is not absent any more, this process has just added it.
                let _state = self.states[block].compare_exchange(ABSENT, PRESENT, order, failed);
            }
        }
    }

    /// Extends a range to whole blocks.
    pub(in crate::store) fn whole_blocks(&self, range: &Range<u64>) -> Range<u64> {
        range.start / BLOCK * BLOCK..range.end.next_multiple_of(BLOCK).min(self.size)
    }

    /// Writes whole blocks, which do not count yet.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(super) fn write(&self, start: u64, bytes: &[u8]) -> io::Result<()> {
        self.with_file(|file| file.write_all_at(bytes, overhead(self.size) + start))
    }

    /// Counts blocks that were written from now on. Returns how many of them did not count before. The cache is
    /// locked.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(super) fn count(&self, range: Range<u64>) -> io::Result<u64> {
        let blocks = block_numbers(&range);
        let mut before = vec![ABSENT; blocks.len()];
        self.with_file(|file| {
            file.read_exact_at(&mut before, HEADER + blocks.start as u64)?;
            file.write_all_at(&vec![PRESENT; blocks.len()], HEADER + blocks.start as u64)
        })?;
        for block in blocks {
            let fresh = |state| (state != GIVEN_UP).then_some(FRESH);
            let (order, failed) = (Ordering::AcqRel, Ordering::Acquire);
            let _state = self.states[block].fetch_update(order, failed, fresh);
        }
        Ok(before.into_iter().filter(|&state| state != PRESENT).count() as u64)
    }

    /// Reads bytes that are in the cache. Returns how many of them are of blocks that were there before this process
    /// fetched them, or that it has read since.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(in crate::store) fn read(&self, start: u64, buffer: &mut [u8]) -> io::Result<u64> {
        self.with_file(|file| file.read_exact_at(buffer, overhead(self.size) + start))?;
        let (end, mut hit) = (start + buffer.len() as u64, 0);
        for block in block_numbers(&(start..end)) {
            let (order, failed) = (Ordering::AcqRel, Ordering::Acquire);
            let state = &self.states[block];
            if state.compare_exchange(FRESH, PRESENT, order, failed).is_err() {
                let first = start.max(block as u64 * BLOCK);
                hit += end.min((block as u64 + 1) * BLOCK) - first;
            }
        }
        Ok(hit)
    }

    /// Forgets the blocks of a range, because they are wrong. They keep their place, so that they can be written
    /// again without another reservation. Returns the ranges of those blocks that counted. The cache is locked.
    pub(super) fn forget(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut counted: Vec<Range<u64>> = Vec::new();
        for block in block_numbers(range) {
            let absent = |state| (state != GIVEN_UP).then_some(ABSENT);
            let (order, failed) = (Ordering::AcqRel, Ordering::Acquire);
            let _state = self.states[block].fetch_update(order, failed, absent);
            let mut state = [ABSENT];
            let forget = |file: &File| {
                file.read_exact_at(&mut state, HEADER + block as u64)?;
                file.write_all_at(&[ABSENT], HEADER + block as u64)
            };
            // If it fails, the block is found to be wrong again.
            let forgotten = self.with_file(forget).is_ok() && state == [PRESENT];
            let start = block as u64 * BLOCK;
            let end = (start + BLOCK).min(self.size);
            match counted.last_mut() {
                _ if !forgotten => {}
                Some(last) if last.end == start => last.end = end,
                _ => counted.push(start..end),
            }
        }
        counted
    }
}

/// Numbers of the blocks that a range touches.
fn block_numbers(range: &Range<u64>) -> Range<usize> {
    let number = |block: u64| usize::try_from(block).expect("as many as there are states");
    number(range.start / BLOCK)..number(range.end.div_ceil(BLOCK)).max(number(range.start / BLOCK))
}
