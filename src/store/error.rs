//! Errors of reading bytes. Each names the file and the remedy.

use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

/// The reason why the bytes of a shard could not be read.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system reported an error. It is part of the message and not the error's source,
    /// so that a report of the whole chain prints it once.
    #[error("cannot {action} {}: {error}{}", .path.display(), advice(.action, .error, .path))]
    Io {
        /// The operation that failed: `open`, `read`, `list`, `map` or `write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        error: Arc<Error>,
    },
    /// A read did not end in time. It may be blocked for as long as a disk or a server of files does not
    /// answer.
    #[error(
        "reading it took longer than {:.1} s; check the disk or the network file system",
        .after.as_secs_f64()
    )]
    Stuck {
        /// The time that it had.
        after: Duration,
    },
    /// Nothing was read, because earlier reads did not end.
    #[error(
        "it is not read while {reads} earlier reads of the file or the dataset have not ended; \
         check the disk or the network file system"
    )]
    StuckBefore {
        /// Number of reads of the dataset that are stuck.
        reads: usize,
    },
    /// The operating system refused the thread that reads.
    #[error("cannot start a thread to read it: {error}; raise the limit of threads (ulimit -u)")]
    Thread {
        /// The error of the operating system.
        error: Arc<Error>,
    },
    /// A pipe, device, socket or folder where a file was expected. Reading it could block or never end.
    #[error("{} is a {kind} and not a regular file; remove or replace it", .path.display())]
    NotRegular {
        /// The file, or the symbolic link that leads to it.
        path: PathBuf,
        /// The kind of file.
        kind: &'static str,
    },
    /// A file that is too large to be what it should be.
    #[error(
        "{} has {bytes} bytes, and the limit for {what} is {limit} bytes; remove or replace it",
        .path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The content that it would be read as, such as `a record`.
        what: &'static str,
        /// The largest size that is read.
        limit: u64,
    },
    /// A shard does not have the size that the index holds.
    #[error(
        "shard {} has {found} bytes and had {indexed} when it was indexed; \
         restore it, or run \"forebay index\" again",
        .path.display()
    )]
    ShardChanged {
        /// The shard.
        path: PathBuf,
        /// Bytes that it has now.
        found: u64,
        /// Bytes that it had when it was indexed.
        indexed: u64,
    },
    /// A record's file does not have the length that the index holds.
    #[error(
        "the file has {found} bytes and had {indexed} when it was indexed; \
         restore it, or run \"forebay index\" again"
    )]
    LengthMismatch {
        /// Bytes that it has now.
        found: u64,
        /// Bytes that it had when it was indexed.
        indexed: u32,
    },
    /// A bucket did not do what was requested. The message of the request says what to do.
    #[error("cannot {action} {url}: {what}")]
    Remote {
        /// The operation that failed: `list`, `find`, `read` or `write`.
        action: &'static str,
        /// The object or the bucket.
        url: String,
        /// The fault, and what to do.
        what: String,
    },
    /// A bucket denies access. Some do so for objects that there are not, because their lists are secret.
    #[error("cannot {action} {url}: {what}")]
    Denied {
        /// The operation that failed: `list`, `find`, `read` or `write`.
        action: &'static str,
        /// The object or the bucket.
        url: String,
        /// What to do.
        what: String,
    },
    /// An object is not the one that was indexed.
    #[error(
        "{url} is not the object that was indexed: {what}; restore it, or run \"forebay index\" again"
    )]
    ObjectChanged {
        /// The object.
        url: String,
        /// The difference.
        what: String,
    },
    /// A folder or file cannot be used as a cache.
    #[error("cannot use {} as a cache: {what}", .path.display())]
    Cache {
        /// The folder or file.
        path: PathBuf,
        /// The fault, and what to do.
        what: String,
    },
    /// A record's bytes are not those that were indexed.
    #[error(
        "checksum mismatch, the file changed since it was indexed; run \"forebay index\" again"
    )]
    ChecksumMismatch,
}

impl StoreError {
    /// Whether the bytes are there and are not those that were indexed. All other errors say that they
    /// could not be read, which may pass: access is granted again, or a server of files comes back.
    pub const fn is_change(&self) -> bool {
        matches!(
            self,
            Self::ShardChanged { .. }
                | Self::ObjectChanged { .. }
                | Self::LengthMismatch { .. }
                | Self::ChecksumMismatch
        )
    }

    pub(crate) fn thread(error: Error) -> Self {
        Self::Thread { error: Arc::new(error) }
    }

    /// Adds the operation and the path to an error of the operating system.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl Fn(Error) -> Self {
        move |error| Self::Io { action, path: path.into(), error: Arc::new(error) }
    }
}

/// The remedy for an error of the operating system.
fn advice(action: &str, error: &Error, path: &Path) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound if path.is_symlink() => {
            "; it is a symbolic link whose target does not exist: fix or remove the link"
        }
        ErrorKind::NotFound => "; restore it, or run \"forebay index\" again",
        ErrorKind::PermissionDenied if action == "write" => {
            "; grant this user access to it, or use --index-dir to write elsewhere"
        }
        ErrorKind::PermissionDenied => "; grant this user access to it",
        ErrorKind::StorageFull => "; free some space, or use --index-dir to write elsewhere",
        ErrorKind::ReadOnlyFilesystem => "; use --index-dir to write elsewhere",
        ErrorKind::StaleNetworkFileHandle => "; check the network file system",
        _ if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
            "; check the disk or the network file system"
        }
        _ if error.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => {
            "; raise the limit of open files (ulimit -n)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_may_not_be_written_is_refused_with_the_flag_for_another_one() {
        let denied = || Error::from(ErrorKind::PermissionDenied);
        let write = StoreError::io("write", Path::new("."))(denied()).to_string();
        assert!(write.contains("cannot write .: ") && write.contains("--index-dir"), "{write}");
        let read = StoreError::io("read", Path::new("a"))(denied()).to_string();
        assert!(!read.contains("--index-dir"), "{read}");
    }
}
