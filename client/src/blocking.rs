//! The client for programs without an async runtime: the same calls, each of which blocks.

use std::sync::Arc;

use forebay_proto::types::{Cursor, Rank};
use tokio::runtime::{Builder, Runtime};

use crate::description::Description;
use crate::error::Error;
use crate::fleet::stats::ServerStats;
use crate::job::Job;
use crate::microbatch::Microbatch;
use crate::options::Options;
use crate::stream::walk::{End, Start};

/// A client that receives on a thread of its own.
///
/// ```no_run
/// use forebay_client::{Cursor, End, Job, Options, Rank, blocking};
///
/// let client = blocking::Client::connect(Options::new(["http://localhost:50051"]))?;
/// let job = Job::new("imagenet", "a2");
/// for microbatch in client.stream(&job, Cursor::default(), End::Steps(10), Rank::SINGLE)? {
///     println!("{}", microbatch?.name);
/// }
/// # Ok::<(), forebay_client::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    inner: crate::client::Client,
    runtime: Arc<Runtime>,
}

impl Client {
    /// Creates a client, which connects at its first call.
    ///
    /// # Errors
    /// [`Error::Options`] if the options are invalid, and [`Error::Internal`] if the thread cannot be
    /// started.
    pub fn connect(options: Options) -> Result<Self, Error> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("forebay-client")
            .enable_all()
            .build()
            .map_err(|error| Error::Internal(format!("cannot start a thread: {error}")))?;
        let inner = runtime.block_on(async { crate::client::Client::connect(options) })?;
        Ok(Self { inner, runtime: Arc::new(runtime) })
    }

    /// As [`Client::servers`](crate::Client::servers).
    pub fn servers(&self) -> Vec<ServerStats> {
        self.inner.servers()
    }

    /// As [`Client::describe`](crate::Client::describe).
    ///
    /// # Errors
    /// As [`Client::describe`](crate::Client::describe).
    pub fn describe(&self, job: &Job) -> Result<Arc<Description>, Error> {
        self.runtime.block_on(self.inner.describe(job))
    }

    /// As [`Client::explain`](crate::Client::explain).
    ///
    /// # Errors
    /// As [`Client::explain`](crate::Client::explain).
    pub fn explain(&self, job: &Job, step: Cursor, index: u32) -> Result<String, Error> {
        self.runtime.block_on(self.inner.explain(job, step, index))
    }

    /// As [`Client::fetch`](crate::Client::fetch).
    ///
    /// # Errors
    /// As [`Client::fetch`](crate::Client::fetch).
    pub fn fetch(&self, job: &Job, step: Cursor, index: u32) -> Result<Microbatch, Error> {
        self.runtime.block_on(self.inner.fetch(job, step, index))
    }

    /// As [`Client::stream`](crate::Client::stream).
    ///
    /// # Errors
    /// As [`Client::stream`](crate::Client::stream).
    pub fn stream(
        &self,
        job: &Job,
        from: impl Into<Start>,
        end: End,
        rank: Rank,
    ) -> Result<Microbatches, Error> {
        let inner = self.runtime.block_on(self.inner.stream(job, from, end, rank))?;
        Ok(Microbatches { inner, _runtime: Arc::clone(&self.runtime) })
    }
}

/// Microbatches in order, each exactly once. Dropping it ends the stream.
#[derive(Debug)]
pub struct Microbatches {
    inner: crate::stream::microbatches::Microbatches,
    /// Keeps the receiving thread alive, also after the client was dropped.
    _runtime: Arc<Runtime>,
}

impl Microbatches {
    /// The job's description.
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
