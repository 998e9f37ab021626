//! What goes on in a server: who reads what, who waits for whom, and how the last minutes were.
//!
//! ```text
//! session --> Seat (one a stream): position, waits --+
//!         --> Counts: microbatches, bytes, stages ---+--> Now --> metrics, status page, JSON
//!         --> Picture: a few samples, once a second -+
//! ```

mod judge;
mod now;
mod seat;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use forebay_proto::v1::{Header, Timings};

use crate::access::Calling;
use crate::metrics::Metrics;
use crate::picture::Picture;
use crate::process;
use crate::status::Refusal;
use judge::{Point, Recent};
pub(crate) use judge::{STAGES, Verdict};
pub(crate) use now::{Now, StreamNow};
pub(crate) use seat::{Asked, Side, Waits};
use seat::{Progress, Seat};

/// Points of the history: one a second for five minutes.
const HISTORY: usize = 300;
/// How long each point stands for.
pub(crate) const TICK: Duration = Duration::from_secs(1);
/// What is said of now is said of the last so many seconds.
const WINDOW: Duration = Duration::from_secs(30);

/// What goes on.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) counts: Counts,
    pub(crate) metrics: Metrics,
    pub(crate) picture: Picture,
    started: Instant,
    seats: Mutex<Seats>,
    history: Mutex<VecDeque<Point>>,
}

#[derive(Debug, Default)]
struct Seats {
    next: u64,
    taken: BTreeMap<u64, Arc<Seat>>,
    /// Waits of the streams that have ended.
    waits: Waits,
}

/// What was done so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) streams: AtomicU64,
    pub(crate) microbatches: AtomicU64,
    pub(crate) samples: AtomicU64,
    pub(crate) payload_bytes: AtomicU64,
    pub(crate) stalled: AtomicU64,
    pub(crate) too_slow: AtomicU64,
    /// Microseconds of CPU by stage, of the microbatches sent.
    stages: [AtomicU64; STAGES.len()],
}

impl Board {
    pub(crate) fn new(show_picture: bool) -> Self {
        Self {
            counts: Counts::default(),
            metrics: Metrics::new(),
            picture: Picture::new(show_picture),
            started: Instant::now(),
            seats: Mutex::default(),
            history: Mutex::default(),
        }
    }

    /// A seat for a stream, unless its identity has `limit` of them.
    pub(crate) fn seat(
        self: &Arc<Self>,
        asked: Asked,
        limit: usize,
        calling: Calling,
        wait: impl FnOnce() -> Duration,
    ) -> Result<Seated, Refusal> {
        let mut seats = lock(&self.seats);
        let has = seats.taken.values().filter(|seat| seat.asked.identity == asked.identity).count();
        if has >= limit {
            let identity = asked.identity.to_string();
            return Err(Refusal::TooManyOfIdentity { identity, limit, wait: wait() });
        }
        let number = seats.next;
        seats.next += 1;
        let seat = Arc::new(Seat::new(asked));
        seats.taken.insert(number, Arc::clone(&seat));
        drop(seats);
        self.counts.streams.fetch_add(1, Ordering::Relaxed);
        Ok(Seated { board: Arc::clone(self), number, seat, _calling: calling })
    }

    /// Notes the present for the history.
    pub(crate) fn tick(&self) {
        let point = self.point();
        let mut history = lock(&self.history);
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back(point);
    }

    fn point(&self) -> Point {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Point {
            at: Instant::now(),
            cpu: process::cpu_time(),
            microbatches: count(&self.counts.microbatches),
            samples: count(&self.counts.samples),
            payload_bytes: count(&self.counts.payload_bytes),
            stages: self.counts.stages.each_ref().map(|s| Duration::from_micros(count(s))),
            waits: self.waits(),
        }
    }

    /// Waits of all streams since the start.
    pub(crate) fn waits(&self) -> Waits {
        let seats = lock(&self.seats);
        seats.taken.values().map(|seat| seat.waits()).fold(seats.waits, std::ops::Add::add)
    }
}

/// A stream's place on the board, free again when dropped.
#[derive(Debug)]
pub(crate) struct Seated {
    board: Arc<Board>,
    number: u64,
    seat: Arc<Seat>,
    _calling: Calling,
}

impl Seated {
    /// From now on one side waits for the other.
    pub(crate) fn turn(&self, waits: Side) {
        self.seat.turn(waits);
    }

    /// A microbatch is about to be sent.
    pub(crate) fn made(&self, header: &Header) {
        let Some(timings) = &header.timings else { return };
        self.board.metrics.made(timings);
        for (sum, micros) in self.board.counts.stages.iter().zip(stages_of(timings)) {
            sum.fetch_add(micros, Ordering::Relaxed);
        }
    }

    /// A microbatch of so many samples and bytes was sent.
    pub(crate) fn sent(&self, samples: usize, bytes: usize, at: crate::source::Name) {
        let counts = &self.board.counts;
        counts.microbatches.fetch_add(1, Ordering::Relaxed);
        counts.samples.fetch_add(samples as u64, Ordering::Relaxed);
        counts.payload_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.board.metrics.served(&self.seat.asked.recipe, tonic::Code::Ok);
        self.seat.sent(samples, bytes, at);
    }

    /// The stream ends with a status.
    pub(crate) fn ended(&self, code: tonic::Code) {
        let asked = &self.seat.asked;
        self.board.metrics.called(asked.method, code);
        if !matches!(code, tonic::Code::Ok | tonic::Code::Cancelled) {
            self.board.metrics.served(&asked.recipe, code);
        }
        let Progress { microbatches, bytes, .. } = self.seat.progress();
        let waits = self.seat.progress().waits();
        let (reader_wait_s, server_wait_s) =
            (waits.reader.as_secs_f64(), waits.server.as_secs_f64());
        tracing::info!(?code, microbatches, bytes, reader_wait_s, server_wait_s, "stream ended");
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        let mut seats = lock(&self.board.seats);
        let waits = self.seat.waits();
        seats.waits = seats.waits + waits;
        seats.taken.remove(&self.number);
    }
}

/// Microseconds by stage, in the order of [`STAGES`].
const fn stages_of(timings: &Timings) -> [u64; STAGES.len()] {
    let Timings { read, decode, resize, augment, mix, digest, .. } = *timings;
    [read, decode, resize, augment, mix, digest]
}

/// What these locks guard are sums and lists: whole, whoever panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
