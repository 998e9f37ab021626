//! A fault before it is known which thread of which block had it.

use crate::engine::{BadAccess, FaultKind};

#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) kind: FaultKind,
    pub(super) what: String,
}

impl Trouble {
    pub(super) fn new(kind: FaultKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into() }
    }

    /// What device memory said of a read or a write.
    pub(super) fn of(bad: BadAccess, access: &str) -> Self {
        match bad {
            BadAccess::Illegal(what) => {
                Self::new(FaultKind::IllegalAddress, format!("{what}, by a {access}"))
            }
            BadAccess::Unwritten(what) => Self::new(FaultKind::OnlyHere, what),
        }
    }
}
