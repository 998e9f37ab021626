//! The server's life: accept, serve, drain, stop.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use forebay_proto::FILE_DESCRIPTOR_SET;
use forebay_proto::frame::FRAME_BYTES;
use forebay_proto::v1::forebay_service_server::SERVICE_NAME;
use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::health_reporter;

use crate::call::Calls;
use crate::limits::Limits;
use crate::service::{Service, Shared};
use crate::socket::Socket;
use crate::source::Source;

/// How long connections may take to send what their calls left, after the last call ended.
const FLUSH: Duration = Duration::from_secs(1);

/// What a server did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Calls of Stream and Fetch.
    pub streams: u64,
    /// Microbatches sent whole.
    pub microbatches: u64,
    /// Their payload.
    pub payload_bytes: u64,
    /// Streams ended because their reader took nothing.
    pub stalled: u64,
    /// Streams that did not end within the grace period.
    pub unfinished: usize,
}

/// Serves until `shutdown` is ready, then drains: health says `NOT_SERVING`, new streams are refused,
/// running ones end after their current microbatch, all within the grace period.
pub async fn run(
    listener: TcpListener,
    source: Arc<dyn Source>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> Report {
    let (drain, draining) = watch::channel(false);
    let (close, closing) = watch::channel(false);
    let (health, health_service) = health_reporter();
    health.set_service_status(SERVICE_NAME, ServingStatus::Serving).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the committed descriptors are well formed");
    let shared = Arc::new(Shared::new(source, limits, draining));
    let routes = Routes::new(Service(Arc::clone(&shared)))
        .add_service(health_service)
        .add_service(reflection)
        .prepare();
    let mut http = Builder::new(Calls);
    let keep_alive = shared.limits.keep_alive;
    http.timer(TokioTimer::new()).keep_alive_interval(keep_alive).keep_alive_timeout(keep_alive);
    // So that a message can be one DATA frame. It holds slices of slabs, no copies.
    http.max_send_buf_size(2 * FRAME_BYTES);
    let mut connections = Connections {
        http,
        routes,
        most: shared.limits.connections,
        patience: shared.limits.stall_timeout,
        closing,
        tasks: JoinSet::new(),
    };

    tokio::select! {
        never = connections.accept(&listener) => match never {},
        () = shutdown => {}
    }
    for service in ["", SERVICE_NAME] {
        health.set_service_status(service, ServingStatus::NotServing).await;
    }
    drain.send_replace(true);
    let streams = shared.limits.streams;
    let all_ended = shared.streams.acquire_many(u32::try_from(streams).unwrap_or(u32::MAX));
    tokio::select! {
        never = connections.accept(&listener) => match never {},
        _ = timeout(shared.limits.drain_grace, all_ended) => {}
    }
    drop(listener);
    let unfinished = streams - shared.streams.available_permits();
    close.send_replace(true);
    connections.finish().await;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counts = &shared.counts;
    Report {
        streams: count(&counts.streams),
        microbatches: count(&counts.microbatches),
        payload_bytes: count(&counts.payload_bytes),
        stalled: count(&counts.stalled),
        unfinished,
    }
}

/// The server's connections, each a task.
struct Connections {
    http: Builder<Calls>,
    routes: Routes,
    most: usize,
    patience: Duration,
    closing: watch::Receiver<bool>,
    tasks: JoinSet<()>,
}

impl Connections {
    /// Accepts connections, as many at once as may be.
    async fn accept(&mut self, listener: &TcpListener) -> Infallible {
        loop {
            let accepted = tokio::select! {
                Some(_ended) = self.tasks.join_next() => continue,
                accepted = listener.accept(), if self.tasks.len() < self.most => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    tracing::debug!(%peer, "connected");
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "no TCP_NODELAY");
                    }
                    let socket = Socket::new(stream, self.patience);
                    let (http, routes) = (self.http.clone(), self.routes.clone());
                    self.tasks.spawn(connection(socket, http, routes, self.closing.clone()));
                }
                Err(error) => {
                    // Such as no file descriptors left: others may close some meanwhile.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Lets connections, which were told to close, send the rest of what they have.
    async fn finish(mut self) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(FLUSH, all).await.is_err() {
            tracing::debug!(open = self.tasks.len(), "connections are cut");
        }
    }
}

/// Waits until a flag is set, or can no longer be.
pub(crate) async fn told(mut flag: watch::Receiver<bool>) {
    drop(flag.wait_for(|flag| *flag).await);
}

async fn connection(
    socket: Socket,
    http: Builder<Calls>,
    routes: Routes,
    closing: watch::Receiver<bool>,
) {
    let service = TowerToHyperService::new(routes);
    let mut connection = pin!(http.serve_connection(TokioIo::new(socket), service));
    let end = tokio::select! {
        end = &mut connection => end,
        () = told(closing) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = end {
        tracing::debug!(%error, "a connection broke");
    }
}
