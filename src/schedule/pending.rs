//! Requests that are not answered yet, as plain data. `queue` owns the lock and runs the callbacks.
//!
//! ```text
//!   entries   key A: job, waiting [1 of client x, 2 of client y]
//!             key B: job, waiting [3 of client x], in progress
//!   tickets   client x: [A for 1]      client y: [A for 2]
//! ```
//!
//! Invariant: a waiter has a ticket in the queue of its client exactly as long as its entry is not in
//! progress.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as MapEntry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fair::{Charge, FairQueue};
use super::waiters::{Requester, Waiters};

/// Requests by key, and the turns of their clients. `D` is the callback of a requester.
#[derive(Debug)]
pub(super) struct Pending<K, J, D> {
    entries: BTreeMap<K, Entry<J, D>>,
    tickets: FairQueue<Ticket<K>>,
    /// Number of waiters by client.
    outstanding: BTreeMap<Arc<str>, usize>,
    last_id: u64,
}

/// Equal requests, which are answered by one task.
#[derive(Debug)]
struct Entry<J, D> {
    job: J,
    waiting: Vec<Waiter<D>>,
    waiters: Arc<Waiters>,
    in_progress: bool,
}

/// One request.
#[derive(Debug)]
pub(super) struct Waiter<D> {
    id: u64,
    requester: Requester,
    pub(super) since: Instant,
    pub(super) done: D,
}

/// A waiter's place in the queue of its client.
#[derive(Clone, Copy, Debug)]
struct Ticket<K> {
    key: K,
    waiter: u64,
}

/// An entry that a worker is to process.
#[derive(Debug)]
pub(crate) struct Task<K, J> {
    pub(super) key: K,
    /// The waiter whose turn it was.
    lead: u64,
    charge: Charge,
    /// The job to do.
    pub(crate) job: J,
    /// Whether no waiter needs another microbatch of the step.
    pub(crate) isolated: bool,
    pub(crate) waiters: Arc<Waiters>,
    /// When the lead waiter submitted its request.
    pub(crate) since: Instant,
}

/// The next ticket in turn.
pub(super) enum Next<K, J, D> {
    Task(Task<K, J>),
    /// A waiter whose turn it was, but who no longer waits.
    Cancelled(Waiter<D>),
}

impl<K, J, D> Default for Pending<K, J, D> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            tickets: FairQueue::default(),
            outstanding: BTreeMap::new(),
            last_id: 0,
        }
    }
}

impl<K: Copy + Ord, J: Clone, D> Pending<K, J, D> {
    /// Number of different results that are requested.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Number of requests.
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding.values().sum()
    }

    /// Number of requests of a client.
    pub(super) fn outstanding_of(&self, client: &Arc<str>) -> usize {
        self.outstanding.get(client).copied().unwrap_or(0)
    }

    /// Adds a request; returns whether it joined equal ones.
    pub(super) fn add(&mut self, key: K, job: J, requester: Requester, done: D) -> bool {
        self.last_id += 1;
        let (id, client) = (self.last_id, Arc::clone(&requester.client));
        let joined = self.entries.contains_key(&key);
        let entry = self.entries.entry(key).or_insert_with(|| Entry {
            job,
            waiting: Vec::new(),
            waiters: Arc::default(),
            in_progress: false,
        });
        entry.waiters.add(&requester);
        entry.waiting.push(Waiter { id, requester, since: Instant::now(), done });
        if !entry.in_progress {
            self.tickets.push(&client, Ticket { key, waiter: id });
        }
        *self.outstanding.entry(client).or_default() += 1;
        joined
    }

    /// Takes the ticket whose turn it is; `None` if there is no ticket.
    pub(super) fn next(&mut self) -> Option<Next<K, J, D>> {
        let (ticket, charge) = self.tickets.pop()?;
        let entry = self.entries.get(&ticket.key).expect("a ticket has an entry");
        let waiter = entry.waiting.iter().find(|waiter| waiter.id == ticket.waiter);
        if waiter.expect("a ticket has a waiter").requester.is_cancelled() {
            self.tickets.refund(&charge);
            return Some(Next::Cancelled(self.remove(ticket)));
        }
        Some(Next::Task(self.start(ticket, charge)))
    }

    /// Marks an entry as in progress. The other waiters need their tickets no more.
    fn start(&mut self, Ticket { key, waiter: lead }: Ticket<K>, charge: Charge) -> Task<K, J> {
        let entry = self.entries.get_mut(&key).expect("a ticket has an entry");
        entry.in_progress = true;
        let mut since = Instant::now();
        for waiter in &entry.waiting {
            if waiter.id == lead {
                since = waiter.since;
            } else {
                self.tickets.remove(&waiter.requester.client, |other| other.waiter == waiter.id);
            }
        }
        let isolated = entry.waiting.iter().all(|waiter| waiter.requester.isolated);
        let (job, waiters) = (entry.job.clone(), Arc::clone(&entry.waiters));
        Task { key, lead, charge, job, isolated, waiters, since }
    }

    /// Finishes a task and returns all of its waiters. `cost` is its CPU time, if it is known.
    pub(super) fn finish(&mut self, task: &Task<K, J>, cost: Option<Duration>) -> Vec<Waiter<D>> {
        self.tickets.settle(&task.charge, cost);
        let waiting = self.entries.remove(&task.key).map_or(Vec::new(), |entry| entry.waiting);
        for waiter in &waiting {
            self.forget(waiter);
        }
        waiting
    }

    /// Ends a task that was cancelled and returns its lead waiter. Waiters that joined after the
    /// worker had found all of them cancelled get new tickets.
    pub(super) fn cancel(&mut self, task: &Task<K, J>) -> Option<Waiter<D>> {
        self.tickets.settle(&task.charge, None);
        let entry = self.entries.get_mut(&task.key)?;
        entry.in_progress = false;
        for waiter in entry.waiting.iter().filter(|waiter| waiter.id != task.lead) {
            let ticket = Ticket { key: task.key, waiter: waiter.id };
            self.tickets.push(&waiter.requester.client, ticket);
        }
        Some(self.remove(Ticket { key: task.key, waiter: task.lead }))
    }

    /// Removes all waiters of a client that no longer wait, unless their task is in progress.
    pub(super) fn take_cancelled(&mut self, client: &Arc<str>) -> Vec<Waiter<D>> {
        let mut cancelled = Vec::new();
        for (&key, entry) in self.entries.iter().filter(|(_, entry)| !entry.in_progress) {
            let of_client = entry.waiting.iter().filter(|waiter| {
                waiter.requester.client == *client && waiter.requester.is_cancelled()
            });
            cancelled.extend(of_client.map(|waiter| Ticket { key, waiter: waiter.id }));
        }
        let take = |ticket: Ticket<K>| {
            self.tickets.remove(client, |other| other.waiter == ticket.waiter);
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
        let index = entry.waiting.iter().position(|waiter| waiter.id == ticket.waiter);
        let waiter = entry.waiting.remove(index.expect("a ticket has a waiter"));
        entry.waiters.refresh(entry.waiting.iter().map(|waiter| &waiter.requester));
        if entry.waiting.is_empty() {
            occupied.remove();
        }
        self.forget(&waiter);
        waiter
    }

    /// Subtracts a waiter from its client's outstanding requests.
    fn forget(&mut self, waiter: &Waiter<D>) {
        if let Some(outstanding) = self.outstanding.get_mut(&waiter.requester.client) {
            *outstanding -= 1;
            if *outstanding == 0 {
                self.outstanding.remove(&waiter.requester.client);
            }
        }
    }
}
