//! Errors of a load test.

use std::fmt::Display;
use std::path::{Path, PathBuf};

/// The reason why a run could not begin. Failures during a run are in its report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The client's options, or the servers' answer to the first request.
    #[error(transparent)]
    Client(#[from] forebay_client::Error),
    /// The number of trainers does not fit the job.
    #[error(transparent)]
    Rank(#[from] forebay_client::RankError),
    /// A server could not be started or stopped, or a thread of the load test could not.
    #[error("server: {0}")]
    Server(String),
    /// A file could not be read or written.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// The run was interrupted before it began.
    #[error("interrupted while waiting for a server")]
    Interrupted,
}

impl Error {
    pub(crate) fn file(path: &Path, why: &dyn Display) -> Self {
        Self::File { path: path.to_owned(), why: why.to_string() }
    }
}
