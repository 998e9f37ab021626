//! An ordered stream of microbatches that outlives its servers.
//!
//! A task receives ahead of the trainer, up to a bound in bytes, and goes on at the next missing name
//! when a server fails:
//!
//! ```text
//! while there is a next name:
//!     open Stream at it, at the server whose turn it is
//!     receive microbatches, each the next one by name; hand them over
//!     on failure: wait as the retry policy says; next server
//! ```

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use forebay_proto::v1;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::connect::{Server, open};
use crate::cursor::Walk;
use crate::error::Cause;
use crate::receive::{Receiver, Wanted};
use crate::retry::Attempts;
use crate::slab::{Ahead, Slabs};
use crate::{Description, Error, Job, Microbatch, Options};

/// The most microbatches ahead of the trainer, however small they are.
const MOST_AHEAD: usize = 256;

/// Microbatches in order, each exactly once. Dropping it ends it.
#[derive(Debug)]
pub struct Microbatches {
    ready: mpsc::Receiver<Result<(Microbatch, Ahead), Error>>,
    task: JoinHandle<()>,
    description: Arc<Description>,
    /// Since when the trainer waits.
    waiting: Option<Instant>,
}

impl Microbatches {
    pub(crate) fn start(stream: Stream) -> Self {
        let (sender, ready) = mpsc::channel(MOST_AHEAD);
        let description = Arc::clone(&stream.wanted.description);
        let task = tokio::spawn(stream.run(sender));
        Self { ready, task, description, waiting: None }
    }

    /// What the job amounts to.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The next microbatch; `None` at the end, and after an error. May be cancelled.
    pub async fn next(&mut self) -> Option<Result<Microbatch, Error>> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`next`](Self::next), on a thread that is not the runtime's.
    ///
    /// # Panics
    /// When called from asynchronous code.
    pub fn next_blocking(&mut self) -> Option<Result<Microbatch, Error>> {
        let start = *self.waiting.get_or_insert_with(Instant::now);
        let next = self.ready.blocking_recv();
        self.waiting = None;
        Some(next?.map(|ready| hand_over(ready, start.elapsed())))
    }

    /// As [`next`](Self::next), for implementations of futures and streams.
    pub fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Microbatch, Error>>> {
        let start = *self.waiting.get_or_insert_with(Instant::now);
        let next = ready!(self.ready.poll_recv(context));
        self.waiting = None;
        Poll::Ready(next.map(|next| next.map(|ready| hand_over(ready, start.elapsed()))))
    }
}

/// What the trainer holds is no longer ahead of it.
fn hand_over((mut microbatch, ahead): (Microbatch, Ahead), wait: Duration) -> Microbatch {
    drop(ahead);
    microbatch.wait = wait;
    microbatch
}

impl Drop for Microbatches {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the task works on.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) options: Arc<Options>,
    pub(crate) servers: Arc<[Server]>,
    /// With the digests of `wanted`, so that a server with others refuses it.
    pub(crate) job: Job,
    pub(crate) wanted: Wanted,
    pub(crate) walk: Walk,
    /// The number of the server to start with, counted around.
    pub(crate) start: usize,
}

type Sender = mpsc::Sender<Result<(Microbatch, Ahead), Error>>;

impl Stream {
    async fn run(mut self, sender: Sender) {
        let servers = Arc::clone(&self.servers);
        let names = servers.iter().map(|server| server.name.as_str()).collect();
        let mut attempts = Attempts::new(self.options.retry, names, self.start);
        let slabs = Slabs::new(self.options.prefetch_bytes);
        while let Some(name) = self.walk.name() {
            let received =
                self.receive(&servers[attempts.server()], &slabs, &sender, &mut attempts);
            let Err(cause) = received.await else { return };
            let name = self.walk.name().unwrap_or(name);
            let request = format!("stream of {} at {name}", self.job.dataset);
            if let Err(error) = attempts.failed(cause, &request).await {
                // A trainer that is gone needs no error.
                sender.send(Err(error)).await.ok();
                return;
            }
        }
    }

    /// Receives from one server until the end, or until the trainer is gone.
    async fn receive(
        &mut self,
        server: &Server,
        slabs: &Slabs,
        sender: &Sender,
        attempts: &mut Attempts<'_>,
    ) -> Result<(), Cause> {
        let silence = self.options.timeouts.silence;
        let path = "/forebay.v1.ForebayService/Stream";
        let token = self.options.access.token()?;
        let body = open(&mut server.channel()?, path, &self.request(), token, silence).await?;
        let mut receiver = Receiver::new(body, silence);
        while let Some(name) = self.walk.name() {
            let ready = receiver.microbatch(name, &self.wanted, slabs).await?;
            attempts.succeeded();
            self.walk.advance();
            if sender.send(Ok(ready)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The rest of the walk.
    fn request(&self) -> v1::StreamRequest {
        let (steps, done, indices) = self.walk.rest();
        let first = self.walk.name().unwrap_or(crate::Name { epoch: 0, step: 0, index: 0 });
        v1::StreamRequest {
            job: Some(self.job.to_wire()),
            epoch: first.epoch,
            step: first.step,
            steps,
            microbatches: indices.to_vec(),
            skip: u32::try_from(done).expect("fewer than the microbatches of a step, a u32"),
            dtype: self.options.dtype.to_wire().into(),
            layout: self.options.layout.to_wire().into(),
            mixed_by: self.options.mixed_by.to_wire().into(),
            credit_bytes: self.options.prefetch_bytes as u64,
        }
    }
}
