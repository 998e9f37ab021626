//! The two calls that return microbatches.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use forebay_proto::types::{Cursor, MicrobatchName, PixelFormat};
use forebay_proto::v1;

use crate::error::Cause;
use crate::fleet::job_servers::JobServers;
use crate::fleet::members::Member;
use crate::fleet::rendezvous;
use crate::job::Job;
use crate::microbatch::Microbatch;
use crate::options::{Options, SharedMemory};
use crate::stream::walk::Walk;
use crate::wire::buffers::Buffers;
use crate::wire::connect::{Pool, open};
use crate::wire::demand::Demand;
use crate::wire::expected::Expected;
use crate::wire::receive::{Leasing, Receiver};

/// Largest number of steps of a request.
const MAX_STEPS: u64 = 1 << 32;

/// Everything that requests for the microbatches of a job need.
#[derive(Debug)]
pub(crate) struct JobContext {
    pub(crate) options: Arc<Options>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) servers: Arc<JobServers>,
    /// Has the digests of `expected`, so that a server with other data refuses the request.
    pub(crate) job: Job,
    pub(crate) expected: Expected,
    pub(crate) buffers: Buffers,
    /// Whether the trainer waits.
    pub(crate) demand: Arc<Demand>,
}

impl JobContext {
    /// The key that determines the order of the servers for a step.
    pub(crate) fn key(&self, step: Cursor) -> u64 {
        let Expected { description, seed, .. } = &self.expected;
        rendezvous::key(description.dataset_digest, description.recipe_digest, *seed, step)
    }

    /// Starts a stream.
    ///
    /// # Errors
    /// When the call cannot be started.
    pub(crate) async fn stream(
        self: Arc<Self>,
        member: Arc<Member>,
        mut request: v1::StreamRequest,
    ) -> Result<Receiver, Cause> {
        let leasing = self.leasing(&member).await;
        request.leases = leasing.as_ref().map(|leasing| leasing.call.to_wire());
        let path = "/forebay.v1.ForebayService/Stream";
        self.open(&member, path, &request, (Arc::default(), leasing)).await
    }

    /// The request for the names of a walk.
    pub(crate) fn stream_request(&self, walk: &Walk, window_bytes: usize) -> v1::StreamRequest {
        let Cursor { epoch, step } = walk.next();
        let PixelFormat { dtype, layout, mixed_by } = self.options.format;
        v1::StreamRequest {
            job: Some(self.job.to_wire()),
            epoch,
            step,
            // Servers accept no larger number, and no stream gets that far.
            steps: walk.steps().min(MAX_STEPS),
            microbatches: walk.indices().to_vec(),
            skip: u32::try_from(walk.done()).expect("below the microbatches of a step, a u32"),
            dtype: v1::DType::from(dtype).into(),
            layout: v1::Layout::from(layout).into(),
            mixed_by: v1::MixedBy::from(mixed_by).into(),
            window_bytes: window_bytes as u64,
            leases: None,
        }
    }

    /// Fetches one microbatch. `received` counts the bytes of its payload as they arrive.
    ///
    /// # Errors
    /// When the call fails, or its answer is not the microbatch.
    pub(crate) async fn fetch(
        &self,
        member: Arc<Member>,
        name: MicrobatchName,
        received: &Arc<AtomicU64>,
    ) -> Result<Microbatch, Cause> {
        let PixelFormat { dtype, layout, mixed_by } = self.options.format;
        let leasing = self.leasing(&member).await;
        let request = v1::FetchRequest {
            job: Some(self.job.to_wire()),
            epoch: name.epoch,
            step: name.step,
            microbatch: name.index,
            dtype: v1::DType::from(dtype).into(),
            layout: v1::Layout::from(layout).into(),
            mixed_by: v1::MixedBy::from(mixed_by).into(),
            leases: leasing.as_ref().map(|leasing| leasing.call.to_wire()),
        };
        let path = "/forebay.v1.ForebayService/Fetch";
        let counted = (Arc::clone(received), leasing);
        let mut receiver = self.open(&member, path, &request, counted).await?;
        let microbatch = receiver.microbatch(name, &self.expected, &self.buffers).await?;
        receiver.end().await?;
        Ok(microbatch)
    }

    /// A call whose microbatches can be leased, if the server can do that.
    async fn leasing(&self, member: &Member) -> Option<Leasing> {
        let memory = self.pool.memory(&member.server).await?;
        let verify = self.options.shared_memory != SharedMemory::Trust;
        Some(Leasing::new(memory.call(), Arc::clone(&self.demand), verify))
    }

    async fn open(
        &self,
        member: &Member,
        path: &'static str,
        request: &impl prost::Message,
        (received, leasing): (Arc<AtomicU64>, Option<Leasing>),
    ) -> Result<Receiver, Cause> {
        let timeouts = self.options.timeouts;
        let token = self.options.access.token()?;
        let connection = self.pool.connection(&member.server)?;
        let body = open((connection, &member.server), path, request, token, &timeouts).await?;
        Ok(Receiver::new(body, timeouts, received, leasing))
    }
}
