//! One connection: TLS handshake, HTTP/2, and how it ends.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use forebay_proto::frame::FRAME_BYTES;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::service::Routes;

use crate::access::{Caller, identity_of};
use crate::admission::Limits;
use crate::shutdown::Signal;
use crate::socket::Socket;
use crate::state::ServerState;
use crate::stream_reset::CallExecutor;

/// Time that a refused peer has to read the TLS alert.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes that are read from a refused peer before its connection is closed.
const REFUSED_BYTES: u64 = 64 << 10;

/// HTTP/2 with the limits of a server.
pub(crate) fn http2(limits: &Limits) -> Builder<CallExecutor> {
    let mut http = Builder::new(CallExecutor);
    http.timer(TokioTimer::new())
        .keep_alive_interval(limits.keep_alive)
        .keep_alive_timeout(limits.keep_alive)
        .max_concurrent_streams(limits.max_calls)
        .max_header_list_size(limits.header_bytes)
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
    pub(crate) async fn serve(self, stream: TcpStream, peer: SocketAddr) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let Some((socket, caller)) = self.handshake(stream, peer).await else { return };
        let Self { http, routes, state, closing } = self;
        let limits = &state.admission.limits;
        let service = CallerService(TowerToHyperService::new(routes), Arc::clone(&caller));
        let mut connection = pin!(http.serve_connection(TokioIo::new(socket), service));
        let end = tokio::select! {
            end = &mut connection => end,
            () = closing.wait_until_set() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = caller.wait_until_idle(limits.idle_timeout) => {
                tracing::debug!(%peer, "idle connection closed");
                connection.as_mut().graceful_shutdown();
                // Calls that do not count, such as health watches, may keep it open.
                tokio::select! {
                    end = connection => end,
                    () = caller.wait_until_idle(limits.stall_linger) => Ok(()),
                }
            }
        };
        if let Err(error) = end {
            tracing::debug!(%peer, %error, "connection broke");
        }
    }

    /// Performs the TLS handshake, if the server has a certificate, and identifies the peer.
    async fn handshake(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> Option<(Socket, Arc<Caller>)> {
        let Limits { handshake_timeout, stall_timeout, .. } = self.state.admission.limits;
        let Some(tls) = self.state.access.tls() else {
            let socket = Socket::new(stream, handshake_timeout, stall_timeout);
            return Some((socket, Caller::new(peer, None)));
        };
        let handshake = tls.accept(stream).into_fallible();
        let reason = match timeout(handshake_timeout, handshake).await {
            Ok(Ok(stream)) => {
                let certificates = stream.get_ref().1.peer_certificates();
                let identity = certificates.and_then(|chain| chain.first()).map(identity_of);
                let socket = Socket::new(stream, handshake_timeout, stall_timeout);
                return Some((socket, Caller::new(peer, identity)));
            }
            Ok(Err((error, stream))) => {
                linger(stream).await;
                error.to_string()
            }
            Err(_elapsed) => "timed out".to_owned(),
        };
        self.state.telemetry.metrics.refused_connections.inc();
        tracing::info!(%peer, reason, "TLS handshake failed");
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

/// Adds the caller of a connection to its requests.
struct CallerService(TowerToHyperService<Routes>, Arc<Caller>);

impl hyper::service::Service<Request<Incoming>> for CallerService {
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
