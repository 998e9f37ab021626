//! Errors of reading bytes. Each names the file and the remedy.

use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The reason why the bytes of a shard could not be read.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system reported an error. It is part of the message and not the error's source,
    /// so that a report of the whole chain prints it once.
    #[error("cannot {action} {}: {error}{}", .path.display(), advice(.error, .path))]
    Io {
        /// The operation that failed: `open`, `read`, `list`, `map` or `write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
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
    /// A record's bytes are not those that were indexed.
    #[error(
        "checksum mismatch, the file changed since it was indexed; run \"forebay index\" again"
    )]
    ChecksumMismatch,
}

impl StoreError {
    /// Adds the operation and the path to an error of the operating system.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl Fn(Error) -> Self {
        move |error| Self::Io { action, path: path.into(), error: Arc::new(error) }
    }
}

/// The remedy for an error of the operating system.
fn advice(error: &Error, path: &Path) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound if path.is_symlink() => {
            "; it is a symbolic link whose target does not exist: fix or remove the link"
        }
        ErrorKind::NotFound => "; restore it, or run \"forebay index\" again",
        ErrorKind::PermissionDenied => "; grant this user access to it",
        ErrorKind::StorageFull => "; free some space, or use --index-dir to write elsewhere",
        ErrorKind::ReadOnlyFilesystem => "; use --index-dir to write elsewhere",
        _ if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
            "; raise the limit of open files (ulimit -n)"
        }
        _ => "",
    }
}
