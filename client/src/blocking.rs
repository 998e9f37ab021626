//! The client for trainers without a runtime of their own: the same calls, waiting.

use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};

use crate::{Cursor, Description, End, Error, Job, Microbatch, Options, Rank, ServerStats};

/// A client that receives on a thread of its own.
#[derive(Clone, Debug)]
pub struct Client {
    inner: crate::Client,
    runtime: Arc<Runtime>,
}

impl Client {
    /// Connects when there is something to ask.
    pub fn connect(options: Options) -> Result<Self, Error> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("forebay-client")
            .enable_all()
            .build()
            .map_err(|error| {
                Error::Options(format!("cannot start the client's thread: {error}"))
            })?;
        let inner = runtime.block_on(async { crate::Client::connect(options) })?;
        Ok(Self { inner, runtime: Arc::new(runtime) })
    }

    /// As [`Client::servers`](crate::Client::servers).
    pub fn servers(&self) -> Vec<ServerStats> {
        self.inner.servers()
    }

    /// As [`Client::describe`](crate::Client::describe).
    pub fn describe(&self, job: &Job) -> Result<Arc<Description>, Error> {
        self.runtime.block_on(self.inner.describe(job))
    }

    /// As [`Client::explain`](crate::Client::explain).
    pub fn explain(&self, job: &Job, step: Cursor, index: u32) -> Result<String, Error> {
        self.runtime.block_on(self.inner.explain(job, step, index))
    }

    /// As [`Client::fetch`](crate::Client::fetch).
    pub fn fetch(&self, job: &Job, step: Cursor, index: u32) -> Result<Microbatch, Error> {
        self.runtime.block_on(self.inner.fetch(job, step, index))
    }

    /// As [`Client::stream`](crate::Client::stream).
    pub fn stream(
        &self,
        job: &Job,
        from: Cursor,
        end: End,
        rank: Rank,
    ) -> Result<Microbatches, Error> {
        let inner = self.runtime.block_on(self.inner.stream(job, from, end, rank))?;
        Ok(Microbatches { inner, _runtime: Arc::clone(&self.runtime) })
    }
}

/// Microbatches in order, each exactly once. Dropping it ends it.
#[derive(Debug)]
pub struct Microbatches {
    inner: crate::Microbatches,
    /// Runs for as long as there is something to receive.
    _runtime: Arc<Runtime>,
}

impl Microbatches {
    /// What the job amounts to.
    pub fn description(&self) -> &Description {
        self.inner.description()
    }
}

impl Iterator for Microbatches {
    type Item = Result<Microbatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.inner.next_blocking()
    }
}
