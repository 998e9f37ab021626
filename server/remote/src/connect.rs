//! Connections: hyper's client with rustls, in place of the one that `object_store` would bring.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, LOCATION, RANGE, RETRY_AFTER};
use http::{StatusCode, Uri, response};
use http_body_util::{BodyExt as _, Limited};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::body;

/// Time for a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// Time for which a connection is kept that is not used.
const IDLE: Duration = Duration::from_mins(1);

/// Most redirects that are followed.
const REDIRECTS: usize = 5;

/// Longest body of an answer that is not a range: of an error, and of another, such as a page of a list. Such bodies
/// are read into memory whole.
const ERROR: usize = 64 << 10;
const PAGE: usize = 32 << 20;

/// What an answer says besides its status, for the fetch that it belongs to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: Option<StatusCode>,
    /// Region that the bucket is in.
    pub(crate) region: Option<String>,
    /// Time after which to send the request again.
    pub(crate) retry_after: Option<Duration>,
}

tokio::task_local! {
    /// The last answer to the request that a task makes. `object_store` gives errors as texts.
    pub(crate) static ANSWER: Cell<Answer>;
}

/// Makes clients for `object_store`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connector {
    /// Whether redirects are followed. Signed requests are not valid elsewhere.
    pub(crate) follows: bool,
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| object_store::Error::Generic { store: "HTTP", source: error.into() })?
            .with_native_roots()
            // Without roots no server is trusted; one without TLS can still be used.
            .unwrap_or_else(|_none| {
                ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                    .with_safe_default_protocol_versions()
                    .expect("as above")
                    .with_root_certificates(RootCertStore::empty())
            })
            .with_no_client_auth();
        let tls = HttpsConnectorBuilder::new().with_tls_config(tls);
        let mut tcp = TcpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        let connector = tls.https_or_http().enable_http1().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Ok(HttpClient::new(Service { client, follows: self.follows }))
    }
}

#[derive(Debug)]
struct Service {
    client: Client<HttpsConnector<TcpConnector>, HttpRequestBody>,
    follows: bool,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (mut parts, body) = request.into_parts();
        let is_empty = body.content_length() == 0;
        let is_range = parts.headers.contains_key(RANGE);
        let mut body = Some(body);
        for _ in 0..=REDIRECTS {
            let mut request =
                http::Request::new(body.take().unwrap_or_else(HttpRequestBody::empty));
            *request.method_mut() = parts.method.clone();
            *request.uri_mut() = parts.uri.clone();
            *request.headers_mut() = parts.headers.clone();
            // An error of the connection has no answer, whatever was answered before.
            ANSWER.try_with(Cell::take).ok();
            let response = self.client.request(request).await.map_err(|error| {
                let kind = if error.is_connect() {
                    HttpErrorKind::Connect
                } else {
                    HttpErrorKind::Request
                };
                HttpError::new(kind, error)
            })?;
            note(response.status(), response.headers());
            let to = redirect(&parts.uri, response.status(), response.headers());
            match to.filter(|_| self.follows && is_empty) {
                None => {
                    let (mut parts, body) = response.into_parts();
                    let body = if parts.status == StatusCode::PARTIAL_CONTENT {
                        HttpResponseBody::new(
                            body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error)),
                        )
                    } else {
                        let most = if parts.status.is_success() { PAGE } else { ERROR };
                        let interrupted =
                            |error| HttpError::new_boxed(HttpErrorKind::Interrupted, error);
                        let body = Limited::new(body, most);
                        if may_say_otherwise(&parts, is_range) {
                            let bytes = body.collect().await.map_err(interrupted)?.to_bytes();
                            if let Some(status) = body::status_in_body(&bytes) {
                                parts.status = status;
                                note(parts.status, &parts.headers);
                            }
                            HttpResponseBody::from(bytes)
                        } else {
                            HttpResponseBody::new(body.map_err(interrupted))
                        }
                    };
                    return Ok(HttpResponse::from_parts(parts, body));
                }
                Some(to) => {
                    if to.authority() != parts.uri.authority() {
                        parts.headers.remove(AUTHORIZATION);
                    }
                    parts.headers.remove(http::header::HOST);
                    parts.uri = to;
                }
            }
        }
        Err(HttpError::new_boxed(HttpErrorKind::Unknown, "too many redirects".into()))
    }
}

/// Whether the body of an answer may say another status. One of status 200 may be an error that came up after the
/// bucket had begun to answer, and one of 400 may be temporary. A whole object is not read into memory for that.
fn may_say_otherwise(answer: &response::Parts, is_range: bool) -> bool {
    let length = answer.headers.get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let is_short = length.is_some_and(|length| length <= ERROR);
    [StatusCode::OK, StatusCode::BAD_REQUEST].contains(&answer.status) && (!is_range || is_short)
}

/// Keeps an answer for the fetch that it belongs to.
fn note(status: StatusCode, headers: &HeaderMap) {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let answer = Answer {
        status: Some(status),
        region: text("x-amz-bucket-region").map(str::to_owned),
        retry_after: seconds.map(Duration::from_secs),
    };
    // Requests for credentials may be made outside of a fetch.
    ANSWER.try_with(|last| last.set(answer)).ok();
}

/// Where an answer redirects to.
fn redirect(from: &Uri, status: StatusCode, headers: &HeaderMap) -> Option<Uri> {
    let redirects = [301, 302, 303, 307, 308].contains(&status.as_u16());
    let location = headers.get(LOCATION).filter(|_| redirects)?.to_str().ok()?;
    if location.starts_with('/') {
        let (scheme, authority) = (from.scheme_str()?, from.authority()?);
        return format!("{scheme}://{authority}{location}").parse().ok();
    }
    let to: Uri = location.parse().ok()?;
    // Never from an encrypted connection to a plain one.
    let downgrades = from.scheme_str() == Some("https") && to.scheme_str() != Some("https");
    (!downgrades && to.authority().is_some()).then_some(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_to_other_hosts_but_never_out_of_encryption() {
        let to = |location: &str| {
            let headers = HeaderMap::from_iter([(LOCATION, location.parse().unwrap())]);
            let from = Uri::from_static("https://h/a");
            redirect(&from, StatusCode::FOUND, &headers).map(|uri| uri.to_string())
        };
        assert_eq!(to("/b?c=d").as_deref(), Some("https://h/b?c=d"));
        assert_eq!(to("https://cdn/x").as_deref(), Some("https://cdn/x"));
        assert_eq!(to("http://cdn/x"), None);
        assert_eq!(to("b"), None);
    }
}
