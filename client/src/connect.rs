//! Connections to servers, and the calls that are made on them.
//!
//! Every stream has connections of its own, to each server that it asks. A stream whose trainer is busy stops reading, and would
//! otherwise hold up what else comes over the connection; and one connection is one core's work.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Uri, Version, header};
use http_body_util::Full;
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::Endpoint;
use tower::{Service as _, ServiceExt as _};

use crate::Options;
use crate::error::Cause;
use crate::network::Connection;
use crate::status::cause_of;

/// Largest DATA frame asked for: as long as a message, so that each message is one. A longer frame
/// costs fewer wake-ups a byte, on both ends.
const FRAME: u32 = 1 << 20;

/// Bytes that a server may send on one stream, and on one connection, before they are read.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 5 << 20;

/// A server, not yet connected to.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// As the user gave it, or as its service's name resolves.
    pub(crate) name: String,
    /// Host and port.
    pub(crate) address: String,
    endpoint: Endpoint,
    /// The host that its certificate must name, where that is not the one of the URL.
    host: Option<String>,
}

impl Server {
    pub(crate) fn new(name: &str, uri: Uri, host: Option<&str>, options: &Options) -> Self {
        let timeouts = options.timeouts;
        let address = uri.authority().map_or_else(String::new, ToString::to_string);
        let endpoint = Endpoint::from(uri)
            .connect_timeout(timeouts.connect)
            .http2_keep_alive_interval(timeouts.ping)
            .keep_alive_timeout(timeouts.ping)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME);
        Self { name: name.to_owned(), address, endpoint, host: host.map(str::to_owned) }
    }

    /// A connection of one's own, made at the first call.
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

/// Connections to servers, kept for as long as nothing goes wrong on them: a new one reads the files
/// of certificates again.
#[derive(Debug)]
pub(crate) struct Pool {
    options: Arc<Options>,
    open: Mutex<BTreeMap<String, Lines>>,
}

/// The connections to one server, which take turns.
#[derive(Debug, Default)]
struct Lines {
    lines: Vec<Connection>,
    next: usize,
}

impl Pool {
    pub(crate) fn new(options: &Arc<Options>) -> Self {
        Self { options: Arc::clone(options), open: Mutex::default() }
    }

    pub(crate) fn connection(&self, server: &Server) -> Result<Connection, Cause> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Lines { lines, next } = open.entry(server.name.clone()).or_default();
        if lines.len() < self.options.connections {
            lines.push(server.connection(&self.options)?);
        }
        let line = lines[*next % lines.len()].clone();
        *next = next.wrapping_add(1);
        Ok(line)
    }

    /// After a failure the next call gets a new connection, and those in progress go on; unless it is
    /// the server's own word, which came over a good one.
    pub(crate) fn failed(&self, server: &Server, cause: &Cause) {
        if !matches!(cause, Cause::Status { .. }) {
            self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&server.name);
        }
    }
}

/// Starts a call that streams its answer, and returns the answer's body.
pub(crate) async fn open(
    mut connection: Connection,
    path: &'static str,
    message: &impl Message,
    token: Option<HeaderValue>,
    silence: Duration,
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
    let response = tokio::time::timeout(silence, call)
        .await
        .map_err(|_elapsed| Cause::Silence(silence))?
        .map_err(|status| cause_of(&status))?;
    if response.status() != http::StatusCode::OK {
        return Err(Cause::Connection(format!("HTTP status {}", response.status())));
    }
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() != tonic::Code::Ok => Err(cause_of(&status)),
        _ => Ok(response.into_body()),
    }
}

/// A message with its gRPC prefix: not compressed, and so long.
fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(5 + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).expect("a request is far below 4 GiB"));
    message.encode(&mut bytes).expect("a BytesMut grows");
    bytes.freeze()
}
