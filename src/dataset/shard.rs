//! A tar that records are read from.
//!
//! Read, not mapped: a page of a map that is no longer in the file, because somebody cut it, ends the
//! process by a signal. A read says that it came to an end, and that record alone cannot be served.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use super::DatasetError;

/// Shards that stay open. Datasets may have more shards than a process may have files, so the others
/// are opened for each record: some microseconds of the half millisecond that a record takes.
const KEPT_OPEN: usize = 256;

/// A tar that was indexed.
#[derive(Debug)]
pub(super) struct Shard {
    path: PathBuf,
    size: u64,
    file: Option<File>,
}

impl Shard {
    /// Opens the shard of that number, which had such a size when it was indexed.
    pub(super) fn open(path: PathBuf, size: u64, number: usize) -> Result<Self, DatasetError> {
        let file = File::open(&path).map_err(DatasetError::io("open", &path))?;
        let found = file.metadata().map_err(DatasetError::io("open", &path))?.len();
        if found != size {
            let what = format!("{found} bytes, {size} before");
            return Err(DatasetError::Changed { name: path.display().to_string(), what });
        }
        Ok(Self { path, size, file: (number < KEPT_OPEN).then_some(file) })
    }

    /// Bytes of it when it was indexed.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Reads a record's bytes.
    pub(super) fn read(
        &self,
        offset: u64,
        length: u32,
        buffer: &mut Vec<u8>,
    ) -> Result<(), DatasetError> {
        let opened;
        let file = if let Some(file) = &self.file {
            file
        } else {
            opened = File::open(&self.path).map_err(DatasetError::io("open", &self.path))?;
            &opened
        };
        buffer.resize(length as usize, 0);
        file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => {
                let found = file.metadata().map_or(0, |found| found.len());
                let what = format!("cut to {found} bytes, {} before", self.size);
                DatasetError::Changed { name: self.path.display().to_string(), what }
            }
            _ => DatasetError::io("read", &self.path)(error),
        })
    }
}
