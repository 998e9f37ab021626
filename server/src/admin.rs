//! The port for operators: metrics, probes, the status page. Plain HTTP/1.1, for reading only.

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

use crate::board::Now;
use crate::page;
use crate::service::Shared;

/// Connections at once; more wait.
const CONNECTIONS: usize = 32;
/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(5);
/// How long a connection may live: whoever reads slowly takes no one else's place for longer.
const LIFE: Duration = Duration::from_mins(1);
const BUFFER: usize = 16 << 10;

/// Answers until it is dropped.
pub(crate) async fn serve(listener: TcpListener, shared: &Arc<Shared>) -> Infallible {
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            Some(_ended) = tasks.join_next() => continue,
            accepted = listener.accept(), if tasks.len() < CONNECTIONS => accepted,
        };
        match accepted {
            Ok((stream, _)) => drop(tasks.spawn(connection(stream, Arc::clone(shared)))),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the admin port");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&shared, request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut http = Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(BUFFER);
    let served = timeout(LIFE, http.serve_connection(TokioIo::new(stream), answer)).await;
    if let Ok(Err(error)) = served {
        tracing::debug!(%error, "a connection to the admin port broke");
    }
}

fn answer(shared: &Shared, method: &Method, path: &str) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match path {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" if *shared.draining.borrow() => {
            text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
        }
        "/readyz" => text(StatusCode::OK, "ready\n"),
        "/metrics" => match shared.board.metrics.text(&Now::of(shared)) {
            Ok(metrics) => {
                body("application/openmetrics-text; version=1.0.0; charset=utf-8", metrics)
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        },
        "/status.json" => {
            let json = serde_json::to_vec(&Now::of(shared)).expect("plain values");
            body("application/json", json)
        }
        "/" => {
            let html = page::html(&Now::of(shared), shared.board.picture.shown());
            body("text/html; charset=utf-8", html)
        }
        "/last.png" => match shared.board.picture.png() {
            Some(png) => body("image/png", png),
            None => text(StatusCode::NOT_FOUND, "no picture\n"),
        },
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /, /status.json, /metrics, /healthz, /readyz, /last.png\n",
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
