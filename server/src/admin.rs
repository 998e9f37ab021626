//! The admin port: metrics, probes, the status page. Plain HTTP/1.1, read-only.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::admission::{Connections, Limits, Place, Places};
use crate::page;
use crate::state::ServerState;
use crate::telemetry;

/// Concurrent connections, a quarter of them of one address. One more takes the place of the oldest, so
/// that a probe is answered whatever others keep open.
pub(crate) const PLACES: Places =
    Places { unauthenticated: 32, of_address: 8, min_age: Duration::ZERO, authenticated: 0 };
/// Longest head of a request.
const HEAD_BYTES: usize = 16 << 10;

/// Serves until the future is dropped.
pub(crate) async fn serve(listener: TcpListener, state: &Arc<ServerState>) -> Infallible {
    let (mut tasks, connections) = (JoinSet::new(), Connections::new(PLACES));
    loop {
        let accepted = tokio::select! {
            Some(_ended) = tasks.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let place = connections.place(peer.ip().into()).await;
                tasks.spawn(connection(stream, place, Arc::clone(state)));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the admin port; retrying in 100 ms");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, place: Place, state: Arc<ServerState>) {
    let Limits { admin_head_timeout, admin_lifetime, .. } = state.admission.limits;
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(&state, request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(response) }
    });
    let mut http = Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(admin_head_timeout).max_buf_size(HEAD_BYTES);
    let served = timeout(admin_lifetime, http.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        served = served => if let Ok(Err(error)) = served {
            tracing::debug!(%error, "admin connection broke");
        },
        () = place.evicted() => tracing::debug!("admin connection closed for another one"),
    }
}

fn respond(state: &ServerState, method: &Method, path: &str) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "expected GET or HEAD\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match path {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" if state.draining.is_set() => {
            text(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n")
        }
        "/readyz" => text(StatusCode::OK, "ready\n"),
        "/metrics" => match telemetry::render(&state.telemetry.metrics, &state.snapshot()) {
            Ok(metrics) => {
                body("application/openmetrics-text; version=1.0.0; charset=utf-8", metrics)
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        },
        "/status.json" => {
            let json = serde_json::to_vec(&state.snapshot()).expect("plain values");
            body("application/json", json)
        }
        "/" => {
            let html = page::status(&state.snapshot(), state.telemetry.picture.shown());
            body("text/html; charset=utf-8", html)
        }
        "/last.png" => match state.telemetry.picture.png() {
            Some(png) => body("image/png", png),
            None => text(StatusCode::NOT_FOUND, "no picture yet\n"),
        },
        _ => text(
            StatusCode::NOT_FOUND,
            "not found: expected /, /status.json, /metrics, /healthz, /readyz or /last.png\n",
        ),
    }
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = body("text/plain; charset=utf-8", text.to_owned());
    *response.status_mut() = status;
    response
}

fn body(kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    for (name, value) in [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; frame-ancestors 'none'",
        ),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
