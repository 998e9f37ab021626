//! An ordered stream of microbatches that outlives its servers.
//!
//! A task receives ahead of the trainer, up to a bound in bytes:
//!
//! ```text
//! while there is a next name:
//!     begin a leg: the next steps that one server makes; several legs at a time
//!     hand over what the first leg received, each the next microbatch by name
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::ask::Ask;
use crate::cursor::Walk;
use crate::latch::Latch;
use crate::leg::{Item, Leg};
use crate::slab::{Ahead, MOST_AHEAD};
use crate::{Description, Error, Microbatch};

/// The most legs of a stream at a time, and so of calls that it has open.
const MOST_LEGS: usize = 8;

/// The most steps of a leg, where there are several servers.
const LONGEST_RUN: u64 = 16;

/// Microbatches in order, each exactly once. Dropping it ends it.
#[derive(Debug)]
pub struct Microbatches {
    ready: mpsc::Receiver<Item>,
    task: JoinHandle<()>,
    description: Arc<Description>,
    /// Since when the trainer waits.
    waiting: Option<Instant>,
}

impl Microbatches {
    pub(crate) fn start(stream: Stream) -> Self {
        let (sender, ready) = mpsc::channel(MOST_AHEAD as usize);
        let description = Arc::clone(&stream.ask.wanted.description);
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
    pub(crate) ask: Arc<Ask>,
    pub(crate) walk: Walk,
}

type Sender = mpsc::Sender<Item>;

/// A leg that is being received.
#[derive(Debug)]
struct Running {
    out: mpsc::Receiver<Item>,
    /// As in [`Leg`].
    passed: Latch,
    front: Latch,
    task: JoinHandle<Option<Walk>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stream {
    async fn run(self, sender: Sender) {
        let Self { ask, walk } = self;
        let mut left = Some(walk);
        let mut legs: VecDeque<Running> = VecDeque::new();
        loop {
            let room = legs.len() < MOST_LEGS;
            let next = room && left.as_ref().is_some_and(|walk| walk.name().is_some());
            if next && legs.back().is_none_or(|back| back.passed.is_open()) {
                legs.extend(left.take().map(|walk| begin(&ask, walk, &mut left)));
                continue;
            }
            let back = legs.back().filter(|_| next).map(|back| back.passed.clone());
            let Some(front) = legs.front_mut() else { return };
            front.front.open();
            let item = tokio::select! {
                biased;
                item = front.out.recv() => item,
                () = passed(back.as_ref()) => continue,
            };
            if let Some(item) = item {
                let over = item.is_err();
                if sender.send(item).await.is_err() || over {
                    return;
                }
            } else {
                let rest = (&mut front.task).await;
                legs.pop_front();
                match rest {
                    Ok(rest) => left = rest.or(left),
                    // The stream must not end as if it were complete.
                    Err(error) => {
                        let error = Error::Options(format!("a fault of the client: {error}"));
                        sender.send(Err(error)).await.ok();
                        return;
                    }
                }
            }
        }
    }
}

/// Waits until everything of a leg may be ahead, if there is one to wait for.
async fn passed(passed: Option<&Latch>) {
    match passed {
        Some(passed) => passed.opened().await,
        None => std::future::pending().await,
    }
}

/// Begins a leg of the first names of a walk, and leaves the others.
fn begin(ask: &Arc<Ask>, mut walk: Walk, left: &mut Option<Walk>) -> Running {
    let open_ended = ask.roster.is_alone();
    if !open_ended {
        let rest = walk.split_off(run(ask, &walk));
        *left = Some(rest);
    }
    let (sender, out) = mpsc::channel(MOST_AHEAD as usize);
    let (passed, front) = (Latch::new(), Latch::new());
    let leg = Leg {
        ask: Arc::clone(ask),
        walk,
        open_ended,
        passed: passed.clone(),
        front: front.clone(),
        out: sender,
    };
    Running { out, passed, front, task: tokio::spawn(leg.run()) }
}

/// Steps in a row that one server makes.
fn run(ask: &Ask, walk: &Walk) -> u64 {
    let owner = |k| ask.roster.owner(ask.key(walk.cursor(k)));
    let first = owner(0);
    let same = |k: &u64| match (&first, owner(*k)) {
        (Some(first), Some(owner)) => Arc::ptr_eq(first, &owner),
        _ => false,
    };
    1 + (1..LONGEST_RUN).take_while(same).count() as u64
}
