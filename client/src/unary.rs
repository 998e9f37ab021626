//! Calls with one response, retried at other servers.

use std::sync::Arc;

use forebay_proto::v1;
use forebay_proto::v1::forebay_service_client::ForebayServiceClient as Stub;
use http::header::AUTHORIZATION;
use tokio::time::timeout;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::description::Description;
use crate::error::{Cause, Error};
use crate::fleet::job_servers::JobServers;
use crate::fleet::members::Member;
use crate::job::Job;
use crate::options::Options;
use crate::stream::retry::Retries;
use crate::wire::connect::Pool;
use crate::wire::expected::check_digest;
use crate::wire::status::cause_of;

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
            match call(Arc::clone(&attempt.member)).await {
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
        let request = v1::DescribeRequest { job: Some(job.to_wire()) };
        let mut stub = Stub::new(self.pool.connection(&member.server)?);
        let description = self.message(stub.describe(self.authorized(request)?)).await?;
        let description = Description::from_wire(description)?;
        if let Some(expected) = job.dataset_digest {
            check_digest("dataset", expected, &description.dataset_digest.0)?;
        }
        if let Some(expected) = job.recipe_digest {
            check_digest("recipe", expected, &description.recipe_digest.0)?;
        }
        Ok(description)
    }

    /// Asks one server for the plan of a microbatch.
    pub(crate) async fn explain(
        &self,
        request: v1::ExplainRequest,
        member: Arc<Member>,
    ) -> Result<String, Cause> {
        let mut stub = Stub::new(self.pool.connection(&member.server)?);
        Ok(self.message(stub.explain(self.authorized(request)?)).await?.json)
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
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Cause> {
        let idle = self.options.timeouts.idle;
        let response = timeout(idle, call).await.map_err(|_elapsed| Cause::IdleTimeout(idle))?;
        Ok(response.map_err(|status| cause_of(&status))?.into_inner())
    }
}
