//! Calls with one response, retried at other servers.

use std::future::ready;
use std::sync::Arc;

use forebay_proto::v1;
use forebay_proto::v1::forebay_service_client::ForebayServiceClient as Stub;
use http::header::AUTHORIZATION;
use tokio::time::timeout;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::description::{self, Description};
use crate::error::{Cause, Error};
use crate::fleet::job_servers::JobServers;
use crate::fleet::members::Member;
use crate::job::Job;
use crate::notice::warn_if_silent;
use crate::options::Options;
use crate::plan::Plan;
use crate::stream::retry::Retries;
use crate::wire::connect::{Pool, Server};
use crate::wire::expected::check_digest;

/// The connections for single calls.
#[derive(Clone, Debug)]
pub(crate) struct Unary {
    pub(crate) options: Arc<Options>,
    pub(crate) pool: Arc<Pool>,
}

impl Unary {
    /// Calls the servers in their order until one of them answers, as the retry policy says.
    pub(crate) async fn call<T, F: Future<Output = Result<T, Cause>>>(
        &self,
        servers: &Arc<JobServers>,
        request: &str,
        key: u64,
        call: impl Fn(Arc<Member>) -> F,
    ) -> Result<T, Error> {
        let mut retries = Retries::of_single_call(servers);
        loop {
            let attempt = retries.next_attempt(key, request).await?;
            let answer = call(Arc::clone(&attempt.member));
            match warn_if_silent((attempt.member.name(), request), ready(()), answer).await {
                Ok(answer) => {
                    retries.succeeded(&attempt);
                    return Ok(answer);
                }
                Err(cause) => {
                    self.pool.failed(&attempt.member.server, &cause);
                    retries.failed(&attempt, cause, request)?;
                }
            }
        }
    }

    /// Asks one server to describe a job, and checks the digests that the job expects.
    pub(crate) async fn describe(
        &self,
        job: &Job,
        member: Arc<Member>,
    ) -> Result<Description, Cause> {
        let description = self.whole(Box::pin(self.pages_of_description(job, member))).await?;
        let description = Description::from_wire(description)?;
        if let Some(expected) = job.dataset_digest {
            check_digest("dataset", expected, &description.dataset_digest.0)?;
        }
        if let Some(expected) = job.recipe_digest {
            check_digest("recipe", expected, &description.recipe_digest.0)?;
        }
        Ok(description)
    }

    /// A description with the names of all classes. A response has as many names as fit into a message.
    async fn pages_of_description(
        &self,
        job: &Job,
        member: Arc<Member>,
    ) -> Result<v1::DescribeResponse, Cause> {
        let mut stub = Stub::new(self.pool.connection(&member.server)?);
        let mut request = v1::DescribeRequest { job: Some(job.to_wire()), first_class: 0 };
        let server = &member.server;
        let call = stub.describe(self.authorized(request.clone())?);
        let mut description = self.message(server, call).await?;
        let mut bytes = 0;
        while (description.classes.len() as u64) < description.class_count {
            request.first_class = description.classes.len() as u64;
            let call = stub.describe(self.authorized(request.clone())?);
            let rest = self.message(server, call).await?;
            description::add_classes(&mut description, rest, &mut bytes)?;
        }
        Ok(description)
    }

    /// Asks one server for the plan of a microbatch.
    pub(crate) async fn explain(
        &self,
        request: v1::ExplainRequest,
        member: Arc<Member>,
    ) -> Result<String, Cause> {
        self.whole(Box::pin(self.pages_of_plan(request, member))).await
    }

    async fn pages_of_plan(
        &self,
        mut request: v1::ExplainRequest,
        member: Arc<Member>,
    ) -> Result<String, Cause> {
        let mut stub = Stub::new(self.pool.connection(&member.server)?);
        let mut plan = Plan::default();
        loop {
            let call = stub.explain(self.authorized(request.clone())?);
            let page = self.message(&member.server, call).await?;
            request.first_sample = match plan.add(request.first_sample, page)? {
                Some(next) => next,
                None => return plan.into_json(),
            };
        }
    }

    /// Bounds the time of an answer that has many parts, each of which may arrive in time.
    pub(crate) async fn whole<T>(
        &self,
        answer: impl Future<Output = Result<T, Cause>>,
    ) -> Result<T, Cause> {
        let limit = self.options.timeouts.microbatch;
        timeout(limit, answer).await.unwrap_or(Err(Cause::MicrobatchTimeout(limit)))
    }

    /// Adds the token to a request, if there is one.
    fn authorized<T>(&self, message: T) -> Result<Request<T>, Cause> {
        let mut request = Request::new(message);
        if let Some(token) = self.options.access.token()? {
            let metadata = std::mem::take(request.metadata_mut());
            let mut headers = metadata.into_headers();
            headers.insert(AUTHORIZATION, token);
            *request.metadata_mut() = MetadataMap::from_headers(headers);
        }
        Ok(request)
    }

    /// Waits for the message of a response.
    async fn message<T>(
        &self,
        server: &Server,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Cause> {
        let timeouts = &self.options.timeouts;
        let idle = timeouts.idle;
        let response = timeout(idle, call).await.map_err(|_elapsed| Cause::IdleTimeout(idle))?;
        let response = response.map_err(|status| server.cause_of(&status, timeouts))?;
        server.note_offer(response.metadata().as_ref());
        Ok(response.into_inner())
    }
}
