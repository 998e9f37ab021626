//! One connection: TLS handshake, HTTP/2, and how it ends.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use forebay_proto::frame::FRAME_BYTES;
use forebay_proto::v1::forebay_service_server::SERVICE_NAME;
use forebay_types::settings::TimeSpan;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service as _;

use crate::access::{CloseReason, Peer, identity_of};
use crate::address::PeerAddress;
use crate::admission::{CountedBody, Limits, Place, admit};
use crate::listen::Accepted;
use crate::shutdown::Signal;
use crate::socket::{Socket, Transport};
use crate::state::ServerState;
use crate::stream_reset::CallExecutor;

/// Time that a refused peer has to read the TLS alert.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes that are read from a refused peer before its connection is closed.
const REFUSED_BYTES: u64 = 64 << 10;

/// Bytes of a request that may arrive before any of it is read.
const REQUEST_WINDOW: u32 = 64 << 10;

/// HTTP/2 with the limits of a server.
pub(crate) fn http2(limits: &Limits) -> Builder<CallExecutor> {
    let mut http = Builder::new(CallExecutor);
    http.timer(TokioTimer::new())
        .keep_alive_interval(limits.keep_alive)
        .keep_alive_timeout(limits.keep_alive)
        .max_concurrent_streams(limits.max_calls)
        .max_header_list_size(limits.header_bytes)
        // What arrives and is not read yet waits in these windows.
        .initial_stream_window_size(REQUEST_WINDOW)
        .initial_connection_window_size(4 * REQUEST_WINDOW)
        // A message fits one DATA frame. hyper's write buffer holds slices of payloads, not copies.
        .max_send_buf_size(2 * FRAME_BYTES);
    http
}

/// The parts that all connections of a server share.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) http: Builder<CallExecutor>,
    pub(crate) routes: Routes,
    pub(crate) state: Arc<ServerState>,
    /// Set when connections have to end.
    pub(crate) closing: Signal,
}

impl Connection {
    /// Serves the calls of a connection until it ends, has to close, or is idle for too long.
    pub(crate) async fn serve(self, stream: Accepted, address: PeerAddress, place: Place) {
        if let Accepted::Memory(stream) = stream {
            return self.serve_leases(stream, address, place).await;
        }
        let Some((socket, peer)) = self.handshake(stream, address, place).await else { return };
        let Self { http, routes, state, closing } = self;
        let limits = &state.admission.limits;
        let service = Gate { routes, peer: Arc::clone(&peer), state: Arc::clone(&state) };
        let mut connection = pin!(http.serve_connection(TokioIo::new(socket), service));
        let end = tokio::select! {
            end = &mut connection => end,
            () = closing.wait_until_set() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            reason = peer.wait_until_overdue(limits) => {
                tracing::debug!(peer = %address, ?reason, "connection closed");
                state.telemetry.metrics.add_closed(reason);
                if reason != CloseReason::Idle {
                    // Others wait for its place, and for its descriptor.
                    return;
                }
                connection.as_mut().graceful_shutdown();
                // Calls that do not count, such as health watches, may keep it open.
                tokio::select! {
                    end = connection => end,
                    () = peer.wait_until_idle(limits.stall_linger) => Ok(()),
                }
            }
        };
        if let Err(error) = end {
            if peer.frames.is_exhausted() {
                state.telemetry.metrics.add_closed(CloseReason::Frames);
            }
            tracing::debug!(peer = %address, ?error, "connection broke");
        }
    }

    /// Serves a connection for leases until it ends, has to close, or is idle for too long. Memory that the client
    /// still has stays its own: the buffers return to the pool once the kernel says that they are free.
    async fn serve_leases(self, stream: UnixStream, address: PeerAddress, place: Place) {
        let Self { state, closing, .. } = self;
        let peer = Peer::new(address, None, place, false, &state.admission);
        let opened = state.leases.open(stream, Arc::clone(&peer)).await;
        let connection = match opened {
            Ok(connection) => connection,
            Err(error) => return tracing::debug!(peer = %address, %error, "connection broke"),
        };
        tokio::select! {
            end = connection.serve() => if let Err(error) = end {
                if peer.frames.is_exhausted() {
                    state.telemetry.metrics.add_closed(CloseReason::Frames);
                }
                tracing::debug!(peer = %address, %error, "connection for leases broke");
            },
            () = closing.wait_until_set() => {}
            reason = peer.wait_until_overdue(&state.admission.limits) => {
                tracing::debug!(peer = %address, ?reason, "connection for leases closed");
                state.telemetry.metrics.add_closed(reason);
            }
        }
        state.leases.close(&connection);
    }

    /// Performs the TLS handshake, if the server has a certificate, and identifies the peer. A Unix socket leads
    /// nowhere that an eavesdropper could be, and has no handshake.
    async fn handshake(
        &self,
        stream: Accepted,
        address: PeerAddress,
        place: Place,
    ) -> Option<(Socket, Arc<Peer>)> {
        let limits = &self.state.admission.limits;
        let Limits { handshake_timeout, stall_timeout, .. } = *limits;
        let admit = |stream: Box<dyn Transport>, identity, place, is_same_host| {
            let peer = Peer::new(address, identity, place, is_same_host, &self.state.admission);
            let frames = Arc::clone(&peer.frames);
            (Socket::new(stream, handshake_timeout, stall_timeout, frames), peer)
        };
        let stream = match stream {
            Accepted::Tcp(stream) => stream,
            Accepted::Unix(stream) => return Some(admit(Box::new(stream), None, place, false)),
            Accepted::Memory(_) => return None,
        };
        let of_peer = stream.peer_addr().map(|address| address.ip().to_canonical());
        let own = stream.local_addr().map(|address| address.ip().to_canonical());
        let is_same_host = of_peer.is_ok_and(|of_peer| own.is_ok_and(|own| own == of_peer));
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let Some(tls) = self.state.access.tls() else {
            return Some(admit(Box::new(stream), None, place, is_same_host));
        };
        let handshake = tls.accept(stream).into_fallible();
        let handshake = timeout(handshake_timeout, handshake);
        let handshake = tokio::select! {
            handshake = handshake => handshake,
            () = place.evicted() => {
                self.state.telemetry.metrics.add_closed(CloseReason::Evicted);
                return None;
            }
        };
        let reason = match handshake {
            Ok(Ok(stream)) => {
                let certificates = stream.get_ref().1.peer_certificates();
                let identity = certificates.and_then(|chain| chain.first()).map(identity_of);
                return Some(admit(Box::new(stream), identity, place, is_same_host));
            }
            Ok(Err((error, stream))) => {
                linger(stream).await;
                error.to_string()
            }
            Err(_elapsed) => format!("not completed within {}", TimeSpan(handshake_timeout)),
        };
        self.state.telemetry.metrics.refused_connections.inc();
        tracing::info!(peer = %address, reason, "TLS handshake failed");
        None
    }
}

/// Keeps the socket of a refused peer open until it has read the TLS alert. A socket that is closed
/// with unread bytes is reset, which discards what was just written.
async fn linger(mut stream: TcpStream) {
    let rest = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(REFUSED_BYTES), &mut tokio::io::sink()).await
    };
    drop(timeout(LINGER, rest).await);
}

/// Admits the calls of a connection, and adds its peer to them.
struct Gate {
    routes: Routes,
    peer: Arc<Peer>,
    state: Arc<ServerState>,
}

impl hyper::service::Service<Request<Incoming>> for Gate {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let path = request.uri().path().strip_prefix('/').unwrap_or_default();
        let public = path.split_once('/').is_none_or(|(service, _)| service != SERVICE_NAME);
        let limits = &self.state.admission.limits;
        let (mut request, response) = match admit(request, public, &self.peer.bytes, limits) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                let refused = Status::from(refusal).into_http();
                return Box::pin(async { Ok(refused) });
            }
        };
        request.extensions_mut().insert(Arc::clone(&self.peer));
        let call = self.routes.clone().call(request);
        Box::pin(async move {
            let answer = call.await?;
            Ok(match response {
                Some(held) => answer.map(|body| Body::new(CountedBody { body, _held: held })),
                None => answer,
            })
        })
    }
}
