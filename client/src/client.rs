//! The calls of the service, at whichever server answers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use forebay_proto::v1;
use forebay_proto::v1::forebay_service_client::ForebayServiceClient as Stub;
use http::header::AUTHORIZATION;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::ask::Ask;
use crate::connect::Pool;
use crate::cursor::Walk;
use crate::error::Cause;
use crate::fleet::{Fleet, Member};
use crate::receive::{Wanted, check_digest};
use crate::retry::Attempts;
use crate::roster::Roster;
use crate::slab::Slabs;
use crate::status::cause_of;
use crate::stream::Stream;
use crate::{
    Cursor, Description, Digest, End, Error, Job, Microbatch, MicrobatchName, Microbatches,
    Options, Rank, ServerStats,
};

/// A job, its first description, and the servers that agree with it.
type Pin = (Job, Arc<Description>, Arc<Roster>);

/// After the first description the others have so long to arrive, before the majority of those that
/// came is believed.
const SURVEY: Duration = Duration::from_secs(2);

/// A client of one or more servers that have the same datasets.
///
/// The first description pins a job's digests, or that of most servers where there are several: from
/// then on a server that has another dataset of that name, or makes another recipe of it, is excluded.
#[derive(Clone, Debug)]
pub struct Client {
    options: Arc<Options>,
    fleet: Arc<Fleet>,
    pool: Arc<Pool>,
    pinned: Arc<Mutex<Vec<Pin>>>,
}

impl Client {
    /// Connects when there is something to ask, from within a Tokio runtime.
    pub fn connect(options: Options) -> Result<Self, Error> {
        options.check()?;
        let options = Arc::new(options);
        let fleet = Arc::new(Fleet::new(&options)?);
        let pool = Arc::new(Pool::new(&options));
        Ok(Self { options, fleet, pool, pinned: Arc::default() })
    }

    /// What came from each server, and whether it is asked.
    pub fn servers(&self) -> Vec<ServerStats> {
        self.fleet.stats()
    }

    /// What a job amounts to.
    pub async fn describe(&self, job: &Job) -> Result<Arc<Description>, Error> {
        let known = self.known(job).is_some();
        let (job, roster) = self.pinned(job);
        let surveyed = if known { None } else { self.survey(&job, &roster).await };
        let description = if let Some(description) = surveyed {
            description
        } else {
            let request = format!("description of {}", job.dataset);
            let describe = |server| self.describe_at(&job, server);
            self.ask(&roster, &request, 0, describe).await?
        };
        let description = Arc::new(description);
        self.pin(job, &description, roster);
        Ok(description)
    }

    /// Asks all servers, where there are several; what most of those that answer in time agree on.
    async fn survey(&self, job: &Job, roster: &Roster) -> Option<Description> {
        let members = roster.members();
        if members.len() < 2 {
            return None;
        }
        let mut asked = JoinSet::new();
        for member in members.iter().map(Arc::clone) {
            let (client, job) = (self.clone(), job.clone());
            asked.spawn(async move {
                let description = client.describe_at(&job, Arc::clone(&member)).await;
                description.ok().map(|description| (member, description))
            });
        }
        let mut answers: Vec<(Arc<Member>, Description)> = Vec::new();
        let mut end = None;
        loop {
            let next = async {
                match end {
                    Some(end) => timeout_at(end, asked.join_next()).await.ok().flatten(),
                    None => asked.join_next().await,
                }
            };
            let Some(answer) = next.await else { break };
            answers.extend(answer.ok().flatten());
            if !answers.is_empty() {
                end = end.or_else(|| Some(Instant::now() + SURVEY));
            }
        }
        answers.sort_by(|(one, _), (other, _)| one.name().cmp(other.name()));
        let agree = |one: &Description, other: &Description| {
            one.dataset_digest == other.dataset_digest && one.recipe_digest == other.recipe_digest
        };
        let votes = |of: &Description| answers.iter().filter(|(_, by)| agree(of, by)).count();
        // The first of equal ones, in the order of names, so that all ranks choose the same.
        let (_, chosen) = answers.iter().rev().max_by_key(|(_, description)| votes(description))?;
        for (member, found) in answers.iter().filter(|(_, found)| !agree(chosen, found)) {
            let (what, expected, found) = if found.dataset_digest == chosen.dataset_digest {
                ("recipe", chosen.recipe_digest, found.recipe_digest)
            } else {
                ("dataset", chosen.dataset_digest, found.dataset_digest)
            };
            roster.exclude(member, &Cause::Mismatch { what, expected, found });
        }
        Some(chosen.clone())
    }

    /// The plan of one microbatch, as the JSON that `forebay explain` prints.
    pub async fn explain(&self, job: &Job, step: Cursor, index: u32) -> Result<String, Error> {
        let name = named(job, step, index);
        let (pinned, roster) = self.pinned(job);
        let request = v1::ExplainRequest {
            job: Some(pinned.to_wire()),
            epoch: name.epoch,
            step: name.step,
            microbatch: name.index,
        };
        let what = format!("plan of {} at {name}", job.dataset);
        self.ask(&roster, &what, name.step, |server| {
            let request = self.signed(request.clone());
            async move {
                let mut stub = Stub::new(self.pool.connection(&server.server)?);
                Ok(self.answer(stub.explain(request?)).await?.json)
            }
        })
        .await
    }

    /// One microbatch.
    pub async fn fetch(&self, job: &Job, step: Cursor, index: u32) -> Result<Microbatch, Error> {
        let name = named(job, step, index);
        let ask = self.to_ask(job, &self.pool, 0).await?;
        let what = format!("fetch of {} at {name}", job.dataset);
        let received = Arc::default();
        let fetch = |server| ask.fetch(server, name, &received);
        self.ask(&ask.roster, &what, ask.key(step), fetch).await
    }

    /// A rank's microbatches from a step on: in order, each exactly once, whichever servers fail.
    ///
    /// Each step comes from one server, the same for all ranks; the steps are spread over the servers.
    pub async fn stream(
        &self,
        job: &Job,
        from: Cursor,
        end: End,
        rank: Rank,
    ) -> Result<Microbatches, Error> {
        let pool = Arc::new(Pool::new(&self.options));
        let ask = self.to_ask(job, &pool, self.options.prefetch_bytes).await?;
        let walk = Walk::new(from, end, rank, &ask.wanted)?;
        Ok(Microbatches::start(Stream { ask: Arc::new(ask), walk }))
    }

    /// What to ask for: the job with the digests that its servers must have.
    async fn to_ask(
        &self,
        job: &Job,
        pool: &Arc<Pool>,
        prefetch_bytes: usize,
    ) -> Result<Ask, Error> {
        let known = self.known(job).map(|(description, _)| description);
        let description = match known {
            Some(description) => description,
            None => self.describe(job).await?,
        };
        let (job, roster) = self.pinned(job);
        let wanted = Wanted {
            description,
            seed: job.seed,
            dtype: self.options.dtype,
            layout: self.options.layout,
            limit: self.options.max_microbatch_bytes,
        };
        let (options, slabs) = (Arc::clone(&self.options), Slabs::new(prefetch_bytes));
        Ok(Ask { pool: Arc::clone(pool), options, roster, job, wanted, slabs })
    }

    async fn describe_at(&self, job: &Job, server: Arc<Member>) -> Result<Description, Cause> {
        let request = v1::DescribeRequest { job: Some(job.to_wire()) };
        let mut stub = Stub::new(self.pool.connection(&server.server)?);
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

    /// Asks the servers in their order, as the retry policy says.
    async fn ask<T, F: Future<Output = Result<T, Cause>>>(
        &self,
        roster: &Arc<Roster>,
        request: &str,
        key: u64,
        call: impl Fn(Arc<Member>) -> F,
    ) -> Result<T, Error> {
        let mut attempts = Attempts::single(roster);
        loop {
            let turn = attempts.turn(key, request).await?;
            match call(Arc::clone(&turn.member)).await {
                Ok(answer) => {
                    attempts.succeeded(&turn);
                    return Ok(answer);
                }
                Err(cause) => {
                    self.pool.failed(&turn.member.server, &cause);
                    attempts.failed(&turn, cause, request)?;
                }
            }
        }
    }

    /// The job's first description, where there was one, and its servers.
    fn known(&self, job: &Job) -> Option<(Arc<Description>, Arc<Roster>)> {
        let pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        let agrees =
            |expected: Option<Digest>, found| expected.is_none_or(|digest| digest == found);
        let (_, description, roster) = pinned.iter().find(|(of, description, _)| {
            same(of, job)
                && agrees(job.dataset_digest, description.dataset_digest)
                && agrees(job.recipe_digest, description.recipe_digest)
        })?;
        Some((Arc::clone(description), Arc::clone(roster)))
    }

    /// The job with the digests of its first description, where there was one, and its servers.
    fn pinned(&self, job: &Job) -> (Job, Arc<Roster>) {
        match self.known(job) {
            Some((description, roster)) => (expecting(job, &description), roster),
            None => (job.clone(), Roster::new(&self.fleet)),
        }
    }

    fn pin(&self, job: Job, description: &Arc<Description>, roster: Arc<Roster>) {
        let mut pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        if !pinned.iter().any(|(of, _, _)| same(of, &job)) {
            pinned.push((job, Arc::clone(description), roster));
        }
    }
}

/// The name of a microbatch of a job.
const fn named(job: &Job, step: Cursor, index: u32) -> MicrobatchName {
    MicrobatchName { seed: job.seed, epoch: step.epoch, step: step.step, index }
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
