//! What is asked for: each microbatch once, however many ask for it, and in which order it is made.
//!
//! ```text
//!   ask --> ready in the cache: answered at once
//!       --> asked for already:  one more waits for the same work
//!       --> else a new work
//!   Each who waits has a ticket in the line of its client. Whichever ticket comes first has the work
//!   made, is charged for it, and all who wait get it.
//! ```
//!
//! So a work is as early as the first of its clients has a turn, and lives as long as one of them
//! waits: who goes away takes only its own ticket along. A work that fails is told to the one whose
//! turn it was; the others keep their places, for what failed may have been a cancellation.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use forebay_types::Digest;

use super::cache::Cache;
use super::fair::{Charge, Fair};
use super::{Done, Microbatch, Request, Timings, lock};
use crate::batch::Ring;
use crate::error::Error;
use crate::mix::{DType, Layout};

/// Who asks, and whether it still waits.
#[derive(Clone, Debug)]
pub struct Asker {
    /// Clients get equal shares of the workers' time, whatever each asks for.
    pub client: Arc<str>,
    /// Set to false by whoever no longer waits.
    pub wanted: Arc<AtomicBool>,
    /// Microbatches that its client may have asked for and not got, this one included.
    pub most: usize,
    /// Asks for this microbatch, and not for others of its step: nothing is made early for them.
    pub alone: bool,
}

impl Default for Asker {
    /// Somebody who waits, of the client without a name.
    fn default() -> Self {
        Self {
            client: "".into(),
            wanted: Arc::new(AtomicBool::new(true)),
            most: 1024,
            alone: false,
        }
    }
}

impl Asker {
    fn waits(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }
}

/// What decides on a microbatch's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    dataset: Digest,
    recipe: Digest,
    name: [u64; 4],
    output: [u8; 3],
}

impl Key {
    fn of(Request { dataset, recipe, name, output }: &Request) -> Self {
        let dtype = match output.dtype {
            DType::U8 => 0,
            DType::F16 => 1,
            DType::Bf16 => 2,
            DType::F32 => 3,
        };
        let layout = match output.layout {
            Layout::Nhwc => 0,
            Layout::Nchw => 1,
        };
        Self {
            dataset: dataset.digest(),
            recipe: recipe.digest(),
            name: [name.seed, name.epoch, name.step, name.index.into()],
            output: [dtype, layout, output.mixed.into()],
        }
    }
}

/// Those who wait for a work. Looked at by the workers, sample by sample.
#[derive(Debug, Default)]
pub(super) struct Wishes(Mutex<Vec<Arc<AtomicBool>>>);

impl Wishes {
    /// Whether one of them still waits.
    pub(super) fn any(&self) -> bool {
        lock(&self.0).iter().any(|wanted| wanted.load(Ordering::Relaxed))
    }
}

/// What a maker is to make.
#[derive(Debug)]
pub(super) struct Order {
    key: Key,
    /// Whose turn it was.
    first: u64,
    charge: Charge,
    pub(super) request: Request,
    /// Whoever waits for it wants no other microbatch of its step.
    pub(super) alone: bool,
    pub(super) wishes: Arc<Wishes>,
    pub(super) since: Instant,
}

struct Waiter {
    number: u64,
    asker: Asker,
    done: Done,
    since: Instant,
}

struct Work {
    request: Request,
    waiters: Vec<Waiter>,
    wishes: Arc<Wishes>,
    making: bool,
}

#[derive(Clone, Copy, Debug)]
struct Ticket {
    key: Key,
    waiter: u64,
}

/// How often work was shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    /// Microbatches asked for and not got yet.
    pub asked: usize,
    /// Those who joined others that waited for the same microbatch.
    pub joined: u64,
    /// Those who found their microbatch ready.
    pub cached: u64,
    /// Bytes of the microbatches kept ready.
    pub cache_bytes: usize,
}

/// All that is asked for and not made.
pub(super) struct Works {
    state: Mutex<State>,
    /// A ticket came, or the end.
    came: Condvar,
    ring: Ring,
    threads: usize,
}

#[derive(Default)]
struct State {
    works: BTreeMap<Key, Work>,
    fair: Fair<Ticket>,
    /// Microbatches asked for and not got, by client.
    asked: BTreeMap<Arc<str>, usize>,
    cache: Cache,
    numbers: u64,
    joined: u64,
    cached: u64,
    /// What a microbatch costs lately, in seconds of CPU time.
    cost: f64,
    closed: bool,
}

impl Works {
    /// Keeps microbatches of at most so many bytes ready, in buffers of the ring.
    pub(super) fn new(cache_bytes: usize, ring: Ring, threads: usize) -> Self {
        let state = State { cache: Cache::new(cache_bytes), ..State::default() };
        Self { state: Mutex::new(state), came: Condvar::new(), ring, threads }
    }

    /// Asks for a microbatch; `done` gets it, at once if it is ready.
    ///
    /// # Errors
    /// [`Error::Busy`] if the client has asked for as many as it may, [`Error::Cancelled`] at the end.
    /// Then `done` is never called.
    pub(super) fn ask(&self, request: Request, asker: Asker, done: Done) -> Result<(), Error> {
        let key = Key::of(&request);
        let mut state = lock(&self.state);
        if state.closed {
            return Err(Error::Cancelled);
        }
        if let Some(microbatch) = state.cache.get(&key) {
            state.cached += 1;
            drop(state);
            done(Ok(Microbatch { timings: Timings::default(), ..microbatch }));
            return Ok(());
        }
        let has = |state: &State| state.asked.get(&asker.client).copied().unwrap_or(0);
        let gone =
            if has(&state) >= asker.most { state.drop_gone(&asker.client) } else { Vec::new() };
        let asked = if has(&state) < asker.most {
            state.add(key, request, asker, done);
            Ok(())
        } else {
            Err(Error::Busy { limit: asker.most, wait: self.wait_of(&state) })
        };
        drop(state);
        self.came.notify_one();
        gone.into_iter().for_each(cancel);
        asked
    }

    /// What to make next; waits for it. `None` after [`close`](Self::close), when all is made.
    pub(super) fn next(&self) -> Option<Order> {
        let mut state = lock(&self.state);
        loop {
            while let Some((ticket, charge)) = state.fair.pop() {
                if state.waits(ticket) {
                    return Some(state.begin(ticket, charge));
                }
                state.fair.refund(&charge);
                let gone = state.take(ticket);
                // Calls somebody else's code, so not under the lock.
                drop(state);
                cancel(gone);
                state = lock(&self.state);
            }
            if state.closed {
                return None;
            }
            state = self.came.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// An order was made, or was not; tells those who wait.
    pub(super) fn finish(&self, order: &Order, result: Result<Microbatch, Error>) {
        let mut state = lock(&self.state);
        let cost = result.as_ref().ok().map(|made| made.timings.stages.sum());
        state.fair.settle(&order.charge, cost);
        match result {
            Ok(microbatch) => {
                state.cost = match cost.unwrap_or_default().as_secs_f64() {
                    cost if state.cost > 0.0 => state.cost.mul_add(0.9, cost * 0.1),
                    cost => cost,
                };
                let waiters = state.end(order);
                // Whoever waits for a buffer goes first, and has looked through the cache already.
                if self.ring.waiting() == 0 {
                    state.cache.insert(order.key, &microbatch);
                }
                drop(state);
                let mut timings = Some(microbatch.timings);
                for waiter in waiters {
                    // The work is told of once.
                    let waited = || Timings::waited(waiter.since.elapsed());
                    let timings = timings.take().unwrap_or_else(waited);
                    (waiter.done)(Ok(Microbatch { timings, ..microbatch.clone() }));
                }
            }
            Err(error) => {
                let told = state.fail(order);
                drop(state);
                self.came.notify_all();
                if let Some(waiter) = told {
                    (waiter.done)(Err(error));
                }
            }
        }
    }

    /// Makes room in the ring; false if nothing is left to do.
    pub(super) fn relieve(&self) -> bool {
        lock(&self.state).cache.relieve()
    }

    /// No more is asked for.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.came.notify_all();
    }

    pub(super) fn sharing(&self) -> Sharing {
        let state = lock(&self.state);
        let State { joined, cached, .. } = *state;
        let asked = state.asked.values().sum();
        Sharing { asked, joined, cached, cache_bytes: state.cache.bytes() }
    }

    /// How long it takes until all is made that is asked for, by what microbatches cost lately.
    pub(super) fn wait(&self) -> Duration {
        self.wait_of(&lock(&self.state))
    }

    fn wait_of(&self, state: &State) -> Duration {
        Duration::from_secs_f64(state.works.len() as f64 * state.cost / self.threads as f64)
    }
}

/// Tells somebody who went away.
fn cancel(waiter: Waiter) {
    (waiter.done)(Err(Error::Cancelled));
}

impl State {
    fn add(&mut self, key: Key, request: Request, asker: Asker, done: Done) {
        self.numbers += 1;
        let (number, client, since) = (self.numbers, Arc::clone(&asker.client), Instant::now());
        let work = match self.works.entry(key) {
            Entry::Occupied(work) => {
                self.joined += 1;
                work.into_mut()
            }
            Entry::Vacant(place) => {
                let (waiters, wishes) = (Vec::new(), Arc::default());
                place.insert(Work { request, waiters, wishes, making: false })
            }
        };
        lock(&work.wishes.0).push(Arc::clone(&asker.wanted));
        work.waiters.push(Waiter { number, asker, done, since });
        if !work.making {
            self.fair.push(&client, Ticket { key, waiter: number });
        }
        *self.asked.entry(client).or_default() += 1;
    }

    /// Whether the one of a ticket still waits.
    fn waits(&self, ticket: Ticket) -> bool {
        let work = self.works.get(&ticket.key).expect("tickets are of works");
        let waiter = work.waiters.iter().find(|waiter| waiter.number == ticket.waiter);
        waiter.expect("tickets are of those who wait").asker.waits()
    }

    /// Has the work of a ticket made. The others who wait for it need their tickets no more.
    fn begin(&mut self, ticket: Ticket, charge: Charge) -> Order {
        let Ticket { key, waiter: first } = ticket;
        let work = self.works.get_mut(&key).expect("tickets are of works");
        work.making = true;
        let mut since = Instant::now();
        for waiter in &work.waiters {
            if waiter.number == first {
                since = waiter.since;
            } else {
                self.fair.remove(&waiter.asker.client, |ticket| ticket.waiter == waiter.number);
            }
        }
        let (request, wishes) = (work.request.clone(), Arc::clone(&work.wishes));
        let alone = work.waiters.iter().all(|waiter| waiter.asker.alone);
        Order { key, first, charge, request, alone, wishes, since }
    }

    /// Takes one who has gone, and whose ticket is used, away from a work that is not being made.
    fn take(&mut self, ticket: Ticket) -> Waiter {
        let Entry::Occupied(mut entry) = self.works.entry(ticket.key) else {
            unreachable!("tickets are of works")
        };
        let work = entry.get_mut();
        let place = work.waiters.iter().position(|waiter| waiter.number == ticket.waiter);
        let waiter = work.waiters.remove(place.expect("tickets are of those who wait"));
        work.wish_anew();
        if work.waiters.is_empty() {
            entry.remove();
        }
        self.got(&waiter);
        waiter
    }

    /// Takes all of a client that have gone, but for those whose works are being made.
    fn drop_gone(&mut self, client: &Arc<str>) -> Vec<Waiter> {
        let mut tickets = Vec::new();
        for (&key, work) in self.works.iter().filter(|(_, work)| !work.making) {
            let gone = |waiter: &&Waiter| waiter.asker.client == *client && !waiter.asker.waits();
            let gone = work.waiters.iter().filter(gone);
            tickets.extend(gone.map(|waiter| Ticket { key, waiter: waiter.number }));
        }
        let take = |ticket: Ticket| {
            self.fair.remove(client, |other| other.waiter == ticket.waiter);
            self.take(ticket)
        };
        tickets.into_iter().map(take).collect()
    }

    /// An order was made: those who wait for it.
    fn end(&mut self, order: &Order) -> Vec<Waiter> {
        let waiters = self.works.remove(&order.key).map_or(Vec::new(), |work| work.waiters);
        for waiter in &waiters {
            self.got(waiter);
        }
        waiters
    }

    /// An order was not made: the one who is told, while the others stand in line again.
    fn fail(&mut self, order: &Order) -> Option<Waiter> {
        let work = self.works.get_mut(&order.key)?;
        work.making = false;
        for waiter in work.waiters.iter().filter(|waiter| waiter.number != order.first) {
            let ticket = Ticket { key: order.key, waiter: waiter.number };
            self.fair.push(&waiter.asker.client, ticket);
        }
        Some(self.take(Ticket { key: order.key, waiter: order.first }))
    }

    /// One that was asked for is no more.
    fn got(&mut self, waiter: &Waiter) {
        if let Some(asked) = self.asked.get_mut(&waiter.asker.client) {
            *asked -= 1;
            if *asked == 0 {
                self.asked.remove(&waiter.asker.client);
            }
        }
    }
}

impl Work {
    /// The wishes are those of who is left.
    fn wish_anew(&self) {
        let wanted = self.waiters.iter().map(|waiter| Arc::clone(&waiter.asker.wanted));
        *lock(&self.wishes.0) = wanted.collect();
    }
}

impl fmt::Debug for Works {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Works").finish_non_exhaustive()
    }
}
