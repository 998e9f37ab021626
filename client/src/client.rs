//! The calls of the service, at whichever server answers.

use std::sync::{Arc, Mutex, PoisonError};

use forebay_proto::v1;
use forebay_proto::v1::forebay_service_client::ForebayServiceClient as Stub;
use http::header::AUTHORIZATION;
use tokio::time::timeout;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::connect::{Server, open};
use crate::cursor::Walk;
use crate::error::Cause;
use crate::receive::{Receiver, Wanted, check_digest};
use crate::retry::{Attempts, cause_of};
use crate::slab::Slabs;
use crate::stream::Stream;
use crate::{
    Cursor, Description, Digest, End, Error, Job, Microbatch, Microbatches, Name, Options, Rank,
};

/// A job and its first description.
type Pin = (Job, Arc<Description>);

/// A client of one or more servers that have the same datasets.
///
/// The first answer pins a job's digests: from then on a server that has another dataset of that
/// name, or makes another recipe of it, is refused.
#[derive(Clone, Debug)]
pub struct Client {
    options: Arc<Options>,
    servers: Arc<[Server]>,
    channels: Arc<[Channel]>,
    pinned: Arc<Mutex<Vec<Pin>>>,
}

impl Client {
    /// Connects when there is something to ask, from within a Tokio runtime.
    pub fn connect(options: Options) -> Result<Self, Error> {
        options.check()?;
        let servers = options.endpoints.iter().map(|name| Server::new(name, &options));
        let servers: Arc<[Server]> = servers.collect::<Result<_, _>>()?;
        let channels = servers.iter().map(Server::channel).collect::<Result<_, _>>();
        let channels = channels.map_err(|cause| Error::Options(cause.to_string()))?;
        Ok(Self { options: Arc::new(options), servers, channels, pinned: Arc::default() })
    }

    /// What a job amounts to.
    pub async fn describe(&self, job: &Job) -> Result<Arc<Description>, Error> {
        let job = self.pinned(job);
        let request = format!("description of {}", job.dataset);
        let description =
            self.ask(&request, async |at: usize| self.describe_at(&job, at).await).await?;
        let description = Arc::new(description);
        self.pin(job, &description);
        Ok(description)
    }

    /// The plan of one microbatch, as the JSON that `forebay explain` prints.
    pub async fn explain(&self, job: &Job, name: Name) -> Result<String, Error> {
        let request = v1::ExplainRequest {
            job: Some(self.pinned(job).to_wire()),
            epoch: name.epoch,
            step: name.step,
            microbatch: name.index,
        };
        self.ask(&format!("plan of {} at {name}", job.dataset), async |at: usize| {
            let mut stub = Stub::new(self.channels[at].clone());
            Ok(self.answer(stub.explain(self.signed(request.clone())?)).await?.json)
        })
        .await
    }

    /// One microbatch.
    pub async fn fetch(&self, job: &Job, name: Name) -> Result<Microbatch, Error> {
        let (job, wanted) = self.wanted(job).await?;
        let request = v1::FetchRequest {
            job: Some(job.to_wire()),
            epoch: name.epoch,
            step: name.step,
            microbatch: name.index,
            dtype: self.options.dtype.to_wire().into(),
            layout: self.options.layout.to_wire().into(),
            mixed_by: self.options.mixed_by.to_wire().into(),
        };
        let slabs = Slabs::new(0);
        let silence = self.options.timeouts.silence;
        self.ask(&format!("fetch of {} at {name}", job.dataset), async |at: usize| {
            let path = "/forebay.v1.ForebayService/Fetch";
            let token = self.options.access.token()?;
            let body = open(&mut self.channels[at].clone(), path, &request, token, silence).await?;
            let mut receiver = Receiver::new(body, silence);
            let (microbatch, _ahead) = receiver.microbatch(name, &wanted, &slabs).await?;
            receiver.end().await?;
            Ok(microbatch)
        })
        .await
    }

    /// A rank's microbatches from a step on: in order, each exactly once, whichever servers fail.
    ///
    /// Rank r starts with the r-th server, counted around, so that ranks share the work; each stays
    /// with a server until it fails.
    pub async fn stream(
        &self,
        job: &Job,
        from: Cursor,
        end: End,
        rank: Rank,
    ) -> Result<Microbatches, Error> {
        let (job, wanted) = self.wanted(job).await?;
        let walk = Walk::new(from, end, rank, &wanted.description)?;
        Ok(Microbatches::start(Stream {
            options: Arc::clone(&self.options),
            servers: Arc::clone(&self.servers),
            job,
            wanted,
            walk,
            start: rank.rank as usize,
        }))
    }

    /// The job with the digests that its servers must have, and what its microbatches are like.
    async fn wanted(&self, job: &Job) -> Result<(Job, Wanted), Error> {
        let description = match self.known(job) {
            Some(description) => description,
            None => self.describe(job).await?,
        };
        let job = expecting(job, &description);
        let wanted = Wanted {
            description,
            seed: job.seed,
            dtype: self.options.dtype,
            layout: self.options.layout,
            limit: self.options.max_microbatch_bytes,
        };
        Ok((job, wanted))
    }

    async fn describe_at(&self, job: &Job, at: usize) -> Result<Description, Cause> {
        let request = v1::DescribeRequest { job: Some(job.to_wire()) };
        let mut stub = Stub::new(self.channels[at].clone());
        let description = self.answer(stub.describe(self.signed(request)?)).await?;
        let description = Description::from_wire(description)?;
        if let Some(expected) = job.dataset_digest {
            check_digest("dataset", expected, &description.dataset_digest.0)?;
        }
        if let Some(expected) = job.recipe_digest {
            check_digest("recipe", expected, &description.recipe_digest.0)?;
        }
        Ok(description)
    }

    /// A request with the token, if there is one.
    fn signed<T>(&self, message: T) -> Result<Request<T>, Cause> {
        let mut request = Request::new(message);
        if let Some(token) = self.options.access.token()? {
            let metadata = std::mem::take(request.metadata_mut());
            let mut headers = metadata.into_headers();
            headers.insert(AUTHORIZATION, token);
            *request.metadata_mut() = MetadataMap::from_headers(headers);
        }
        Ok(request)
    }

    /// The message that one server answers with.
    async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Cause> {
        let silence = self.options.timeouts.silence;
        let answer = timeout(silence, call).await.map_err(|_elapsed| Cause::Silence(silence))?;
        Ok(answer.map_err(|status| cause_of(&status))?.into_inner())
    }

    /// Asks the servers in turn, as the retry policy says.
    async fn ask<T>(
        &self,
        request: &str,
        call: impl AsyncFn(usize) -> Result<T, Cause>,
    ) -> Result<T, Error> {
        let names = self.servers.iter().map(|server| server.name.as_str()).collect();
        let mut attempts = Attempts::new(self.options.retry, names, 0);
        loop {
            match call(attempts.server()).await {
                Ok(answer) => return Ok(answer),
                Err(cause) => attempts.failed(cause, request).await?,
            }
        }
    }

    /// The job's first description, where there was one.
    fn known(&self, job: &Job) -> Option<Arc<Description>> {
        let pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        let agrees =
            |expected: Option<Digest>, found| expected.is_none_or(|digest| digest == found);
        let (_, description) = pinned.iter().find(|(of, description)| {
            same(of, job)
                && agrees(job.dataset_digest, description.dataset_digest)
                && agrees(job.recipe_digest, description.recipe_digest)
        })?;
        Some(Arc::clone(description))
    }

    /// The job with the digests of its first description, where there was one.
    fn pinned(&self, job: &Job) -> Job {
        self.known(job).map_or_else(|| job.clone(), |description| expecting(job, &description))
    }

    fn pin(&self, job: Job, description: &Arc<Description>) {
        let mut pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        if !pinned.iter().any(|(of, _)| same(of, &job)) {
            pinned.push((job, Arc::clone(description)));
        }
    }
}

/// The job of which only those digests are accepted.
fn expecting(job: &Job, description: &Description) -> Job {
    Job {
        dataset_digest: Some(description.dataset_digest),
        recipe_digest: Some(description.recipe_digest),
        ..job.clone()
    }
}

/// Whether two jobs have the same digests: all but the seed decides them.
fn same(one: &Job, other: &Job) -> bool {
    (&one.dataset, &one.recipe, &one.set) == (&other.dataset, &other.recipe, &other.set)
}
