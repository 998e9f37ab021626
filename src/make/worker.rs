//! The pool of worker threads and the scratch memory of each.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::time::Duration;

use super::scratch::Scratch;
use crate::sync::lock;

/// A pool of threads, each with scratch memory of its own.
pub(crate) struct Workers {
    pool: rayon::ThreadPool,
    /// Each is locked by its own thread only, so no lock is ever waited for.
    scratch: Vec<Mutex<Scratch>>,
    /// Bytes that each keeps from sample to sample.
    kept: usize,
    pub(super) read_timeout: Duration,
}

impl Workers {
    /// Workers with `bytes` of scratch memory each.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub(crate) fn new(
        threads: NonZeroUsize,
        bytes: usize,
        read_timeout: Duration,
    ) -> std::io::Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.get())
            .thread_name(|number| format!("worker-{number}"))
            .build()
            .map_err(std::io::Error::other)?;
        let scratch = (0..threads.get()).map(|_| Mutex::default()).collect();
        Ok(Self { pool, scratch, kept: bytes / 2, read_timeout })
    }

    pub(super) const fn pool(&self) -> &rayon::ThreadPool {
        &self.pool
    }

    /// Number of workers.
    pub(crate) const fn count(&self) -> usize {
        self.scratch.len()
    }

    /// Bytes that each worker keeps, and that each sample may take unless its maker borrowed more.
    pub(crate) const fn kept(&self) -> usize {
        self.kept
    }

    /// Runs `work` with the scratch memory of the calling thread, which is one of the pool's.
    pub(super) fn with_scratch<T>(&self, work: impl FnOnce(&mut Scratch) -> T) -> T {
        let thread = rayon::current_thread_index().expect("a thread of the pool");
        let mut scratch = lock(&self.scratch[thread]);
        let done = work(&mut scratch);
        scratch.keep_at_most(self.kept);
        done
    }
}
