//! One call of Stream or Fetch, from its first name to its last frame.
//!
//! ```text
//! names ─> submit: admission, then the pipeline's queue ─> pending, in order ─> send: frames ─> body ─> HTTP/2
//!            ^                                                                                      │
//!            └────────────── permit, released when the last piece of the payload is dropped ────────┘
//! ```
//!
//! A client of the same host leases microbatches instead, if it can: their header alone is sent, and their buffers
//! stay with the client until it returns them (see `leases`).
//!
//! Back-pressure: while a slow reader leaves frames in the body, `send_all` waits and permits stay
//! taken, so `submit_all` waits too, and the pipeline works for other clients. When the reader
//! disconnects, both futures are dropped, which cancels pending requests and releases microbatches
//! that were computed.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay::{FetchAhead, Pixels, SubmitOptions};
use forebay_proto::frame::{self, SplitError};
use forebay_proto::v1::Header;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::sleep;
use tonic::{Code, Status};

use crate::access::CallGuard;
use crate::admission::{
    Delivery, Lending, LentPermit, MicrobatchPermit, StreamAdmission, StreamSlot,
};
use crate::body::{Disconnected, Message, Sender};
use crate::leases::Lender;
use crate::request::{Names, StreamSpec};
use crate::sent::{Unsent, unsent};
use crate::source::{MicrobatchName, OpenJob, PixelFormat, RequestGuard, WireMicrobatch};
use crate::state::ServerState;
use crate::status::Refusal;
use crate::stream_reset::StreamReset;
use crate::telemetry::{StreamGuard, WaitingSide};

/// Most microbatches of a call for which is fetched ahead.
const MAX_UPCOMING: usize = 64;

/// The reason for ending a call before everything has been sent.
enum End {
    Disconnected,
    Refused(Refusal),
}

impl<E: Into<Refusal>> From<E> for End {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

/// A stream that was admitted: whom it is for, and what it holds until it ends.
pub(crate) struct AdmittedStream {
    /// Client in whose share of the workers' time the microbatches are computed.
    pub(crate) client: Arc<str>,
    /// Limit on outstanding microbatches of the client.
    pub(crate) max_queued: usize,
    pub(crate) sender: Sender,
    pub(crate) telemetry: StreamGuard,
    /// `None` if the call is served outside of a connection.
    pub(crate) reset: Option<StreamReset>,
    pub(crate) slot: StreamSlot,
    pub(crate) call: CallGuard,
    /// Lends the microbatches, if the client can map them.
    pub(crate) lender: Option<Lender>,
}

struct Session {
    state: Arc<ServerState>,
    job: Arc<dyn OpenJob>,
    format: PixelFormat,
    /// As in [`StreamSpec`].
    isolated: bool,
    admission: StreamAdmission,
    client: Arc<str>,
    max_queued: usize,
    sender: Sender,
    telemetry: StreamGuard,
    lender: Option<Lender>,
    /// Holds the slot and the call until the last payload is sent.
    unsent: Unsent<(StreamSlot, CallGuard)>,
}

/// Serves a call to its end.
pub(crate) async fn serve(state: Arc<ServerState>, spec: StreamSpec, stream: AdmittedStream) {
    let StreamSpec { job, format, names, isolated, max_window, microbatch_bytes, .. } = spec;
    let AdmittedStream { client, max_queued, sender, telemetry, reset, slot, call, lender } =
        stream;
    let peer = Arc::clone(call.peer());
    let (unsent, all_sent) = unsent((slot, call));
    let source = Arc::clone(&state.source);
    let client_of_admission = Arc::clone(&client);
    let admission =
        state.admission.microbatches(client_of_admission, max_window, microbatch_bytes, max_queued);
    let session = Session {
        state,
        job,
        format,
        isolated,
        admission,
        client,
        max_queued,
        sender,
        telemetry,
        lender,
        unsent,
    };
    let end = session.run(names, max_window).await;
    let linger = session.state.admission.limits.stall_linger;
    let (patience, admission) = session.finish(end);
    let evicted = async {
        match admission {
            Some(admission) => admission.evicted(|| source.load()).await,
            None => std::future::pending().await,
        }
    };
    let patience = async {
        tokio::select! {
            () = sleep(patience) => {}
            refusal = evicted => tracing::info!(%refusal, "the end of a stream is not taken"),
        }
    };
    all_sent.or_close(patience, linger, reset, &peer).await;
}

impl Session {
    async fn run(&self, names: Names, max_window: usize) -> Result<(), End> {
        let (pending, queue) = mpsc::channel(max_window);
        tokio::select! {
            end = self.send_all(queue) => end,
            never = self.submit_all(names, pending) => match never {},
            () = self.sender.disconnected() => Err(End::Disconnected),
            refusal = self.admission.evicted(|| self.state.source.load()) => Err(refusal.into()),
        }
    }

    /// Submits the microbatches in order, each as soon as admission permits. What the next ones read from a bucket
    /// is fetched before.
    async fn submit_all(
        &self,
        mut names: Names,
        queue: mpsc::Sender<Result<Pending, Refusal>>,
    ) -> Infallible {
        let mut upcoming = VecDeque::new();
        loop {
            self.fetch_ahead(&mut names, &mut upcoming);
            let Some((name, fetched)) = upcoming.pop_front() else { break };
            let (permit, submission) = self.admission.microbatch().await;
            let pending = self.submit((name, fetched), permit, submission);
            let refused = pending.is_err();
            if queue.send(pending).await.is_err() || refused {
                break;
            }
        }
        drop(queue);
        std::future::pending().await
    }

    /// Adds names to those that come next: one if there is none, and as many as are fetched ahead.
    fn fetch_ahead(
        &self,
        names: &mut Names,
        upcoming: &mut VecDeque<(MicrobatchName, Option<FetchAhead>)>,
    ) {
        let fetched = upcoming.iter().filter_map(|(_, fetched)| fetched.as_ref());
        let mut bytes: u64 = fetched.map(FetchAhead::bytes).sum();
        let limit = self.job.fetch_ahead_limit();
        while (upcoming.is_empty() || bytes < limit && upcoming.len() < MAX_UPCOMING)
            && let Some(name) = names.next()
        {
            let fetched = self.job.fetch_ahead(name);
            bytes += fetched.as_ref().map_or(0, FetchAhead::bytes);
            upcoming.push_back((name, fetched));
        }
    }

    fn submit(
        &self,
        (name, fetched): (MicrobatchName, Option<FetchAhead>),
        permit: MicrobatchPermit,
        submission: OwnedSemaphorePermit,
    ) -> Result<Pending, Refusal> {
        let options = SubmitOptions {
            client: Arc::clone(&self.client),
            max_outstanding: self.max_queued,
            isolated: self.isolated,
            ..SubmitOptions::default()
        };
        let guard = RequestGuard::new(&options);
        let (done, microbatch) = oneshot::channel();
        let done = Box::new(move |result| {
            // What was fetched ahead has been used, and is not kept, or even fetched now, until the reader comes.
            drop((submission, fetched));
            // After a disconnect the receiver is gone: the result is dropped, and its buffer returns.
            drop(done.send(result));
        });
        self.job.submit(name, self.format, options, done)?;
        Ok(Pending { name, microbatch, permit, _guard: guard })
    }

    /// Sends the microbatches in order.
    async fn send_all(
        &self,
        mut queue: mpsc::Receiver<Result<Pending, Refusal>>,
    ) -> Result<(), End> {
        loop {
            let next = tokio::select! {
                biased;
                () = self.state.draining.wait_until_set() => return Err(Refusal::Draining.into()),
                next = self.next(&mut queue) => next?,
            };
            let Some(computed) = next else { return Ok(()) };
            self.telemetry.waits(WaitingSide::Server);
            self.send(computed).await?;
            self.telemetry.waits(WaitingSide::Reader);
        }
    }

    /// The next microbatch, once it has been computed; `None` after the last one.
    async fn next(
        &self,
        queue: &mut mpsc::Receiver<Result<Pending, Refusal>>,
    ) -> Result<Option<Computed>, Refusal> {
        let Some(pending) = queue.recv().await else { return Ok(None) };
        let Pending { name, microbatch, permit, _guard } = pending?;
        let microbatch = microbatch.await.map_err(|_dropped| Refusal::Draining)??;
        let (header, payload, shared) = microbatch.into_parts(self.job.facts(), name, self.format);
        SplitError::check(&header, payload.len())?;
        self.telemetry.computed(&*self.job, &header, &payload);
        Ok(Some(Computed { header, payload, shared, permit, ready: Instant::now() }))
    }

    /// Sends one microbatch: its header alone if it is leased, otherwise as frames.
    async fn send(&self, computed: Computed) -> Result<(), End> {
        let Computed { mut header, payload, shared, permit, ready } = computed;
        let Header { seed, epoch, step, microbatch: index, .. } = header;
        let (samples, bytes) = (header.records.len(), payload.len());
        let delivery = self.admission.begin_delivery();
        let name = MicrobatchName { seed, epoch, step, index };
        let held = match (&self.lender, shared) {
            (Some(lender), Some(pixels)) => {
                let lending = permit.lend(ready, lender.needed());
                match self.admission.delivery(lending).await? {
                    Lending::Frames(permit) => Held::Permit(permit),
                    Lending::Lent(permit) => match lender.lend(&pixels, permit) {
                        Ok(lease) => {
                            header.lease = lease;
                            drop((payload, pixels));
                            let message = Message::new(Some(header), &Bytes::new(), 0..0);
                            let accepted = self.sender.send(message);
                            let accepted = self.admission.delivery(accepted).await?;
                            accepted.map_err(|Disconnected| End::Disconnected)?;
                            self.telemetry.leased();
                            self.telemetry.sent(samples, bytes, name);
                            return Ok(());
                        }
                        Err(permit) => Held::Lent(permit),
                    },
                }
            }
            _ => Held::Permit(permit),
        };
        let (held, unsent) = (Some(held), self.unsent.clone());
        let payload =
            PermittedPayload { payload, ready, held, _delivery: delivery, _unsent: unsent };
        let payload = Bytes::from_owner(payload);
        let mut header = Some(header);
        for range in frame::ranges(payload.len()) {
            let message = Message::new(header.take(), &payload, range);
            let accepted = self.admission.delivery(self.sender.send(message)).await?;
            accepted.map_err(|Disconnected| End::Disconnected)?;
        }
        if let Some(lender) = &self.lender {
            lender.sent_frames();
        }
        self.telemetry.sent(samples, bytes, name);
        Ok(())
    }

    /// Ends the call with its status. Returns the time that the reader has to take what is left, and what tells that
    /// others wait for it, unless the reader is told so already.
    fn finish(self, end: Result<(), End>) -> (Duration, Option<StreamAdmission>) {
        let Self { state, admission, telemetry, sender, unsent, lender, .. } = self;
        admission.end();
        // A client that leases may use the number of the call again.
        drop(lender);
        // Before the end, so that a reader that has seen it may begin another call.
        drop(unsent);
        let limits = &state.admission.limits;
        let refusal = match end {
            Ok(()) => {
                telemetry.ended(Code::Ok);
                sender.end(Status::ok(""));
                return (limits.stall_timeout, Some(admission));
            }
            Err(End::Disconnected) => {
                telemetry.ended(Code::Cancelled);
                return (limits.stall_timeout, Some(admission));
            }
            Err(End::Refused(refusal)) => refusal,
        };
        if let Some(fault) = refusal.data_fault() {
            telemetry.data_fault(fault);
            tracing::warn!(%refusal, fault = fault.name(), "stream ended early");
        } else {
            tracing::info!(%refusal, "stream ended early");
        }
        telemetry.ended(refusal.code());
        let patience = match refusal {
            Refusal::Stalled { .. } => {
                telemetry.stalled();
                (limits.stall_linger, None)
            }
            Refusal::Evicted { .. } => {
                telemetry.evicted();
                (limits.slow_after, None)
            }
            _ => (limits.stall_timeout, Some(admission)),
        };
        sender.end(refusal.into());
        patience
    }
}

/// A microbatch that has been submitted to the pipeline and not sent yet.
struct Pending {
    name: MicrobatchName,
    microbatch: oneshot::Receiver<Result<WireMicrobatch, Refusal>>,
    permit: MicrobatchPermit,
    _guard: RequestGuard,
}

/// A microbatch that has been computed and not sent yet.
struct Computed {
    header: Header,
    payload: Bytes,
    /// The same pixels, if they can be lent.
    shared: Option<Pixels>,
    permit: MicrobatchPermit,
    ready: Instant,
}

/// What a microbatch that is being sent holds.
enum Held {
    Permit(MicrobatchPermit),
    /// It was to be lent, but its reader could not be told.
    Lent(LentPermit),
}

/// A payload that keeps its permit until HTTP/2 has dropped the last piece of it.
struct PermittedPayload {
    payload: Bytes,
    ready: Instant,
    held: Option<Held>,
    _delivery: Delivery,
    _unsent: Unsent<(StreamSlot, CallGuard)>,
}

impl AsRef<[u8]> for PermittedPayload {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

impl Drop for PermittedPayload {
    fn drop(&mut self) {
        match self.held.take() {
            Some(Held::Permit(permit)) => permit.delivered(self.ready.elapsed()),
            Some(Held::Lent(permit)) => permit.delivered(self.ready.elapsed()),
            None => {}
        }
    }
}
