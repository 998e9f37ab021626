//! The client: the calls of the service, each sent to servers in turn until one answers.

use std::sync::{Arc, Mutex, PoisonError};

use forebay_proto::types::{Cursor, Digest, MicrobatchName, Rank};
use forebay_proto::v1;

use crate::description::Description;
use crate::error::Error;
use crate::fleet::job_servers::JobServers;
use crate::fleet::members::Fleet;
use crate::fleet::stats::ServerStats;
use crate::job::Job;
use crate::microbatch::Microbatch;
use crate::options::{Options, Prefetch};
use crate::stream::microbatches::Microbatches;
use crate::stream::request::JobContext;
use crate::stream::walk::{End, Start, Walk};
use crate::stream::window::{Window, automatic_bytes};
use crate::survey::survey;
use crate::unary::Unary;
use crate::wire::buffers::Buffers;
use crate::wire::connect::Pool;
use crate::wire::demand::Demand;
use crate::wire::expected::Expected;

/// A client of one or more servers with the same datasets.
///
/// The first description pins a job's digests; with several servers it is the one that most of them
/// agree on. From then on a server with another dataset or recipe of that name is excluded.
///
/// ```no_run
/// # async fn run() -> Result<(), forebay_client::Error> {
/// use forebay_client::{Client, Cursor, End, Job, Options, Rank};
///
/// let servers = ["http://data-0:50051", "http://data-1:50051"];
/// let client = Client::connect(Options::new(servers))?;
/// let job = Job { seed: 7, ..Job::new("imagenet", "a2") };
/// let description = client.describe(&job).await?;
/// println!("{} steps of {} images", description.steps_per_epoch, description.batch);
///
/// // The second of four trainers resumes at epoch 3, and reads to the end of epoch 299.
/// let from = Cursor { epoch: 3, step: 0 };
/// let end = End::Until(Cursor { epoch: 300, step: 0 });
/// let mut stream = client.stream(&job, from, end, Rank { rank: 1, world: 4 }).await?;
/// while let Some(microbatch) = stream.next().await {
///     let microbatch = microbatch?;
///     println!("{}: shape {:?}", microbatch.name, microbatch.shape);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    options: Arc<Options>,
    fleet: Arc<Fleet>,
    calls: Unary,
    pinned: Arc<Mutex<Vec<PinnedJob>>>,
}

/// A job, its first description, and the servers that agree with it.
#[derive(Clone, Debug)]
struct PinnedJob {
    job: Job,
    description: Arc<Description>,
    servers: Arc<JobServers>,
}

impl Client {
    /// Creates a client, which connects at its first call. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// [`Error::Options`] if an option is invalid, or a certificate file or the token file cannot be read.
    pub fn connect(options: Options) -> Result<Self, Error> {
        options.check()?;
        let options = Arc::new(options);
        let fleet = Arc::new(Fleet::new(&options)?);
        let calls = Unary { options: Arc::clone(&options), pool: Arc::new(Pool::new(&options)) };
        Ok(Self { options, fleet, calls, pinned: Arc::default() })
    }

    /// The servers, with their state and statistics.
    pub fn servers(&self) -> Vec<ServerStats> {
        self.fleet.stats()
    }

    /// Describes the dataset and the recipe of a job.
    ///
    /// # Errors
    /// [`Error::Refused`] if a server refuses the job, [`Error::NoServer`] if several servers exclude
    /// themselves from it, and [`Error::GaveUp`] if none answers in the time that [`Options::retry`] allows.
    pub async fn describe(&self, job: &Job) -> Result<Arc<Description>, Error> {
        let is_known = self.pinned(job).is_some();
        let (job, servers) = self.with_digests(job);
        let surveyed = if is_known { None } else { survey(&self.calls, &job, &servers).await };
        let description = if let Some(description) = surveyed {
            description
        } else {
            let request = format!("description of {}", job.title());
            let describe = |member| self.calls.describe(&job, member);
            self.calls.call(&servers, &request, 0, describe).await?
        };
        let description = Arc::new(description);
        self.pin(job, &description, servers);
        Ok(description)
    }

    /// Returns the plan of one microbatch, as the JSON that `forebay explain` prints.
    ///
    /// # Errors
    /// As [`describe`](Self::describe); [`Error::Refused`] also if the name is out of range.
    pub async fn explain(&self, job: &Job, step: Cursor, index: u32) -> Result<String, Error> {
        let name = name(job, step, index);
        let (pinned, servers) = self.with_digests(job);
        let request = v1::ExplainRequest {
            job: Some(pinned.to_wire()),
            epoch: name.epoch,
            step: name.step,
            microbatch: name.index,
            first_sample: 0,
        };
        let what = format!("plan of {} at {name}", job.title());
        let explain = |member| self.calls.explain(request.clone(), member);
        self.calls.call(&servers, &what, name.step, explain).await
    }

    /// Fetches one microbatch.
    ///
    /// # Errors
    /// As [`describe`](Self::describe); [`Error::Refused`] also if the name is out of range.
    pub async fn fetch(&self, job: &Job, step: Cursor, index: u32) -> Result<Microbatch, Error> {
        let name = name(job, step, index);
        let context = self.context(job, &self.calls.pool, Demand::always()).await?;
        let what = format!("fetch of {} at {name}", job.title());
        let received = Arc::default();
        let fetch = |member| self.calls.whole(context.fetch(member, name, &received));
        Box::pin(self.calls.call(&context.servers, &what, context.key(step), fetch)).await
    }

    /// Streams a rank's microbatches from a step on, or from a [`Start`] within one: in order, each exactly
    /// once, whichever servers fail.
    ///
    /// Each step comes from one server, the same for all ranks; steps are spread over the servers.
    ///
    /// # Errors
    /// As [`describe`](Self::describe); [`Error::Options`] if the cursor is not in its epoch, or the world
    /// does not divide the microbatches of a step.
    pub async fn stream(
        &self,
        job: &Job,
        from: impl Into<Start>,
        end: End,
        rank: Rank,
    ) -> Result<Microbatches, Error> {
        let pool = Arc::new(Pool::new(&self.options));
        let context = self.context(job, &pool, Demand::default()).await?;
        let walk = Walk::new(from.into(), end, rank, &context.expected)?;
        let window = self.window(&context, &walk);
        Ok(Microbatches::start(Arc::new(context), window, walk))
    }

    /// The window of a stream: as set, or large enough to keep all servers busy.
    fn window(&self, context: &JobContext, walk: &Walk) -> Window {
        let step_bytes = || {
            let bytes =
                |index: &u32| context.expected.bytes(name(&context.job, Cursor::default(), *index));
            walk.indices().iter().map(bytes).sum()
        };
        Window::new(match self.options.prefetch {
            Prefetch::Bytes(bytes) => bytes,
            Prefetch::Auto => automatic_bytes(context.servers.members().len(), step_bytes()),
        })
    }

    /// The context of requests for the microbatches of a job.
    async fn context(
        &self,
        job: &Job,
        pool: &Arc<Pool>,
        demand: Demand,
    ) -> Result<JobContext, Error> {
        let description = match self.pinned(job) {
            Some(pinned) => pinned.description,
            None => self.describe(job).await?,
        };
        let (job, servers) = self.with_digests(job);
        let expected = Expected {
            description,
            seed: job.seed,
            format: self.options.format,
            max_bytes: self.options.max_microbatch_bytes,
        };
        let (options, pool) = (Arc::clone(&self.options), Arc::clone(pool));
        let (buffers, demand) = (Buffers::default(), Arc::new(demand));
        Ok(JobContext { options, pool, servers, job, expected, buffers, demand })
    }

    /// The pinned job that has the same content, if there is one.
    fn pinned(&self, job: &Job) -> Option<PinnedJob> {
        let pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        let agrees =
            |expected: Option<Digest>, found| expected.is_none_or(|digest| digest == found);
        let found = pinned.iter().find(|PinnedJob { job: other, description, .. }| {
            have_same_digests(other, job)
                && agrees(job.dataset_digest, description.dataset_digest)
                && agrees(job.recipe_digest, description.recipe_digest)
        });
        found.cloned()
    }

    /// The job with the digests of its first description, if there was one, and its servers.
    fn with_digests(&self, job: &Job) -> (Job, Arc<JobServers>) {
        let Some(PinnedJob { description, servers, .. }) = self.pinned(job) else {
            return (job.clone(), JobServers::new(&self.fleet));
        };
        let job = Job {
            dataset_digest: Some(description.dataset_digest),
            recipe_digest: Some(description.recipe_digest),
            ..job.clone()
        };
        (job, servers)
    }

    fn pin(&self, job: Job, description: &Arc<Description>, servers: Arc<JobServers>) {
        let mut pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        if !pinned.iter().any(|other| have_same_digests(&other.job, &job)) {
            pinned.push(PinnedJob { job, description: Arc::clone(description), servers });
        }
    }
}

/// The name of a microbatch of a job.
const fn name(job: &Job, step: Cursor, index: u32) -> MicrobatchName {
    MicrobatchName { seed: job.seed, epoch: step.epoch, step: step.step, index }
}

/// Whether two jobs have the same digests, which everything but the seed determines.
fn have_same_digests(one: &Job, other: &Job) -> bool {
    (&one.dataset, &one.recipe, &one.set) == (&other.dataset, &other.recipe, &other.set)
}
