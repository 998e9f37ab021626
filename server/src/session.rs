//! One call of Stream or Fetch.
//!
//! ```text
//! names -> make: a place ahead, then submitted -> queue, in order -> send: frames -> body -> HTTP/2
//!                ^                                                                          |
//!                +------------- free when the last piece of the payload is dropped ---------+
//! ```
//!
//! A stream asks for a few microbatches at once, more of them wait here: whose is made next is decided
//! over clients, by the pipeline.
//!
//! A slow reader leaves pieces in the body, so `send` waits, so places ahead stay taken, so `make`
//! waits: the pipeline works for others. When the reader is gone both are dropped, and with them
//! everything made or asked for.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use forebay::Requester;
use forebay_proto::frame::{self, SplitError};
use forebay_proto::v1::Header;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::board::{Seated, Side};
use crate::body::{Gone, Message, Sender};
use crate::call::Cut;
use crate::limits::Limits;
use crate::pace::{Pace, Permit};
use crate::request::{Names, Run};
use crate::serve::told;
use crate::service::Shared;
use crate::source::{Job, Load, Microbatch, Name, Output, Waiting};
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

/// Microbatches of a stream asked for and not made: enough to keep the makers busy.
const ASKED: usize = 8;

/// A microbatch that was asked for.
struct Pending {
    name: Name,
    microbatch: oneshot::Receiver<Result<Microbatch, Refusal>>,
    place: Place,
    _waiting: Waiting,
}

/// A place ahead, and one among the buffers.
struct Place {
    ahead: OwnedSemaphorePermit,
    buffer: Permit,
}

/// A payload that holds its place until it is dropped.
struct Placed {
    payload: Bytes,
    since: Instant,
    pace: Arc<Pace>,
    place: Option<Place>,
}

impl Drop for Placed {
    fn drop(&mut self) {
        let Some(Place { ahead, buffer }) = self.place.take() else { return };
        self.pace.took(self.since.elapsed(), ahead);
        drop(buffer);
    }
}

impl AsRef<[u8]> for Placed {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

/// Who reads a stream.
pub(crate) struct Reader {
    /// Whose share of the makers' time its microbatches are made in.
    pub(crate) client: Arc<str>,
    /// Microbatches that the client may have asked for and not got.
    pub(crate) queued: usize,
    pub(crate) sender: Sender,
    pub(crate) seat: Seated,
}

struct Session {
    shared: Arc<Shared>,
    job: Arc<dyn Job>,
    output: Output,
    /// As in [`Run`].
    alone: bool,
    pace: Arc<Pace>,
    reader: Reader,
}

/// Serves a call to its end. `place` is its place among the server's streams.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    run: Run,
    reader: Reader,
    cut: Option<Cut>,
    place: OwnedSemaphorePermit,
) {
    let Run { job, output, names, alone, ahead, bytes } = run;
    let pace = shared.paces.of(&reader.client, shared.limits.slow, ahead, bytes);
    let session = Session { shared, job, output, alone, pace, reader };
    let end = session.run(names, ahead).await;
    let Session { shared, reader: Reader { sender, seat, .. }, .. } = session;
    match end {
        Ok(()) => {
            seat.ended(Code::Ok);
            sender.end(Status::ok(""));
        }
        Err(End::Gone) => seat.ended(Code::Cancelled),
        Err(End::Refused(refusal)) => {
            tracing::info!(%refusal, "a stream ends early");
            seat.ended(refusal.code());
            // How long it may take to fetch the status.
            let linger = match refusal {
                Refusal::Stalled { .. } => {
                    shared.board.counts.stalled.fetch_add(1, Ordering::Relaxed);
                    Some(shared.limits.stall_linger)
                }
                Refusal::TooSlow { .. } => {
                    shared.board.counts.too_slow.fetch_add(1, Ordering::Relaxed);
                    Some(shared.limits.slow)
                }
                _ => None,
            };
            sender.end(refusal.into());
            if let Some(linger) = linger {
                tokio::time::sleep(linger).await;
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
            never = self.make(names, made) => match never {},
            () = self.reader.sender.gone() => Err(End::Gone),
        }
    }

    /// Asks for the microbatches in order, as many ahead as may be.
    async fn make(
        &self,
        names: Names,
        queue: mpsc::Sender<Result<Pending, Refusal>>,
    ) -> Infallible {
        let turns = Arc::new(Semaphore::new(ASKED));
        for name in names {
            let ahead = self.pace.place().await;
            let buffer = self.shared.paces.admit(&self.pace).await;
            let turn = acquire(&turns).await;
            let pending = self.submit(name, Place { ahead, buffer }, turn);
            let refused = pending.is_err();
            if queue.send(pending).await.is_err() || refused {
                break;
            }
        }
        drop(queue);
        std::future::pending().await
    }

    fn submit(
        &self,
        name: Name,
        place: Place,
        turn: OwnedSemaphorePermit,
    ) -> Result<Pending, Refusal> {
        let Reader { client, queued, .. } = &self.reader;
        let requester = Requester {
            client: Arc::clone(client),
            max_outstanding: *queued,
            isolated: self.alone,
            ..Requester::default()
        };
        let waiting = Waiting::of(&requester);
        let (done, microbatch) = oneshot::channel();
        let done = Box::new(move |result| {
            drop(turn);
            // Nobody receives it when the reader has gone: the buffer returns at once.
            drop(done.send(result));
        });
        self.job.submit(name, self.output, requester, done)?;
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
            self.reader.seat.turn(Side::Server);
            self.send_one(header, payload).await?;
            self.reader.seat.turn(Side::Reader);
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
        self.reader.seat.made(&header);
        self.shared.board.picture.offer(self.job.facts(), &header, &payload);
        let (since, pace) = (Instant::now(), Arc::clone(&self.pace));
        Ok(Some((header, Bytes::from_owner(Placed { payload, since, pace, place: Some(place) }))))
    }

    async fn send_one(&self, header: Header, payload: Bytes) -> Result<(), End> {
        let Header { seed, epoch, step, microbatch: index, .. } = header;
        let (samples, since) = (header.records.len(), Instant::now());
        let mut header = Some(header);
        for range in frame::ranges(payload.len()) {
            self.send_message(Message::new(header.take(), &payload, range), since).await?;
        }
        let name = Name { seed, epoch, step, index };
        self.reader.seat.sent(samples, payload.len(), name);
        Ok(())
    }

    /// Sends a message of a microbatch that is being sent since some time, as patiently as may be.
    async fn send_message(&self, message: Message, since: Instant) -> Result<(), End> {
        let Limits { stall_timeout: after, slow, .. } = self.shared.limits;
        let mut sending = pin!(self.reader.sender.send(message));
        let begun = Instant::now();
        loop {
            let patience = after.saturating_sub(begun.elapsed());
            match timeout(patience.min(slow / 4), &mut sending).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(Gone)) => return Err(End::Gone),
                Err(_elapsed) if begun.elapsed() >= after => {
                    return Err(Refusal::Stalled { after }.into());
                }
                Err(_elapsed) => {}
            }
            let Load { starved, wait, .. } = self.shared.source.load();
            if self.shared.paces.sends_away(&self.pace, &self.reader.client, since, starved) {
                return Err(Refusal::TooSlow { after: since.elapsed(), wait }.into());
            }
        }
    }
}

async fn acquire(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(semaphore).acquire_owned().await.expect("no semaphore of the server is ever closed")
}
