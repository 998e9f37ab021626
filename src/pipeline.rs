//! The pipeline: threads and wiring.
//!
//! ```text
//!   submit --> Queue: equal requests become one task; clients in turn
//!                |      records in a bucket are fetched first: no thread waits for a network
//!                |
//!              makers, one task each --> make: buffer, samples on the worker pool, mix, digest
//!                |                        ^
//!              finish: done(microbatch)   +-- waits while all buffers are in use: the back-pressure
//!                      and into the cache
//! ```
//!
//! A sample's slot is known before work starts, so neither the number of threads nor the order in
//! which they finish can change a batch. Several makers work at once, so that workers are busy while
//! the last samples of a microbatch are made, or while a GPU mixes it.

use std::any::Any;
use std::fmt;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use forebay_types::{PixelFormat, Timings};

use crate::batch::BufferPool;
use crate::dataset::{Dataset, DatasetError, Want};
use crate::error::Error;
use crate::geometry::Size;
use crate::gpu::HostMemory;
use crate::make::{
    self, Job, Large, MadeMicrobatch, MakeContext, RepeatCache, Request, RequestKey, Workers,
};
use crate::mix::{self, Mixer};
use crate::recipe::Recipe;
use crate::schedule::{
    Needs, Origin, Outcome, Queue, QueueStats, SubmitError, SubmitOptions, Submitted, Task, TaskEnd,
};
use crate::sync::lock;

/// Bounds of a [`Pipeline`].
#[derive(Clone, Copy, Debug)]
pub struct PipelineConfig {
    /// Number of worker threads. Default: one for each CPU.
    pub threads: NonZeroUsize,
    /// Maximum bytes of all batch buffers together. Default 256 MiB: six microbatches of 256 samples
    /// at 224 pixels in u8.
    pub buffer_bytes: usize,
    /// Maximum bytes of precomputed samples, which are repeats of a decoded record that belong to
    /// other microbatches of the step; 0 precomputes none. Default 96 MiB: the repeats of a step of
    /// 2048 samples at 224 pixels.
    pub share_bytes: usize,
    /// Maximum bytes of finished microbatches that are cached for equal requests; 0 caches none. They
    /// stay in their batch buffers, and are evicted when a buffer is needed. Default 128 MiB.
    pub cache_bytes: usize,
    /// Bytes of scratch memory of each worker thread, of which it keeps half. Default 64 MiB, enough for
    /// JPEG photographs of 10 megapixels. Larger pictures borrow the rest from the batch buffers.
    pub worker_bytes: usize,
    /// Time that a read of a record may take, so that a file system that hangs does not keep the
    /// workers; less while other reads of its dataset are stuck. Default 5 s.
    pub read_timeout: Duration,
    /// Whether batch buffers are in memory that other processes can read, if mixing and the system allow it.
    /// Default false.
    pub shared_memory: bool,
}

impl Default for PipelineConfig {
    fn default() -> Self {
        Self {
            threads: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            buffer_bytes: 256 << 20,
            share_bytes: 96 << 20,
            cache_bytes: 128 << 20,
            worker_bytes: 64 << 20,
            read_timeout: Duration::from_secs(5),
            shared_memory: false,
        }
    }
}

type RequestQueue = Queue<RequestKey, Job, MadeMicrobatch, Error>;

/// Totals of a pipeline since it started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Number of microbatches.
    pub microbatches: u64,
    /// Number of their samples.
    pub samples: u64,
    /// Number of images decoded for them: fewer than samples where repeats of a record share a decode.
    pub decoded: u64,
}

/// Makes microbatches: worker threads, buffers, and a queue of requests.
///
/// ```
/// use std::sync::Arc;
///
/// use forebay::dataset::{self, Dataset};
/// use forebay::recipe::RecipeSpec;
/// use forebay::sample_data::{self, SampleData};
/// use forebay::{MicrobatchName, Pipeline, PipelineConfig, PixelFormat, Request};
///
/// // A procedural dataset: 2 classes of 16 images, indexed in place.
/// let folder = tempfile::tempdir()?;
/// let images = SampleData { classes: 2, per_class: 16, val_per_class: 0, seed: 7 };
/// sample_data::write(folder.path(), &images, |_| {})?;
/// let train = folder.path().join("train");
/// dataset::build(&train, None, 1, &|_| {})?;
///
/// let small = ["batch = 16", "microbatches = 2", "image_size = 32"].map(String::from);
/// let request = Request {
///     dataset: Arc::new(Dataset::open(&train, None)?),
///     recipe: Arc::new(RecipeSpec::preset("a2").with_changes(small).resolve()?),
///     name: MicrobatchName { seed: 0, epoch: 0, step: 0, index: 1 },
///     format: PixelFormat::default(),
/// };
/// let pipeline = Pipeline::new(PipelineConfig::default())?;
/// let microbatch = pipeline.make(request.clone())?;
/// assert_eq!(microbatch.shape, [8, 32, 32, 3]);
///
/// // Equal names have equal bytes, whenever and wherever they are made.
/// assert_eq!(pipeline.make(request)?.xxh3, microbatch.xxh3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Dropping a pipeline cancels pending requests, and joins its threads after the microbatches that they
/// are making.
pub struct Pipeline {
    config: PipelineConfig,
    queue: Arc<RequestQueue>,
    buffers: BufferPool,
    mixer: Mixer,
    totals: Arc<Mutex<Totals>>,
    makers: Vec<JoinHandle<()>>,
}

impl Pipeline {
    /// Starts the threads of a pipeline that mixes on the CPU.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn new(config: PipelineConfig) -> std::io::Result<Self> {
        Self::with_mixer(&Mixer::Cpu, config)
    }

    /// Starts the threads of a pipeline that mixes on a device.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn with_mixer(mixer: &Mixer, config: PipelineConfig) -> std::io::Result<Self> {
        let memory = match mixer.memory() {
            HostMemory::Pageable if config.shared_memory => HostMemory::Shared,
            memory => memory,
        };
        let buffers = BufferPool::with_memory(config.buffer_bytes, memory);
        let per_client = mixer.concurrency();
        let queue = Arc::new(Queue::new(config.cache_bytes, config.threads.get(), per_client));
        let totals = Arc::new(Mutex::new(Totals::default()));
        let context = Arc::new(MakeContext {
            workers: Workers::new(config.threads, config.worker_bytes, config.read_timeout)?,
            repeats: RepeatCache::new(config.share_bytes),
            buffers: buffers.clone(),
            mixer: mixer.clone(),
        });
        // One is left for other clients while a client's microbatches take long or wait for memory.
        let makers = (0..=per_client).map(|number| {
            let (queue, context) = (Arc::clone(&queue), Arc::clone(&context));
            let totals = Arc::clone(&totals);
            let run = move || run_maker(&queue, &context, &totals);
            thread::Builder::new().name(format!("maker-{number}")).spawn(run)
        });
        let makers = makers.collect::<Result<_, _>>()?;
        Ok(Self { config, queue, buffers, mixer: mixer.clone(), totals, makers })
    }

    /// Checks that microbatches of `samples` of a dataset can be made, before any work is done for one.
    ///
    /// # Errors
    /// [`Error::BufferBudget`] or [`Error::Device`] if they need more memory than there is.
    pub fn check(
        &self,
        dataset: &Dataset,
        recipe: &Recipe,
        format: PixelFormat,
        samples: u64,
    ) -> Result<(), Error> {
        let size = Size::square(recipe.largest_image_size());
        let payload = mix::payload_bytes(samples, size, format);
        let payload = make::microbatch_bytes(samples, payload);
        self.check_memory(payload, make::sample_bytes(dataset, size))?;
        if mix::needs_mixer(recipe, format) {
            self.mixer.check(size, format)?;
        }
        Ok(())
    }

    /// Checks that every good record of a dataset can be decoded.
    ///
    /// # Errors
    /// [`Error::BufferBudget`] if one needs more memory than there is.
    pub fn check_records(&self, dataset: &Dataset) -> Result<(), Error> {
        self.check_memory(0, dataset.most().0)
    }

    /// Checks that there is memory for a payload and for pictures that take up to `most` bytes.
    fn check_memory(&self, payload: u64, most: usize) -> Result<(), Error> {
        let limit = self.buffers.limit() as u64;
        let room = usize::try_from(limit.saturating_sub(payload)).unwrap_or(usize::MAX);
        let PipelineConfig { threads, worker_bytes, .. } = self.config;
        let large = Large::new(most, worker_bytes / 2, threads.get(), room);
        let need = payload.saturating_add(large.map_or(0, |large| large.loan as u64));
        if need > limit { Err(Error::BufferBudget { need, limit }) } else { Ok(()) }
    }

    /// Submits a request. `done` is called once, on a thread of the pipeline, or on this one if the
    /// microbatch is cached; it must not block. Work stops early once all of its waiters
    /// have cancelled.
    ///
    /// # Errors
    /// [`Error::Busy`] if the client has as many outstanding requests as it may have, and
    /// [`Error::Cancelled`] if the pipeline is being dropped. `done` is not called then.
    pub fn submit(
        &self,
        request: Request,
        options: SubmitOptions,
        done: impl FnOnce(Result<MadeMicrobatch, Error>) + Send + 'static,
    ) -> Result<(), Error> {
        let done = move |outcome| done(answer(outcome));
        let needs =
            if request.dataset.storage().is_some() { Needs::Storage } else { Needs::Nothing };
        let client = Arc::clone(&options.client);
        let job = Job { request: request.clone(), fetched: Arc::default() };
        let fetched = Arc::clone(&job.fetched);
        let submitted = self.queue.submit(request.key(), (job, needs), options, Box::new(done));
        let submitted = submitted.map_err(|error| match error {
            SubmitError::TooMany { limit, drain_estimate: wait } => Error::Busy { limit, wait },
            SubmitError::Closed => Error::Cancelled,
        })?;
        if submitted == Submitted::New
            && let Some(want) = self.fetch(request, client)
        {
            // Only here it is set. It is dropped with the job.
            drop(fetched.set(want));
        }
        Ok(())
    }

    /// Fetches what a request needs, if its dataset is in a bucket. It is queued once that is there.
    fn fetch(&self, request: Request, client: Arc<str>) -> Option<Want> {
        // Not an `Arc`, because the queue keeps what is fetched.
        let (queue, key) = (Arc::downgrade(&self.queue), request.key());
        let on_ready = move |fetched| {
            if let Some(queue) = queue.upgrade() {
                match fetched {
                    Ok(()) => queue.ready(&key),
                    Err(error) => queue.fail(&key, &Error::Dataset(DatasetError::Store(error))),
                }
            }
        };
        let dataset = Arc::clone(&request.dataset);
        dataset.want(client, move || request.records(), on_ready)
    }

    /// Makes a microbatch and waits for it.
    ///
    /// # Errors
    /// - [`Error::OutOfRange`] if the step or the microbatch is past the end, and [`Error::Recipe`] if the
    ///   dataset has too few records for one step.
    /// - [`Error::Dataset`] if a record cannot be read or has changed, and [`Error::Record`] if it no
    ///   longer decodes.
    /// - [`Error::BufferBudget`] if the microbatch is larger than all buffers, and [`Error::Device`] if
    ///   the GPU or the allocation of its memory fails.
    /// - [`Error::Busy`] if other requests of the client without a name have reached its limit.
    /// - [`Error::Panicked`] if making it panicked, which is a bug.
    pub fn make(&self, request: Request) -> Result<MadeMicrobatch, Error> {
        let (sender, receiver) = sync_channel(1);
        self.submit(request, SubmitOptions::default(), move |result| {
            // The receiver waits below.
            drop(sender.send(result));
        })?;
        receiver.recv().unwrap_or(Err(Error::Cancelled))
    }

    /// The bounds that it was started with.
    pub const fn config(&self) -> PipelineConfig {
        self.config
    }

    /// The buffers that microbatches are made in.
    pub const fn buffers(&self) -> &BufferPool {
        &self.buffers
    }

    /// Whether microbatches are made in memory that other processes can read, all but small ones.
    pub fn shares_memory(&self) -> bool {
        self.buffers.shares_memory()
    }

    /// Counters of the request queue.
    pub fn queue_stats(&self) -> QueueStats {
        self.queue.stats()
    }

    /// Estimated time until all outstanding requests are answered, at the average cost of the
    /// latest microbatches.
    pub fn drain_estimate(&self) -> Duration {
        self.queue.drain_estimate()
    }

    /// Totals since the pipeline started.
    pub fn totals(&self) -> Totals {
        *lock(&self.totals)
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.queue.close();
        self.buffers.close();
        for maker in self.makers.drain(..) {
            // A maker catches every panic of its tasks, and returns nothing.
            drop(maker.join());
        }
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The answer to one request. Of the requests that share a microbatch, only one has its CPU time.
fn answer(outcome: Outcome<MadeMicrobatch, Error>) -> Result<MadeMicrobatch, Error> {
    let (microbatch, origin) = match outcome {
        Outcome::Ready(microbatch, origin) => (microbatch, origin),
        Outcome::Failed(error) => return Err(error),
        Outcome::Cancelled => return Err(Error::Cancelled),
    };
    let queue = match origin {
        Origin::Made => return Ok(microbatch),
        Origin::Joined(waited) => waited,
        Origin::Cached => Duration::ZERO,
    };
    let timings = Timings { queue, ..Timings::default() };
    Ok(MadeMicrobatch { timings, decoded: 0, ..microbatch })
}

/// A maker's thread: processes tasks until the queue is closed.
fn run_maker(queue: &RequestQueue, context: &MakeContext, totals: &Mutex<Totals>) {
    while let Some(task) = queue.next() {
        let result = make_caught(&task, context, queue);
        let end = match result {
            Ok(microbatch) => {
                let cpu = microbatch.timings.stages.sum();
                let mut totals = lock(totals);
                totals.microbatches += 1;
                totals.samples += microbatch.records.len() as u64;
                totals.decoded += microbatch.decoded;
                TaskEnd::Made(microbatch, cpu)
            }
            Err(Error::Cancelled) => TaskEnd::Cancelled,
            Err(error) => TaskEnd::Failed(error),
        };
        // While a maker waits for a buffer, nothing new is cached: the maker has evicted what it
        // could, and a result that is cached now would keep the buffer that it waits for.
        let cacheable = |made: &MadeMicrobatch| {
            (context.buffers.waiting() == 0).then(|| made.payload.held_bytes())
        };
        queue.finish(&task, end, cacheable);
    }
}

/// Makes a microbatch. A panic is a bug, and must not end the maker.
fn make_caught(
    task: &Task<RequestKey, Job>,
    context: &MakeContext,
    queue: &RequestQueue,
) -> Result<MadeMicrobatch, Error> {
    let evict = || queue.evict_one(|made: &MadeMicrobatch| made.payload.is_unique());
    catch_unwind(AssertUnwindSafe(|| make::make(task, context, evict))).unwrap_or_else(|panic| {
        Err(Error::Panicked { name: task.job.request.name, message: panic_message(&*panic) })
    })
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}
