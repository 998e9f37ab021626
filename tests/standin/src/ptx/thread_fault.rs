//! A fault of a thread, before its block and thread are added.

use crate::engine::{BadAccess, FaultKind};

#[derive(Debug)]
pub(super) struct ThreadFault {
    pub(super) kind: FaultKind,
    pub(super) what: String,
}

impl ThreadFault {
    pub(super) fn new(kind: FaultKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into() }
    }

    /// The fault of an invalid access of device memory.
    pub(super) fn of(bad: BadAccess, access: &str) -> Self {
        match bad {
            BadAccess::Illegal(what) => {
                Self::new(FaultKind::IllegalAddress, format!("{what}, by a {access}"))
            }
            BadAccess::Unwritten(what) => Self::new(FaultKind::OnlyHere, what),
        }
    }
}
