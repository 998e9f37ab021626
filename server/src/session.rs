//! One call of Stream or Fetch.
//!
//! ```text
//! names -> make: a place ahead, then submitted -> queue, in order -> send: frames -> body -> HTTP/2
//!                ^                                                                          |
//!                +------------- free when the last piece of the payload is dropped ---------+
//! ```
//!
//! A slow reader leaves pieces in the body, so `send` waits, so places ahead stay taken, so `make`
//! waits: the pipeline works for others. When the reader is gone both are dropped, and with them
//! everything made or asked for.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use forebay_proto::frame::{self, SplitError};
use forebay_proto::v1::Header;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::board::{Seated, Side};
use crate::body::{Gone, Message, Sender};
use crate::call::Cut;
use crate::request::{Names, Run};
use crate::serve::told;
use crate::service::Shared;
use crate::source::{Job, Microbatch, Name, Output, Waiting};
use crate::status::Refusal;

/// Why a call ends before all is sent.
enum End {
    Gone,
    Refused(Refusal),
}

impl<E: Into<Refusal>> From<E> for End {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

/// A microbatch that was asked for.
struct Pending {
    name: Name,
    microbatch: oneshot::Receiver<Result<Microbatch, Refusal>>,
    place: OwnedSemaphorePermit,
    _waiting: Waiting,
}

/// A payload that holds its place ahead until it is dropped.
struct Placed {
    payload: Bytes,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Placed {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

struct Session {
    shared: Arc<Shared>,
    job: Arc<dyn Job>,
    output: Output,
    sender: Sender,
    seat: Seated,
}

/// Serves a call to its end. `place` is its place among the server's streams.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    run: Run,
    sender: Sender,
    cut: Option<Cut>,
    (place, seat): (OwnedSemaphorePermit, Seated),
) {
    let Run { job, output, names, ahead } = run;
    let session = Session { shared, job, output, sender, seat };
    let end = session.run(names, ahead).await;
    let Session { shared, sender, seat, .. } = session;
    match end {
        Ok(()) => {
            seat.ended(Code::Ok);
            sender.end(Status::ok(""));
        }
        Err(End::Gone) => seat.ended(Code::Cancelled),
        Err(End::Refused(refusal)) => {
            tracing::info!(%refusal, "a stream ends early");
            seat.ended(refusal.code());
            let stalled = matches!(refusal, Refusal::Stalled { .. });
            sender.end(refusal.into());
            if stalled {
                shared.board.counts.stalled.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(shared.limits.stall_linger).await;
                cut.inspect(Cut::reset);
            }
        }
    }
    drop(place);
}

impl Session {
    async fn run(&self, names: Names, ahead: usize) -> Result<(), End> {
        let (made, queue) = mpsc::channel(ahead);
        tokio::select! {
            end = self.send(queue) => end,
            never = self.make(names, ahead, made) => match never {},
            () = self.sender.gone() => Err(End::Gone),
        }
    }

    /// Asks for the microbatches in order, as many ahead as may be.
    async fn make(
        &self,
        names: Names,
        ahead: usize,
        queue: mpsc::Sender<Result<Pending, Refusal>>,
    ) -> Infallible {
        let places = Arc::new(Semaphore::new(ahead));
        for name in names {
            let place = acquire(&places).await;
            let pending = self.submit(name, place).await;
            let refused = pending.is_err();
            if queue.send(pending).await.is_err() || refused {
                break;
            }
        }
        drop(queue);
        std::future::pending().await
    }

    async fn submit(&self, name: Name, place: OwnedSemaphorePermit) -> Result<Pending, Refusal> {
        let turn = acquire(&self.shared.making).await;
        let (waiting, wanted) = Waiting::new();
        let (done, microbatch) = oneshot::channel();
        let done = Box::new(move |result| {
            drop(turn);
            // Nobody receives it when the reader has gone: the buffer returns at once.
            drop(done.send(result));
        });
        self.job.submit(name, self.output, wanted, done)?;
        Ok(Pending { name, microbatch, place, _waiting: waiting })
    }

    /// Sends the microbatches in order.
    async fn send(&self, mut queue: mpsc::Receiver<Result<Pending, Refusal>>) -> Result<(), End> {
        loop {
            let next = tokio::select! {
                biased;
                () = told(self.shared.draining.clone()) => return Err(Refusal::Draining.into()),
                next = self.next(&mut queue) => next?,
            };
            let Some((header, payload)) = next else { return Ok(()) };
            self.seat.turn(Side::Server);
            self.send_one(header, payload).await?;
            self.seat.turn(Side::Reader);
        }
    }

    /// The next microbatch, once it is made; `None` after the last one.
    async fn next(
        &self,
        queue: &mut mpsc::Receiver<Result<Pending, Refusal>>,
    ) -> Result<Option<(Header, Bytes)>, Refusal> {
        let Some(pending) = queue.recv().await else { return Ok(None) };
        let Pending { name, microbatch, place, _waiting } = pending?;
        let microbatch = microbatch.await.map_err(|_dropped| Refusal::Draining)??;
        let (header, payload) = microbatch.into_parts(self.job.facts(), name, self.output);
        SplitError::check(&header, payload.len())?;
        self.seat.made(&header);
        self.shared.board.picture.offer(self.job.facts(), &header, &payload);
        Ok(Some((header, Bytes::from_owner(Placed { payload, _place: place }))))
    }

    async fn send_one(&self, header: Header, payload: Bytes) -> Result<(), End> {
        let after = self.shared.limits.stall_timeout;
        let Header { seed, epoch, step, microbatch: index, .. } = header;
        let samples = header.records.len();
        let mut header = Some(header);
        for range in frame::ranges(payload.len()) {
            let message = Message::new(header.take(), &payload, range);
            match timeout(after, self.sender.send(message)).await {
                Ok(Ok(())) => {}
                Ok(Err(Gone)) => return Err(End::Gone),
                Err(_elapsed) => return Err(Refusal::Stalled { after }.into()),
            }
        }
        self.seat.sent(samples, payload.len(), Name { seed, epoch, step, index });
        Ok(())
    }
}

async fn acquire(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(semaphore).acquire_owned().await.expect("no semaphore of the server is ever closed")
}
