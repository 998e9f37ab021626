//! A part of a stream that one server makes: some steps in a row.
//!
//! A leg opens its stream when what it receives first may be ahead of the trainer, which is decided in
//! the order of the names over all legs. Earlier it would have a server make what it then has no room
//! for: that would wait in a buffer of this server until another one has delivered what comes before,
//! and trainers whose steps go the other way round would wait for each other.
//!
//! A microbatch that fails, or is late, comes from the next server in the order of its step, and so
//! does the rest of the leg.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::ask::Ask;
use crate::cursor::Walk;
use crate::error::Cause;
use crate::latch::Latch;
use crate::receive::Receiver;
use crate::retry::Attempts;
use crate::roster::Turn;
use crate::slab::Ahead;
use crate::{Cursor, Error, Microbatch, MicrobatchName};

/// A microbatch with its right to be ahead, or the error that ends the stream.
pub(crate) type Item = Result<(Microbatch, Ahead), Error>;

/// Some names, in order.
#[derive(Debug)]
pub(crate) struct Leg {
    pub(crate) ask: Arc<Ask>,
    pub(crate) walk: Walk,
    /// Goes on to the end of the stream for as long as there is no other server.
    pub(crate) open_ended: bool,
    /// To be opened when everything of this leg may be ahead.
    pub(crate) passed: Latch,
    /// Open when nothing before this leg is left to deliver.
    pub(crate) front: Latch,
    pub(crate) out: mpsc::Sender<Item>,
}

/// The stream of a leg.
#[derive(Default)]
enum Link {
    #[default]
    None,
    Opening(Turn, Opening),
    Open(Turn, Box<Receiver>),
}

type Opening = Pin<Box<dyn Future<Output = Result<Receiver, Cause>> + Send>>;

/// A leg's stream, and what failed on it.
struct Line {
    ask: Arc<Ask>,
    attempts: Attempts,
    link: Link,
    /// The step and the server that were counted last.
    counted: Option<(Cursor, String)>,
}

/// Who was first.
enum First {
    Own(Microbatch),
    /// And what became of the own one, if anything.
    Other(Microbatch, Turn, Option<Cause>),
}

impl Leg {
    /// Receives; the names that are left when another leg is to go on.
    pub(crate) async fn run(mut self) -> Option<Walk> {
        match self.receive().await {
            Ok(()) => self.walk.name().is_some().then_some(self.walk),
            Err(error) => {
                // A trainer that is gone needs no error.
                self.out.send(Err(error)).await.ok();
                None
            }
        }
    }

    async fn receive(&mut self) -> Result<(), Error> {
        let mut line = Line::new(&self.ask);
        while let Some(name) = self.walk.name() {
            self.ask.roster.fleet.look();
            let begins = self.walk.rest().1 == 0;
            if self.open_ended && begins && !self.ask.roster.is_alone() {
                return Ok(());
            }
            let ahead = self.reserve(name).await;
            let microbatch = line.microbatch(name, &self.walk, &self.front).await?;
            self.walk.advance();
            if self.out.send(Ok((microbatch, ahead))).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The right to have a microbatch ahead.
    async fn reserve(&self, name: MicrobatchName) -> Ahead {
        let ahead = self.ask.slabs.reserve(self.ask.wanted.bytes(name)).await;
        if self.walk.is_last() {
            self.passed.open();
        }
        ahead
    }
}

impl Line {
    fn new(ask: &Arc<Ask>) -> Self {
        let attempts = Attempts::new(&ask.roster);
        Self { ask: Arc::clone(ask), attempts, link: Link::None, counted: None }
    }

    /// Begins to open a stream, if there is none.
    async fn begin(&mut self, walk: &Walk) -> Result<(), Error> {
        if let (Link::None, Some(name)) = (&self.link, walk.name()) {
            let turn = self.attempts.turn(self.ask.key(name.cursor()), &self.request(name)).await?;
            let (ask, member) = (Arc::clone(&self.ask), Arc::clone(&turn.member));
            let request = ask.request(walk);
            self.link = Link::Opening(turn, Box::pin(ask.stream(member, request)));
        }
        Ok(())
    }

    fn request(&self, name: MicrobatchName) -> String {
        format!("stream of {} at {name}", self.ask.job.dataset)
    }

    fn failed(&mut self, walk: &Walk, cause: Cause) -> Result<(), Error> {
        let Some(turn) = std::mem::take(&mut self.link).into_turn() else { return Ok(()) };
        self.ask.pool.failed(&turn.member.server, &cause);
        let request = walk.name().map(|name| self.request(name)).unwrap_or_default();
        self.attempts.failed(&turn, cause, &request)
    }

    /// The next microbatch of the walk, from whichever server.
    async fn microbatch(
        &mut self,
        name: MicrobatchName,
        walk: &Walk,
        front: &Latch,
    ) -> Result<Microbatch, Error> {
        let deadline = self.ask.options.timeouts.deadline;
        loop {
            self.begin(walk).await?;
            let due = Instant::now();
            let first = timeout(deadline, self.race(name, front)).await;
            match first.unwrap_or(Err(Cause::Deadline(deadline))) {
                Err(cause) => self.failed(walk, cause)?,
                Ok(first) => {
                    self.ask.roster.fleet.hedging(|hedging| hedging.note(due.elapsed()));
                    return Ok(self.arrived(name, first));
                }
            }
        }
    }

    /// Receives from the stream, and from another server as well when it is late.
    async fn race(&mut self, name: MicrobatchName, front: &Latch) -> Result<First, Cause> {
        let Self { ask, link, .. } = self;
        let ask: &Ask = ask;
        let Some(turn) = link.turn().cloned() else { return Err(Cause::Truncated) };
        let (begun, received) = (OnceLock::<Turn>::new(), Arc::new(AtomicU64::new(0)));
        let delay = ask.roster.fleet.hedging(|hedging| hedging.delay());
        let late = delay.map(|delay| Instant::now() + delay);
        let other = async {
            sleep_until(late?).await;
            front.opened().await;
            let other = ask.roster.hedge(ask.key(name.cursor()), &turn, Instant::now())?;
            let other = begun.get_or_init(|| other);
            match ask.fetch(Arc::clone(&other.member), name, &received).await {
                Ok(microbatch) => Some((microbatch, other.clone())),
                Err(cause) => {
                    ask.pool.failed(&other.member.server, &cause);
                    ask.roster.blame(other, &cause);
                    None
                }
            }
        };
        let own = async {
            link.settle().await?;
            let Link::Open(_, receiver) = link else { return Err(Cause::Truncated) };
            receiver.microbatch(name, &ask.wanted, &ask.slabs).await
        };
        first(own, other, &begun).await.inspect(|first| {
            if let (First::Own(_), Some(other)) = (first, begun.get()) {
                let in_vain = received.load(Ordering::Relaxed);
                other.member.standing().counts.duplicate_bytes += in_vain;
            }
        })
    }

    /// Counts what arrived.
    fn arrived(&mut self, name: MicrobatchName, first: First) -> Microbatch {
        let (microbatch, turn) = match first {
            First::Own(microbatch) => {
                let turn = self.link.turn().cloned().expect("what it came from is open");
                (microbatch, turn)
            }
            First::Other(microbatch, other, failed) => {
                let link = std::mem::take(&mut self.link);
                let in_vain = link.received();
                if let Some(late) = link.into_turn() {
                    let cause = failed.unwrap_or(Cause::Overtaken);
                    self.ask.pool.failed(&late.member.server, &cause);
                    self.ask.roster.blame(&late, &cause);
                    let counts = &mut late.member.standing().counts;
                    counts.overtaken += 1;
                    counts.duplicate_bytes += in_vain;
                }
                other.member.standing().counts.hedges_won += 1;
                (microbatch, other)
            }
        };
        self.attempts.succeeded(&turn);
        let counted = Some((name.cursor(), turn.member.name().to_owned()));
        let mut standing = turn.member.standing();
        standing.counts.steps += u64::from(counted != self.counted);
        standing.counts.microbatches += 1;
        standing.counts.bytes += microbatch.pixels.len() as u64;
        drop(standing);
        self.counted = counted;
        microbatch
    }
}

/// Whichever of two is there first; the own one's failure, unless the other one has begun and comes.
async fn first(
    own: impl Future<Output = Result<Microbatch, Cause>>,
    other: impl Future<Output = Option<(Microbatch, Turn)>>,
    begun: &OnceLock<Turn>,
) -> Result<First, Cause> {
    let (mut own, mut other) = (pin!(own), pin!(other));
    let (mut failed, mut alone) = (None, false);
    poll_fn(|context| {
        let arrived = match &failed {
            None => own.as_mut().poll(context),
            Some(_) => Poll::Pending,
        };
        let hedged = if alone { Poll::Pending } else { other.as_mut().poll(context) };
        match (arrived, hedged) {
            (Poll::Ready(Ok(own)), Poll::Ready(Some((other, turn)))) if own.xxh3 != other.xxh3 => {
                return Poll::Ready(Err(Cause::Contradiction(turn.member.name().to_owned())));
            }
            (Poll::Ready(Ok(own)), _) => return Poll::Ready(Ok(First::Own(own))),
            (Poll::Ready(Err(cause)), Poll::Ready(Some((other, turn)))) => {
                return Poll::Ready(Ok(First::Other(other, turn, Some(cause))));
            }
            (Poll::Pending, Poll::Ready(Some((other, turn)))) => {
                return Poll::Ready(Ok(First::Other(other, turn, failed.take())));
            }
            (Poll::Ready(Err(cause)), hedged) => {
                failed = Some(cause);
                alone |= hedged.is_ready();
            }
            (Poll::Pending, Poll::Ready(None)) => alone = true,
            (Poll::Pending, Poll::Pending) => {}
        }
        if (alone || begun.get().is_none())
            && let Some(cause) = failed.take()
        {
            return Poll::Ready(Err(cause));
        }
        Poll::Pending
    })
    .await
}

impl Link {
    /// Waits until it is open, if it is being opened. May be cancelled, and goes on.
    async fn settle(&mut self) -> Result<(), Cause> {
        if let Self::Opening(_, opening) = self {
            let receiver = opening.await?;
            if let Self::Opening(turn, _) = std::mem::take(self) {
                *self = Self::Open(turn, Box::new(receiver));
            }
        }
        Ok(())
    }

    const fn turn(&self) -> Option<&Turn> {
        match self {
            Self::None => None,
            Self::Opening(turn, _) | Self::Open(turn, _) => Some(turn),
        }
    }

    fn into_turn(self) -> Option<Turn> {
        match self {
            Self::None => None,
            Self::Opening(turn, _) | Self::Open(turn, _) => Some(turn),
        }
    }

    /// How many bytes came of the microbatch that is being received.
    fn received(&self) -> u64 {
        if let Self::Open(_, receiver) = self { receiver.received() } else { 0 }
    }
}
