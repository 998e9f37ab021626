//! A segment: a run of consecutive steps fetched from one server.
//!
//! Segments are received at the same time, from different servers. A segment opens its gRPC stream only
//! once the client has room for all of it, or once it is the front segment, whose first microbatch is
//! the next one of the whole stream. Opening earlier can deadlock: server A's buffer would hold a
//! microbatch that the client cannot accept until server B delivers an earlier one, while another client
//! waits the other way around. With this rule a server holds only what its client can accept at once, or
//! what becomes acceptable as the trainer takes earlier microbatches of the same server.
//!
//! ```text
//! window  | front segment: A A A A | next segment: B B B B | C C
//!         |   open                 |   open                |   not open: room for 2 of 4
//!
//! in the order of the names, across all segments:
//!     reserve   room in the window
//! for each name of an open segment:
//!     receive   from the segment's own stream, which is opened if there is none
//!     hedge     if this is the next name of the whole stream, and it is late: fetch the one
//!               microbatch from the next server as well; the first to arrive wins, and if that is
//!               the hedge, the own stream is dropped
//!     on error  drop the stream and choose a server again (see `retry`); the new stream starts at
//!               this name, so that nothing is lost and nothing is repeated
//!     out       hand over the microbatch with its reservation
//! ```
//!
//! Only the next name is hedged: a microbatch that is further ahead does not delay the trainer yet, and
//! one additional buffer is then enough.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use forebay_proto::types::{Cursor, MicrobatchName};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::error::{Cause, Error};
use crate::fleet::job_servers::Attempt;
use crate::microbatch::Microbatch;
use crate::notice::warn_if_silent;
use crate::stream::latch::Latch;
use crate::stream::race::{Winner, race};
use crate::stream::request::JobContext;
use crate::stream::retry::Retries;
use crate::stream::walk::Walk;
use crate::stream::window::{MAX_WINDOW, Reservation, Window};
use crate::wire::receive::Receiver;

/// A microbatch with its reservation, or the error that ends the stream.
pub(crate) type Item = Result<(Microbatch, Reservation), Error>;

/// A run of names that is fetched from one server.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) context: Arc<JobContext>,
    pub(crate) window: Window,
    pub(crate) walk: Walk,
    /// Whether the segment has all names that are left, because there is one server. It ends early if
    /// another server appears.
    pub(crate) is_open_ended: bool,
    /// Opened once all of this segment is reserved, so that the next segment may reserve.
    pub(crate) reserved: Latch,
    /// Open once everything before this segment was delivered.
    pub(crate) is_front: Latch,
    /// Open from the end of the stream on. The segment's task looks at it before each poll.
    pub(crate) closed: Latch,
    pub(crate) out: mpsc::Sender<Item>,
}

impl Segment {
    /// Receives the segment. Returns the names that are left if it ends early.
    pub(crate) async fn run(mut self) -> Option<Walk> {
        match Box::pin(self.receive()).await {
            Ok(()) => self.walk.name().is_some().then_some(self.walk),
            Err(error) => {
                // Sending fails if the trainer dropped the stream, which then needs no error.
                self.out.send(Err(error)).await.ok();
                None
            }
        }
    }

    /// Reserves and receives the segment, both at the same time.
    async fn receive(&mut self) -> Result<(), Error> {
        // The window grants at most this number of reservations at a time.
        let (granted, reservations) = mpsc::channel(MAX_WINDOW as usize);
        let reserve = self.reserve(granted);
        tokio::select! {
            biased;
            result = self.receive_reserved(reservations) => result,
            never = async { reserve.await; std::future::pending().await } => never,
        }
    }

    /// Reserves room for all names, in order.
    fn reserve(&self, granted: mpsc::Sender<Reservation>) -> impl Future<Output = ()> + use<> {
        let (context, window) = (Arc::clone(&self.context), self.window.clone());
        let (mut walk, reserved) = (self.walk.clone(), self.reserved.clone());
        async move {
            while let Some(name) = walk.name() {
                let reservation = window.reserve(context.expected.bytes(name)).await;
                if granted.send(reservation).await.is_err() {
                    return;
                }
                walk.advance();
            }
            reserved.open();
        }
    }

    async fn receive_reserved(
        &mut self,
        mut reservations: mpsc::Receiver<Reservation>,
    ) -> Result<(), Error> {
        tokio::select! {
            biased;
            () = self.is_front.opened() => {}
            () = self.reserved.opened() => {}
        }
        let mut source = Source::new(&self.context, &self.window, &self.closed);
        while let Some(name) = self.walk.name() {
            self.context.servers.fleet.resolve_if_due();
            let is_at_step = self.walk.done() == 0;
            if self.is_open_ended && is_at_step && !self.context.servers.is_single() {
                return Ok(());
            }
            let Some(reservation) = reservations.recv().await else { return Ok(()) };
            let microbatch = source.receive(name, &self.walk, &self.is_front).await?;
            self.walk.advance();
            if self.out.send(Ok((microbatch, reservation))).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The source of a segment's microbatches: its stream, the retries after failures, the hedges.
struct Source {
    context: Arc<JobContext>,
    window_bytes: usize,
    /// As in [`Segment`].
    closed: Latch,
    retries: Retries,
    link: Link,
    /// The step and the server that were counted last.
    counted: Option<(Cursor, String)>,
}

/// A stream of a server.
#[derive(Default)]
enum Link {
    #[default]
    None,
    Opening(Attempt, Opening),
    Open(Attempt, Box<Receiver>),
}

type Opening = Pin<Box<dyn Future<Output = Result<Receiver, Cause>> + Send>>;

impl Source {
    fn new(context: &Arc<JobContext>, window: &Window, closed: &Latch) -> Self {
        Self {
            context: Arc::clone(context),
            window_bytes: window.bytes(),
            closed: closed.clone(),
            retries: Retries::new(&context.servers),
            link: Link::None,
            counted: None,
        }
    }

    /// Receives the next microbatch of the walk, from any server.
    async fn receive(
        &mut self,
        name: MicrobatchName,
        walk: &Walk,
        is_front: &Latch,
    ) -> Result<Microbatch, Error> {
        let limit = self.context.options.timeouts.microbatch;
        loop {
            self.open(name, walk).await?;
            let start = Instant::now();
            let endpoint = self.link.attempt().map(|attempt| attempt.member.name().to_owned());
            let (endpoint, request) = (endpoint.unwrap_or_default(), self.describe(name));
            let winner = {
                // Pinned here, because the future is large, and would be moved.
                let race = pin!(timeout(limit, self.race(name, is_front)));
                warn_if_silent((&endpoint, &request), is_front.opened(), race).await
            };
            match winner.unwrap_or(Err(Cause::MicrobatchTimeout(limit))) {
                // The stream was closed within this poll, and its server may have ended since. The task ends at its
                // next poll.
                Err(_end) if self.closed.is_open() => std::future::pending().await,
                Err(cause) => self.failed(name, cause)?,
                Ok(winner) => {
                    let fleet = &self.context.servers.fleet;
                    fleet.with_hedges(|hedges| hedges.record(start.elapsed()));
                    return Ok(self.arrived(name, winner));
                }
            }
        }
    }

    /// Begins to open a stream, if there is none.
    async fn open(&mut self, name: MicrobatchName, walk: &Walk) -> Result<(), Error> {
        if let Link::None = &self.link {
            let key = self.context.key(name.cursor());
            let attempt = self.retries.next_attempt(key, &self.describe(name)).await?;
            let (context, member) = (Arc::clone(&self.context), Arc::clone(&attempt.member));
            let request = context.stream_request(walk, self.window_bytes);
            self.link = Link::Opening(attempt, Box::pin(context.stream(member, request)));
        }
        Ok(())
    }

    /// The description of the request in errors.
    fn describe(&self, name: MicrobatchName) -> String {
        format!("stream of {} at {name}", self.context.job.title())
    }

    /// Drops the stream after a failure. Returns the error if there is no further attempt.
    fn failed(&mut self, name: MicrobatchName, cause: Cause) -> Result<(), Error> {
        let Some(attempt) = std::mem::take(&mut self.link).into_attempt() else { return Ok(()) };
        self.context.pool.failed(&attempt.member.server, &cause);
        let request = self.describe(name);
        self.retries.failed(&attempt, cause, &request)
    }

    /// Receives from the stream, and from another server as well if it is late.
    async fn race(&mut self, name: MicrobatchName, is_front: &Latch) -> Result<Winner, Cause> {
        let Self { context, link, .. } = self;
        let context: &JobContext = context;
        let servers = &context.servers;
        let Some(attempt) = link.attempt().cloned() else { return Err(Cause::Truncated) };
        let (hedge, received) = (OnceLock::<Attempt>::new(), Arc::new(AtomicU64::new(0)));
        let delay = servers.fleet.with_hedges(|hedges| hedges.delay());
        let late_at = delay.map(|delay| Instant::now() + delay);
        let other = async {
            sleep_until(late_at?).await;
            is_front.opened().await;
            let key = context.key(name.cursor());
            let chosen = servers.choose_hedge(key, &attempt, Instant::now())?;
            let hedge = hedge.get_or_init(|| chosen);
            match context.fetch(Arc::clone(&hedge.member), name, &received).await {
                Ok(microbatch) => Some((microbatch, hedge.clone())),
                Err(cause) => {
                    context.pool.failed(&hedge.member.server, &cause);
                    servers.record_failure(hedge, &cause);
                    None
                }
            }
        };
        let own = async {
            link.opened().await?;
            let Link::Open(_, receiver) = link else { return Err(Cause::Truncated) };
            receiver.microbatch(name, &context.expected, &context.buffers).await
        };
        race(own, other, &hedge).await.inspect(|winner| {
            if let (Winner::Own(_), Some(hedge)) = (winner, hedge.get()) {
                tracing::debug!(endpoint = hedge.member.name(), "hedge lost");
                let wasted_bytes = received.load(Ordering::Relaxed);
                hedge.member.health().counts.wasted_bytes += wasted_bytes;
            }
        })
    }

    /// Records where a microbatch came from.
    fn arrived(&mut self, name: MicrobatchName, winner: Winner) -> Microbatch {
        let (microbatch, attempt) = match winner {
            Winner::Own(microbatch) => {
                let attempt = self.link.attempt().cloned().expect("it came by this stream");
                (microbatch, attempt)
            }
            Winner::Hedge(microbatch, hedge, own_failure) => {
                self.lost_to_hedge(own_failure.as_ref());
                hedge.member.health().counts.hedges_won += 1;
                (microbatch, hedge)
            }
        };
        self.retries.succeeded(&attempt);
        let counted = Some((name.cursor(), attempt.member.name().to_owned()));
        let mut health = attempt.member.health();
        health.counts.steps += u64::from(counted != self.counted);
        health.counts.microbatches += 1;
        health.counts.bytes += microbatch.pixels.len() as u64;
        drop(health);
        self.counted = counted;
        microbatch
    }

    /// Drops the stream after a hedge won, because the stream failed or is late.
    fn lost_to_hedge(&mut self, own_failure: Option<&Cause>) {
        let link = std::mem::take(&mut self.link);
        let wasted_bytes = link.received();
        let Some(attempt) = link.into_attempt() else { return };
        let JobContext { pool, servers, .. } = &*self.context;
        let is_open = servers.fleet.overtaken(&attempt.member, attempt.started, wasted_bytes);
        match own_failure {
            Some(cause) => {
                pool.failed(&attempt.member.server, cause);
                servers.record_failure(&attempt, cause);
            }
            // One that is late again and again may hang, so that a probe makes new connections. One that is
            // late once works.
            None if is_open => pool.failed(&attempt.member.server, &Cause::Overtaken),
            None => {}
        }
    }
}

impl Link {
    /// Waits until the stream is open. Can be cancelled, and then called again.
    async fn opened(&mut self) -> Result<(), Cause> {
        if let Self::Opening(_, opening) = self {
            let receiver = opening.await?;
            if let Self::Opening(attempt, _) = std::mem::take(self) {
                *self = Self::Open(attempt, Box::new(receiver));
            }
        }
        Ok(())
    }

    const fn attempt(&self) -> Option<&Attempt> {
        match self {
            Self::None => None,
            Self::Opening(attempt, _) | Self::Open(attempt, _) => Some(attempt),
        }
    }

    fn into_attempt(self) -> Option<Attempt> {
        match self {
            Self::None => None,
            Self::Opening(attempt, _) | Self::Open(attempt, _) => Some(attempt),
        }
    }

    /// The number of bytes received of the current microbatch.
    fn received(&self) -> u64 {
        if let Self::Open(_, receiver) = self { receiver.received() } else { 0 }
    }
}
