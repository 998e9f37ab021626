//! Requesters, and the cancellation of what several of them wait for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::sync::lock;

/// The submitter of a request, and its limits.
#[derive(Clone, Debug)]
pub struct Requester {
    /// Clients get equal shares of the workers' CPU time, whatever each of them requests.
    pub client: Arc<str>,
    /// Set to true once the requester no longer waits.
    pub cancelled: Arc<AtomicBool>,
    /// Maximum number of requests of the client that are submitted and not answered yet, with this
    /// one.
    pub max_outstanding: usize,
    /// The requester needs no other microbatch of the step, so none of their samples is precomputed
    /// for it.
    pub isolated: bool,
}

impl Default for Requester {
    /// A requester of the client without a name.
    fn default() -> Self {
        Self {
            client: "".into(),
            cancelled: Arc::default(),
            max_outstanding: 1024,
            isolated: false,
        }
    }
}

impl Requester {
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// The cancellation flags of all requesters that wait for one result. The queue changes them while
/// workers look at them, so that a worker can stop as soon as all requesters have cancelled.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Mutex<Vec<Arc<AtomicBool>>>);

impl Waiters {
    /// Whether no requester waits any longer.
    pub(crate) fn all_cancelled(&self) -> bool {
        lock(&self.0).iter().all(|cancelled| cancelled.load(Ordering::Relaxed))
    }

    pub(super) fn add(&self, requester: &Requester) {
        lock(&self.0).push(Arc::clone(&requester.cancelled));
    }

    /// Replaces the flags by those of the requesters that are left.
    pub(super) fn refresh<'a>(&self, requesters: impl Iterator<Item = &'a Requester>) {
        let cancelled = requesters.map(|requester| Arc::clone(&requester.cancelled));
        *lock(&self.0) = cancelled.collect();
    }
}
