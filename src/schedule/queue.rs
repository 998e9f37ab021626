//! The queue between clients and makers: every result is made once, however many request it.
//!
//! ```text
//!   submit(key) -- in the cache? ------> done(result), at once
//!               -- key is pending? ----> one more waiter of its entry
//!               -- otherwise ----------> a new entry, which may wait for storage
//!   ready(key), fail(key)                  |   only then
//!                                          |   each waiter has a ticket in the queue of its client
//!   next()      <-- fair queueing over the tickets of all clients
//!                                          |   the entry is in progress; its tickets are gone
//!   finish(task, made)      ---> done(result) of each waiter; result into the cache
//!   finish(task, failed)    ---> done(error) of each waiter: the same job would fail again
//!   finish(task, cancelled) ---> done(cancelled) of the lead waiter; new tickets for the others
//! ```
//!
//! **Deduplication.** Requests with equal keys share an entry. Each of its waiters queues for itself:
//! the entry is processed as soon as the first of its clients has a turn, and that client is charged.
//! Sharing a result with a client that has a long queue therefore never makes another client wait
//! longer than if the result were made for it only.
//!
//! **Cancellation.** A waiter that is cancelled gives up its own ticket and nothing else. A task goes
//! on as long as one of its waiters is not cancelled; the code that makes it polls `Cancellation::is_total`. Because
//! another request may join between the last poll and `finish`, a cancelled task does not answer the remaining
//! waiters, which queue again.
//!
//! **The lock.** One mutex guards entries, tickets and cache, so that a key is at any time in exactly
//! one of the states absent, waiting for storage, queued, in progress or cached: there is no moment between two of them in
//! which an equal request could start the work again. Callbacks run after it is released. A callback
//! that panics takes down neither the maker that runs it nor the other waiters.
//!
//! A *maker* is a thread that takes tasks by [`Queue::next`] and ends each by [`Queue::finish`]. The type
//! parameters are the key `K` that names a result, the job `J` that tells how to make it, the result `R`, and the
//! error `E`. The queue does not inspect results: in `tests.rs` they are strings.

use std::fmt;
use std::iter::repeat_n;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::cache::ReadyCache;
use super::cancellation::SubmitOptions;
use super::pending::{Next, Pending, Stage, Task, Waiter};
use crate::sync::lock;

/// Called once with the outcome of a request, on a thread of any maker or of any client that submits. Must not block.
pub(crate) type Callback<R, E> = Box<dyn FnOnce(Outcome<R, E>) + Send>;

/// The outcome of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome<R, E> {
    Ready(R, Origin),
    Failed(E),
    Cancelled,
}

/// The origin of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It was made for this request, whose client was charged. One request of each task has this origin.
    Made,
    /// It was made for an equal request, which this one joined; the time is this one's wait.
    Joined(Duration),
    /// It was in the cache.
    Cached,
}

/// The end of a task.
#[derive(Debug)]
pub(crate) enum TaskEnd<R, E> {
    /// With a result that took this much CPU time.
    Made(R, Duration),
    Failed(E),
    /// Nobody waited any more.
    Cancelled,
}

/// What a request needs before it can be processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    Nothing,
    /// Bytes of a bucket. [`Queue::ready`] or [`Queue::fail`] will be called with its key.
    Storage,
}

/// How a request was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Submitted {
    /// It is the first with its key: what it needs is to be fetched.
    New,
    /// There is an equal one, or its result is in the cache.
    Known,
}

/// An error of [`Queue::submit`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SubmitError {
    /// The client has as many outstanding requests as it may have.
    TooMany { limit: usize, drain_estimate: Duration },
    /// The queue is closed.
    Closed,
}

/// Counters of a pipeline's queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Requests that are not answered yet. Equal ones count each.
    pub outstanding: usize,
    /// Different microbatches that are requested and not made yet.
    pub pending: usize,
    /// Requests that joined an equal one since the start.
    pub joined: u64,
    /// Requests that were answered from the cache since the start.
    pub cached: u64,
    /// Bytes of the results in the cache.
    pub cache_bytes: usize,
}

/// Requests that wait for makers, and recent results.
pub(crate) struct Queue<K, J, R, E> {
    state: Mutex<State<K, J, R, E>>,
    /// Signaled when there is a new ticket, when a task ends, and when the queue is closed.
    changed: Condvar,
    /// Number of threads over which the CPU time of a task spreads.
    threads: usize,
}

struct State<K, J, R, E> {
    pending: Pending<K, J, Callback<R, E>>,
    cache: ReadyCache<K, R>,
    joined: u64,
    cached: u64,
    /// Moving average of a task's CPU time, in seconds.
    average_cost: f64,
    closed: bool,
}

/// Weight of the latest task in the moving average of costs.
const COST_SMOOTHING: f64 = 0.1;

impl<K: Copy + Ord, J: Clone, R: Clone, E: Clone> Queue<K, J, R, E> {
    /// A queue that keeps at most `cache_bytes` of finished results, and gives out at most `per_client`
    /// tasks of a client at once.
    pub(crate) fn new(cache_bytes: usize, threads: usize, per_client: usize) -> Self {
        let state = State {
            pending: Pending::new(per_client),
            cache: ReadyCache::new(cache_bytes),
            joined: 0,
            cached: 0,
            average_cost: 0.0,
            closed: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), threads }
    }

    /// Submits a request. `done` is called on the thread of a maker, or on this one if the result is in
    /// the cache. It is never called if an error is returned.
    ///
    /// A client that is at its limit gives up its cancelled requests here, and all clients theirs if there are
    /// many, so that their callbacks run on this thread.
    ///
    /// # Errors
    /// When the client has as many outstanding requests as it may have, or the queue is closed.
    pub(crate) fn submit(
        &self,
        key: K,
        (job, needs): (J, Needs),
        options: SubmitOptions,
        done: Callback<R, E>,
    ) -> Result<Submitted, SubmitError> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(SubmitError::Closed);
        }
        if let Some(result) = state.cache.get(&key) {
            state.cached += 1;
            drop(state);
            notify(done, Outcome::Ready(result, Origin::Cached));
            return Ok(Submitted::Known);
        }
        let (client, limit) = (&options.client, options.max_outstanding);
        let mut cancelled = state.pending.sweep_cancelled();
        if state.pending.outstanding_of(client) >= limit {
            cancelled.extend(state.pending.take_cancelled(client));
        }
        let submitted = if state.pending.outstanding_of(client) >= limit {
            Err(SubmitError::TooMany { limit, drain_estimate: self.estimate(&state) })
        } else {
            let stage = match needs {
                Needs::Nothing => Stage::Queued,
                Needs::Storage => Stage::WaitsForStorage,
            };
            let joined = state.pending.add(key, job, stage, options, done);
            state.joined += u64::from(joined);
            Ok(if joined { Submitted::Known } else { Submitted::New })
        };
        drop(state);
        self.changed.notify_one();
        cancelled.into_iter().for_each(notify_cancelled);
        submitted
    }

    /// What a request needs is there.
    pub(crate) fn ready(&self, key: &K) {
        lock(&self.state).pending.ready(key);
        self.changed.notify_all();
    }

    /// What a request needs cannot be had: answers its waiters.
    pub(crate) fn fail(&self, key: &K, error: &E) {
        let waiters = lock(&self.state).pending.fail(key);
        for waiter in waiters {
            notify(waiter.done, Outcome::Failed(error.clone()));
        }
    }

    /// Waits for the next task. Returns `None` once the queue is closed and all tasks are taken.
    pub(crate) fn next(&self) -> Option<Task<K, J>> {
        let mut state = lock(&self.state);
        loop {
            match state.pending.next() {
                Some(Next::Task(task)) => return Some(task),
                Some(Next::Cancelled(waiter)) => {
                    drop(state);
                    notify_cancelled(waiter);
                    state = lock(&self.state);
                }
                None if state.closed => return None,
                None => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Ends a task and answers its waiters. `bytes_to_cache` is called under the lock, and
    /// returns the bytes that a result takes, or `None` if it must not be cached now.
    pub(crate) fn finish(
        &self,
        task: &Task<K, J>,
        end: TaskEnd<R, E>,
        bytes_to_cache: impl FnOnce(&R) -> Option<usize>,
    ) {
        let mut state = lock(&self.state);
        match end {
            TaskEnd::Made(result, cost) => {
                state.observe_cost(cost.as_secs_f64());
                let waiters = state.pending.finish(task, Some(cost));
                if let Some(bytes) = bytes_to_cache(&result) {
                    state.cache.insert(task.key, &result, bytes);
                }
                drop(state);
                self.changed.notify_one();
                // `repeat_n` gives the result itself to the last waiter, so that the maker keeps no copy of it.
                for (result, waiter) in repeat_n(result, waiters.len()).zip(waiters) {
                    let is_lead = waiter.id == task.lead;
                    let joined = || Origin::Joined(waiter.since.elapsed());
                    let origin = if is_lead { Origin::Made } else { joined() };
                    notify(waiter.done, Outcome::Ready(result, origin));
                }
            }
            TaskEnd::Failed(error) => {
                let waiters = state.pending.finish(task, None);
                drop(state);
                self.changed.notify_one();
                for waiter in waiters {
                    notify(waiter.done, Outcome::Failed(error.clone()));
                }
            }
            TaskEnd::Cancelled => {
                let lead = state.pending.cancel(task);
                drop(state);
                self.changed.notify_all();
                lead.into_iter().for_each(notify_cancelled);
            }
        }
    }

    /// Evicts one result from the cache, an idle one if there is one; false if the cache is empty.
    pub(crate) fn evict_one(&self, is_idle: impl Fn(&R) -> bool) -> bool {
        lock(&self.state).cache.evict_one(is_idle)
    }

    /// Accepts no more requests. Makers take the tasks that are left.
    pub(crate) fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_all();
    }

    pub(crate) fn stats(&self) -> QueueStats {
        let state = lock(&self.state);
        QueueStats {
            outstanding: state.pending.outstanding(),
            pending: state.pending.len(),
            joined: state.joined,
            cached: state.cached,
            cache_bytes: state.cache.bytes(),
        }
    }

    /// Estimated time until all pending requests are answered, at the average cost of the latest
    /// tasks.
    pub(crate) fn drain_estimate(&self) -> Duration {
        self.estimate(&lock(&self.state))
    }

    fn estimate(&self, state: &State<K, J, R, E>) -> Duration {
        let cpu_seconds = state.pending.len() as f64 * state.average_cost;
        Duration::from_secs_f64(cpu_seconds / self.threads as f64)
    }
}

impl<K, J, R, E> State<K, J, R, E> {
    fn observe_cost(&mut self, seconds: f64) {
        self.average_cost = if self.average_cost > 0.0 {
            self.average_cost.mul_add(1.0 - COST_SMOOTHING, seconds * COST_SMOOTHING)
        } else {
            seconds
        };
    }
}

/// Calls a callback, which is the client's code. A panic in it is caught here, after the panic hook has
/// reported it.
fn notify<R, E>(done: Callback<R, E>, outcome: Outcome<R, E>) {
    drop(catch_unwind(AssertUnwindSafe(move || done(outcome))));
}

fn notify_cancelled<R, E>(waiter: Waiter<Callback<R, E>>) {
    notify(waiter.done, Outcome::Cancelled);
}

impl<K, J, R, E> fmt::Debug for Queue<K, J, R, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}
