//! Files and folders that survive a loss of power once they are written, and that are checked when they are
//! read.

use std::fs::{File, Permissions, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use forebay_types::file;
use xxhash_rust::xxh3::xxh3_64;

use crate::Error;

/// Prefix of the names of files and folders that are not complete.
pub(super) const TEMPORARY: &str = ".step-";

/// Name of the file that a run locks.
const LOCK: &str = ".lock";

/// The length and the XXH3 of a file.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Checksum {
    bytes: u64,
    xxh3: String,
}

impl Checksum {
    pub(super) fn of(contents: &[u8]) -> Self {
        Self { bytes: contents.len() as u64, xxh3: xxh3(contents) }
    }

    /// Checks the contents of a file.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if they are not those that the checksum was computed of.
    pub(super) fn check(&self, contents: &[u8], path: &Path) -> Result<(), Error> {
        let found = Self::of(contents);
        if found == *self {
            return Ok(());
        }
        let problem = if found.bytes == self.bytes {
            format!("its XXH3 is {}, expected {}", found.xxh3, self.xxh3)
        } else {
            format!("it has {} bytes, expected {}", found.bytes, self.bytes)
        };
        Err(Error::Corrupt { path: path.to_owned(), problem })
    }
}

/// The XXH3 of bytes, as text.
pub(super) fn xxh3(bytes: &[u8]) -> String {
    format!("{:016x}", xxh3_64(bytes))
}

/// Writes a file, and waits until its contents are on disk. Its name is only after [`sync`] of its folder.
pub(super) fn write(path: &Path, contents: &[u8]) -> Result<(), Error> {
    let written = File::create(path).and_then(|mut file| {
        file.write_all(contents)?;
        file.sync_all()
    });
    written.map_err(write_error(path))
}

/// Writes a file that is complete under its name, whenever the process or the machine stops.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> Result<(), Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let mut temporary = temporary(0o666).tempfile_in(folder).map_err(write_error(path))?;
    temporary.write_all(contents).map_err(write_error(path))?;
    temporary.as_file().sync_all().map_err(write_error(path))?;
    temporary.persist(path).map_err(|error| write_error(path)(error.error))?;
    sync(folder)
}

/// A file or folder with a temporary name, which others may access as far as the umask permits.
pub(super) fn temporary(mode: u32) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY).permissions(Permissions::from_mode(mode));
    builder
}

/// Creates a folder and the folders above it, and waits until their names are on disk.
pub(crate) fn create_folder(folder: &Path) -> Result<(), Error> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    let above = folder.parent().unwrap_or(Path::new(""));
    create_folder(above)?;
    std::fs::create_dir_all(folder).map_err(write_error(folder))?;
    sync(if above.as_os_str().is_empty() { Path::new(".") } else { above })
}

/// Keeps other runs out of a folder, until the file is dropped or the process ends, however it ends. A file
/// system without locks keeps none out.
pub(crate) fn lock(folder: &Path) -> Result<File, Error> {
    create_folder(folder)?;
    let path = folder.join(LOCK);
    // For reading as well, because that does not wait for a reader of a pipe.
    let opened = File::options().create(true).truncate(false).read(true).write(true).open(&path);
    let file = opened.map_err(write_error(&path))?;
    if !file.metadata().map_err(write_error(&path))?.is_file() {
        return Err(write_error(&path)(std::io::Error::other("it is not a regular file")));
    }
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::InUse { folder: folder.to_owned() }),
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// Waits until a folder, with the names of the files in it, is on disk.
pub(super) fn sync(folder: &Path) -> Result<(), Error> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(write_error(folder))
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    file::read(path, u64::MAX).map_err(read_error(path))
}

pub(super) fn write_error(path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |cause| Error::Write { path, cause }
}

pub(super) fn read_error(path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |cause| Error::Read { path, cause }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_pipe_or_a_device_in_place_of_the_lock_is_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCK);
        drop(lock(folder.path()).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let refused = || lock(folder.path()).unwrap_err().to_string();
        assert!(refused().contains("not a regular file"), "{}", refused());
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(refused().contains("not a regular file"), "{}", refused());
    }
}
