//! The four methods of `forebay.v1.ForebayService`.
//!
//! A tower service of our own in the place of tonic's generated one, for two reasons: frames are sent
//! uncopied (see [`crate::body`]), and a request that is too large gets `INVALID_ARGUMENT` as the contract
//! says, where tonic's decoder answers `OUT_OF_RANGE`.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use forebay_proto::v1::forebay_service_server::SERVICE_NAME;
use forebay_proto::v1::{DescribeRequest, DescribeResponse, ExplainRequest, ExplainResponse};
use http::{Request, Response};
use tokio::sync::{Semaphore, watch};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;

use crate::body;
use crate::call::Cut;
use crate::limits::Limits;
use crate::request::{self, Run};
use crate::session;
use crate::source::Source;
use crate::status::Refusal;
use crate::unary;

/// What all calls share.
pub(crate) struct Shared {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) limits: Limits,
    /// A place for each call of Stream or Fetch.
    pub(crate) streams: Arc<Semaphore>,
    /// A turn for each microbatch in the pipeline: first come, first served, so that many streams
    /// share it evenly.
    pub(crate) making: Arc<Semaphore>,
    /// True once the server stops.
    pub(crate) draining: watch::Receiver<bool>,
    pub(crate) counts: Counts,
}

/// What was done so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) streams: AtomicU64,
    pub(crate) microbatches: AtomicU64,
    pub(crate) payload_bytes: AtomicU64,
    pub(crate) stalled: AtomicU64,
}

impl Shared {
    pub(crate) fn new(
        source: Arc<dyn Source>,
        limits: Limits,
        draining: watch::Receiver<bool>,
    ) -> Self {
        let streams = Arc::new(Semaphore::new(limits.streams));
        let making = Arc::new(Semaphore::new(limits.making));
        Self { source, limits, streams, making, draining, counts: Counts::default() }
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
        Box::pin(async move {
            let answer = answer(shared, request).await;
            Ok(answer.unwrap_or_else(|refusal| {
                tracing::debug!(%refusal, "a call is refused");
                Status::from(refusal).into_http()
            }))
        })
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Body>) -> Result<Response<Body>, Refusal> {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let (source, limits) = (&*shared.source, &shared.limits);
    let body = request.into_body();
    match method.as_str() {
        "Describe" => {
            let request: DescribeRequest = unary::read(body, limits).await?;
            let job = request::job(source, request.job.as_ref())?;
            Ok(unary::write(&DescribeResponse {
                server_version: env!("CARGO_PKG_VERSION").into(),
                datasets: source.datasets(),
                ..job.facts().clone()
            }))
        }
        "Explain" => {
            let request: ExplainRequest = unary::read(body, limits).await?;
            let (job, name) = request::explain(source, &request)?;
            Ok(unary::write(&ExplainResponse { json: job.explain(name)? }))
        }
        "Stream" => {
            let run = request::stream(source, limits, &unary::read(body, limits).await?)?;
            frames(shared, run)
        }
        "Fetch" => {
            let run = request::fetch(source, &unary::read(body, limits).await?)?;
            frames(shared, run)
        }
        _ => {
            Ok(Status::unimplemented(format!("{SERVICE_NAME} has no method {method:?}"))
                .into_http())
        }
    }
}

/// Starts to answer a call with frames.
fn frames(shared: Arc<Shared>, run: Run) -> Result<Response<Body>, Refusal> {
    if *shared.draining.borrow() {
        return Err(Refusal::Draining);
    }
    let limit = shared.limits.streams;
    let place = Arc::clone(&shared.streams).try_acquire_owned();
    let place = place.map_err(|_full| Refusal::TooManyStreams { limit })?;
    shared.counts.streams.fetch_add(1, Ordering::Relaxed);
    let (sender, body) = body::channel();
    drop(tokio::spawn(session::serve(shared, run, sender, Cut::of_this_call(), place)));
    Ok(unary::response(Body::new(body)))
}
