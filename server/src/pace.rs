//! Slow readers, kept from taking the buffers of the others.
//!
//! A microbatch keeps its buffer until it is taken whole, so a few slow readers could hold all there
//! are, and everybody would read at their pace. So buffers go by what a reader has shown:
//!
//! - **quick**: took its last microbatch within [`Limits::slow`](crate::Limits::slow). May have any.
//! - **unproven**: has not taken one yet. Those and slow ones together have three quarters.
//! - **slow**: took longer; until it is quick once. Slow ones together have half.
//!
//! Within each they wait for one another. An unproven reader that is slow while others of its kind wait
//! is sent away, to come back as a slow one: its client is remembered for a while. What it had is not
//! lost, for a microbatch has a name.
//!
//! A reader begins with one microbatch ahead, and gets one more for each that it takes quickly, until it
//! has all that it may; for each that it takes slowly it gets one less.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Buffers are counted in units of so many bytes.
const UNIT: u64 = 4096;
/// Two readers are not sent away within this time: the buffer of the first may do.
const BETWEEN: Duration = Duration::from_millis(100);
/// How long a client that was sent away is known as slow.
const MEMORY: Duration = Duration::from_mins(5);
/// How many such clients are remembered.
const REMEMBERED: usize = 4096;

/// The buffers of a server.
#[derive(Debug)]
pub(crate) struct Paces {
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

/// A place among the buffers, free when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    _held: Vec<OwnedSemaphorePermit>,
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
        Self {
            slow: Room::new(bytes / 2),
            unproven: Room::new(bytes / 4 * 3),
            waiting: AtomicUsize::new(0),
            away: Mutex::default(),
        }
    }

    /// Waits until a reader of a client may have so many bytes more.
    pub(crate) async fn admit(&self, pace: &Pace, bytes: u64) -> Permit {
        let held = match pace.shown() {
            Shown::Quick => Vec::new(),
            Shown::Nothing => {
                let _waiting = Waiting::of(&self.waiting);
                vec![self.unproven.take(bytes).await]
            }
            Shown::Slow => vec![self.slow.take(bytes).await, self.unproven.take(bytes).await],
        };
        Permit { _held: held }
    }

    /// Whether a reader that is sending a microbatch since some time is to go, and come back as slow.
    pub(crate) fn sends_away(&self, pace: &Pace, client: &Arc<str>, since: Instant) -> bool {
        let unproven = pace.shown() == Shown::Nothing && since.elapsed() > pace.bound;
        if !unproven || self.waiting.load(Ordering::Relaxed) == 0 {
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

    /// The pace of a new stream of a client, with at most so many microbatches ahead.
    pub(crate) fn of(&self, client: &Arc<str>, bound: Duration, most: usize) -> Arc<Pace> {
        let known = self.away().clients.get(client).is_some_and(|since| since.elapsed() < MEMORY);
        let shown = if known { Shown::Slow } else { Shown::Nothing };
        let state = Mutex::new(State { shown, ahead: 1 });
        Arc::new(Pace { bound, most, ahead: Arc::new(Semaphore::new(1)), state })
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
    ahead: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    shown: Shown,
    /// Microbatches that may be ahead now.
    ahead: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Nothing,
    Quick,
    Slow,
}

impl Pace {
    fn shown(&self) -> Shown {
        self.state().shown
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place ahead.
    pub(crate) async fn place(&self) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.ahead).acquire_owned().await;
        permit.expect("no semaphore of the server is ever closed")
    }

    /// A microbatch was taken, in such a time; its place is free.
    pub(crate) fn took(&self, time: Duration, place: OwnedSemaphorePermit) {
        let mut state = self.state();
        if time <= self.bound {
            state.shown = Shown::Quick;
            if state.ahead < self.most {
                state.ahead += 1;
                self.ahead.add_permits(1);
            }
        } else {
            state.shown = Shown::Slow;
            if state.ahead > 1 {
                state.ahead -= 1;
                place.forget();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(30);

    fn pace(paces: &Paces, client: &str) -> Arc<Pace> {
        paces.of(&client.into(), Duration::from_secs(2), 3)
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
        let [new, quick, slow] = ["new", "quick", "slow"].map(|client| pace(&paces, client));
        take(&quick, 1).await;
        take(&slow, 3).await;
        let first = paces.admit(&slow, 8 * UNIT).await;
        assert!(waits(paces.admit(&slow, 1)).await);
        let second = paces.admit(&new, 4 * UNIT).await;
        assert!(waits(paces.admit(&new, 1)).await);
        paces.admit(&quick, 99 * UNIT).await;
        drop(second);
        paces.admit(&new, 4 * UNIT).await;
        assert!(waits(paces.admit(&slow, 1)).await);
        drop(first);
        // More than there is: as much as there is.
        paces.admit(&slow, u64::MAX).await;
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
        let (new, begun) = (pace(&paces, "a"), Instant::now());
        let long_ago = begun.checked_sub(Duration::from_secs(3)).unwrap();
        let held = paces.admit(&new, 12 * UNIT).await;
        assert!(!paces.sends_away(&new, &client, long_ago), "nobody waits");
        let other = pace(&paces, "b");
        let mut waiting = std::pin::pin!(paces.admit(&other, 1));
        assert!(waits(&mut waiting).await);
        assert!(!paces.sends_away(&new, &client, begun), "it has only begun");
        assert!(paces.sends_away(&new, &client, long_ago));
        assert!(!paces.sends_away(&new, &client, long_ago), "one at a time");
        drop(held);
        waiting.await;
        assert_eq!(pace(&paces, "a").shown(), Shown::Slow);
        assert_eq!(pace(&paces, "b").shown(), Shown::Nothing);
    }
}
