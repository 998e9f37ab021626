//! The process that an object was made in. After a fork, the child has the object and none of the threads that
//! serve it, and a lock may be held by a thread that does not exist there.

use pyo3::PyResult;

use crate::error::fork_error;

/// The process that made an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    /// This process.
    pub(crate) fn current() -> Self {
        Self(std::process::id())
    }

    /// Whether this process is the one that made the object.
    pub(crate) fn is_current(self) -> bool {
        self == Self::current()
    }

    /// Refuses to go on in a forked process.
    pub(crate) fn check(self, what: &str) -> PyResult<()> {
        if self.is_current() {
            return Ok(());
        }
        let (Self(maker), Self(this)) = (self, Self::current());
        Err(fork_error(format!(
            "this {what} was made in process {maker} and cannot be used in process {this}, which was \
             forked from it: make a loader in each process, or use the start method \"spawn\""
        )))
    }
}
