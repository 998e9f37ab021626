//! The pool of worker threads and the scratch memory of each.

use std::num::NonZeroUsize;
use std::sync::Mutex;

use crate::augment::Augmenter;
use crate::decode::Decoder;
use crate::resize::Resizer;
use crate::sync::lock;

/// A pool of threads, each with scratch memory of its own.
pub(crate) struct Workers {
    pool: rayon::ThreadPool,
    /// Each is locked by its own thread only, so no lock is ever waited for.
    scratch: Vec<Mutex<Scratch>>,
}

/// The scratch memory of a worker, reused from sample to sample so that a steady run allocates nothing.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) bytes: Vec<u8>,
    pub(super) decoder: Decoder,
    pub(super) resizer: Resizer,
    pub(super) augmenter: Augmenter,
}

impl Workers {
    /// # Errors
    /// When the operating system refuses a thread.
    pub(crate) fn new(threads: NonZeroUsize) -> std::io::Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.get())
            .thread_name(|number| format!("worker-{number}"))
            .build()
            .map_err(std::io::Error::other)?;
        let scratch = (0..threads.get()).map(|_| Mutex::default()).collect();
        Ok(Self { pool, scratch })
    }

    pub(super) const fn pool(&self) -> &rayon::ThreadPool {
        &self.pool
    }

    /// Runs `work` with the scratch memory of the calling thread, which is one of the pool's.
    pub(super) fn with_scratch<T>(&self, work: impl FnOnce(&mut Scratch) -> T) -> T {
        let thread = rayon::current_thread_index().expect("a thread of the pool");
        work(&mut lock(&self.scratch[thread]))
    }
}
