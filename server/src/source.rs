//! The interface between the service and the pipeline behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use forebay::{FetchAhead, Pixels, SubmitOptions};
use forebay_proto::v1::{self, DescribeResponse, TrainerMix};
pub use forebay_types::{MicrobatchName, PixelFormat, Timings};
use serde::Serialize;

use crate::status::Refusal;

/// Bytes of JSON that the samples of one answer to Explain may have; the first one is always in it. A name
/// has at most 64 KiB, so that every answer is below the default limit of clients.
pub(crate) const EXPLAIN_BYTES: usize = 1 << 20;

/// The datasets and recipes of a server.
pub trait Source: Send + Sync + 'static {
    /// Names of the datasets, in order.
    fn datasets(&self) -> Vec<String>;

    /// Facts of each dataset.
    fn about(&self) -> Vec<DatasetFacts> {
        let named = |name| DatasetFacts { name, ..DatasetFacts::default() };
        self.datasets().into_iter().map(named).collect()
    }

    /// Totals and current load of the pipeline.
    fn load(&self) -> Load {
        Load::default()
    }

    /// The dataset and the recipe of a job. The service compares the digests that the client expects.
    /// Every request calls this, so it must be fast: nothing is read or indexed here.
    ///
    /// # Errors
    /// When the dataset or the recipe is unknown or invalid.
    fn open(&self, job: &v1::Job) -> Result<Arc<dyn OpenJob>, Refusal>;
}

/// Facts of a dataset, for the status page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DatasetFacts {
    /// Name that it is served by.
    pub name: String,
    /// Number of records.
    pub records: u64,
    /// Records that do not decode and are replaced by others.
    pub bad: u64,
    /// Number of classes.
    pub classes: usize,
    /// Digest in hexadecimal.
    pub digest: String,
    /// How often a record was decoded from its start because its entry points are damaged.
    pub damaged_entry_points: u64,
}

/// Totals of a pipeline since its start, and its current load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Load {
    /// Worker threads.
    pub threads: usize,
    /// Samples computed.
    pub samples: u64,
    /// Images decoded for them.
    pub decoded: u64,
    /// Microbatches computed.
    pub microbatches: u64,
    /// Requests that joined one for the same microbatch in the queue.
    pub joined: u64,
    /// Requests that found their microbatch in the cache.
    pub cached: u64,
    /// Different microbatches requested and not yet computed.
    pub microbatches_pending: usize,
    /// Microbatches that wait for a buffer.
    pub microbatches_waiting_for_buffer: usize,
    /// Estimated time until everything requested now has been computed.
    #[serde(skip)]
    pub drain_estimate: Duration,
    /// Reads of records that took longer than they may and have not ended.
    pub stuck_reads: usize,
    /// Bytes of microbatches being computed, sent or cached.
    pub buffer_bytes: u64,
    /// Bytes of cached microbatches, included in `buffer_bytes`.
    pub cache_bytes: u64,
    /// Limit of `buffer_bytes`.
    pub buffer_limit_bytes: u64,
    /// What reading from buckets has cost, if a dataset is in one.
    pub storage: Option<StorageLoad>,
}

/// What reading from buckets has cost since the start, and its current state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct StorageLoad {
    /// Bytes of records that were in the disk cache.
    pub cache_bytes: u64,
    /// Bytes of records that came from a bucket.
    pub remote_bytes: u64,
    /// Bytes that buckets have sent, with whole blocks for the disk cache and what was sent twice.
    pub fetched_bytes: u64,
    /// Requests sent.
    pub requests: u64,
    /// Requests that were sent again after a failure.
    pub retries: u64,
    /// Second requests for a first byte that was late.
    pub hedges: u64,
    /// Answers that said to slow down.
    pub throttled: u64,
    /// Records whose bytes in the disk cache were wrong, and were fetched again.
    pub damaged: u64,
    /// Reads for which a worker had to wait.
    pub late_reads: u64,
    /// Microbatches that wait for their bytes.
    pub microbatches_waiting: usize,
    /// Time that microbatches waited for their bytes.
    #[serde(skip)]
    pub waited: Duration,
    /// Bytes on their way or in memory until they are used.
    pub held_bytes: u64,
    /// Limit of `held_bytes`.
    pub held_limit_bytes: u64,
    /// Bytes in the disk cache, of all processes of the host; 0 without one.
    pub disk_cache_bytes: u64,
    /// Limit of `disk_cache_bytes`.
    pub disk_cache_limit_bytes: u64,
    /// Whether the disk of the cache failed or was full, so that nothing is added any more.
    pub disk_cache_failed: bool,
    /// Blocks of the disk cache that its disk could not read, not even after they were written again.
    pub disk_cache_given_up_blocks: u64,
    /// Cost of a million images so far, if a price is set.
    pub cost_per_million_images: Option<f64>,
}

impl StorageLoad {
    /// Share of the bytes of records that were in the disk cache.
    pub fn hit_ratio(&self) -> f64 {
        self.cache_bytes as f64 / ((self.cache_bytes + self.remote_bytes) as f64).max(1.0)
    }
}

/// A dataset with a recipe.
pub trait OpenJob: Send + Sync + 'static {
    /// The answer to Describe, without `server_version`, `datasets` and `classes`. Every request makes
    /// it, so it must not have what may be long.
    fn facts(&self) -> &DescribeResponse;

    /// Names of the classes.
    fn classes(&self) -> &[String];

    /// Number of microbatches of a step: `facts().microbatches`, except in the last step of an
    /// evaluation, which may have too few samples left to fill them.
    fn microbatches(&self, step: u64) -> u32;

    /// Checks that every microbatch of the job can be made and sent in a format, before any work is done.
    ///
    /// # Errors
    /// When a microbatch needs more memory than there is, or its header is too large.
    fn check(&self, format: PixelFormat) -> Result<(), Refusal>;

    /// Requests a microbatch without waiting. `done` is called with it from any thread. A `done` that is
    /// dropped without a call means that the server shuts down.
    ///
    /// # Errors
    /// When the client has too many outstanding microbatches, or the name is out of range.
    fn submit(
        &self,
        name: MicrobatchName,
        format: PixelFormat,
        options: SubmitOptions,
        done: Done,
    ) -> Result<(), Refusal>;

    /// Bytes that are fetched from a bucket before the microbatches of a call are requested; 0 if nothing is.
    fn fetch_ahead_limit(&self) -> u64 {
        0
    }

    /// Begins to fetch what a microbatch reads from a bucket, before it is requested.
    fn fetch_ahead(&self, _name: MicrobatchName) -> Option<FetchAhead> {
        None
    }

    /// The plan of a microbatch from its sample `first` on, as JSON of about 1 MiB. Returns the sample
    /// after the last one too, or 0 if there is none.
    ///
    /// # Errors
    /// When the name or the sample is out of range.
    fn explain(&self, name: MicrobatchName, first: u32) -> Result<(String, u32), Refusal>;
}

/// Cancels a request when dropped.
#[derive(Debug)]
pub(crate) struct RequestGuard(Arc<AtomicBool>);

impl RequestGuard {
    pub(crate) fn new(options: &SubmitOptions) -> Self {
        Self(Arc::clone(&options.cancelled))
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A callback that receives the microbatch, or the reason why there is none.
pub type Done = Box<dyn FnOnce(Result<WireMicrobatch, Refusal>) + Send>;

/// A microbatch of n samples that has been computed.
#[derive(Debug)]
pub struct WireMicrobatch {
    /// Pixels, created by [`Bytes::from_owner`] from their buffer, which returns to its pool once the
    /// last piece has been sent.
    pub payload: Bytes,
    /// The same pixels, if they may be lent to a process of this host.
    pub shared: Option<Pixels>,
    /// The four dimensions, in the order of the layout.
    pub shape: [u32; 4],
    /// Record number of each sample.
    pub records: Vec<u64>,
    /// First label of each sample, with weight lambda.
    pub label_a: Vec<u32>,
    /// Second label of each sample, with weight 1 - lambda.
    pub label_b: Vec<u32>,
    /// Weight of the first label of each sample.
    pub lambda: Vec<f32>,
    /// The mixing that the trainer has to do, if any.
    pub mix: Option<TrainerMix>,
    /// XXH3-64 of the payload.
    pub xxh3: u64,
    /// Time spent in each stage.
    pub timings: Timings,
}

impl WireMicrobatch {
    /// The header, the payload, and the pixels that may be lent.
    pub(crate) fn into_parts(
        self,
        facts: &DescribeResponse,
        name: MicrobatchName,
        format: PixelFormat,
    ) -> (v1::Header, Bytes, Option<Pixels>) {
        let mut header = v1::Header {
            epoch: name.epoch,
            step: name.step,
            microbatch: name.index,
            seed: name.seed,
            dataset_digest: facts.dataset_digest.clone(),
            recipe_digest: facts.recipe_digest.clone(),
            dtype: v1::DType::from(format.dtype).into(),
            layout: v1::Layout::from(format.layout).into(),
            shape: self.shape.to_vec(),
            payload_bytes: self.payload.len() as u64,
            payload_xxh3: self.xxh3,
            records: self.records,
            label_a: self.label_a,
            label_b: self.label_b,
            lambda: self.lambda,
            mix: self.mix,
            timings: Some((&self.timings).into()),
            targets_xxh3: None,
            lease: 0,
        };
        header.targets_xxh3 = Some(forebay_proto::header::targets_xxh3(&header));
        (header, self.payload, self.shared)
    }
}
