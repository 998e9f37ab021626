//! Connections to servers, and calls on them.
//!
//! Every stream has its own connections to each server that it uses. A stream whose trainer is busy
//! stops reading, which would hold up everything else on a shared connection; and one connection is
//! limited to the throughput of one core.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header};
use http_body_util::Full;
use prost::Message;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::Endpoint;
use tower::{Service as _, ServiceExt as _};

use crate::error::Cause;
use crate::options::{Options, SharedMemory, Timeouts};
use crate::wire::memory::MemoryConnection;
use crate::wire::network::Connection;
use crate::wire::offer::Offer;
use crate::wire::status::cause_of;

/// Largest DATA frame that servers may send: as long as a message, so that each message is one frame.
/// A longer frame costs fewer wake-ups per byte, at both ends.
const MAX_FRAME_SIZE: u32 = 1 << 20;

/// Flow control windows: bytes that a server may send on a stream, and on a connection, before they
/// are read.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 5 << 20;

/// Time after which shared memory is tried again that could not be used.
const NEXT_ATTEMPT: Duration = Duration::from_secs(30);

/// The scheme of a Unix socket's endpoint.
pub(crate) const UNIX: &str = "unix:";

/// A server with its connection settings.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// Its URL as the user wrote it, or with an address that a service's name resolves to.
    pub(crate) name: String,
    /// Host and port, or the path of a Unix socket.
    pub(crate) address: String,
    endpoint: Endpoint,
    /// The name that its certificate must have, if that is not the host of the URL.
    host: Option<String>,
    /// The path of its Unix socket, if it is reached by one.
    pub(crate) socket: Option<PathBuf>,
    /// Where it leases microbatches, once it has said so. Clones share it.
    offer: Arc<Mutex<Option<Offer>>>,
}

impl Server {
    pub(crate) fn new(name: &str, uri: Uri, host: Option<&str>, options: &Options) -> Self {
        let address = uri.authority().map_or_else(String::new, ToString::to_string);
        let host = host.map(str::to_owned);
        Self::with(name, address, Endpoint::from(uri), host, options)
    }

    /// The server behind a Unix socket. `None` if no socket can have that path.
    pub(crate) fn at_socket(name: &str, path: &str, options: &Options) -> Option<Self> {
        SocketAddr::from_pathname(path).ok().filter(|address| !address.is_unnamed())?;
        let endpoint = Endpoint::from_shared(format!("{UNIX}{path}")).ok()?;
        let server = Self::with(name, path.to_owned(), endpoint, None, options);
        *server.offer() = Some(Offer::beside(path.as_ref()));
        Some(Self { socket: Some(path.into()), ..server })
    }

    fn with(
        name: &str,
        address: String,
        endpoint: Endpoint,
        host: Option<String>,
        options: &Options,
    ) -> Self {
        let timeouts = options.timeouts;
        let endpoint = endpoint
            .connect_timeout(timeouts.connect)
            .http2_keep_alive_interval(timeouts.keepalive)
            .keep_alive_timeout(timeouts.keepalive)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME_SIZE);
        let name = name.to_owned();
        Self { name, address, endpoint, host, socket: None, offer: Arc::default() }
    }

    /// Whether connections to it are encrypted.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.endpoint.uri().scheme_str() == Some("https")
    }

    /// Whether it is a Unix socket, or a loopback address, which no other host can listen to.
    pub(crate) fn is_local(&self) -> bool {
        let host = self.endpoint.uri().host().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        self.socket.is_some() || address.is_ok_and(|address| address.is_loopback())
    }

    /// Notes what the headers of a response say about shared memory.
    pub(crate) fn note_offer(&self, headers: &HeaderMap) {
        if self.socket.is_none()
            && let Some(offer) = Offer::from_headers(headers)
        {
            *self.offer() = Some(offer);
        }
    }

    /// The cause that the status of a call on it stands for.
    pub(crate) fn cause_of(&self, status: &Status, timeouts: &Timeouts) -> Cause {
        cause_of(status, timeouts, self.socket.as_deref())
    }

    fn offer(&self) -> MutexGuard<'_, Option<Offer>> {
        self.offer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection, which is made at the first call.
    fn connection(&self, options: &Options) -> Result<Connection, Cause> {
        if let Some(connection) = options.network.connection(&self.name) {
            return Ok(connection);
        }
        let endpoint = options.access.secured(self.endpoint.clone(), self.host.as_deref())?;
        Ok(Connection::new(
            endpoint.connect_lazy().map_err(|error| Status::from_error(error.into())),
        ))
    }
}

/// Connections to servers, kept until a call on them fails. A new connection reads the certificate
/// files again.
#[derive(Debug)]
pub(crate) struct Pool {
    options: Arc<Options>,
    open: Mutex<BTreeMap<String, Connections>>,
    memory: Mutex<BTreeMap<String, Memory>>,
}

/// The connection to a server for leases.
#[derive(Debug)]
enum Memory {
    Open(MemoryConnection),
    /// It cannot be used; the next attempt is at this time.
    Unavailable(Instant),
}

/// The connections to one server, used in turn.
#[derive(Debug, Default)]
struct Connections {
    all: Vec<Connection>,
    next: usize,
}

impl Pool {
    pub(crate) fn new(options: &Arc<Options>) -> Self {
        Self { options: Arc::clone(options), open: Mutex::default(), memory: Mutex::default() }
    }

    pub(crate) fn connection(&self, server: &Server) -> Result<Connection, Cause> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Connections { all, next } = open.entry(server.name.clone()).or_default();
        if all.len() < self.options.connections {
            all.push(server.connection(&self.options)?);
        }
        let connection = all[*next % all.len()].clone();
        *next = next.wrapping_add(1);
        Ok(connection)
    }

    /// A connection to a server for leases, if it is on this host and has shared memory.
    pub(crate) async fn memory(&self, server: &Server) -> Option<MemoryConnection> {
        if self.options.shared_memory == SharedMemory::Off {
            return None;
        }
        let offer = server.offer().clone()?;
        {
            let mut memory = self.lock_memory();
            match memory.get(&server.name) {
                Some(Memory::Open(connection)) if connection.is_usable() => {
                    return Some(connection.clone());
                }
                Some(Memory::Open(connection)) if connection.is_distrusted() => {
                    let unavailable = Memory::Unavailable(Instant::now() + NEXT_ATTEMPT);
                    memory.insert(server.name.clone(), unavailable);
                    return None;
                }
                Some(Memory::Unavailable(until)) if Instant::now() < *until => return None,
                _ => {}
            }
        }
        let connected = MemoryConnection::connect(&offer, self.options.timeouts.connect).await;
        let memory = match &connected {
            Ok(connection) => Memory::Open(connection.clone()),
            Err(error) => {
                tracing::debug!(server = server.name, %error, "no shared memory: microbatches are sent as frames");
                Memory::Unavailable(Instant::now() + NEXT_ATTEMPT)
            }
        };
        self.lock_memory().insert(server.name.clone(), memory);
        connected.ok()
    }

    fn lock_memory(&self) -> MutexGuard<'_, BTreeMap<String, Memory>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the connections to a server after a failure, so that the next call makes a new one; calls
    /// in progress continue. An error status keeps them, because it arrived over a working connection.
    pub(crate) fn failed(&self, server: &Server, cause: &Cause) {
        if !matches!(cause, Cause::Status { .. }) {
            self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&server.name);
            let mut memory = self.lock_memory();
            // If shared memory is what failed, frames are tried next.
            if let Some(Memory::Open(connection)) = memory.get(&server.name)
                && !connection.is_usable()
            {
                let unavailable = Memory::Unavailable(Instant::now() + NEXT_ATTEMPT);
                memory.insert(server.name.clone(), unavailable);
            }
        }
    }
}

/// Starts a call with a streaming response, and returns the body of the response.
pub(crate) async fn open(
    (mut connection, server): (Connection, &Server),
    path: &'static str,
    message: &impl Message,
    token: Option<HeaderValue>,
    timeouts: &Timeouts,
) -> Result<Body, Cause> {
    let mut request = Request::new(Body::new(Full::new(framed(message))));
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = Uri::from_static(path);
    let headers = request.headers_mut();
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if let Some(token) = token {
        headers.insert(header::AUTHORIZATION, token);
    }
    let call = async { connection.ready().await?.call(request).await };
    let response = tokio::time::timeout(timeouts.idle, call)
        .await
        .map_err(|_elapsed| Cause::IdleTimeout(timeouts.idle))?
        .map_err(|status| server.cause_of(&status, timeouts))?;
    if response.status() != http::StatusCode::OK {
        return Err(Cause::Connection(format!("HTTP status {}", response.status())));
    }
    server.note_offer(response.headers());
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() != tonic::Code::Ok => Err(server.cause_of(&status, timeouts)),
        _ => Ok(response.into_body()),
    }
}

/// A message with its gRPC prefix, which says that it is not compressed, and its length.
fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(5 + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).expect("a request is far below 4 GiB"));
    message.encode(&mut bytes).expect("a BytesMut grows");
    bytes.freeze()
}
