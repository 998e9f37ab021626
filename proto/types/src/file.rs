//! Files that are named on command lines, in settings and in folders: only regular ones are read.
//!
//! Opening a pipe blocks until something writes to it, and a device may never end. So a file is opened
//! without blocking, and its kind is checked before a byte is read. The check is made on the open file,
//! which cannot be replaced between check and use.

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{Error, ErrorKind, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

/// The reason why a file was not opened.
#[derive(Debug)]
pub enum OpenError {
    /// The operating system reported an error.
    Io(Error),
    /// It is a pipe, device, socket or folder: the kind.
    NotRegular(&'static str),
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Io(error) => error,
            OpenError::NotRegular(kind) => {
                let what = format!("it is a {kind}; expected a regular file");
                Self::new(ErrorKind::InvalidInput, what)
            }
        }
    }
}

/// Opens a regular file for reading, following symbolic links. Never blocks on a pipe.
///
/// # Errors
/// When the file cannot be opened or is not a regular file.
pub fn open(path: &Path) -> Result<(File, Metadata), OpenError> {
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    checked(OpenOptions::new().read(true).custom_flags(nonblocking).open(path))
}

/// Opens a regular file for reading and writing, and creates it if there is none. A symbolic link is not followed:
/// it could lead to a file that is somebody else's.
///
/// # Errors
/// When the file cannot be opened or created, or is not a regular file.
pub fn open_to_write(path: &Path) -> Result<(File, Metadata), OpenError> {
    open_own(path, true)
}

/// As [`open_to_write`], for a file that there is.
///
/// # Errors
/// When the file does not exist or cannot be opened, or is not a regular file.
pub fn open_to_write_existing(path: &Path) -> Result<(File, Metadata), OpenError> {
    open_own(path, false)
}

fn open_own(path: &Path, create: bool) -> Result<(File, Metadata), OpenError> {
    let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create).truncate(false).custom_flags(flags);
    checked(options.open(path))
}

fn checked(file: Result<File, Error>) -> Result<(File, Metadata), OpenError> {
    let file = file.map_err(OpenError::Io)?;
    let metadata = file.metadata().map_err(OpenError::Io)?;
    if metadata.is_file() {
        Ok((file, metadata))
    } else {
        Err(OpenError::NotRegular(kind(metadata.file_type())))
    }
}

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
/// When the file cannot be opened or read, is not a regular file, or is larger.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let (file, metadata) = open(path)?;
    let mut bytes = Vec::new();
    let expected = usize::try_from(metadata.len().min(limit)).unwrap_or(0);
    bytes.try_reserve_exact(expected)?;
    // A file may grow while it is read.
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let what = format!("it has more than {limit} bytes, the limit");
        return Err(Error::new(ErrorKind::FileTooLarge, what));
    }
    Ok(bytes)
}

/// Reads a regular file of at most `limit` bytes as text.
///
/// # Errors
/// As [`read`], and when the file is not UTF-8.
pub fn read_to_string(path: &Path, limit: u64) -> Result<String, Error> {
    let not_utf8 = |_error| Error::new(ErrorKind::InvalidData, "it is not UTF-8");
    String::from_utf8(read(path, limit)?).map_err(not_utf8)
}

fn kind(file_type: FileType) -> &'static str {
    if file_type.is_dir() {
        "folder"
    } else if file_type.is_fifo() {
        "named pipe"
    } else if file_type.is_socket() {
        "socket"
    } else {
        "device"
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn pipes_devices_and_folders_are_refused_without_waiting() {
        let folder = std::env::temp_dir().join(format!("forebay-file-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let pipe = folder.join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let refused = |path: &Path| read(path, 10).unwrap_err().to_string();
        assert_eq!(refused(&pipe), "it is a named pipe; expected a regular file");
        assert_eq!(refused(Path::new("/dev/zero")), "it is a device; expected a regular file");
        assert_eq!(refused(&folder), "it is a folder; expected a regular file");
        let file = folder.join("file");
        std::fs::write(&file, "0123456789").unwrap();
        assert_eq!(read_to_string(&file, 10).unwrap(), "0123456789");
        assert_eq!(read(&file, 9).unwrap_err().to_string(), "it has more than 9 bytes, the limit");
        std::fs::write(&file, [0xFF]).unwrap();
        assert_eq!(read_to_string(&file, 10).unwrap_err().to_string(), "it is not UTF-8");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
