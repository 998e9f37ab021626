//! The server's life: accept, serve, drain, stop.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use forebay_proto::FILE_DESCRIPTOR_SET;
use forebay_proto::frame::FRAME_BYTES;
use forebay_proto::v1::forebay_service_server::SERVICE_NAME;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::health_reporter;

use crate::access::{Access, Caller, identity_of};
use crate::admin;
use crate::board::{Board, TICK};
use crate::call::Calls;
use crate::limits::Limits;
use crate::service::{Service, Shared};
use crate::socket::Socket;
use crate::source::Source;

/// How long connections may take to send what their calls left, after the last call ended.
const FLUSH: Duration = Duration::from_secs(1);

/// The most that is read of what a refused peer goes on to send.
const REFUSED_BYTES: u64 = 64 << 10;

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

/// What a server is set up with.
#[derive(Debug)]
pub struct Setup {
    /// What clients may do.
    pub limits: Limits,
    /// Who may call.
    pub access: Arc<Access>,
    /// Where metrics, probes and the status page are, if anywhere.
    pub admin: Option<TcpListener>,
    /// Whether the status page shows samples of what was sent last.
    pub picture: bool,
}

impl From<Limits> for Setup {
    /// Anybody may call, in plain text; no metrics.
    fn from(limits: Limits) -> Self {
        Self { limits, access: Arc::new(Access::open()), admin: None, picture: false }
    }
}

/// Serves until `shutdown` is ready, then drains: health says `NOT_SERVING`, new streams are refused,
/// running ones end after their current microbatch, all within the grace period.
pub async fn run(
    listener: TcpListener,
    source: Arc<dyn Source>,
    setup: impl Into<Setup>,
    shutdown: impl Future<Output = ()>,
) -> Report {
    let Setup { limits, access, admin, picture } = setup.into();
    let (drain, draining) = watch::channel(false);
    let (close, closing) = watch::channel(false);
    let (health, health_service) = health_reporter();
    health.set_service_status(SERVICE_NAME, ServingStatus::Serving).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the committed descriptors are well formed");
    let shared = Arc::new(Shared::new(source, limits, (access, Board::new(picture)), draining));
    let routes = Routes::new(Service(Arc::clone(&shared)))
        .add_service(health_service)
        .add_service(reflection)
        .prepare();
    let mut connections = Connections {
        http: http(&shared.limits),
        routes,
        shared: Arc::clone(&shared),
        closing,
        tasks: JoinSet::new(),
    };
    let mut beside = pin!(beside(&shared, admin));

    tokio::select! {
        never = connections.accept(&listener) => match never {},
        never = &mut beside => match never {},
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
        never = &mut beside => match never {},
        _ = timeout(shared.limits.drain_grace, all_ended) => {}
    }
    drop(listener);
    let unfinished = streams - shared.streams.available_permits();
    close.send_replace(true);
    connections.finish().await;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counts = &shared.board.counts;
    Report {
        streams: count(&counts.streams),
        microbatches: count(&counts.microbatches),
        payload_bytes: count(&counts.payload_bytes),
        stalled: count(&counts.stalled),
        unfinished,
    }
}

/// What goes on beside the calls: the history grows, files are read again, the admin port answers.
async fn beside(shared: &Arc<Shared>, admin: Option<TcpListener>) -> Infallible {
    let ticks = async {
        loop {
            shared.board.tick();
            sleep(TICK).await;
        }
    };
    let reloads = async {
        loop {
            sleep(shared.limits.reload).await;
            shared.access.reload_if_changed();
        }
    };
    let admin = async {
        match admin {
            Some(listener) => admin::serve(listener, shared).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        never = ticks => never,
        never = reloads => never,
        never = admin => never,
    }
}

fn http(limits: &Limits) -> Builder<Calls> {
    let mut http = Builder::new(Calls);
    http.timer(TokioTimer::new())
        .keep_alive_interval(limits.keep_alive)
        .keep_alive_timeout(limits.keep_alive)
        .max_concurrent_streams(limits.calls)
        .max_header_list_size(limits.header_bytes)
        // So that a message can be one DATA frame. It holds slices of slabs, no copies.
        .max_send_buf_size(2 * FRAME_BYTES);
    http
}

/// The server's connections, each a task.
struct Connections {
    http: Builder<Calls>,
    routes: Routes,
    shared: Arc<Shared>,
    closing: watch::Receiver<bool>,
    tasks: JoinSet<()>,
}

impl Connections {
    /// Accepts connections, as many at once as may be.
    async fn accept(&mut self, listener: &TcpListener) -> Infallible {
        let most = self.shared.limits.connections;
        loop {
            let accepted = tokio::select! {
                Some(_ended) = self.tasks.join_next() => continue,
                accepted = listener.accept(), if self.tasks.len() < most => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    tracing::debug!(%peer, "connected");
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "no TCP_NODELAY");
                    }
                    let connection = Connection {
                        peer,
                        http: self.http.clone(),
                        routes: self.routes.clone(),
                        shared: Arc::clone(&self.shared),
                        closing: self.closing.clone(),
                    };
                    self.tasks.spawn(connection.serve(stream));
                }
                Err(error) => {
                    // Such as no file descriptors left: others may close some meanwhile.
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(Duration::from_millis(100)).await;
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

/// One connection.
struct Connection {
    peer: SocketAddr,
    http: Builder<Calls>,
    routes: Routes,
    shared: Arc<Shared>,
    closing: watch::Receiver<bool>,
}

impl Connection {
    /// Serves its calls until it ends, is told to close, or makes none for too long.
    async fn serve(self, stream: TcpStream) {
        let Some((socket, caller)) = self.begin(stream).await else { return };
        let limits = &self.shared.limits;
        let service = OfCaller(TowerToHyperService::new(self.routes), Arc::clone(&caller));
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(socket), service));
        let end = tokio::select! {
            end = &mut connection => end,
            () = told(self.closing) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = caller.idle(limits.idle_timeout) => {
                tracing::debug!(peer = %self.peer, "an idle connection is closed");
                connection.as_mut().graceful_shutdown();
                // What keeps it open now, if anything, is no call that counts.
                tokio::select! {
                    end = connection => end,
                    () = caller.idle(limits.stall_linger) => Ok(()),
                }
            }
        };
        if let Err(error) = end {
            tracing::debug!(peer = %self.peer, %error, "a connection broke");
        }
    }

    /// Shakes hands, if the connection is to be encrypted, and learns who calls.
    async fn begin(&self, stream: TcpStream) -> Option<(Socket, Arc<Caller>)> {
        let Limits { handshake_timeout, stall_timeout, .. } = self.shared.limits;
        let Some(tls) = self.shared.access.tls() else {
            let socket = Socket::new(stream, handshake_timeout, stall_timeout);
            return Some((socket, Caller::new(self.peer, None)));
        };
        let handshake = tls.accept(stream).into_fallible();
        let why = match timeout(handshake_timeout, handshake).await {
            Ok(Ok(stream)) => {
                let certificates = stream.get_ref().1.peer_certificates();
                let identity = certificates.and_then(|chain| chain.first()).map(identity_of);
                let socket = Socket::new(stream, handshake_timeout, stall_timeout);
                return Some((socket, Caller::new(self.peer, identity)));
            }
            Ok(Err((error, stream))) => {
                linger(stream).await;
                error.to_string()
            }
            Err(_elapsed) => "not in time".to_owned(),
        };
        self.shared.board.metrics.refused_connections.inc();
        tracing::info!(peer = %self.peer, why, "no TLS handshake");
        None
    }
}

/// Lets a peer read why it was refused: a socket closed with bytes unread is reset, and takes along
/// what was just written.
async fn linger(mut stream: TcpStream) {
    let rest = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(REFUSED_BYTES), &mut tokio::io::sink()).await
    };
    drop(timeout(FLUSH, rest).await);
}

/// The service, for the calls of one caller.
struct OfCaller(TowerToHyperService<Routes>, Arc<Caller>);

impl hyper::service::Service<Request<Incoming>> for OfCaller {
    type Response =
        <TowerToHyperService<Routes> as hyper::service::Service<Request<Incoming>>>::Response;
    type Error = Infallible;
    type Future =
        <TowerToHyperService<Routes> as hyper::service::Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(Arc::clone(&self.1));
        self.0.call(request)
    }
}
