//! Readers, kept from taking the buffers of the others.
//!
//! A microbatch keeps its buffer until it is taken whole. So first of all a reader has more than one
//! ahead only where a buffer is left for each reader that has none: what one of them waits for is made
//! before what another one may want later. Trainers that read from several servers would else wait for
//! each other, each holding here what it has no room for before it has got another one's.
//!
//! And a few slow readers could hold all there are, and everybody would read at their pace. So buffers
//! go by what a reader has shown:
//!
//! - **quick**: took its last microbatch within [`Limits::slow`](crate::Limits::slow). May have any.
//! - **unproven**: has not taken one yet. Those and slow ones together have three quarters.
//! - **slow**: took longer; until it is quick once. Slow ones together have half.
//!
//! Within each they wait for one another. An unproven reader that is slow while others wait for a buffer
//! is sent away, to come back as a slow one: its client is remembered for a while. So is a quick one
//! that stops, after three times as long. What it had is not lost, for a microbatch has a name.
//!
//! A reader begins with one microbatch ahead, and gets one more for each that it takes quickly, until it
//! has all that it may; for each that it takes slowly it gets one less.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Buffers are counted in units of so many bytes.
const UNIT: u64 = 4096;
/// Two readers are not sent away within this time: the buffer of the first may do.
const BETWEEN: Duration = Duration::from_millis(100);
/// How long a client that was sent away is known as slow.
const MEMORY: Duration = Duration::from_mins(5);
/// How many such clients are remembered.
const REMEMBERED: usize = 4096;

/// A quick reader that stops may do so for as many times as long as an unproven one.
const TRUST: u32 = 3;

/// The buffers of a server.
#[derive(Debug)]
pub(crate) struct Paces {
    spare: Arc<Spare>,
    slow: Room,
    unproven: Room,
    /// Unproven readers that wait.
    waiting: AtomicUsize,
    away: Mutex<Away>,
}

#[derive(Debug, Default)]
struct Away {
    last: Option<Instant>,
    clients: BTreeMap<Arc<str>, Instant>,
}

/// So many units of buffers.
#[derive(Debug)]
struct Room(Arc<Semaphore>, u32);

/// Bytes of buffers that readers claim: what they have, and at least one microbatch unless they are slow.
#[derive(Debug)]
struct Spare {
    limit: u64,
    claimed: Mutex<u64>,
    /// A reader claims less than before, or has none.
    freed: Notify,
}

/// A place among the buffers, free when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    _room: Vec<OwnedSemaphorePermit>,
    _held: Held,
}

/// One of the microbatches that a reader has.
#[derive(Debug)]
struct Held(Arc<Pace>);

impl Spare {
    fn claimed(&self) -> MutexGuard<'_, u64> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was claimed before is claimed anew, if that is not too much or must be.
    fn claims(&self, before: u64, now: u64, must: bool) -> bool {
        let mut claimed = self.claimed();
        let all = claimed.saturating_sub(before).saturating_add(now);
        let may = must || all <= self.limit;
        if may {
            *claimed = all;
        }
        may
    }
}

impl Room {
    fn new(bytes: u64) -> Self {
        let units = u32::try_from((bytes / UNIT).max(1)).unwrap_or(u32::MAX);
        let units = units.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        Self(Arc::new(Semaphore::new(units as usize)), units)
    }

    async fn take(&self, bytes: u64) -> OwnedSemaphorePermit {
        let units = u32::try_from(bytes.div_ceil(UNIT)).map_or(self.1, |units| units.min(self.1));
        let permit = Arc::clone(&self.0).acquire_many_owned(units).await;
        permit.expect("no semaphore of the server is ever closed")
    }
}

impl Paces {
    /// Of so many bytes of buffers; 0 if there is no bound.
    pub(crate) fn new(buffer_bytes: u64) -> Self {
        let bytes = if buffer_bytes == 0 { u64::MAX } else { buffer_bytes };
        let spare = Spare { limit: bytes, claimed: Mutex::new(0), freed: Notify::new() };
        Self {
            spare: Arc::new(spare),
            slow: Room::new(bytes / 2),
            unproven: Room::new(bytes / 4 * 3),
            waiting: AtomicUsize::new(0),
            away: Mutex::default(),
        }
    }

    /// Waits until a reader may have one more.
    pub(crate) async fn admit(&self, pace: &Arc<Pace>) -> Permit {
        let held = pace.hold().await;
        let bytes = pace.bytes;
        let room = match pace.shown() {
            Shown::Quick => Vec::new(),
            Shown::Nothing => {
                let _waiting = Waiting::of(&self.waiting);
                vec![self.unproven.take(bytes).await]
            }
            Shown::Slow => vec![self.slow.take(bytes).await, self.unproven.take(bytes).await],
        };
        Permit { _room: room, _held: held }
    }

    /// Whether a reader to whom a microbatch is sent since some time is to go, and come back as slow,
    /// when so many microbatches wait for a buffer.
    pub(crate) fn sends_away(
        &self,
        pace: &Pace,
        client: &Arc<str>,
        since: Instant,
        starved: usize,
    ) -> bool {
        let patience = match pace.shown() {
            Shown::Nothing => pace.bound,
            Shown::Quick => pace.bound * TRUST,
            Shown::Slow => return false,
        };
        let others_wait = starved > 0 || self.waiting.load(Ordering::Relaxed) > 0;
        if since.elapsed() <= patience || !others_wait {
            return false;
        }
        let mut away = self.away();
        if away.last.is_some_and(|last| last.elapsed() < BETWEEN) {
            return false;
        }
        let now = Instant::now();
        away.last = Some(now);
        away.clients.retain(|_, since| now - *since < MEMORY);
        if away.clients.len() < REMEMBERED {
            away.clients.insert(Arc::clone(client), now);
        }
        true
    }

    /// The pace of a new stream of a client, with at most so many microbatches of so many bytes ahead.
    pub(crate) fn of(
        &self,
        client: &Arc<str>,
        bound: Duration,
        most: usize,
        bytes: u64,
    ) -> Arc<Pace> {
        let known = self.away().clients.get(client).is_some_and(|since| since.elapsed() < MEMORY);
        let shown = if known { Shown::Slow } else { Shown::Nothing };
        let state = State { shown, ahead: 1, held: 0 };
        let spare = Arc::clone(&self.spare);
        spare.claims(0, state.claim(bytes), true);
        let (ahead, state) = (Arc::new(Semaphore::new(1)), Mutex::new(state));
        Arc::new(Pace { bound, most, bytes, spare, ahead, state })
    }

    fn away(&self) -> MutexGuard<'_, Away> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One that waits, until dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn of(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How quickly one stream is read.
#[derive(Debug)]
pub(crate) struct Pace {
    /// The time for a microbatch after which a reader is slow.
    bound: Duration,
    /// The most microbatches ahead.
    most: usize,
    /// Of a microbatch.
    bytes: u64,
    spare: Arc<Spare>,
    ahead: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    shown: Shown,
    /// Microbatches that may be ahead now.
    ahead: usize,
    /// Those that have, or wait for, a buffer.
    held: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Nothing,
    Quick,
    Slow,
}

impl State {
    /// The bytes that a reader of microbatches of so many bytes claims.
    fn claim(&self, bytes: u64) -> u64 {
        let least = usize::from(self.shown != Shown::Slow);
        bytes.saturating_mul(self.held.max(least) as u64)
    }
}

impl Pace {
    fn shown(&self) -> Shown {
        self.state().shown
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it may have one more: at once if it has none.
    async fn hold(self: &Arc<Self>) -> Held {
        loop {
            let mut freed = pin!(self.spare.freed.notified());
            freed.as_mut().enable();
            if self.holds_one_more() {
                return Held(Arc::clone(self));
            }
            freed.await;
        }
    }

    fn holds_one_more(&self) -> bool {
        self.change(|state| state.held += 1, |before| before.held == 0)
    }

    /// Changes the state, if what is then claimed is not too much, or must be.
    fn change(&self, to: impl FnOnce(&mut State), must: impl FnOnce(&State) -> bool) -> bool {
        let mut state = self.state();
        let mut after = *state;
        to(&mut after);
        let (before, now) = (state.claim(self.bytes), after.claim(self.bytes));
        let may = self.spare.claims(before, now, must(&state));
        if may {
            *state = after;
        }
        may
    }

    /// Waits for a place ahead.
    pub(crate) async fn place(&self) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.ahead).acquire_owned().await;
        permit.expect("no semaphore of the server is ever closed")
    }

    /// A microbatch was taken, in such a time; its place is free.
    pub(crate) fn took(&self, time: Duration, place: OwnedSemaphorePermit) {
        let quick = time <= self.bound;
        self.change(|state| state.shown = if quick { Shown::Quick } else { Shown::Slow }, |_| true);
        let mut state = self.state();
        if quick && state.ahead < self.most {
            state.ahead += 1;
            self.ahead.add_permits(1);
        } else if !quick && state.ahead > 1 {
            state.ahead -= 1;
            place.forget();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.change(|state| state.held -= 1, |_| true);
        self.0.spare.freed.notify_waiters();
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        let claim = self.state().claim(self.bytes);
        self.spare.claims(claim, 0, true);
        self.spare.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(30);

    /// Of a reader of microbatches of so many bytes.
    fn reader(paces: &Paces, client: &str, bytes: u64) -> Arc<Pace> {
        paces.of(&client.into(), Duration::from_secs(2), 3, bytes)
    }

    fn pace(paces: &Paces, client: &str) -> Arc<Pace> {
        reader(paces, client, UNIT)
    }

    async fn take(pace: &Pace, seconds: u64) {
        let place = pace.place().await;
        pace.took(Duration::from_secs(seconds), place);
    }

    async fn waits<T>(what: impl Future<Output = T>) -> bool {
        tokio::time::timeout(SHORT, what).await.is_err()
    }

    #[tokio::test]
    async fn slow_readers_have_half_unproven_ones_a_quarter_more_and_quick_ones_all() {
        let paces = Paces::new(16 * UNIT);
        let of = |client, units| reader(&paces, client, units * UNIT);
        let [slow, more] = [8, 1].map(|units| of("slow", units));
        take(&slow, 3).await;
        take(&more, 3).await;
        let first = paces.admit(&slow).await;
        assert!(waits(paces.admit(&more)).await);
        let second = paces.admit(&of("new", 4)).await;
        assert!(waits(paces.admit(&of("new", 1))).await);
        let quick = of("quick", 99);
        take(&quick, 1).await;
        paces.admit(&quick).await;
        drop(second);
        paces.admit(&of("new", 4)).await;
        assert!(waits(paces.admit(&more)).await);
        drop(first);
        // More than there is: as much as there is.
        let huge = of("slow", 1 << 40);
        take(&huge, 3).await;
        paces.admit(&huge).await;
    }

    #[tokio::test]
    async fn a_reader_has_more_than_one_where_a_buffer_is_left_for_each_that_has_none() {
        let paces = Paces::new(4 * UNIT);
        let [a, b, c, slow] = ["a", "b", "c", "slow"].map(|client| pace(&paces, client));
        for (reader, seconds) in [(&a, 1), (&b, 1), (&c, 1), (&slow, 9)] {
            take(reader, seconds).await;
        }
        let (first, second) = (paces.admit(&a).await, paces.admit(&a).await);
        assert!(waits(paces.admit(&a)).await, "b and c have none");
        paces.admit(&b).await;
        paces.admit(&slow).await;
        let mut third = pin!(paces.admit(&a));
        assert!(waits(&mut third).await);
        drop(first);
        let third = third.await;
        assert!(waits(paces.admit(&a)).await);
        // None is left for who is gone.
        drop(c);
        let fourth = paces.admit(&a).await;
        assert!(waits(paces.admit(&a)).await);
        drop((second, third, fourth));
        assert_eq!(*paces.spare.claimed(), 2 * UNIT, "one each of a and b; slow ones claim none");
    }

    #[tokio::test]
    async fn a_reader_gets_more_ahead_as_it_reads_quickly_and_less_as_it_does_not() {
        let paces = Paces::new(0);
        let pace = pace(&paces, "a");
        let mut ahead = Vec::new();
        for seconds in [1, 1, 1, 3, 3, 3, 1] {
            ahead.push(pace.ahead.available_permits());
            take(&pace, seconds).await;
        }
        assert_eq!(ahead, [1, 2, 3, 3, 2, 1, 1]);
    }

    #[tokio::test]
    async fn an_unproven_reader_is_sent_away_once_others_wait_and_comes_back_as_slow() {
        let paces = Paces::new(16 * UNIT);
        let client: Arc<str> = "a".into();
        let (new, begun) = (reader(&paces, "a", 12 * UNIT), Instant::now());
        let long_ago = begun.checked_sub(Duration::from_secs(3)).unwrap();
        let held = paces.admit(&new).await;
        assert!(!paces.sends_away(&new, &client, long_ago, 0), "nobody waits");
        let other = pace(&paces, "b");
        let mut waiting = pin!(paces.admit(&other));
        assert!(waits(&mut waiting).await);
        assert!(!paces.sends_away(&new, &client, begun, 0), "it has only begun");
        assert!(paces.sends_away(&new, &client, long_ago, 0));
        assert!(!paces.sends_away(&new, &client, long_ago, 0), "one at a time");
        drop(held);
        waiting.await;
        assert_eq!(pace(&paces, "a").shown(), Shown::Slow);
        assert_eq!(pace(&paces, "b").shown(), Shown::Nothing);
    }
    #[test]
    fn a_quick_reader_that_stops_is_sent_away_after_three_times_as_long_where_a_buffer_is_wanted() {
        let paces = Paces::new(16 * UNIT);
        let client: Arc<str> = "a".into();
        let quick = pace(&paces, "a");
        quick.change(|state| state.shown = Shown::Quick, |_| true);
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        assert!(!paces.sends_away(&quick, &client, ago(5), 1));
        assert!(!paces.sends_away(&quick, &client, ago(7), 0));
        assert!(paces.sends_away(&quick, &client, ago(7), 1));
        assert_eq!(pace(&paces, "a").shown(), Shown::Slow);
    }
}
