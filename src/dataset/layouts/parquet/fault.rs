//! What is wrong with a file, until its path is known.

use std::path::Path;

use super::super::super::error::DatasetError;
use crate::store::StoreError;

/// A fault of a file.
#[derive(Debug)]
pub(super) enum Fault {
    /// It cannot be read.
    Store(StoreError),
    /// It is malformed, or of a kind that is not supported.
    Text(String),
}

impl Fault {
    pub(super) const fn text(what: String) -> Self {
        Self::Text(what)
    }

    /// Adds the part of the file that has the fault.
    pub(super) fn at(self, part: impl std::fmt::Display) -> Self {
        match self {
            Self::Store(error) => Self::Store(error),
            Self::Text(what) => Self::Text(format!("{part}: {what}")),
        }
    }

    /// Adds the path of the file.
    pub(super) fn of(self, path: &Path) -> DatasetError {
        match self {
            Self::Store(error) => error.into(),
            Self::Text(what) => DatasetError::Parquet { path: path.into(), what },
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<&str> for Fault {
    fn from(what: &str) -> Self {
        Self::Text(what.to_owned())
    }
}
