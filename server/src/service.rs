//! The four methods of `forebay.v1.ForebayService`.
//!
//! A tower service of our own in the place of tonic's generated one, for two reasons: frames are sent
//! uncopied (see [`crate::body`]), and a request that is too large gets `INVALID_ARGUMENT` as the contract
//! says, where tonic's decoder answers `OUT_OF_RANGE`.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use forebay_proto::v1::forebay_service_server::SERVICE_NAME;
use forebay_proto::v1::{
    DescribeRequest, DescribeResponse, ExplainRequest, ExplainResponse, FetchRequest, Job,
    StreamRequest,
};
use http::{Request, Response};
use tokio::sync::{Semaphore, watch};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tracing::Instrument as _;

use crate::access::{Access, Caller, Calling};
use crate::board::{Asked, Board};
use crate::body;
use crate::call::Cut;
use crate::limits::{Bounds, Limits};
use crate::pace::Paces;
use crate::request::{self, Run};
use crate::session::{self, Reader};
use crate::source::Source;
use crate::status::Refusal;
use crate::trace;
use crate::unary;

/// What all calls share.
pub(crate) struct Shared {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) limits: Limits,
    pub(crate) access: Arc<Access>,
    /// A place for each call of Stream or Fetch.
    pub(crate) streams: Arc<Semaphore>,
    /// The buffers of slow streams.
    pub(crate) paces: Paces,
    /// True once the server stops.
    pub(crate) draining: watch::Receiver<bool>,
    pub(crate) board: Arc<Board>,
}

impl Shared {
    pub(crate) fn new(
        source: Arc<dyn Source>,
        limits: Limits,
        (access, board): (Arc<Access>, Board),
        draining: watch::Receiver<bool>,
    ) -> Self {
        let streams = Arc::new(Semaphore::new(limits.streams));
        let paces = Paces::new(source.load().buffer_limit);
        Self { source, limits, access, streams, paces, draining, board: Arc::new(board) }
    }
}

/// The service, for tonic's router.
#[derive(Clone)]
pub(crate) struct Service(pub(crate) Arc<Shared>);

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
        let shared = Arc::clone(&self.0);
        let method = method(request.uri().path());
        let caller = request.extensions().get::<Arc<Caller>>().map(Arc::clone);
        let caller = caller.expect("every connection says whose it is");
        let span = trace::span(method, caller.address, request.headers());
        let answered = async move {
            let board = Arc::clone(&shared.board);
            let answer = answer(shared, method, &caller, request).await;
            Ok(answer.unwrap_or_else(|refusal| {
                board.metrics.called(method, refusal.code());
                tracing::debug!(code = ?refusal.code(), %refusal, "a call is refused");
                Status::from(refusal).into_http()
            }))
        };
        Box::pin(answered.instrument(span))
    }
}

/// The method of a path; `other` if there is none of that name.
fn method(path: &str) -> &'static str {
    let named = path.rsplit('/').next().unwrap_or_default();
    let methods = ["Describe", "Explain", "Stream", "Fetch"];
    methods.into_iter().find(|method| *method == named).unwrap_or("other")
}

async fn answer(
    shared: Arc<Shared>,
    method: &'static str,
    caller: &Arc<Caller>,
    request: Request<Body>,
) -> Result<Response<Body>, Refusal> {
    let identity = shared.access.identify(request.headers(), caller)?;
    trace::identify(&identity);
    let calling = caller.calls();
    let (source, limits) = (&*shared.source, &shared.limits);
    let bounds = limits.of(&identity);
    let asked = |job: Option<&Job>| Asked::new(method, &identity, caller.address, source, job);
    let body = request.into_body();
    match method {
        "Describe" => {
            let request: DescribeRequest = unary::read(body, limits).await?;
            let job = request::job(source, request.job.as_ref())?;
            shared.board.metrics.called(method, Code::Ok);
            Ok(unary::write(&DescribeResponse {
                server_version: env!("CARGO_PKG_VERSION").into(),
                datasets: source.datasets(),
                ..job.facts().clone()
            }))
        }
        "Explain" => {
            let request: ExplainRequest = unary::read(body, limits).await?;
            let (job, name) = request::explain(source, &request)?;
            let json = job.explain(name)?;
            shared.board.metrics.called(method, Code::Ok);
            Ok(unary::write(&ExplainResponse { json }))
        }
        "Stream" => {
            let request: StreamRequest = unary::read(body, limits).await?;
            let run = request::stream(source, limits, bounds.ahead_bytes, &request)?;
            let asked = asked(request.job.as_ref());
            frames(shared, run, bounds, (asked, calling))
        }
        "Fetch" => {
            let request: FetchRequest = unary::read(body, limits).await?;
            let run = request::fetch(source, &request)?;
            let asked = asked(request.job.as_ref());
            frames(shared, run, bounds, (asked, calling))
        }
        _ => Err(Refusal::UnknownMethod),
    }
}

/// Starts to answer a call with frames.
fn frames(
    shared: Arc<Shared>,
    run: Run,
    bounds: Bounds,
    (asked, calling): (Asked, Calling),
) -> Result<Response<Body>, Refusal> {
    if *shared.draining.borrow() {
        return Err(Refusal::Draining);
    }
    let limit = shared.limits.streams;
    let place = Arc::clone(&shared.streams).try_acquire_owned();
    let wait = || shared.source.load().wait;
    let place = place.map_err(|_full| Refusal::TooManyStreams { limit, wait: wait() })?;
    let client = client(&shared, &asked, &run);
    let seat = shared.board.seat(asked, bounds.streams, calling, wait)?;
    let (sender, body) = body::channel();
    let reader = Reader { client, queued: bounds.queued, sender, seat };
    let session = session::serve(shared, run, reader, Cut::of_this_call(), place);
    drop(tokio::spawn(session.in_current_span()));
    Ok(unary::response(Body::new(body)))
}

/// Who gets a share of the makers' time: who it is, where that is known, else the job of an address.
fn client(shared: &Shared, asked: &Asked, run: &Run) -> Arc<str> {
    if shared.access.asks() {
        Arc::clone(&asked.identity)
    } else {
        format!("{} {}", asked.address.ip(), run.job_name()).into()
    }
}
