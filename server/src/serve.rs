//! The life of a server: accept, serve, drain, stop.
//!
//! ```text
//! run ─> accept ─> connection.rs ─> service.rs ─> session.rs
//!     ─> background tasks: history, certificate files, admin port
//!     ─> shutdown: drain (streams end after their microbatch) ─> close (connections flush)
//! ```

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use forebay_proto::FILE_DESCRIPTOR_SET;
use forebay_proto::v1::forebay_service_server::SERVICE_NAME;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::health_reporter;

use crate::access::Access;
use crate::admin;
use crate::admission::{Admission, Limits};
use crate::connection::{self, Connection};
use crate::leases::Leases;
use crate::listen::Listeners;
use crate::service::Service;
use crate::shutdown::{Signal, signal};
use crate::source::Source;
use crate::state::ServerState;
use crate::telemetry::{TICK, Telemetry};

/// Time that connections have to send their remaining data after the last call has ended.
const FLUSH: Duration = Duration::from_secs(1);

/// Connections whose places were given to others and that have not ended yet.
const MAX_CLOSING: usize = 32;

/// Totals of a server that has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Calls of Stream and Fetch.
    pub streams: u64,
    /// Microbatches sent.
    pub microbatches: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// Streams ended because their reader accepted no data.
    pub stalled: u64,
    /// Streams that did not end within the grace period.
    pub unfinished: usize,
}

/// The setup of a server.
#[derive(Debug)]
pub struct Setup {
    /// Limits of its clients.
    pub limits: Limits,
    /// Access control.
    pub access: Arc<Access>,
    /// Listener of the admin port for metrics, probes and the status page, if there is one.
    pub admin: Option<TcpListener>,
    /// Whether the status page shows samples of the microbatch that was sent last.
    pub picture: bool,
}

impl From<Limits> for Setup {
    /// Every call is served, in plain text; there is no admin port.
    fn from(limits: Limits) -> Self {
        Self { limits, access: Arc::new(Access::open()), admin: None, picture: false }
    }
}

/// Serves until `shutdown` is ready, then drains: health reports `NOT_SERVING`, new streams are refused,
/// and open ones end after their current microbatch, all within the grace period.
pub async fn run(
    listeners: impl Into<Listeners>,
    source: Arc<dyn Source>,
    setup: impl Into<Setup>,
    shutdown: impl Future<Output = ()>,
) -> Report {
    let mut listeners = listeners.into();
    let Setup { limits, access, admin, picture } = setup.into();
    let (drain, draining) = signal();
    let (close, closing) = signal();
    let buffer_bytes = source.load().buffer_limit_bytes;
    let telemetry = Arc::new(Telemetry::new(picture, &source.datasets()));
    let state = Arc::new(ServerState {
        source,
        access,
        admission: Admission::new(limits, buffer_bytes),
        telemetry,
        leases: Leases::new(listeners.lending()),
        draining,
    });
    let (health, health_service) = health_reporter();
    health.set_service_status(SERVICE_NAME, ServingStatus::Serving).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the committed descriptors are well formed");
    let routes = Routes::new(Service(Arc::clone(&state)))
        .add_service(health_service)
        .add_service(reflection)
        .prepare();
    let mut connections = Connections::new(routes, Arc::clone(&state), closing);
    let mut background = pin!(background_tasks(&state, admin));

    tokio::select! {
        never = connections.accept(&mut listeners) => match never {},
        never = &mut background => match never {},
        () = shutdown => {}
    }
    for service in ["", SERVICE_NAME] {
        health.set_service_status(service, ServingStatus::NotServing).await;
    }
    drain.set();
    let all_closed = state.admission.all_streams_closed();
    tokio::select! {
        never = connections.accept(&mut listeners) => match never {},
        never = &mut background => match never {},
        _ = timeout(state.admission.limits.drain_grace, all_closed) => {}
    }
    drop(listeners);
    let unfinished = state.admission.open_streams();
    close.set();
    connections.finish().await;
    report(&state.telemetry, unfinished)
}

fn report(telemetry: &Telemetry, unfinished: usize) -> Report {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counters = &telemetry.counters;
    Report {
        streams: count(&counters.streams),
        microbatches: count(&counters.microbatches),
        payload_bytes: count(&counters.payload_bytes),
        stalled: count(&counters.stalled),
        unfinished,
    }
}

/// Runs the tasks of a server that are not calls: it samples the history, reloads
/// certificate and token files, frees memory that clients had, and serves the admin port.
async fn background_tasks(state: &Arc<ServerState>, admin: Option<TcpListener>) -> Infallible {
    let ticks = async {
        loop {
            let storage = state.source.load().storage.unwrap_or_default();
            state.telemetry.tick(storage.waited);
            sleep(TICK).await;
        }
    };
    let reloads = async {
        loop {
            sleep(state.admission.limits.reload_interval).await;
            state.access.apart(Access::reload_if_changed).await;
        }
    };
    let kept = async {
        loop {
            state.leases.free_kept().await;
        }
    };
    let admin = async {
        match admin {
            Some(listener) => admin::serve(listener, state).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        never = ticks => never,
        never = kept => never,
        never = reloads => never,
        never = admin => never,
    }
}

/// The connections of a server, each a task.
struct Connections {
    template: Connection,
    tasks: JoinSet<()>,
}

impl Connections {
    fn new(routes: Routes, state: Arc<ServerState>, closing: Signal) -> Self {
        let http = connection::http2(&state.admission.limits);
        Self { template: Connection { http, routes, state, closing }, tasks: JoinSet::new() }
    }

    /// Accepts connections; admission gives them their places.
    async fn accept(&mut self, listeners: &mut Listeners) -> Infallible {
        let Self { template, tasks } = self;
        let limits = &template.state.admission.limits;
        let max_tasks = limits
            .max_connections
            .saturating_add(limits.max_unauthenticated)
            .saturating_add(MAX_CLOSING);
        loop {
            let accepted = tokio::select! {
                Some(_ended) = tasks.join_next() => continue,
                accepted = listeners.accept(), if tasks.len() < max_tasks => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    tracing::debug!(%peer, "connection accepted");
                    let place = template.state.admission.connections.place(peer.origin()).await;
                    tasks.spawn(template.clone().serve(stream, peer, place));
                }
                Err(error) => {
                    // The process may be out of file descriptors, which connections that end release.
                    tracing::warn!(%error, "cannot accept a connection; retrying in 100 ms");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Waits until connections that are closing have sent their remaining data, for at most [`FLUSH`].
    async fn finish(mut self) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(FLUSH, all).await.is_err() {
            tracing::debug!(open = self.tasks.len(), "closing connections with unsent data");
        }
    }
}
