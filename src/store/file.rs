//! Regular files, opened so that no other kind of file can block or exhaust the process.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use forebay_types::file::{self, OpenError};

use super::error::StoreError;

/// A regular file that is open for reading.
#[derive(Debug)]
pub(crate) struct RegularFile {
    path: PathBuf,
    file: File,
    size: u64,
}

impl RegularFile {
    /// Opens a file, following symbolic links, without waiting for a pipe.
    ///
    /// # Errors
    /// When the file cannot be opened or is not a regular file.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let (file, metadata) = file::open(path).map_err(|error| match error {
            OpenError::Io(error) => StoreError::io("open", path)(error),
            OpenError::NotRegular(kind) => StoreError::NotRegular { path: path.into(), kind },
        })?;
        Ok(Self { path: path.into(), file, size: metadata.len() })
    }

    /// Bytes of the file when it was opened.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// The open file.
    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    /// Path that the file was opened by.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Fills a buffer from an offset.
    ///
    /// # Errors
    /// When the file ends before the buffer is full, or cannot be read.
    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        self.file.read_exact_at(buffer, offset).map_err(StoreError::io("read", &self.path))
    }

    /// Reads the whole file, which must not exceed a limit. `what` names the limit in the error.
    ///
    /// # Errors
    /// When the file is larger than the limit or cannot be read.
    pub(crate) fn read_whole(
        &self,
        buffer: &mut Vec<u8>,
        limit: u32,
        what: &'static str,
    ) -> Result<(), StoreError> {
        let too_large = || StoreError::TooLarge {
            path: self.path.clone(),
            bytes: self.size,
            what,
            limit: limit.into(),
        };
        let length = u32::try_from(self.size).ok().filter(|length| *length <= limit);
        buffer.resize(length.ok_or_else(too_large)? as usize, 0);
        self.read_at(0, buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn refused(path: &Path) -> String {
        RegularFile::open(path).unwrap_err().to_string()
    }

    #[test]
    fn pipes_devices_and_folders_are_refused_without_reading_them() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), mode).unwrap();
        symlink("/dev/zero", at("zero")).unwrap();
        assert!(refused(&at("pipe")).contains("pipe is a named pipe and not a regular file"));
        assert!(refused(&at("zero")).contains("zero is a device and not a regular file"));
        assert!(refused(folder.path()).contains("is a folder and not a regular file"));
    }

    #[test]
    fn an_error_of_the_system_names_the_path_once_and_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        symlink("nowhere", &link).unwrap();
        let error = RegularFile::open(&link).unwrap_err();
        assert!(std::error::Error::source(&error).is_none(), "it would be printed twice");
        let error = error.to_string();
        assert!(error.contains("link: No such file or directory"), "{error}");
        assert!(error.contains("fix or remove the link"), "{error}");
    }

    #[test]
    fn a_file_above_the_limit_is_refused_before_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("huge");
        // A sparse file: it has a size, and takes no space.
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let mut buffer = Vec::new();
        let file = RegularFile::open(&path).unwrap();
        let error = file.read_whole(&mut buffer, 100, "a record").unwrap_err().to_string();
        assert!(error.contains("the limit for a record is 100 bytes"), "{error}");
        assert_eq!(buffer.capacity(), 0);
    }
}
