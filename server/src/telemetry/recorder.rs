//! Records events as they happen: counters, open streams, and a history of totals.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use forebay_proto::v1::Header;
use forebay_types::{StageTimes, Timings, process};
use tonic::Code;

use super::bottleneck::Point;
use super::lock::lock;
use super::metrics::Metrics;
use super::picture::Picture;
use super::stream::{Progress, StreamRequestInfo, StreamStats, WaitTimes, WaitingSide};
use crate::source::{MicrobatchName, OpenJob};
use crate::status::DataFault;

/// Length of the history, in ticks: five minutes.
pub(crate) const HISTORY: usize = 300;
/// Interval of the points of the history.
pub(crate) const TICK: Duration = Duration::from_secs(1);

/// The telemetry of a server.
#[derive(Debug)]
pub(crate) struct Telemetry {
    pub(crate) counters: Counters,
    pub(crate) metrics: Metrics,
    pub(crate) picture: Picture,
    pub(super) started: Instant,
    streams: Mutex<Streams>,
    history: Mutex<VecDeque<Point>>,
}

#[derive(Debug, Default)]
struct Streams {
    next: u64,
    open: BTreeMap<u64, Arc<StreamStats>>,
    /// Waits of the streams that have ended.
    past_waits: WaitTimes,
}

/// Totals since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) streams: AtomicU64,
    pub(crate) microbatches: AtomicU64,
    pub(crate) samples: AtomicU64,
    pub(crate) payload_bytes: AtomicU64,
    pub(crate) stalled: AtomicU64,
    pub(crate) evicted: AtomicU64,
    /// Microseconds that microbatches have waited for their bytes.
    storage_wait: AtomicU64,
    /// Microseconds of CPU time by stage, of the microbatches sent.
    stages: [AtomicU64; StageTimes::NAMES.len()],
}

impl Telemetry {
    pub(crate) fn new(show_picture: bool, datasets: &[String]) -> Self {
        Self {
            counters: Counters::default(),
            metrics: Metrics::new(datasets),
            picture: Picture::new(show_picture),
            started: Instant::now(),
            streams: Mutex::default(),
            history: Mutex::default(),
        }
    }

    /// Counts a stream as open until the guard is dropped.
    pub(crate) fn open_stream(self: &Arc<Self>, info: StreamRequestInfo) -> StreamGuard {
        let stats = Arc::new(StreamStats::new(info));
        let mut streams = lock(&self.streams);
        let number = streams.next;
        streams.next += 1;
        streams.open.insert(number, Arc::clone(&stats));
        drop(streams);
        self.counters.streams.fetch_add(1, Ordering::Relaxed);
        StreamGuard { telemetry: Arc::clone(self), number, stats }
    }

    /// Adds the current totals to the history. `storage_wait` is the time that microbatches have waited for their
    /// bytes since the start.
    pub(crate) fn tick(&self, storage_wait: Duration) {
        let micros = u64::try_from(storage_wait.as_micros()).unwrap_or(u64::MAX);
        self.counters.storage_wait.store(micros, Ordering::Relaxed);
        let point = self.point();
        let mut history = lock(&self.history);
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back(point);
    }

    pub(super) fn history(&self) -> Vec<Point> {
        lock(&self.history).iter().copied().collect()
    }

    pub(super) fn streams(&self) -> Vec<Arc<StreamStats>> {
        lock(&self.streams).open.values().cloned().collect()
    }

    /// The totals at this moment.
    pub(super) fn point(&self) -> Point {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        Point {
            at: Instant::now(),
            cpu: process::cpu_time(),
            microbatches: count(&counters.microbatches),
            samples: count(&counters.samples),
            payload_bytes: count(&counters.payload_bytes),
            stages: counters.stages.each_ref().map(|micros| Duration::from_micros(count(micros))),
            waits: self.waits(),
            storage_wait: Duration::from_micros(count(&counters.storage_wait)),
        }
    }

    /// Waits of all streams since the start.
    fn waits(&self) -> WaitTimes {
        let streams = lock(&self.streams);
        let open = streams.open.values().map(|stats| stats.counted_waits());
        open.fold(streams.past_waits, std::ops::Add::add)
    }
}

/// Records what happens to one stream, which counts as open until this is dropped.
#[derive(Debug)]
pub(crate) struct StreamGuard {
    telemetry: Arc<Telemetry>,
    number: u64,
    stats: Arc<StreamStats>,
}

impl StreamGuard {
    /// Records that from now on this side waits for the other.
    pub(crate) fn waits(&self, side: WaitingSide) {
        self.stats.set_waiting(side);
    }

    /// Records that a microbatch has been computed and is about to be sent.
    pub(crate) fn computed(&self, job: &dyn OpenJob, header: &Header, payload: &[u8]) {
        self.telemetry.picture.offer(job.facts(), job.classes(), header, payload);
        let Some(timings) = header.timings.as_ref().map(Timings::from) else { return };
        self.telemetry.metrics.add_timings(&timings);
        for (sum, time) in self.telemetry.counters.stages.iter().zip(timings.stages.times()) {
            sum.fetch_add(u64::try_from(time.as_micros()).unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// Records that a microbatch has been leased.
    pub(crate) fn leased(&self) {
        self.telemetry.metrics.leased.inc();
    }

    /// Records that a microbatch has been sent.
    pub(crate) fn sent(&self, samples: usize, bytes: usize, name: MicrobatchName) {
        let counters = &self.telemetry.counters;
        counters.microbatches.fetch_add(1, Ordering::Relaxed);
        counters.samples.fetch_add(samples as u64, Ordering::Relaxed);
        counters.payload_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.telemetry.metrics.add_served(&self.stats.info.recipe, Code::Ok);
        self.stats.add_sent(samples, bytes, name);
    }

    /// Records that the stream ends because its reader accepted no data.
    pub(crate) fn stalled(&self) {
        self.telemetry.counters.stalled.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that the stream ends because its reader was slow while others waited for its buffer.
    pub(crate) fn evicted(&self) {
        self.telemetry.counters.evicted.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that the stream ends because of the data behind a microbatch.
    pub(crate) fn data_fault(&self, fault: DataFault) {
        self.telemetry.metrics.add_data_fault(&self.stats.info.dataset, fault);
    }

    /// Records that the stream ends with a status, and logs its totals.
    pub(crate) fn ended(&self, code: Code) {
        let info = &self.stats.info;
        self.telemetry.metrics.add_call(info.method, code);
        if !matches!(code, Code::Ok | Code::Cancelled) {
            self.telemetry.metrics.add_served(&info.recipe, code);
        }
        let progress = self.stats.progress();
        let (Progress { microbatches, bytes, .. }, waits) = (progress, progress.waits());
        let (reader_wait_s, server_wait_s) =
            (waits.reader.as_secs_f64(), waits.server.as_secs_f64());
        tracing::info!(?code, microbatches, bytes, reader_wait_s, server_wait_s, "stream ended");
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let mut streams = lock(&self.telemetry.streams);
        streams.past_waits = streams.past_waits + self.stats.counted_waits();
        streams.open.remove(&self.number);
    }
}
