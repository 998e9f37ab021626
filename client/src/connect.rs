//! Connections to servers, and the calls that are made on them.
//!
//! Every stream has connections of its own. A stream whose trainer is busy stops reading, and would
//! otherwise hold up what else comes over the connection; and one connection is one core's work.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Uri, Version, header};
use http_body_util::Full;
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower::{Service as _, ServiceExt as _};

use crate::error::Cause;
use crate::retry::cause_of;
use crate::{Access, Error, Options};

/// Largest DATA frame asked for: as long as a message, so that each message is one. A longer frame
/// costs fewer wake-ups a byte, on both ends.
const FRAME: u32 = 1 << 20;

/// Bytes that a server may send on one stream, and on one connection, before they are read.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 5 << 20;

/// A server, not yet connected to.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// As the user gave it.
    pub(crate) name: String,
    endpoint: Endpoint,
    access: Access,
}

impl Server {
    pub(crate) fn new(name: &str, options: &Options) -> Result<Self, Error> {
        let (timeouts, access) = (options.timeouts, options.access.clone());
        let url = access.url(name);
        let wrong = |why: &dyn std::fmt::Display| {
            Error::Options(format!(
                "endpoint {name:?}: {why}: give http://host:port or https://host:port"
            ))
        };
        let uri: Uri = url.parse().map_err(|error| wrong(&error))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.port_u16().is_none() {
            return Err(wrong(&"not http or https with a port"));
        }
        let endpoint = Endpoint::from(uri)
            .connect_timeout(timeouts.connect)
            .http2_keep_alive_interval(timeouts.ping)
            .keep_alive_timeout(timeouts.ping)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME);
        Ok(Self { name: name.to_owned(), endpoint, access })
    }

    /// A connection of one's own, made at the first call.
    pub(crate) fn channel(&self) -> Result<Channel, Cause> {
        Ok(self.access.secured(self.endpoint.clone())?.connect_lazy())
    }
}

/// Starts a call that streams its answer, and returns the answer's body.
pub(crate) async fn open(
    channel: &mut Channel,
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
    let call = async { channel.ready().await?.call(request).await };
    let response = tokio::time::timeout(silence, call)
        .await
        .map_err(|_elapsed| Cause::Silence(silence))?
        .map_err(|error| cause_of(&Status::from_error(error.into())))?;
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
