//! The four methods of `forebay.v1.ForebayService`.
//!
//! ```text
//! call ─> identity ─> request, validated ─> Describe, Explain: one message, made on a thread of its own
//!                                        ─> Stream, Fetch: admission ─> session, in a task of its own
//! ```
//!
//! [`Service`] implements tower's trait itself instead of using the code that tonic generates, for
//! two reasons: frames are sent zero-copy (see `body.rs`), and a request that is too large gets
//! `INVALID_ARGUMENT` as the contract says, where tonic's decoder answers `OUT_OF_RANGE`.

use std::convert::Infallible;
use std::os::unix::ffi::OsStrExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use forebay_proto::v1::forebay_service_server::SERVICE_NAME;
use forebay_proto::v1::{DescribeRequest, ExplainRequest, FetchRequest, StreamRequest};
use http::{HeaderMap, HeaderValue, Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tracing::Instrument as _;

use crate::access::{CallGuard, Peer};
use crate::address::PeerAddress;
use crate::admission::{StreamLimits, StreamSlot};
use crate::leases::Leases;
use crate::request::{self, StreamSpec};
use crate::session::{self, AdmittedStream};
use crate::state::ServerState;
use crate::status::Refusal;
use crate::stream_reset::StreamReset;
use crate::telemetry::StreamRequestInfo;
use crate::{answer, body, grpc, trace};

/// The service, for tonic's router.
#[derive(Clone)]
pub(crate) struct Service(pub(crate) Arc<ServerState>);

impl NamedService for Service {
    const NAME: &'static str = SERVICE_NAME;
}

impl tower::Service<Request<Body>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let state = Arc::clone(&self.0);
        let method = method(request.uri().path());
        let peer = request.extensions().get::<Arc<Peer>>().map(Arc::clone);
        let peer = peer.expect("every connection adds its peer to its requests");
        let span = trace::span(method, peer.address, request.headers());
        let respond = async move {
            let telemetry = Arc::clone(&state.telemetry);
            let response = handle(Arc::clone(&state), method, &peer, request).await;
            let response = response.map(|mut response| {
                if peer.is_same_host {
                    offer_memory(&state.leases, response.headers_mut());
                }
                response
            });
            Ok(response.unwrap_or_else(|refusal| {
                telemetry.metrics.add_call(method, refusal.code());
                tracing::debug!(code = ?refusal.code(), %refusal, "call refused");
                Status::from(refusal).into_http()
            }))
        };
        Box::pin(respond.instrument(span))
    }
}

/// Tells a client where it can lease microbatches, if it can.
fn offer_memory(leases: &Leases, headers: &mut HeaderMap) {
    let Some((socket, server)) = leases.offer() else { return };
    let values = [HeaderValue::from_bytes(socket.as_os_str().as_bytes()), server.try_into()];
    // A path that no header can have is not offered.
    if let [Ok(socket), Ok(server)] = values {
        headers.insert("forebay-memory-socket", socket);
        headers.insert("forebay-memory-server", server);
    }
}

/// The method of a path; `other` if the service does not have it. Only the whole path names it: a proxy that
/// permits some methods compares that.
fn method(path: &str) -> &'static str {
    let of_service = path.strip_prefix('/').and_then(|path| path.strip_prefix(SERVICE_NAME));
    let named = of_service.and_then(|path| path.strip_prefix('/'));
    let methods = ["Describe", "Explain", "Stream", "Fetch"];
    methods.into_iter().find(|method| Some(*method) == named).unwrap_or("other")
}

async fn handle(
    state: Arc<ServerState>,
    method: &'static str,
    peer: &Arc<Peer>,
    request: Request<Body>,
) -> Result<Response<Body>, Refusal> {
    let identity = state.access.identify(request.headers(), peer)?;
    trace::record_identity(&identity);
    let call = peer.begin_call();
    // Where calls need no token, a valid request is what authenticates their connection.
    if state.access.requires_auth() {
        peer.authenticate(Some(&identity), &state.admission.limits)?;
    }
    let (source, limits) = (&*state.source, &state.admission.limits);
    let stream_limits = limits.for_identity(&identity);
    let body = request.into_body();
    match method {
        "Describe" => {
            let request: DescribeRequest = grpc::read(body).await?;
            let job = request::job(source, request.job.as_ref())?;
            let first = request::first_class(&*job, &request)?;
            peer.authenticate(None, limits)?;
            let datasets = source.datasets();
            let describe = move |bytes: &_| answer::description(&*job, first, datasets, bytes);
            let turns = (&state.admission.describing, &owner(&state, &identity, peer.address));
            answer::respond(&state, method, turns, (call, None), describe).await
        }
        "Explain" => {
            let request: ExplainRequest = grpc::read(body).await?;
            let (job, name) = request::explain(source, &request)?;
            peer.authenticate(None, limits)?;
            let slot = stream_slot(&state, &identity, stream_limits)?;
            let explain =
                move |bytes: &_| answer::explanation(&*job, name, request.first_sample, bytes);
            let turns = (&state.admission.explaining, &owner(&state, &identity, peer.address));
            answer::respond(&state, method, turns, (call, Some(slot)), explain).await
        }
        "Stream" => {
            let request: StreamRequest = grpc::read(body).await?;
            let spec = request::stream(source, limits, stream_limits, &request)?;
            state.admission.check(spec.microbatch_bytes)?;
            peer.authenticate(None, limits)?;
            let (address, job) = (peer.address, request.job.as_ref());
            let info = StreamRequestInfo::new(method, &identity, address, source, job);
            start_session(state, spec, stream_limits, info, call)
        }
        "Fetch" => {
            let request: FetchRequest = grpc::read(body).await?;
            let spec = request::fetch(source, &request)?;
            state.admission.check(spec.microbatch_bytes)?;
            peer.authenticate(None, limits)?;
            let (address, job) = (peer.address, request.job.as_ref());
            let info = StreamRequestInfo::new(method, &identity, address, source, job);
            start_session(state, spec, stream_limits, info, call)
        }
        _ => Err(Refusal::UnknownMethod),
    }
}

/// The slot of a stream, which counts against the server and the identity.
fn stream_slot(
    state: &ServerState,
    identity: &Arc<str>,
    limits: StreamLimits,
) -> Result<StreamSlot, Refusal> {
    if state.draining.is_set() {
        return Err(Refusal::Draining);
    }
    state.admission.stream(identity, limits, || state.source.load().drain_estimate)
}

/// Admits a stream and starts to send its microbatches.
fn start_session(
    state: Arc<ServerState>,
    spec: StreamSpec,
    limits: StreamLimits,
    info: StreamRequestInfo,
    call: CallGuard,
) -> Result<Response<Body>, Refusal> {
    let slot = stream_slot(&state, &info.identity, limits)?;
    let client = client(&state, &info, &spec);
    let lender = spec.leases.as_ref().and_then(|options| state.leases.lender(options));
    // A connection whose places are taken does without.
    let identity = state.access.requires_auth().then_some(&info.identity);
    let limits_of_server = &state.admission.limits;
    let lender =
        lender.filter(|lender| lender.peer().authenticate(identity, limits_of_server).is_ok());
    let telemetry = state.telemetry.open_stream(info);
    let (sender, body) = body::channel();
    let reset = StreamReset::of_current_call();
    let max_queued = limits.max_queued;
    let stream =
        AdmittedStream { client, max_queued, sender, telemetry, reset, slot, call, lender };
    drop(tokio::spawn(session::serve(state, spec, stream).in_current_span()));
    Ok(grpc::response(Body::new(body)))
}

/// The client of a stream, which shares the workers' time with others: the identity if calls must
/// authenticate, otherwise the address, or the user of this host, and the job.
fn client(state: &ServerState, info: &StreamRequestInfo, spec: &StreamSpec) -> Arc<str> {
    if state.access.requires_auth() {
        Arc::clone(&info.identity)
    } else {
        format!("{} {}", info.peer.host(), spec.job_name()).into()
    }
}

/// Who has turns of answers: the identity if calls must authenticate, otherwise the address, or the user of this
/// host.
fn owner(state: &ServerState, identity: &Arc<str>, address: PeerAddress) -> Arc<str> {
    if state.access.requires_auth() {
        Arc::clone(identity)
    } else {
        address.origin().to_string().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_path_names_a_method() {
        assert_eq!(method("/forebay.v1.ForebayService/Fetch"), "Fetch");
        for path in ["", "/", "Fetch", "/Fetch", "/x/Fetch", "/forebay.v1.ForebayService"] {
            assert_eq!(method(path), "other", "{path}");
        }
        for rest in ["", "x/Fetch", "/Fetch", "Fetch/", "fetch", "Fetch/x"] {
            assert_eq!(method(&format!("/forebay.v1.ForebayService/{rest}")), "other", "{rest}");
        }
    }
}
