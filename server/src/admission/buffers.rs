//! Gate 11: admission control for batch buffers, so that slow readers cannot starve fast ones.
//!
//! A microbatch keeps its buffer until its reader has taken all of it. Without admission control a few
//! slow readers would hold every buffer and slow down all others. Three rules prevent that.
//!
//! **Each stream has a reserved buffer.** A stream gets a second buffer only while one is left for each
//! stream that has none. Trainers that read from several servers could deadlock otherwise:
//!
//! ```text
//! trainer 1 waits for server B, whose buffers hold microbatches that trainer 2 has no room for,
//! trainer 2 waits for server A, whose buffers hold microbatches that trainer 1 has no room for.
//! ```
//!
//! With the rule each server has computed what each trainer needs next, so both make progress.
//!
//! **Shares by speed.** The share of the buffers that a stream may hold depends on its reader's speed:
//!
//! | speed | a stream enters it by | share of the buffers | when the share is used up |
//! |-------|-----------------------|----------------------|---------------------------|
//! | fast | taking its last microbatch within `--slow-after` | all | waits for any buffer |
//! | unknown | being new | three quarters, together with slow ones | waits for its class |
//! | slow | taking longer, until it is fast once | half | waits for its class |
//! | lent | being mapped by a process of this host | half, and five eighths together with slow ones | gets frames |
//!
//! What is lent may stay with its client for ever, and slow readers may take as long, so that both together leave
//! something to new streams, and all three a quarter to fast ones.
//!
//! A new stream that turns out slow while others wait for a buffer is evicted: its client is remembered,
//! so that its next stream starts as slow. A fast stream that stops is evicted after three times as long.
//! Nothing is lost, because the client requests the same name again.
//!
//! **Shares of clients.** While others have streams, those of one client hold at most three quarters of the
//! buffers. A client with many streams, each of which is just fast enough to count as fast, would otherwise keep
//! all of them for seconds.
//!
//! **Leases.** A microbatch that is lent to a process of this host keeps its buffer until that process has returned
//! it. It is no longer in the stream's window: a stream has at most one more than its largest window, all of them
//! together half of the buffers, and only while its next microbatch has a buffer nevertheless. So a trainer that keeps
//! what it has gets the next one as frames, and delays nobody. What a client says to have returned and still has counts
//! as before, but for nobody: others may have had the same memory, and which of them has it is not known.
//!
//! A stream starts with a window of one microbatch. Each fast delivery widens it by one up to the
//! stream's limit, each slow one narrows it by one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use super::budget::{BufferBudget, Quota};
use super::stream_buffers::{Claim, Kept, ReaderSpeed, StreamBuffers};

/// Time between two evictions: the buffer that the first one frees may be enough.
const EVICTION_INTERVAL: Duration = Duration::from_millis(100);
/// Time that the client of an evicted stream is remembered as slow.
const EVICTED_MEMORY: Duration = Duration::from_mins(5);
/// Number of such clients that are remembered.
const EVICTED_CLIENTS: usize = 4096;
/// A fast reader that stops keeps its buffer for this many times as long as a new one.
const FAST_PATIENCE: u32 = 3;

/// The buffers of a server.
#[derive(Debug)]
pub(super) struct BufferAdmission {
    budget: Arc<BufferBudget>,
    quotas: Arc<Quotas>,
    /// Streams of unknown speed that wait for their quota.
    waiting: AtomicUsize,
    evictions: Mutex<Evictions>,
}

/// What the classes of microbatches share.
#[derive(Debug)]
struct Quotas {
    slow: Quota,
    /// Slow ones and those that are lent: nothing ends their time.
    lasting: Quota,
    /// These and unknown ones.
    not_fast: Quota,
}

/// What a microbatch has of the quotas.
#[derive(Debug, Default)]
struct QuotaPermits {
    _slow: Option<OwnedSemaphorePermit>,
    lasting: Option<OwnedSemaphorePermit>,
    not_fast: Option<OwnedSemaphorePermit>,
}

#[derive(Debug, Default)]
struct Evictions {
    last: Option<Instant>,
    clients: BTreeMap<Arc<str>, Instant>,
}

/// A buffer of one microbatch, released when dropped.
#[derive(Debug)]
pub(super) struct BufferPermit {
    quotas: Arc<Quotas>,
    permits: QuotaPermits,
    claim: Claim,
}

/// A buffer that somebody keeps who has returned it, released when dropped.
#[derive(Debug)]
pub(super) struct KeptBuffer {
    _permits: QuotaPermits,
    _kept: Kept,
}

impl BufferPermit {
    /// Counts the buffer as lent. Returns whether that is possible.
    pub(super) fn lend(&mut self) -> bool {
        let (Quotas { lasting, not_fast, .. }, bytes) = (&*self.quotas, self.claim.bytes());
        let missing = |had: &Option<OwnedSemaphorePermit>, quota: &Quota| match had {
            Some(_) => Some(None),
            None => quota.try_acquire(bytes).map(Some),
        };
        let Some(lasting) = missing(&self.permits.lasting, lasting) else { return false };
        let Some(not_fast) = missing(&self.permits.not_fast, not_fast) else { return false };
        let lent = self.claim.lend();
        if lent {
            self.permits.lasting = self.permits.lasting.take().or(lasting);
            self.permits.not_fast = self.permits.not_fast.take().or(not_fast);
        }
        lent
    }

    /// Records that the reader took the microbatch within `time`, after it was counted as lent.
    pub(super) fn record_speed(&self, time: Duration) {
        self.claim.record_speed(time);
    }

    /// Counts the buffer as one that somebody keeps.
    pub(super) fn keep(self) -> KeptBuffer {
        KeptBuffer { _permits: self.permits, _kept: self.claim.keep() }
    }
}

impl BufferAdmission {
    /// Divides `buffer_bytes`; 0 for no limit.
    pub(super) fn new(buffer_bytes: u64) -> Self {
        let bytes = if buffer_bytes == 0 { u64::MAX } else { buffer_bytes };
        Self {
            budget: Arc::new(BufferBudget::new(bytes)),
            quotas: Arc::new(Quotas {
                slow: Quota::new(bytes / 2),
                lasting: Quota::new(bytes / 8 * 5),
                not_fast: Quota::new(bytes / 4 * 3),
            }),
            waiting: AtomicUsize::new(0),
            evictions: Mutex::default(),
        }
    }

    /// The buffers of a new stream of a client.
    pub(super) fn open(
        &self,
        client: &Arc<str>,
        slow_after: Duration,
        max_window: usize,
        microbatch_bytes: u64,
    ) -> Arc<StreamBuffers> {
        let evicted = self.evictions().clients.get(client).copied();
        let remembered = evicted.is_some_and(|at| at.elapsed() < EVICTED_MEMORY);
        let speed = if remembered { ReaderSpeed::Slow } else { ReaderSpeed::Unknown };
        let budget = Arc::clone(&self.budget);
        let new =
            StreamBuffers::new(client, budget, speed, slow_after, max_window, microbatch_bytes);
        Arc::new(new)
    }

    /// Waits until a stream may have one more buffer.
    pub(super) async fn admit(&self, stream: &Arc<StreamBuffers>) -> BufferPermit {
        let claim = stream.claim().await;
        let bytes = stream.microbatch_bytes;
        let Quotas { slow, lasting, not_fast } = &*self.quotas;
        let permits = match stream.speed() {
            ReaderSpeed::Fast => QuotaPermits::default(),
            ReaderSpeed::Unknown => {
                let _counted = Counted::new(&self.waiting);
                QuotaPermits { not_fast: Some(not_fast.acquire(bytes).await), ..Default::default() }
            }
            ReaderSpeed::Slow => QuotaPermits {
                _slow: Some(slow.acquire(bytes).await),
                lasting: Some(lasting.acquire(bytes).await),
                not_fast: Some(not_fast.acquire(bytes).await),
            },
        };
        BufferPermit { quotas: Arc::clone(&self.quotas), permits, claim }
    }

    /// Decides whether a stream is evicted at `now`, if one of its microbatches has been in delivery for
    /// `delivering` while `waiting_for_buffer` microbatches of others have no buffer. If so, its client is
    /// remembered as slow.
    pub(super) fn evicts(
        &self,
        stream: &StreamBuffers,
        client: &Arc<str>,
        delivering: Duration,
        waiting_for_buffer: usize,
        now: Instant,
    ) -> bool {
        let patience = match stream.speed() {
            ReaderSpeed::Unknown => stream.slow_after,
            ReaderSpeed::Fast => stream.slow_after.saturating_mul(FAST_PATIENCE),
            ReaderSpeed::Slow => return false,
        };
        let wanted = waiting_for_buffer > 0 || self.waiting.load(Ordering::Relaxed) > 0;
        if delivering <= patience || !wanted {
            return false;
        }
        let mut evictions = self.evictions();
        let age = |at: Instant| now.saturating_duration_since(at);
        if evictions.last.is_some_and(|last| age(last) < EVICTION_INTERVAL) {
            return false;
        }
        evictions.last = Some(now);
        evictions.clients.retain(|_, at| age(*at) < EVICTED_MEMORY);
        if evictions.clients.len() < EVICTED_CLIENTS {
            evictions.clients.insert(Arc::clone(client), now);
        }
        true
    }

    /// A panic cannot leave the evictions half-changed, so a poisoned lock is used as it is.
    fn evictions(&self) -> MutexGuard<'_, Evictions> {
        self.evictions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts one waiter until dropped.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::super::budget::UNIT;
    use super::*;

    fn stream(buffers: &BufferAdmission, client: &str, bytes: u64) -> Arc<StreamBuffers> {
        buffers.open(&client.into(), Duration::from_secs(2), 3, bytes)
    }

    async fn deliver(stream: &StreamBuffers, seconds: u64) {
        let place = stream.window_place().await;
        stream.record_delivery(Duration::from_secs(seconds), place);
    }

    /// Whether a future is not ready. Nothing in admission waits for time, so one poll decides.
    fn waits<T>(future: impl Future<Output = T>) -> bool {
        pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    #[tokio::test]
    async fn slow_readers_have_half_new_ones_a_quarter_more_and_fast_ones_all() {
        let buffers = BufferAdmission::new(16 * UNIT);
        let open = |client, units| stream(&buffers, client, units * UNIT);
        let [slow, more] = [8, 1].map(|units| open("slow", units));
        deliver(&slow, 3).await;
        deliver(&more, 3).await;
        let first = buffers.admit(&slow).await;
        assert!(waits(buffers.admit(&more)));
        let second = buffers.admit(&open("new", 4)).await;
        assert!(waits(buffers.admit(&open("new", 1))));
        let fast = open("fast", 99);
        deliver(&fast, 1).await;
        buffers.admit(&fast).await;
        drop(second);
        buffers.admit(&open("new", 4)).await;
        assert!(waits(buffers.admit(&more)));
        drop(first);
        // A microbatch larger than the whole quota takes all of it.
        let huge = open("slow", 1 << 40);
        deliver(&huge, 3).await;
        buffers.admit(&huge).await;
    }

    #[tokio::test]
    async fn a_stream_gets_a_second_buffer_only_if_one_is_left_for_each_stream_without() {
        let buffers = BufferAdmission::new(4 * UNIT);
        let [a, b, c, slow] = ["a", "b", "c", "slow"].map(|client| stream(&buffers, client, UNIT));
        for (stream, seconds) in [(&a, 1), (&b, 1), (&c, 1), (&slow, 9)] {
            deliver(stream, seconds).await;
        }
        let (first, second) = (buffers.admit(&a).await, buffers.admit(&a).await);
        assert!(waits(buffers.admit(&a)), "b and c have none");
        buffers.admit(&b).await;
        buffers.admit(&slow).await;
        let mut third = pin!(buffers.admit(&a));
        assert!(waits(third.as_mut()));
        drop(first);
        let third = third.await;
        assert!(waits(buffers.admit(&a)));
        // A stream that has ended reserves nothing.
        drop(c);
        let fourth = buffers.admit(&a).await;
        assert!(waits(buffers.admit(&a)));
        drop((second, third, fourth));
        assert_eq!(buffers.budget.claimed(), 2 * UNIT, "one each of a and b; slow ones claim none");
    }

    #[tokio::test]
    async fn a_stream_lends_while_every_stream_has_a_buffer_for_its_next_microbatch() {
        let buffers = BufferAdmission::new(6 * UNIT);
        let [a, b] = ["a", "b"].map(|client| stream(&buffers, client, UNIT));
        for stream in [&a, &b] {
            deliver(stream, 1).await;
        }
        let mut lent = Vec::new();
        for _ in 0..3 {
            let mut permit = buffers.admit(&a).await;
            assert!(permit.lend(), "half of the buffers");
            lent.push(permit);
        }
        let mut next = buffers.admit(&a).await;
        assert!(!next.lend(), "no more than half");
        assert_eq!(a.lent(), 3);
        let mut other = buffers.admit(&b).await;
        assert!(!other.lend());
        lent.pop();
        assert!(other.lend());
        // Each has a buffer for its next microbatch: a holds one, and b gets one beside what is lent.
        let held = buffers.admit(&b).await;
        drop((lent, next, other, held));
        assert_eq!((a.lent(), buffers.budget.claimed()), (0, 2 * UNIT));
    }

    #[tokio::test]
    async fn nothing_is_lent_to_a_slow_reader_or_without_a_buffer_to_spare() {
        let buffers = BufferAdmission::new(3 * UNIT);
        let one = stream(&buffers, "a", UNIT);
        deliver(&one, 1).await;
        assert!(buffers.admit(&one).await.lend());
        let others = ["b", "c"].map(|client| stream(&buffers, client, UNIT));
        assert!(!buffers.admit(&one).await.lend(), "two buffers are those of the other streams");
        drop(others);
        deliver(&one, 9).await;
        assert!(!buffers.admit(&one).await.lend());
    }

    #[tokio::test]
    async fn a_slow_reader_of_frames_that_were_to_be_lent_is_slow() {
        let buffers = BufferAdmission::new(8 * UNIT);
        let one = stream(&buffers, "a", UNIT);
        deliver(&one, 1).await;
        let mut permit = buffers.admit(&one).await;
        assert!(permit.lend());
        permit.record_speed(Duration::from_secs(9));
        drop(permit);
        assert_eq!(one.speed(), ReaderSpeed::Slow);
        assert!(!buffers.admit(&one).await.lend());
    }

    #[tokio::test]
    async fn what_is_lent_and_slow_readers_together_leave_buffers_to_new_streams_and_fast_ones() {
        let buffers = BufferAdmission::new(16 * UNIT);
        let open = |client| stream(&buffers, client, UNIT);
        let [lends, more, slow, new, fast] = ["a", "b", "slow", "new", "fast"].map(open);
        for (stream, seconds) in [(&lends, 1), (&more, 1), (&slow, 9), (&fast, 1)] {
            deliver(stream, seconds).await;
        }
        let mut lent = Vec::new();
        for stream in [&lends, &more] {
            for _ in 0..4 {
                let mut permit = buffers.admit(stream).await;
                assert!(permit.lend());
                lent.push(permit);
            }
        }
        let mut held = vec![buffers.admit(&slow).await, buffers.admit(&slow).await];
        assert!(waits(buffers.admit(&slow)), "five eighths of the buffers");
        held.extend([buffers.admit(&new).await, buffers.admit(&new).await]);
        assert!(waits(buffers.admit(&new)), "three quarters");
        held.push(buffers.admit(&fast).await);
        // What is kept although it was returned counts as before.
        let kept: Vec<_> = lent.into_iter().map(BufferPermit::keep).collect();
        assert!(waits(buffers.admit(&slow)) && waits(buffers.admit(&new)));
        let mut next = buffers.admit(&lends).await;
        assert!(!next.lend(), "half of the buffers are kept");
        drop(kept);
        assert!(next.lend());
        held.push(buffers.admit(&slow).await);
    }

    #[tokio::test]
    async fn a_stream_that_has_ended_and_lends_reserves_nothing_more() {
        let buffers = BufferAdmission::new(8 * UNIT);
        let lends = stream(&buffers, "a", UNIT);
        deliver(&lends, 1).await;
        let mut lent = buffers.admit(&lends).await;
        assert!(lent.lend());
        assert_eq!(buffers.budget.claimed(), 2 * UNIT);
        lends.end();
        assert_eq!(buffers.budget.claimed(), UNIT, "what it has lent");
        let kept = lent.keep();
        drop(lends);
        assert_eq!(buffers.budget.claimed(), UNIT);
        drop(kept);
        assert_eq!(buffers.budget.claimed(), 0);
    }

    #[tokio::test]
    async fn a_client_of_many_fast_streams_leaves_a_quarter_of_the_buffers_while_there_are_others()
    {
        let buffers = BufferAdmission::new(8 * UNIT);
        let open = |client| {
            let stream = stream(&buffers, client, UNIT);
            stream.set_speed(ReaderSpeed::Fast);
            stream
        };
        let hog: Vec<_> = (0..10).map(|_| open("hog")).collect();
        let mut held = Vec::new();
        for stream in &hog[..8] {
            held.push(buffers.admit(stream).await);
        }
        let other = open("other");
        held.truncate(6);
        assert!(waits(buffers.admit(&hog[6])), "six of eight are three quarters");
        let own = buffers.admit(&other).await;
        drop(held.pop());
        held.push(buffers.admit(&hog[6]).await);
        let mut seventh = pin!(buffers.admit(&hog[7]));
        assert!(waits(seventh.as_mut()));
        // The client's own end of a stream lets the others have everything.
        drop((own, other));
        seventh.await;
    }

    #[tokio::test]
    async fn the_window_grows_with_fast_deliveries_and_shrinks_with_slow_ones() {
        let buffers = BufferAdmission::new(0);
        let stream = stream(&buffers, "a", UNIT);
        let mut windows = Vec::new();
        for seconds in [1, 1, 1, 3, 3, 3, 1] {
            windows.push(stream.free_places());
            deliver(&stream, seconds).await;
        }
        assert_eq!(windows, [1, 2, 3, 3, 2, 1, 1]);
    }

    #[tokio::test]
    async fn a_slow_new_reader_is_evicted_once_others_wait_and_returns_as_slow() {
        let buffers = BufferAdmission::new(16 * UNIT);
        let client: Arc<str> = "a".into();
        let (new, now) = (stream(&buffers, "a", 12 * UNIT), Instant::now());
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(3));
        let held = buffers.admit(&new).await;
        assert!(!buffers.evicts(&new, &client, long, 0, now), "nobody waits");
        let other = stream(&buffers, "b", UNIT);
        let mut waiting = pin!(buffers.admit(&other));
        assert!(waits(waiting.as_mut()));
        assert!(!buffers.evicts(&new, &client, short, 0, now), "it has only begun");
        assert!(buffers.evicts(&new, &client, long, 0, now));
        assert!(!buffers.evicts(&new, &client, long, 0, now), "one at a time");
        assert!(buffers.evicts(&new, &client, long, 0, now + EVICTION_INTERVAL));
        drop(held);
        waiting.await;
        assert_eq!(stream(&buffers, "a", UNIT).speed(), ReaderSpeed::Slow);
        assert_eq!(stream(&buffers, "b", UNIT).speed(), ReaderSpeed::Unknown);
    }

    #[test]
    fn a_fast_reader_that_stops_is_evicted_after_three_times_as_long_if_a_buffer_is_wanted() {
        let buffers = BufferAdmission::new(16 * UNIT);
        let client: Arc<str> = "a".into();
        let fast = stream(&buffers, "a", UNIT);
        fast.set_speed(ReaderSpeed::Fast);
        let evicts = |seconds, waiting| {
            buffers.evicts(&fast, &client, Duration::from_secs(seconds), waiting, Instant::now())
        };
        assert!(!evicts(5, 1));
        assert!(!evicts(7, 0));
        assert!(evicts(7, 1));
        assert_eq!(stream(&buffers, "a", UNIT).speed(), ReaderSpeed::Slow);
    }
}
