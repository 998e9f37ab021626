//! Wires the stages together: requests in, microbatches out. The only module that imports them all.
//!
//! ```text
//!   submit --> works: each once, clients in turn --> two makers --> one pool of workers --> done(microbatch)
//!                ^                                     |                        |
//!                |                                     |                        +-- kept ready for a while
//!                +---- a line each client, bounded     +-- waits for a buffer: the back-pressure
//! ```
//!
//! With a GPU, makers hand their microbatches to it to be mixed, and there are two makers more.
//!
//! A sample's slot is known before work starts, so neither the number of threads nor the order in
//! which they finish can change a batch. Two microbatches are in work at once, so that the tail of one
//! leaves no worker idle.

mod cache;
mod explain;
mod fair;
mod make;
mod repeats;
mod shared;
mod timings;
mod works;

use std::fmt;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use forebay_types::MicrobatchName;

use crate::batch::{Pixels, Ring};
use crate::dataset::Dataset;
use crate::error::Error;
use crate::mix::{Mixer, Output};
use crate::plan::MixPlan;
use crate::recipe::Recipe;

pub use explain::{ExplainedMix, ExplainedOp, ExplainedSample, Explanation, OwnMix, explain};
use make::{Place, Workers};
pub use timings::{Stages, Timings};
use works::Works;
pub use works::{Asker, Sharing};

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
    /// Bytes of microbatches that are kept ready after they were made, for others who ask for the
    /// same; they lie in the batch buffers and go as soon as somebody waits for one. 0 keeps none.
    /// Default 128 MiB.
    pub cache_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            threads: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            buffer_bytes: 256 << 20,
            share_bytes: 96 << 20,
            cache_bytes: 128 << 20,
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
#[derive(Clone, Debug)]
pub struct Microbatch {
    /// Which it is.
    pub name: MicrobatchName,
    /// The pixels, in the dtype and layout asked for.
    pub payload: Pixels,
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

/// Workers, buffers and what is asked for. Dropping it ends them, after the microbatches in work.
pub struct Pipeline {
    works: Arc<Works>,
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

/// Microbatches in work at once, and as many more on a GPU.
const MAKERS: usize = 2;

impl Pipeline {
    /// Starts the threads; the workers mix.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn new(settings: Settings) -> std::io::Result<Self> {
        Self::on(&Mixer::Cpu, settings)
    }

    /// Starts the threads; the mixer mixes.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn on(mixer: &Mixer, settings: Settings) -> std::io::Result<Self> {
        let workers = Arc::new(Workers::new(settings.threads, settings.share_bytes)?);
        let ring = Ring::of(settings.buffer_bytes, mixer.memory());
        let totals = Arc::new(Mutex::new(Totals::default()));
        let works = Works::new(settings.cache_bytes, ring.clone(), settings.threads.get());
        let works = Arc::new(works);
        let makers = if matches!(mixer, Mixer::Cpu) { MAKERS } else { 2 * MAKERS };
        let makers = (0..makers).map(|number| {
            let (works, workers) = (Arc::clone(&works), Arc::clone(&workers));
            let (ring, mixer, totals) = (ring.clone(), mixer.clone(), Arc::clone(&totals));
            thread::Builder::new().name(format!("maker-{number}")).spawn(move || {
                let place = Place { works: &works, workers: &workers, ring: &ring, mixer: &mixer };
                make_all(&place, &totals);
            })
        });
        let makers = makers.collect::<Result<_, _>>()?;
        Ok(Self { works, settings, ring, totals, makers })
    }

    /// Asks for a microbatch. `done` gets it on a thread of the pipeline, or on this one if it is
    /// ready, and must not block. Work stops early once nobody waits for it.
    ///
    /// # Errors
    /// [`Error::Busy`] if the client has asked for as many as it may; then `done` is never called.
    pub fn submit(
        &self,
        request: Request,
        asker: Asker,
        done: impl FnOnce(Result<Microbatch, Error>) + Send + 'static,
    ) -> Result<(), Error> {
        self.works.ask(request, asker, Box::new(done))
    }

    /// Makes a microbatch and waits for it.
    pub fn make(&self, request: Request) -> Result<Microbatch, Error> {
        let (sender, receiver) = sync_channel(1);
        self.submit(request, Asker::default(), move |result| {
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

    /// What is asked for, and how often work was shared.
    pub fn sharing(&self) -> Sharing {
        self.works.sharing()
    }

    /// How long it takes until all is made that is asked for, by what microbatches cost lately.
    pub fn wait(&self) -> Duration {
        self.works.wait()
    }

    /// What it has done since it started.
    pub fn totals(&self) -> Totals {
        *lock(&self.totals)
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.works.close();
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

/// A maker's life: takes orders one after another until there will be no more.
fn make_all(place: &Place<'_>, totals: &Mutex<Totals>) {
    while let Some(order) = place.works.next() {
        let name = order.request.name;
        let making = || {
            let mut microbatch = make::make(&order, place)?;
            microbatch.timings.total = order.since.elapsed();
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
        place.works.finish(&order, result);
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

/// What the lock guards stays whole when its holder panics: lines, sums, scratch memory.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
