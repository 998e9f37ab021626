//! Wires the stages together: requests in, microbatches out. The only module that imports them all.
//!
//! ```text
//!   submit --> queue (bounded) --> two makers --> one pool of workers --> done(microbatch)
//!                                     |
//!                                     +-- waits for a buffer: the back-pressure
//! ```
//!
//! A sample's slot is known before work starts, so neither the number of threads nor the order in
//! which they finish can change a batch. Two microbatches are in work at once, so that the tail of one
//! leaves no worker idle.

mod explain;
mod make;
mod repeats;
mod shared;
mod timings;

use std::fmt;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::batch::{Ring, Slab};
use crate::dataset::Dataset;
use crate::error::Error;
use crate::mix::Output;
use crate::plan::{MicrobatchName, MixPlan};
use crate::recipe::Recipe;

pub use explain::{ExplainedMix, ExplainedOp, ExplainedSample, Explanation, OwnMix, explain};
use make::Workers;
pub use timings::{Stages, Timings};

/// Bounds of a [`Pipeline`].
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Worker threads.
    pub threads: NonZeroUsize,
    /// Bytes of all batch buffers together. Default 256 MiB: six microbatches of 256 samples at 224
    /// pixels in u8.
    pub buffer_bytes: usize,
    /// Bytes of samples made early, because a repeat of theirs in another microbatch of the step was
    /// decoded; 0 makes none. Default 96 MiB: the repeats of a step of 2048 samples at 224 pixels.
    pub share_bytes: usize,
    /// Microbatches that may wait in the queue. Default 1024.
    pub queue: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            threads: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            buffer_bytes: 256 << 20,
            share_bytes: 96 << 20,
            queue: 1024,
        }
    }
}

/// What is wanted: a microbatch by name, and its form.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where the records are.
    pub dataset: Arc<Dataset>,
    /// What becomes of them.
    pub recipe: Arc<Recipe>,
    /// Which of the microbatches.
    pub name: MicrobatchName,
    /// Type and layout of the pixels, mixed or not.
    pub output: Output,
}

/// A microbatch of n samples, ready for a trainer.
#[derive(Debug)]
pub struct Microbatch {
    /// Which it is.
    pub name: MicrobatchName,
    /// The pixels, in the dtype and layout asked for.
    pub payload: Slab,
    /// Type and layout of the pixels, mixed or not.
    pub output: Output,
    /// The four dimensions, in the order of the layout.
    pub shape: [u32; 4],
    /// Record numbers, after substitution of bad records.
    pub records: Vec<u64>,
    /// Labels of the samples.
    pub label_a: Vec<u32>,
    /// Labels of their partners; their own where nothing is mixed.
    pub label_b: Vec<u32>,
    /// Weights of `label_a`.
    pub lambda: Vec<f32>,
    /// What was mixed, or is left to be.
    pub plan: MixPlan,
    /// XXH3-64 of the payload.
    pub xxh3: u64,
    /// Where the time went.
    pub timings: Timings,
}

/// What becomes of a finished microbatch.
type Done = Box<dyn FnOnce(Result<Microbatch, Error>) + Send>;

struct Job {
    request: Request,
    wanted: Arc<AtomicBool>,
    done: Done,
    queued: Instant,
}

/// Workers, buffers and a queue. Dropping it ends them, after the microbatches in work.
pub struct Pipeline {
    queue: Option<SyncSender<Job>>,
    settings: Settings,
    ring: Ring,
    totals: Arc<Mutex<Totals>>,
    makers: Vec<JoinHandle<()>>,
}

/// What a pipeline has done since it started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Microbatches made.
    pub microbatches: u64,
    /// Their samples.
    pub samples: u64,
    /// Their times, summed.
    pub timings: Timings,
}

/// Microbatches in work at once.
const MAKERS: usize = 2;

impl Pipeline {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn new(settings: Settings) -> std::io::Result<Self> {
        let workers = Arc::new(Workers::new(settings.threads, settings.share_bytes)?);
        let ring = Ring::new(settings.buffer_bytes);
        let totals = Arc::new(Mutex::new(Totals::default()));
        let (queue, jobs) = sync_channel::<Job>(settings.queue);
        let jobs = Arc::new(Mutex::new(jobs));
        let makers = (0..MAKERS).map(|number| {
            let (jobs, workers) = (Arc::clone(&jobs), Arc::clone(&workers));
            let (ring, totals) = (ring.clone(), Arc::clone(&totals));
            thread::Builder::new()
                .name(format!("maker-{number}"))
                .spawn(move || run_jobs(&jobs, &workers, &ring, &totals))
        });
        let makers = makers.collect::<Result<_, _>>()?;
        Ok(Self { queue: Some(queue), settings, ring, totals, makers })
    }

    /// Asks for a microbatch. `done` gets it on a thread of the pipeline and must not block. Work
    /// stops early once `wanted` is false.
    ///
    /// # Errors
    /// [`Error::Busy`] if the queue is full; then `done` is never called.
    pub fn submit(
        &self,
        request: Request,
        wanted: Arc<AtomicBool>,
        done: impl FnOnce(Result<Microbatch, Error>) + Send + 'static,
    ) -> Result<(), Error> {
        let job = Job { request, wanted, done: Box::new(done), queued: Instant::now() };
        let queue = self.queue.as_ref().expect("taken when dropped");
        queue.try_send(job).map_err(|refused| match refused {
            TrySendError::Full(_) => Error::Busy { limit: self.settings.queue },
            TrySendError::Disconnected(_) => Error::Cancelled,
        })
    }

    /// Makes a microbatch and waits for it.
    pub fn make(&self, request: Request) -> Result<Microbatch, Error> {
        let (sender, receiver) = sync_channel(1);
        let wanted = Arc::new(AtomicBool::new(true));
        self.submit(request, wanted, move |result| {
            // The receiver waits below.
            drop(sender.send(result));
        })?;
        receiver.recv().unwrap_or(Err(Error::Cancelled))
    }

    /// The bounds it was started with.
    pub const fn settings(&self) -> Settings {
        self.settings
    }

    /// The ring that microbatches are made in.
    pub const fn ring(&self) -> &Ring {
        &self.ring
    }

    /// What it has done since it started.
    pub fn totals(&self) -> Totals {
        *lock(&self.totals)
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        drop(self.queue.take());
        self.ring.close();
        for maker in self.makers.drain(..) {
            // A maker catches what its microbatches panic with; it has nothing else to tell.
            drop(maker.join());
        }
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A maker's life: takes jobs one after another until the queue is closed and empty.
fn run_jobs(jobs: &Mutex<Receiver<Job>>, workers: &Workers, ring: &Ring, totals: &Mutex<Totals>) {
    loop {
        let job = lock(jobs).recv();
        let Ok(Job { request, wanted, done, queued }) = job else { return };
        let name = request.name;
        let making = || {
            if !wanted.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            let mut microbatch = make::make(&request, &wanted, workers, ring, queued)?;
            microbatch.timings.total = queued.elapsed();
            Ok(microbatch)
        };
        // A panic is a bug of ours: it must not take the server along.
        let result = catch_unwind(AssertUnwindSafe(making))
            .unwrap_or_else(|panic| Err(Error::Panicked { name, message: message(&*panic) }));
        if let Ok(microbatch) = &result {
            let mut totals = lock(totals);
            totals.microbatches += 1;
            totals.samples += microbatch.records.len() as u64;
            totals.timings += microbatch.timings;
        }
        done(result);
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

/// What the lock guards stays whole when its holder panics: a queue's end, sums, scratch memory.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
