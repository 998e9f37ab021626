//! An ordered stream of microbatches that survives the failure of servers.
//!
//! A task receives ahead of the trainer, as far as the window allows:
//!
//! ```text
//! while names are left:
//!     start a segment: the next steps of one server; up to 8 segments at a time
//!     hand over what the first segment received, in order
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::description::Description;
use crate::error::Error;
use crate::microbatch::Microbatch;
use crate::stream::latch::Latch;
use crate::stream::request::JobContext;
use crate::stream::segment::{Item, Segment};
use crate::stream::walk::Walk;
use crate::stream::window::{MAX_SEGMENTS, MAX_WINDOW, Reservation, Window};
use crate::wire::demand::Demand;

/// Largest number of steps of a segment, where there are several servers.
const MAX_SEGMENT_STEPS: u64 = 16;

/// Microbatches in order, each exactly once. Dropping it ends the stream.
#[derive(Debug)]
pub struct Microbatches {
    ready: mpsc::Receiver<Item>,
    task: JoinHandle<()>,
    /// Open from the end of the stream on. Its tasks are looking at it first, so that none of them takes the end of the
    /// others for a failure.
    closed: Latch,
    description: Arc<Description>,
    demand: Arc<Demand>,
    /// When the trainer began to wait for the next microbatch.
    waiting_since: Option<Instant>,
}

impl Microbatches {
    pub(crate) fn start(context: Arc<JobContext>, window: Window, walk: Walk) -> Self {
        let (sender, ready) = mpsc::channel(MAX_WINDOW as usize);
        let description = Arc::clone(&context.expected.description);
        let demand = Arc::clone(&context.demand);
        let closed = Latch::new();
        let (left, segments) = (Some(walk), VecDeque::new());
        let stream = Stream { context, window, left, segments, closed: closed.clone() };
        let task = tokio::spawn(report_panic(sender.clone(), stream.run(sender)));
        Self { ready, task, closed, description, demand, waiting_since: None }
    }

    /// Ends the stream, and waits until nothing of it is left that receives or logs.
    pub async fn close(mut self) {
        self.closed.open();
        // A panic of a task that is no longer needed harms nobody.
        (&mut self.task).await.ok();
    }

    /// The job's description.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Returns the next microbatch; `None` at the end, and after an error. Cancel safe.
    ///
    /// # Errors
    /// [`Error::GaveUp`] if no server delivers the microbatch in the time that
    /// [`Options::retry`](crate::Options::retry) allows, [`Error::Refused`] or [`Error::NoServer`] if
    /// servers refuse the job, and [`Error::Refused`] if a microbatch and its hedge arrive together and differ. The error
    /// ends the stream.
    pub async fn next(&mut self) -> Option<Result<Microbatch, Error>> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`next`](Self::next), for threads outside of the runtime.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    ///
    /// # Panics
    /// When called from asynchronous code.
    pub fn next_blocking(&mut self) -> Option<Result<Microbatch, Error>> {
        let start = *self.waiting_since.get_or_insert_with(Instant::now);
        let next = match self.ready.try_recv() {
            Ok(next) => Some(next),
            Err(_empty) => {
                self.demand.set(true);
                self.ready.blocking_recv()
            }
        };
        self.demand.set(false);
        self.waiting_since = None;
        Some(next?.map(|item| hand_over(item, start.elapsed())))
    }

    /// As [`next`](Self::next), for implementations of futures and streams.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Microbatch, Error>>> {
        let start = *self.waiting_since.get_or_insert_with(Instant::now);
        let Poll::Ready(next) = self.ready.poll_recv(context) else {
            self.demand.set(true);
            return Poll::Pending;
        };
        self.demand.set(false);
        self.waiting_since = None;
        Poll::Ready(next.map(|next| next.map(|item| hand_over(item, start.elapsed()))))
    }
}

/// Runs a task. If it panics, the stream ends with an error, and not as if it were complete.
async fn report_panic(sender: mpsc::Sender<Item>, run: impl Future<Output = ()> + Send + 'static) {
    // Its task ends with this one.
    let mut task = JoinSet::new();
    task.spawn(run);
    if let Some(Err(error)) = task.join_next().await {
        sender.send(Err(Error::Internal(error.to_string()))).await.ok();
    }
}

/// Releases the reservation, because what the trainer holds is no longer ahead of it.
fn hand_over(
    (mut microbatch, reservation): (Microbatch, Reservation),
    wait: Duration,
) -> Microbatch {
    drop(reservation);
    microbatch.wait = wait;
    microbatch
}

impl Drop for Microbatches {
    fn drop(&mut self) {
        self.closed.open();
        self.task.abort();
    }
}

/// The task behind [`Microbatches`].
#[derive(Debug)]
struct Stream {
    context: Arc<JobContext>,
    window: Window,
    /// Names that are not in a segment yet.
    left: Option<Walk>,
    segments: VecDeque<Running>,
    /// As in [`Microbatches`].
    closed: Latch,
}

/// A segment that is being received.
#[derive(Debug)]
struct Running {
    out: mpsc::Receiver<Item>,
    /// As in [`Segment`].
    reserved: Latch,
    is_front: Latch,
    task: JoinHandle<Option<Walk>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stream {
    /// Hands over all microbatches, or those until the stream is closed. No segment is running after it.
    async fn run(mut self, sender: mpsc::Sender<Item>) {
        let closed = self.closed.clone();
        tokio::select! {
            biased;
            () = closed.opened() => {}
            () = self.hand_over_all(&sender) => {}
        }
        for mut running in self.segments.drain(..) {
            running.task.abort();
            // It was cancelled, or has ended; nobody needs what it returned.
            (&mut running.task).await.ok();
        }
    }

    async fn hand_over_all(&mut self, sender: &mpsc::Sender<Item>) {
        loop {
            let can_start = self.segments.len() < MAX_SEGMENTS
                && self.left.as_ref().is_some_and(|walk| walk.name().is_some());
            let back = self.segments.back().map(|back| back.reserved.clone());
            if can_start && back.as_ref().is_none_or(Latch::is_open) {
                self.start_segment();
                continue;
            }
            let Some(front) = self.segments.front_mut() else { return };
            front.is_front.open();
            let item = tokio::select! {
                biased;
                item = front.out.recv() => item,
                () = opened(back.filter(|_| can_start)) => continue,
            };
            if let Some(item) = item {
                let is_error = item.is_err();
                if sender.send(item).await.is_err() || is_error {
                    return;
                }
            } else if let Err(error) = self.finish_front().await {
                // Sending fails if the trainer dropped the stream.
                sender.send(Err(error)).await.ok();
                return;
            }
        }
    }

    /// Removes the first segment, which ended. Its names that are left come next.
    async fn finish_front(&mut self) -> Result<(), Error> {
        let Some(mut front) = self.segments.pop_front() else { return Ok(()) };
        // After a panic the stream must not end as if it were complete.
        let rest = (&mut front.task).await.map_err(|error| Error::Internal(error.to_string()))?;
        self.left = rest.or(self.left.take());
        Ok(())
    }

    /// Starts a segment of the first names that are left.
    fn start_segment(&mut self) {
        let Some(mut walk) = self.left.take() else { return };
        let is_open_ended = self.context.servers.is_single();
        if !is_open_ended {
            self.left = Some(walk.split_off(steps_of_one_server(&self.context, &walk)));
        }
        let (sender, out) = mpsc::channel(MAX_WINDOW as usize);
        let (reserved, is_front) = (Latch::new(), Latch::new());
        let segment = Segment {
            context: Arc::clone(&self.context),
            window: self.window.clone(),
            walk,
            is_open_ended,
            reserved: reserved.clone(),
            is_front: is_front.clone(),
            closed: self.closed.clone(),
            out: sender,
        };
        let closed = self.closed.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                biased;
                () = closed.opened() => None,
                rest = segment.run() => rest,
            }
        });
        self.segments.push_back(Running { out, reserved, is_front, task });
    }
}

/// Waits until a latch is open; forever if there is none.
async fn opened(latch: Option<Latch>) {
    match latch {
        Some(latch) => latch.opened().await,
        None => std::future::pending().await,
    }
}

/// The number of steps at the start of a walk that have the same owner.
fn steps_of_one_server(context: &JobContext, walk: &Walk) -> u64 {
    let owner = |k| context.servers.owner(context.key(walk.cursor(k)));
    let first = owner(0);
    let same = |k: &u64| match (&first, owner(*k)) {
        (Some(first), Some(owner)) => Arc::ptr_eq(first, &owner),
        _ => false,
    };
    1 + (1..MAX_SEGMENT_STEPS).take_while(same).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_the_stream_with_an_internal_error() {
        let (sender, mut ready) = mpsc::channel(1);
        report_panic(sender, async { panic!("a bug") }).await;
        let error = ready.recv().await.unwrap().map(|(microbatch, _)| microbatch).unwrap_err();
        assert!(matches!(error, Error::Internal(_)), "{error:?}");
        assert!(error.to_string().contains("a bug"), "{error}");
    }
}
