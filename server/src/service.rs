//! The four methods of `forebay.v1.ForebayService`.
//!
//! ```text
//! call ─> identity ─> request, validated ─> Describe, Explain: one message
//!                                        ─> Stream, Fetch: admission ─> session, in a task of its own
//! ```
//!
//! [`Service`] implements tower's trait itself instead of using the code that tonic generates, for
//! two reasons: frames are sent zero-copy (see `body.rs`), and a request that is too large gets
//! `INVALID_ARGUMENT` as the contract says, where tonic's decoder answers `OUT_OF_RANGE`.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use forebay_proto::v1::forebay_service_server::SERVICE_NAME;
use forebay_proto::v1::{
    DescribeRequest, DescribeResponse, ExplainRequest, ExplainResponse, FetchRequest, StreamRequest,
};
use http::{Request, Response};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tracing::Instrument as _;

use crate::access::{CallGuard, Caller};
use crate::admission::StreamLimits;
use crate::request::{self, StreamSpec};
use crate::session::{self, Reader};
use crate::state::ServerState;
use crate::status::Refusal;
use crate::stream_reset::StreamReset;
use crate::telemetry::StreamRequestInfo;
use crate::{body, grpc, trace};

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
        let caller = request.extensions().get::<Arc<Caller>>().map(Arc::clone);
        let caller = caller.expect("every connection adds its caller to its requests");
        let span = trace::span(method, caller.address, request.headers());
        let respond = async move {
            let telemetry = Arc::clone(&state.telemetry);
            let response = handle(state, method, &caller, request).await;
            Ok(response.unwrap_or_else(|refusal| {
                telemetry.metrics.add_call(method, refusal.code());
                tracing::debug!(code = ?refusal.code(), %refusal, "call refused");
                Status::from(refusal).into_http()
            }))
        };
        Box::pin(respond.instrument(span))
    }
}

/// The method of a path; `other` if the service does not have it.
fn method(path: &str) -> &'static str {
    let named = path.rsplit('/').next().unwrap_or_default();
    let methods = ["Describe", "Explain", "Stream", "Fetch"];
    methods.into_iter().find(|method| *method == named).unwrap_or("other")
}

async fn handle(
    state: Arc<ServerState>,
    method: &'static str,
    caller: &Arc<Caller>,
    request: Request<Body>,
) -> Result<Response<Body>, Refusal> {
    let identity = state.access.identify(request.headers(), caller)?;
    trace::record_identity(&identity);
    let call = caller.begin_call();
    let (source, limits) = (&*state.source, &state.admission.limits);
    let stream_limits = limits.for_identity(&identity);
    let body = request.into_body();
    match method {
        "Describe" => {
            let request: DescribeRequest = grpc::read(body, limits).await?;
            let job = request::job(source, request.job.as_ref())?;
            state.telemetry.metrics.add_call(method, Code::Ok);
            Ok(grpc::write(&DescribeResponse {
                server_version: env!("CARGO_PKG_VERSION").into(),
                datasets: source.datasets(),
                ..job.facts().clone()
            }))
        }
        "Explain" => {
            let request: ExplainRequest = grpc::read(body, limits).await?;
            let (job, name) = request::explain(source, &request)?;
            let json = job.explain(name)?;
            state.telemetry.metrics.add_call(method, Code::Ok);
            Ok(grpc::write(&ExplainResponse { json }))
        }
        "Stream" => {
            let request: StreamRequest = grpc::read(body, limits).await?;
            let spec = request::stream(source, limits, stream_limits, &request)?;
            let (peer, job) = (caller.address, request.job.as_ref());
            let info = StreamRequestInfo::new(method, &identity, peer, source, job);
            start_session(state, spec, stream_limits, info, call)
        }
        "Fetch" => {
            let request: FetchRequest = grpc::read(body, limits).await?;
            let spec = request::fetch(source, &request)?;
            let (peer, job) = (caller.address, request.job.as_ref());
            let info = StreamRequestInfo::new(method, &identity, peer, source, job);
            start_session(state, spec, stream_limits, info, call)
        }
        _ => Err(Refusal::UnknownMethod),
    }
}

/// Admits a stream and starts to send its microbatches.
fn start_session(
    state: Arc<ServerState>,
    spec: StreamSpec,
    limits: StreamLimits,
    info: StreamRequestInfo,
    call: CallGuard,
) -> Result<Response<Body>, Refusal> {
    if state.draining.is_set() {
        return Err(Refusal::Draining);
    }
    let retry_after = || state.source.load().drain_estimate;
    let slot = state.admission.stream(&info.identity, limits, retry_after)?;
    let client = client(&state, &info, &spec);
    let telemetry = state.telemetry.open_stream(info);
    let (sender, body) = body::channel();
    let reset = StreamReset::of_current_call();
    let max_queued = limits.max_queued;
    let reader = Reader { client, max_queued, sender, telemetry, reset, slot, call };
    drop(tokio::spawn(session::serve(state, spec, reader).in_current_span()));
    Ok(grpc::response(Body::new(body)))
}

/// The client that shares the workers' time with others: the identity if callers have one, otherwise
/// the address and the job.
fn client(state: &ServerState, info: &StreamRequestInfo, spec: &StreamSpec) -> Arc<str> {
    if state.access.requires_auth() {
        Arc::clone(&info.identity)
    } else {
        format!("{} {}", info.peer.ip(), spec.job_name()).into()
    }
}
