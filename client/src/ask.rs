//! The two calls that bring microbatches.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use forebay_proto::v1;

use crate::connect::{Pool, open};
use crate::cursor::Walk;
use crate::error::Cause;
use crate::fleet::Member;
use crate::receive::{Receiver, Wanted};
use crate::rendezvous;
use crate::roster::Roster;
use crate::slab::Slabs;
use crate::{Cursor, Job, Microbatch, MicrobatchName, Options};

/// What is asked for, and with what.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) options: Arc<Options>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) roster: Arc<Roster>,
    /// With the digests of `wanted`, so that a server with others refuses it.
    pub(crate) job: Job,
    pub(crate) wanted: Wanted,
    pub(crate) slabs: Slabs,
}

impl Ask {
    /// What the order of the servers hangs on.
    pub(crate) fn key(&self, step: Cursor) -> u64 {
        let description = &self.wanted.description;
        let (dataset, recipe) = (description.dataset_digest, description.recipe_digest);
        rendezvous::key(dataset, recipe, self.wanted.seed, step)
    }

    /// Starts a stream of a walk's names.
    pub(crate) async fn stream(
        self: Arc<Self>,
        member: Arc<Member>,
        request: v1::StreamRequest,
    ) -> Result<Receiver, Cause> {
        let silence = self.options.timeouts.silence;
        let path = "/forebay.v1.ForebayService/Stream";
        let token = self.options.access.token()?;
        let connection = self.pool.connection(&member.server)?;
        let body = open(connection, path, &request, token, silence).await?;
        Ok(Receiver::new(body, silence, Arc::default()))
    }

    /// The request for the rest of a walk.
    pub(crate) fn request(&self, walk: &Walk) -> v1::StreamRequest {
        let (steps, done, indices) = walk.rest();
        let Cursor { epoch, step } = walk.next();
        v1::StreamRequest {
            job: Some(self.job.to_wire()),
            epoch,
            step,
            steps,
            microbatches: indices.to_vec(),
            skip: u32::try_from(done).expect("fewer than the microbatches of a step, a u32"),
            dtype: v1::DType::from(self.options.dtype).into(),
            layout: v1::Layout::from(self.options.layout).into(),
            mixed_by: v1::MixedBy::from(self.options.mixed_by).into(),
            credit_bytes: self.options.prefetch_bytes as u64,
        }
    }

    /// One microbatch. `received` counts the bytes that come of it.
    pub(crate) async fn fetch(
        &self,
        member: Arc<Member>,
        name: MicrobatchName,
        received: &Arc<AtomicU64>,
    ) -> Result<Microbatch, Cause> {
        let request = v1::FetchRequest {
            job: Some(self.job.to_wire()),
            epoch: name.epoch,
            step: name.step,
            microbatch: name.index,
            dtype: v1::DType::from(self.options.dtype).into(),
            layout: v1::Layout::from(self.options.layout).into(),
            mixed_by: v1::MixedBy::from(self.options.mixed_by).into(),
        };
        let silence = self.options.timeouts.silence;
        let path = "/forebay.v1.ForebayService/Fetch";
        let token = self.options.access.token()?;
        let connection = self.pool.connection(&member.server)?;
        let body = open(connection, path, &request, token, silence).await?;
        let mut receiver = Receiver::new(body, silence, Arc::clone(received));
        let microbatch = receiver.microbatch(name, &self.wanted, &self.slabs).await?;
        receiver.end().await?;
        Ok(microbatch)
    }
}
