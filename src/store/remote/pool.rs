//! Bytes on their way from buckets, and bytes in memory until they are read.
//!
//! ```text
//!   want(ranges) --> queue of its client --> planned: ranges - cached - on their way - in memory = requests
//!                                              |  as soon as there is room for their bytes
//!                                            fetched --> whole blocks into the cache, and out of memory
//!                                              |         other bytes are held until the want is dropped
//!                                            ready(want), once nothing is missing
//! ```
//!
//! A *want* is the bytes of one microbatch, of one store or of several. It starts with all of them or not at all: two
//! that had a part of their bytes could wait for each other's room. It is needed, because the microbatch is requested, or ahead: it will be.
//! Needed ones come first, clients in turn; what was fetched ahead makes room for them. A *span* is the range of one
//! request, from when it is sent until its bytes are in the cache or no want has them any more.
//!
//! One thread plans, and adds to the cache. Wants and spans are its own, without a lock: it waits for a disk and for
//! other processes, and neither the threads of a network nor the workers do. What they share with it are the events
//! that it has not seen yet, and the bytes that are held.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::mem;
use std::ops::{Bound, Range};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::super::bucket;
use super::super::error::StoreError;
use super::counters::Counters;
use super::plan::{self, MAX_READ, Run};
use super::shards::{Fate, Shards};
use crate::sync::lock;

/// Called once when all bytes of a want are there, or when some cannot be fetched.
pub(crate) type OnReady = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Computes the ranges of a want, on the thread of the pool.
pub(super) type Ranges = Box<dyn FnOnce() -> Vec<StoreRuns> + Send>;

/// Ranges of the shards of one store.
pub(crate) struct StoreRuns {
    pub(super) store: u32,
    pub(super) shards: Arc<Shards>,
    pub(super) runs: Vec<Run>,
}

impl StoreRuns {
    fn most_bytes(&self) -> u64 {
        self.runs.iter().map(|run| self.shards.most_bytes(run)).sum()
    }
}

/// Whom a want is for.
pub(super) enum Urgency {
    /// For a client whose request waits.
    Needed(Arc<str>, OnReady),
    /// For requests to come.
    Ahead,
}

/// The bytes of a microbatch. They may be dropped once this is.
pub(crate) struct Want {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Want {
    fn drop(&mut self) {
        self.shared.send(Event::Dropped(self.id));
    }
}

impl fmt::Debug for Want {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Want").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Fetches for all datasets of a process, within one bound on memory.
pub(super) struct Pool {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    inbox: Mutex<Inbox>,
    changed: Condvar,
    held: Arc<Held>,
    /// Most bytes on their way and in memory together.
    limit: u64,
    counters: Arc<Counters>,
}

/// What the thread has not seen yet.
#[derive(Default)]
struct Inbox {
    events: VecDeque<Event>,
    last_want: u64,
    last_store: u32,
    is_closed: bool,
}

/// What workers read.
#[derive(Default)]
struct Held {
    spans: Mutex<BTreeMap<Key, HeldSpan>>,
    /// Bytes of all spans, held or on their way.
    bytes: AtomicU64,
}

struct HeldSpan {
    end: u64,
    bytes: Arc<Vec<u8>>,
}

/// What is the thread's own.
struct State {
    wants: BTreeMap<u64, WantState>,
    needed: Turns,
    ahead: VecDeque<u64>,
    spans: BTreeMap<Key, Span>,
    last_span: u64,
    /// Bytes of all spans.
    bytes: u64,
    held: Arc<Held>,
}

enum Event {
    Wanted(u64, Wanted),
    Fetched(Key, Result<Vec<u8>, StoreError>),
    Dropped(u64),
}

struct Wanted {
    ranges: Ranges,
    urgency: Urgency,
    since: Instant,
}

struct WantState {
    /// What it lacked before it started.
    runs: Vec<StoreRuns>,
    on_ready: Option<OnReady>,
    is_ahead: bool,
    since: Instant,
    /// The spans that it uses.
    spans: Vec<Key>,
    /// Number of them that are on their way.
    missing: usize,
    error: Option<StoreError>,
}

/// Store, shard, first byte and number of a span. The number tells it from an earlier one of the same range.
type Key = (u32, u32, u64, u64);

struct Span {
    shards: Arc<Shards>,
    end: u64,
    /// The wants that are not ready without it.
    waiting: Vec<u64>,
    /// Wants that use it, needed ones and others.
    needed: usize,
    ahead: usize,
    bytes: SpanBytes,
}

enum SpanBytes {
    OnTheirWay(Fate),
    Held,
}

/// Wants of clients, which take turns.
#[derive(Default)]
struct Turns {
    clients: BTreeMap<Arc<str>, VecDeque<u64>>,
    last: Arc<str>,
}

impl Turns {
    fn push(&mut self, client: Arc<str>, want: u64) {
        self.clients.entry(client).or_default().push_back(want);
    }

    /// The client whose turn it is, with its first want.
    fn next(&self) -> Option<(Arc<str>, u64)> {
        let after = (Bound::Excluded(&*self.last), Bound::Unbounded);
        let mut in_turn = self.clients.range::<str, _>(after).chain(&self.clients);
        let (client, wants) = in_turn.next()?;
        Some((Arc::clone(client), *wants.front()?))
    }

    fn pop(&mut self, client: Arc<str>) {
        if let Some(wants) = self.clients.get_mut(&client) {
            wants.pop_front();
            if wants.is_empty() {
                self.clients.remove(&client);
            }
        }
        self.last = client;
    }
}

/// A request to send, for a span.
type Request = (Key, Run, Arc<Shards>);

/// What is to be done without the lock.
#[derive(Default)]
struct Effects {
    fetches: Vec<Request>,
    ready: Vec<(OnReady, Result<(), StoreError>)>,
}

impl Pool {
    /// # Errors
    /// When the operating system refuses a thread.
    pub(super) fn new(limit: u64, counters: Arc<Counters>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            inbox: Mutex::default(),
            changed: Condvar::new(),
            held: Arc::default(),
            limit,
            counters,
        });
        let of_thread = Arc::clone(&shared);
        let thread =
            thread::Builder::new().name("storage".to_owned()).spawn(move || of_thread.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// A number for a store.
    pub(super) fn store(&self) -> u32 {
        let mut inbox = lock(&self.shared.inbox);
        inbox.last_store += 1;
        inbox.last_store
    }

    pub(super) fn limit(&self) -> u64 {
        self.shared.limit
    }

    /// Bytes on their way and in memory.
    pub(super) fn bytes(&self) -> u64 {
        self.shared.held.bytes.load(Ordering::Acquire)
    }

    /// Wants ranges of stores.
    pub(super) fn want(&self, ranges: Ranges, urgency: Urgency) -> Want {
        let mut inbox = lock(&self.shared.inbox);
        inbox.last_want += 1;
        let id = inbox.last_want;
        if matches!(urgency, Urgency::Needed(..)) {
            self.shared.counters.waiting.fetch_add(1, Ordering::Relaxed);
        }
        let wanted = Wanted { ranges, urgency, since: Instant::now() };
        inbox.events.push_back(Event::Wanted(id, wanted));
        drop(inbox);
        self.shared.changed.notify_one();
        Want { shared: Arc::clone(&self.shared), id }
    }

    /// The bytes in memory around a byte of a shard, and where they start.
    pub(super) fn held(&self, store: u32, shard: u32, at: u64) -> Option<(u64, Arc<Vec<u8>>)> {
        let spans = lock(&self.shared.held.spans);
        let mut around = spans.range(keys(store, shard, &(at..at + 1)));
        let (key, span) = around.find(|(_, span)| span.end > at)?;
        Some((key.2, Arc::clone(&span.bytes)))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.shared.inbox).is_closed = true;
        self.shared.changed.notify_one();
        // The last dataset may be dropped by what the thread itself runs.
        let is_own = |thread: &JoinHandle<()>| thread.thread().id() == thread::current().id();
        if let Some(thread) = self.thread.take().filter(|thread| !is_own(thread)) {
            // It returns nothing, and a panic was reported.
            drop(thread.join());
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("limit", &self.shared.limit).finish_non_exhaustive()
    }
}

/// Tells the pool how a fetch ended, even if it is dropped without an answer.
struct Fetch {
    shared: Arc<Shared>,
    key: Key,
    dropped: Option<StoreError>,
}

impl Fetch {
    fn end(mut self, result: Result<Vec<u8>, StoreError>) {
        self.dropped = None;
        self.shared.send(Event::Fetched(self.key, result));
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        if let Some(error) = self.dropped.take() {
            self.shared.send(Event::Fetched(self.key, Err(error)));
        }
    }
}

impl Shared {
    fn send(&self, event: Event) {
        let mut inbox = lock(&self.inbox);
        // The thread waits only while there is none.
        let may_wait = inbox.events.is_empty();
        if !inbox.is_closed {
            inbox.events.push_back(event);
        }
        drop(inbox);
        if may_wait {
            self.changed.notify_one();
        }
    }

    fn run(self: &Arc<Self>) {
        let mut state = State::new(Arc::clone(&self.held));
        // What is wanted when the pool closes has nobody to wait for it.
        while let Some(events) = self.next_events() {
            for event in events {
                let effects = match event {
                    Event::Wanted(id, wanted) => {
                        state.wanted(id, wanted);
                        Effects::default()
                    }
                    Event::Fetched(key, result) => self.fetched(&mut state, key, result),
                    Event::Dropped(id) => {
                        self.dropped(&mut state, id);
                        Effects::default()
                    }
                };
                self.apply(effects);
            }
            while let Some(effects) = self.start_one(&mut state) {
                self.apply(effects);
            }
        }
    }

    /// Waits for events; `None` once the pool is closed.
    fn next_events(&self) -> Option<VecDeque<Event>> {
        let mut inbox = lock(&self.inbox);
        while inbox.events.is_empty() && !inbox.is_closed {
            inbox = self.changed.wait(inbox).unwrap_or_else(PoisonError::into_inner);
        }
        let events = mem::take(&mut inbox.events);
        let is_closed = inbox.is_closed;
        // Events that are dropped may send others.
        drop(inbox);
        (!is_closed).then_some(events)
    }

    fn apply(self: &Arc<Self>, Effects { fetches, ready }: Effects) {
        for (key, Run { shard, range }, shards) in fetches {
            let object = &shards.objects[shard as usize];
            let dropped = Some(bucket::stopped(&*shards.bucket, object));
            let fetch = Fetch { shared: Arc::clone(self), key, dropped };
            shards.bucket.fetch(object, range, Box::new(move |result| fetch.end(result)));
        }
        for (on_ready, result) in ready {
            on_ready(result);
        }
    }

    /// Ends a fetch: adds its bytes to the cache, or holds them.
    fn fetched(&self, state: &mut State, key: Key, result: Result<Vec<u8>, StoreError>) -> Effects {
        let Some(span) = state.spans.get_mut(&key) else { return Effects::default() };
        let SpanBytes::OnTheirWay(fate) = span.bytes else { unreachable!("a fetch ends once") };
        let (run, waiting) =
            (Run { shard: key.1, range: key.2..span.end }, mem::take(&mut span.waiting));
        let error = match result {
            Ok(bytes) => match fate {
                Fate::Cached(reserved) if span.shards.keep(&run, reserved, &bytes) => {
                    state.remove(&key);
                    None
                }
                Fate::Cached(_) | Fate::Held => {
                    state.hold(&key, bytes);
                    None
                }
            },
            Err(error) => {
                span.shards.release(fate);
                state.remove(&key);
                Some(error)
            }
        };
        let mut effects = Effects::default();
        for id in waiting {
            let Some(want) = state.wants.get_mut(&id) else { continue };
            want.missing -= 1;
            want.error = want.error.take().or_else(|| error.clone());
            self.tell_if_ready(want, &mut effects);
        }
        effects
    }

    fn dropped(&self, state: &mut State, id: u64) {
        let Some(want) = state.wants.remove(&id) else { return };
        for key in &want.spans {
            state.leave(key, want.is_ahead);
        }
        if want.on_ready.is_some() {
            self.counters.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn tell_if_ready(&self, want: &mut WantState, effects: &mut Effects) {
        if want.missing > 0 {
            return;
        }
        if let Some(on_ready) = want.on_ready.take() {
            let nanos = u64::try_from(want.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.counters.waited_nanos.fetch_add(nanos, Ordering::Relaxed);
            self.counters.waiting.fetch_sub(1, Ordering::Relaxed);
            effects.ready.push((on_ready, want.error.take().map_or(Ok(()), Err)));
        }
    }

    /// Starts the want whose turn it is; `None` if there is none, or no room for its bytes.
    fn start_one(&self, state: &mut State) -> Option<Effects> {
        let (id, client) = match state.needed.next() {
            Some((client, id)) => (id, Some(client)),
            None => (*state.ahead.front()?, None),
        };
        let mut effects = Effects::default();
        if !state.wants.contains_key(&id) || state.start(id, self.limit, &mut effects.fetches) {
            match client {
                Some(client) => state.needed.pop(client),
                None => drop(state.ahead.pop_front()),
            }
            if let Some(want) = state.wants.get_mut(&id) {
                self.tell_if_ready(want, &mut effects);
            }
            return Some(effects);
        }
        None
    }
}

/// The keys of spans of a shard that may overlap a range.
fn keys(store: u32, shard: u32, range: &Range<u64>) -> Range<Key> {
    // No span is longer.
    let first = range.start.saturating_sub(2 * MAX_READ);
    (store, shard, first, 0)..(store, shard, range.end, 0)
}

impl State {
    fn new(held: Arc<Held>) -> Self {
        Self {
            wants: BTreeMap::new(),
            needed: Turns::default(),
            ahead: VecDeque::new(),
            spans: BTreeMap::new(),
            last_span: 0,
            bytes: 0,
            held,
        }
    }

    fn wanted(&mut self, id: u64, wanted: Wanted) {
        let Wanted { ranges, urgency, since } = wanted;
        let (on_ready, is_ahead) = match urgency {
            Urgency::Needed(client, on_ready) => {
                self.needed.push(client, id);
                (Some(on_ready), false)
            }
            Urgency::Ahead => {
                self.ahead.push_back(id);
                (None, true)
            }
        };
        let want = WantState {
            runs: ranges(),
            on_ready,
            is_ahead,
            since,
            spans: Vec::new(),
            missing: 0,
            error: None,
        };
        self.wants.insert(id, want);
    }

    /// The spans of a shard that overlap a range, in order.
    fn overlapping(
        &self,
        store: u32,
        shard: u32,
        range: &Range<u64>,
    ) -> impl Iterator<Item = (Key, &Span)> {
        let start = range.start;
        let spans = self.spans.range(keys(store, shard, range));
        spans.filter(move |(_, span)| span.end > start).map(|(key, span)| (*key, span))
    }

    fn is_free(&self, store: u32, run: &Run) -> bool {
        self.overlapping(store, run.shard, &run.range).next().is_none()
    }

    /// The parts of a run that are in no span. Adds the spans that have the others to `used`.
    fn without_spans(&self, store: u32, run: Run, used: &mut Vec<Key>) -> Vec<Run> {
        let Run { shard, range } = run;
        let (mut left, mut at) = (Vec::new(), range.start);
        for (key, span) in self.overlapping(store, shard, &range) {
            if key.2 > at {
                left.push(Run { shard, range: at..key.2 });
            }
            at = at.max(span.end);
            used.push(key);
        }
        if at < range.end {
            left.push(Run { shard, range: at..range.end });
        }
        left
    }

    /// Starts a want: uses the spans that there are, and sends requests for what is left. False if there is no room
    /// for that.
    fn start(&mut self, id: u64, limit: u64, fetches: &mut Vec<Request>) -> bool {
        let want = &self.wants[&id];
        let (is_ahead, mut used, mut left) = (want.is_ahead, Vec::new(), Vec::new());
        // What many streams fetch ahead together leaves room for what is needed, so that it is not dropped for that.
        let limit = if is_ahead { limit / 2 } else { limit };
        for StoreRuns { store, shards, runs } in &want.runs {
            let mut lacking = Vec::new();
            for run in runs {
                for part in shards.parts(run).into_iter().filter(|part| !part.is_cached) {
                    let part = Run { shard: run.shard, range: part.range };
                    lacking.extend(self.without_spans(*store, part, &mut used));
                }
            }
            let runs = plan::join(lacking, |gap| self.is_free(*store, gap));
            left.push(StoreRuns { store: *store, shards: Arc::clone(shards), runs });
        }
        used.sort_unstable();
        used.dedup();
        let need: u64 = left.iter().map(StoreRuns::most_bytes).sum();
        if !is_ahead {
            self.make_room(need, limit, &used);
        }
        if self.bytes.saturating_add(need) > limit {
            // What was fetched ahead for this very want makes no room by waiting.
            let own: u64 = used.iter().map(|key| self.spans[key].end - key.2).sum();
            if self.bytes > own {
                return false;
            }
            // More than ever fits: workers fetch the rest when they need it.
            let mut sum = own;
            for StoreRuns { shards, runs, .. } in &mut left {
                runs.retain(|run| {
                    sum += shards.most_bytes(run);
                    sum <= limit
                });
            }
        }
        for StoreRuns { store, shards, runs } in left {
            for run in runs {
                // Another run may have been extended to blocks of this one.
                for run in self.without_spans(store, run, &mut used) {
                    let (run, fate) = shards.admit(run, |whole| self.is_free(store, whole));
                    self.send(store, run, fate, &shards, (&mut used, fetches));
                }
            }
        }
        used.sort_unstable();
        used.dedup();
        let mut missing = 0;
        for key in &used {
            let span = self.spans.get_mut(key).expect("it was found, or is new");
            *(if is_ahead { &mut span.ahead } else { &mut span.needed }) += 1;
            if matches!(span.bytes, SpanBytes::OnTheirWay(_)) {
                span.waiting.push(id);
                missing += 1;
            }
        }
        let want = self.wants.get_mut(&id).expect("it is being started");
        (want.spans, want.missing, want.runs) = (used, missing, Vec::new());
        true
    }

    /// Adds the spans of a run, each a request.
    fn send(
        &mut self,
        store: u32,
        run: Run,
        fate: Fate,
        shards: &Arc<Shards>,
        (used, fetches): (&mut Vec<Key>, &mut Vec<Request>),
    ) {
        let mut reserved = if let Fate::Cached(bytes) = fate { bytes } else { 0 };
        let all = run.range.end;
        for run in plan::split(run) {
            self.last_span += 1;
            let key = (store, run.shard, run.range.start, self.last_span);
            let fate = match fate {
                // Of a run that is split, each part has the reservation of its blocks, and the last one all that is
                // left: the last block of a shard is shorter than its place.
                Fate::Cached(_) => {
                    let is_last = run.range.end == all;
                    let own = if is_last { reserved } else { reserved.min(shards.missing(&run)) };
                    reserved -= own;
                    Fate::Cached(own)
                }
                Fate::Held => Fate::Held,
            };
            let span = Span {
                shards: Arc::clone(shards),
                end: run.range.end,
                waiting: Vec::new(),
                needed: 0,
                ahead: 0,
                bytes: SpanBytes::OnTheirWay(fate),
            };
            self.set_bytes(self.bytes + run.bytes());
            self.spans.insert(key, span);
            used.push(key);
            fetches.push((key, run, Arc::clone(shards)));
        }
    }

    /// Drops bytes that were fetched ahead, the latest first, until there is room.
    fn make_room(&mut self, need: u64, limit: u64, used: &[Key]) {
        while self.bytes.saturating_add(need) > limit {
            let is_spare = |(key, span): &(&Key, &Span)| {
                let held = matches!(span.bytes, SpanBytes::Held);
                held && span.needed == 0 && !used.contains(key)
            };
            let latest = self.spans.iter().filter(is_spare).max_by_key(|(key, _)| key.3);
            let Some(key) = latest.map(|(key, _)| *key) else { return };
            self.remove(&key);
        }
    }

    /// Holds the bytes of a span for the wants that use it.
    fn hold(&mut self, key: &Key, bytes: Vec<u8>) {
        let Some(span) = self.spans.get_mut(key) else { return };
        span.bytes = SpanBytes::Held;
        if span.needed + span.ahead == 0 {
            self.remove(key);
        } else {
            let held = HeldSpan { end: span.end, bytes: Arc::new(bytes) };
            lock(&self.held.spans).insert(*key, held);
        }
    }

    fn set_bytes(&mut self, bytes: u64) {
        self.bytes = bytes;
        self.held.bytes.store(bytes, Ordering::Release);
    }

    /// Ends the use of a span by a want.
    fn leave(&mut self, key: &Key, is_ahead: bool) {
        let Some(span) = self.spans.get_mut(key) else { return };
        *(if is_ahead { &mut span.ahead } else { &mut span.needed }) -= 1;
        if span.needed + span.ahead == 0 && matches!(span.bytes, SpanBytes::Held) {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: &Key) {
        let Some(span) = self.spans.remove(key) else { return };
        self.set_bytes(self.bytes - (span.end - key.2));
        if matches!(span.bytes, SpanBytes::Held) {
            // Its memory is freed without the lock.
            let bytes = lock(&self.held.spans).remove(key);
            drop(bytes);
        }
    }
}
