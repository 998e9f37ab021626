//! Requests that are not answered yet, as plain data. `queue` owns the lock and runs the callbacks.
//!
//! ```text
//!   entries   key A: job, waiters [1 of client x, 2 of client y], queued
//!             key B: job, waiters [3 of client x], in progress
//!             key C: job, waiters [4 of client x], waits for storage
//!   tickets   client x: [A for 1]      client y: [A for 2]
//! ```
//!
//! Invariant: a waiter has a ticket in the queue of its client exactly as long as its entry is queued.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as MapEntry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cancellation::{Cancellation, SubmitOptions};
use super::fair::{Charge, FairQueue};

/// Requests by key, and the turns of their clients. `D` is the callback of a request.
#[derive(Debug)]
pub(super) struct Pending<K, J, D> {
    entries: BTreeMap<K, Entry<J, D>>,
    tickets: FairQueue<Ticket<K>>,
    /// Number of waiters by client.
    outstanding: BTreeMap<Arc<str>, usize>,
    /// Number of all waiters.
    waiters: usize,
    /// Number of waiters at which those that no longer wait are removed.
    sweep_at: usize,
    last_id: u64,
}

/// Smallest number of waiters at which those that no longer wait are removed.
const MIN_SWEEP: usize = 1024;

/// Equal requests, which are answered by one task.
#[derive(Debug)]
struct Entry<J, D> {
    job: J,
    waiters: Vec<Waiter<D>>,
    cancellation: Arc<Cancellation>,
    stage: Stage,
}

/// How far an entry has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// What its job reads is on its way from a bucket. It has no tickets, so that no maker waits for that.
    WaitsForStorage,
    Queued,
    InProgress,
}

/// One request.
#[derive(Debug)]
pub(super) struct Waiter<D> {
    pub(super) id: u64,
    options: SubmitOptions,
    pub(super) since: Instant,
    pub(super) done: D,
}

/// A waiter's place in the queue of its client.
#[derive(Clone, Copy, Debug)]
struct Ticket<K> {
    key: K,
    waiter: u64,
}

/// An entry that a maker is to process.
#[derive(Debug)]
pub(crate) struct Task<K, J> {
    pub(super) key: K,
    /// The waiter whose turn it was.
    pub(super) lead: u64,
    charge: Charge,
    /// The job to do.
    pub(crate) job: J,
    /// Whether no waiter needs another microbatch of the step.
    pub(crate) isolated: bool,
    pub(crate) cancellation: Arc<Cancellation>,
    /// When the lead waiter submitted its request.
    pub(crate) since: Instant,
}

/// The next ticket in turn.
pub(super) enum Next<K, J, D> {
    Task(Task<K, J>),
    /// A waiter whose turn it was, but who no longer waits.
    Cancelled(Waiter<D>),
}

impl<K: Copy + Ord, J: Clone, D> Pending<K, J, D> {
    /// No requests, of clients that each have at most `max_in_progress` in progress.
    pub(super) fn new(max_in_progress: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            tickets: FairQueue::new(max_in_progress),
            outstanding: BTreeMap::new(),
            waiters: 0,
            sweep_at: MIN_SWEEP,
            last_id: 0,
        }
    }

    /// Number of different results that are requested.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Number of requests.
    pub(super) const fn outstanding(&self) -> usize {
        self.waiters
    }

    /// Number of requests of a client.
    pub(super) fn outstanding_of(&self, client: &Arc<str>) -> usize {
        self.outstanding.get(client).copied().unwrap_or(0)
    }

    /// Adds a request; returns whether it joined equal ones. Its entry begins at `stage` if it is new.
    pub(super) fn add(
        &mut self,
        key: K,
        job: J,
        stage: Stage,
        options: SubmitOptions,
        done: D,
    ) -> bool {
        self.last_id += 1;
        let (id, client) = (self.last_id, Arc::clone(&options.client));
        let joined = self.entries.contains_key(&key);
        let entry = self.entries.entry(key).or_insert_with(|| Entry {
            job,
            waiters: Vec::new(),
            cancellation: Arc::default(),
            stage,
        });
        entry.cancellation.add(&options);
        entry.waiters.push(Waiter { id, options, since: Instant::now(), done });
        if entry.stage == Stage::Queued {
            self.tickets.push(&client, Ticket { key, waiter: id });
        }
        *self.outstanding.entry(client).or_default() += 1;
        self.waiters += 1;
        joined
    }

    /// Queues an entry that waits for storage. It may be gone, if its waiters have cancelled.
    pub(super) fn ready(&mut self, key: &K) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.stage == Stage::WaitsForStorage {
            entry.stage = Stage::Queued;
            for waiter in &entry.waiters {
                let ticket = Ticket { key: *key, waiter: waiter.id };
                self.tickets.push(&waiter.options.client, ticket);
            }
        }
    }

    /// Removes an entry that waits for storage, which failed, and returns its waiters.
    pub(super) fn fail(&mut self, key: &K) -> Vec<Waiter<D>> {
        let MapEntry::Occupied(entry) = self.entries.entry(*key) else { return Vec::new() };
        if entry.get().stage != Stage::WaitsForStorage {
            return Vec::new();
        }
        let waiters = entry.remove().waiters;
        for waiter in &waiters {
            self.forget(waiter);
        }
        waiters
    }

    /// Takes the ticket whose turn it is; `None` if there is none, or only of clients that have as many
    /// in progress as they may have.
    pub(super) fn next(&mut self) -> Option<Next<K, J, D>> {
        let (ticket, charge) = self.tickets.pop()?;
        let entry = self.entries.get(&ticket.key).expect("a ticket has an entry");
        let waiter = entry.waiters.iter().find(|waiter| waiter.id == ticket.waiter);
        if waiter.expect("a ticket has a waiter").options.is_cancelled() {
            self.tickets.refund(&charge);
            return Some(Next::Cancelled(self.remove(ticket)));
        }
        Some(Next::Task(self.start(ticket, charge)))
    }

    /// Marks an entry as in progress. The other waiters need their tickets no more.
    fn start(&mut self, Ticket { key, waiter: lead }: Ticket<K>, charge: Charge) -> Task<K, J> {
        let entry = self.entries.get_mut(&key).expect("a ticket has an entry");
        entry.stage = Stage::InProgress;
        let mut since = Instant::now();
        for waiter in &entry.waiters {
            if waiter.id == lead {
                since = waiter.since;
            } else {
                self.tickets.remove(&waiter.options.client, |other| other.waiter == waiter.id);
            }
        }
        let isolated = entry.waiters.iter().all(|waiter| waiter.options.isolated);
        let (job, cancellation) = (entry.job.clone(), Arc::clone(&entry.cancellation));
        Task { key, lead, charge, job, isolated, cancellation, since }
    }

    /// Finishes a task and returns all of its waiters. `cost` is its CPU time, if it is known.
    pub(super) fn finish(&mut self, task: &Task<K, J>, cost: Option<Duration>) -> Vec<Waiter<D>> {
        self.tickets.settle(&task.charge, cost);
        let waiters = self.entries.remove(&task.key).map_or(Vec::new(), |entry| entry.waiters);
        for waiter in &waiters {
            self.forget(waiter);
        }
        waiters
    }

    /// Ends a task that was cancelled and returns its lead waiter. Waiters that joined after
    /// all of them had been found cancelled get new tickets.
    pub(super) fn cancel(&mut self, task: &Task<K, J>) -> Option<Waiter<D>> {
        self.tickets.settle(&task.charge, None);
        let entry = self.entries.get_mut(&task.key)?;
        entry.stage = Stage::Queued;
        for waiter in entry.waiters.iter().filter(|waiter| waiter.id != task.lead) {
            let ticket = Ticket { key: task.key, waiter: waiter.id };
            self.tickets.push(&waiter.options.client, ticket);
        }
        Some(self.remove(Ticket { key: task.key, waiter: task.lead }))
    }

    /// Removes all waiters of a client that no longer wait, unless their task is in progress.
    pub(super) fn take_cancelled(&mut self, client: &Arc<str>) -> Vec<Waiter<D>> {
        self.take_cancelled_if(|of| of == client)
    }

    /// Removes the waiters of all clients that no longer wait, if there are twice as many waiters as there
    /// were left the last time. Clients that are not bounded, because each has another name, could otherwise
    /// request and cancel without end while all makers are busy.
    pub(super) fn sweep_cancelled(&mut self) -> Vec<Waiter<D>> {
        if self.outstanding() < self.sweep_at {
            return Vec::new();
        }
        let cancelled = self.take_cancelled_if(|_any| true);
        self.sweep_at = MIN_SWEEP.max(2 * self.outstanding());
        cancelled
    }

    fn take_cancelled_if(&mut self, of: impl Fn(&Arc<str>) -> bool) -> Vec<Waiter<D>> {
        let mut cancelled = Vec::new();
        for (&key, entry) in
            self.entries.iter().filter(|(_, entry)| entry.stage != Stage::InProgress)
        {
            for Waiter { id, options, .. } in &entry.waiters {
                if of(&options.client) && options.is_cancelled() {
                    let client = Arc::clone(&options.client);
                    cancelled.push((client, Ticket { key, waiter: *id }));
                }
            }
        }
        let take = |(client, ticket): (Arc<str>, Ticket<K>)| {
            self.tickets.remove(&client, |other| other.waiter == ticket.waiter);
            self.remove(ticket)
        };
        cancelled.into_iter().map(take).collect()
    }

    /// Removes the waiter of a ticket that is used up, from an entry that is not in progress.
    fn remove(&mut self, ticket: Ticket<K>) -> Waiter<D> {
        let MapEntry::Occupied(mut occupied) = self.entries.entry(ticket.key) else {
            unreachable!("a ticket has an entry")
        };
        let entry = occupied.get_mut();
        let index = entry.waiters.iter().position(|waiter| waiter.id == ticket.waiter);
        let waiter = entry.waiters.remove(index.expect("a ticket has a waiter"));
        entry.cancellation.refresh(entry.waiters.iter().map(|waiter| &waiter.options));
        if entry.waiters.is_empty() {
            occupied.remove();
        }
        self.forget(&waiter);
        waiter
    }

    /// Subtracts a waiter from its client's outstanding requests.
    fn forget(&mut self, waiter: &Waiter<D>) {
        self.waiters -= 1;
        if let Some(outstanding) = self.outstanding.get_mut(&waiter.options.client) {
            *outstanding -= 1;
            if *outstanding == 0 {
                self.outstanding.remove(&waiter.options.client);
            }
        }
    }
}
