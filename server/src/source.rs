//! What the service needs from those who make microbatches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use forebay::Requester;
use serde::Serialize;

use forebay_proto::v1::{self, DType, DescribeResponse, Layout, MixPlan, Timings};

use crate::status::Refusal;

/// The datasets and recipes that a server has.
pub trait Source: Send + Sync + 'static {
    /// Names of the datasets, in order.
    fn datasets(&self) -> Vec<String>;

    /// What is to be known of each of them.
    fn about(&self) -> Vec<DatasetFacts> {
        let named = |name| DatasetFacts { name, ..DatasetFacts::default() };
        self.datasets().into_iter().map(named).collect()
    }

    /// What the pipeline does and may do.
    fn load(&self) -> Load {
        Load::default()
    }

    /// The dataset and the recipe of a job. The digests that the client expects are compared by the
    /// caller. Called for each request, so it is quick: nothing is read or indexed here.
    fn open(&self, job: &v1::Job) -> Result<Arc<dyn Job>, Refusal>;
}

/// A dataset, as the status page shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DatasetFacts {
    /// What it is served by.
    pub name: String,
    /// Records.
    pub records: u64,
    /// Of them, those that are replaced by others.
    pub bad: u64,
    /// Classes.
    pub classes: usize,
    /// Its digest, in hexadecimal.
    pub digest: String,
}

/// What a pipeline has done since it started, and what it has in work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Worker threads.
    pub threads: usize,
    /// Samples made.
    pub samples: u64,
    /// Images decoded for them.
    pub decoded: u64,
    /// Microbatches made.
    pub microbatches: u64,
    /// Microbatches that were not made, because another caller waited for the same.
    pub joined: u64,
    /// Microbatches that were not made, because they were ready.
    pub cached: u64,
    /// Microbatches asked for and not made yet.
    pub asked: usize,
    /// How long it takes until all is made that is asked for.
    #[serde(skip)]
    pub wait: Duration,
    /// Bytes of microbatches being made, sent or kept ready.
    pub buffer_bytes: u64,
    /// Of them, those kept ready.
    pub cache_bytes: u64,
    /// Bytes that all together may have.
    pub buffer_limit: u64,
    /// Microbatches that wait for a buffer.
    pub starved: usize,
}

/// A dataset with a recipe.
pub trait Job: Send + Sync + 'static {
    /// What Describe answers, but for `server_version` and `datasets`.
    fn facts(&self) -> &DescribeResponse;

    /// How many microbatches a step has: `facts().microbatches`, but for the last step of an
    /// evaluation, which may have too few samples left to fill them.
    fn microbatches(&self, step: u64) -> u32;

    /// Asks for a microbatch, without waiting: `done` gets it, from any thread. A `done` dropped
    /// uncalled means that the server stops.
    fn submit(
        &self,
        name: Name,
        output: Output,
        requester: Requester,
        done: Done,
    ) -> Result<(), Refusal>;

    /// The plan of a microbatch, as JSON.
    fn explain(&self, name: Name) -> Result<String, Refusal>;
}

/// The name of a microbatch within its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// Of the job.
    pub seed: u64,
    /// From 0.
    pub epoch: u64,
    /// Below `steps_per_epoch`.
    pub step: u64,
    /// Below the step's number of microbatches.
    pub index: u32,
}

/// How pixels are to be delivered: nothing is left unspecified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// Not `DtypeUnspecified`.
    pub dtype: DType,
    /// Not `Layout::Unspecified`.
    pub layout: Layout,
    /// Mixed here; otherwise the trainer does, by the plan in the header.
    pub mixed: bool,
}

/// The side that waits: dropped, the microbatch is no longer wanted.
#[derive(Debug)]
pub(crate) struct Waiting(Arc<AtomicBool>);

impl Waiting {
    /// Cancels the request when dropped.
    pub(crate) fn of(requester: &Requester) -> Self {
        Self(Arc::clone(&requester.cancelled))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Gets the microbatch or what went wrong.
pub type Done = Box<dyn FnOnce(Result<Microbatch, Refusal>) + Send>;

/// A microbatch of n samples, made.
#[derive(Debug)]
pub struct Microbatch {
    /// Pixels. Made with [`Bytes::from_owner`] of the slab, which thus goes back to its ring when the
    /// last piece was sent.
    pub payload: Bytes,
    /// Four numbers, in the order of the layout.
    pub shape: [u32; 4],
    /// n record numbers.
    pub records: Vec<u64>,
    /// n labels, of weight lambda.
    pub label_a: Vec<u32>,
    /// n labels, of weight 1 - lambda.
    pub label_b: Vec<u32>,
    /// n weights.
    pub lambda: Vec<f32>,
    /// What is left to mix, if the trainer does.
    pub mix: Option<MixPlan>,
    /// XXH3-64 of the payload.
    pub xxh3: u64,
    /// Where the time went.
    pub timings: Timings,
}

impl Microbatch {
    /// The header that goes before the payload, and the payload.
    pub(crate) fn into_parts(
        self,
        facts: &DescribeResponse,
        name: Name,
        output: Output,
    ) -> (v1::Header, Bytes) {
        let mut header = v1::Header {
            epoch: name.epoch,
            step: name.step,
            microbatch: name.index,
            seed: name.seed,
            dataset_digest: facts.dataset_digest.clone(),
            recipe_digest: facts.recipe_digest.clone(),
            dtype: output.dtype.into(),
            layout: output.layout.into(),
            shape: self.shape.to_vec(),
            payload_bytes: self.payload.len() as u64,
            payload_xxh3: self.xxh3,
            records: self.records,
            label_a: self.label_a,
            label_b: self.label_b,
            lambda: self.lambda,
            mix: self.mix,
            timings: Some(self.timings),
            targets_xxh3: None,
        };
        header.targets_xxh3 = Some(forebay_proto::header::targets_xxh3(&header));
        (header, self.payload)
    }
}
