//! The options of a request, and the cancellation of what several requests wait for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::sync::lock;

/// How a request is scheduled.
#[derive(Clone, Debug)]
pub struct SubmitOptions {
    /// Name of the client. Clients get equal shares of the workers' CPU time, whatever each requests.
    pub client: Arc<str>,
    /// Set to true to cancel the request.
    pub cancelled: Arc<AtomicBool>,
    /// Maximum number of requests of the client that are submitted and not answered yet, with this
    /// one.
    pub max_outstanding: usize,
    /// The client needs no other microbatch of the step, so none of their samples is precomputed for
    /// it.
    pub isolated: bool,
}

impl Default for SubmitOptions {
    /// The options of a client without a name.
    fn default() -> Self {
        Self {
            client: "".into(),
            cancelled: Arc::default(),
            max_outstanding: 1024,
            isolated: false,
        }
    }
}

impl SubmitOptions {
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// The cancellation flags of all requests that wait for one result. The queue changes them while the result is
/// made, which stops as soon as all are cancelled.
#[derive(Debug, Default)]
pub(crate) struct Cancellation(Mutex<Vec<Arc<AtomicBool>>>);

impl Cancellation {
    /// Whether all requests are cancelled.
    pub(crate) fn is_total(&self) -> bool {
        lock(&self.0).iter().all(|cancelled| cancelled.load(Ordering::Relaxed))
    }

    pub(super) fn add(&self, options: &SubmitOptions) {
        lock(&self.0).push(Arc::clone(&options.cancelled));
    }

    /// Replaces the flags by those of the requests that are left.
    pub(super) fn refresh<'a>(&self, left: impl Iterator<Item = &'a SubmitOptions>) {
        let cancelled = left.map(|options| Arc::clone(&options.cancelled));
        *lock(&self.0) = cancelled.collect();
    }
}
