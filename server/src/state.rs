//! State that all calls of a server share.

use std::sync::Arc;

use crate::access::Access;
use crate::admission::Admission;
use crate::leases::Leases;
use crate::shutdown::Signal;
use crate::source::Source;
use crate::telemetry::{Snapshot, Telemetry};

/// The state of a server.
pub(crate) struct ServerState {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) access: Arc<Access>,
    pub(crate) admission: Admission,
    pub(crate) telemetry: Arc<Telemetry>,
    /// Connections for microbatches in shared memory.
    pub(crate) leases: Leases,
    /// Set when the server starts to shut down.
    pub(crate) draining: Signal,
}

impl ServerState {
    /// Takes the snapshot that metrics and the status page show.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let ready = !self.draining.is_set();
        Snapshot::take(&self.telemetry, &*self.source, ready, self.admission.limits.max_streams)
    }
}
