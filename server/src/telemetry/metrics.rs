//! Metrics in the text format of `OpenMetrics`, which Prometheus reads.

use std::fmt::Debug;
use std::time::Duration;

use forebay_proto::v1::Timings;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tonic::Code;

use super::process;
use super::snapshot::Snapshot;

/// Upper bounds of the histogram's buckets, in seconds.
const BUCKETS: [f64; 11] = [0.001, 0.003, 0.01, 0.03, 0.06, 0.1, 0.2, 0.4, 1.0, 3.0, 10.0];

/// Metrics that are counted as things happen.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    calls: Family<CallLabels, Counter>,
    served: Family<ServedLabels, Counter>,
    stages: Family<StageLabels, Histogram>,
    /// Connections that failed to begin: no handshake, a bad certificate, a timeout.
    pub(crate) refused_connections: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: &'static str,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServedLabels {
    recipe: String,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabels {
    stage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FromLabels {
    from: &'static str,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("forebay");
        let (calls, served) = (Family::default(), Family::default());
        let stages = Family::<_, Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        let refused_connections = Counter::default();
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Version of the server", version);
        registry.register("calls", "Calls ended, by method and gRPC code", calls.clone());
        registry.register(
            "microbatches_served",
            "Microbatches sent (Ok), and streams that ended early (other codes), by recipe",
            served.clone(),
        );
        registry.register_with_unit(
            "stage_duration",
            "Time of a microbatch by stage: CPU time of read to digest, wall time of queue and make",
            Unit::Seconds,
            stages.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections that failed to begin: no handshake, bad certificate, timeout",
            refused_connections.clone(),
        );
        Self { registry, calls, served, stages, refused_connections }
    }

    /// Counts a call that has ended.
    pub(crate) fn add_call(&self, method: &'static str, code: Code) {
        self.calls.get_or_create(&CallLabels { method, code: format!("{code:?}") }).inc();
    }

    /// Counts a microbatch that was sent, or a stream that ended early.
    pub(super) fn add_served(&self, recipe: &str, code: Code) {
        let served = ServedLabels { recipe: recipe.to_owned(), code: format!("{code:?}") };
        self.served.get_or_create(&served).inc();
    }

    /// Counts the stages of a microbatch.
    pub(super) fn add_timings(&self, timings: &Timings) {
        let Timings { queue, make, read, decode, resize, augment, mix, digest } = *timings;
        let stages = [
            ("queue", queue),
            ("make", make),
            ("read", read),
            ("decode", decode),
            ("resize", resize),
            ("augment", augment),
            ("mix", mix),
            ("digest", digest),
        ];
        for (stage, micros) in stages {
            let seconds = Duration::from_micros(micros).as_secs_f64();
            self.stages.get_or_create(&StageLabels { stage }).observe(seconds);
        }
    }
}

/// All metrics: those that are counted, and those that a snapshot contains.
///
/// # Errors
/// Only if a metric cannot be formatted.
pub(crate) fn render(metrics: &Metrics, now: &Snapshot) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    encode_registry(&mut text, &metrics.registry)?;
    encode_registry(&mut text, &forebay_registry(now))?;
    encode_registry(&mut text, &process_registry(now))?;
    encode_eof(&mut text)?;
    Ok(text)
}

/// The figures of a snapshot.
fn forebay_registry(now: &Snapshot) -> Registry {
    let mut registry = Registry::with_prefix("forebay");
    add_pipeline(&mut registry, now);
    add_streams(&mut registry, now);
    add_assessment(&mut registry, now);
    registry
}

fn add_pipeline(registry: &mut Registry, now: &Snapshot) {
    let load = &now.pipeline;
    let drain_estimate = load.drain_estimate.as_secs_f64();
    for (name, help, value) in [
        (
            "microbatches_pending",
            "Microbatches requested and not yet computed",
            load.microbatches_pending as f64,
        ),
        (
            "microbatches_waiting_for_buffer",
            "Microbatches that wait for a buffer",
            load.microbatches_waiting_for_buffer as f64,
        ),
        (
            "queue_drain_estimate_seconds",
            "Estimated time until everything requested now has been computed",
            drain_estimate,
        ),
        (
            "buffer_bytes",
            "Bytes of microbatches being computed, sent or cached",
            load.buffer_bytes as f64,
        ),
        ("buffer_limit_bytes", "Limit of forebay_buffer_bytes", load.buffer_limit_bytes as f64),
        (
            "cache_bytes",
            "Bytes of cached microbatches, included in forebay_buffer_bytes",
            load.cache_bytes as f64,
        ),
        ("worker_threads", "Worker threads", load.threads as f64),
    ] {
        register(registry, name, help, gauge(value));
    }
    for (name, help, value) in [
        ("microbatches_computed", "Microbatches computed", load.microbatches),
        ("images_computed", "Images computed", load.samples),
        ("images_decoded", "Images decoded; repeats of a record share a decode", load.decoded),
    ] {
        register(registry, name, help, counter(value));
    }
    let shared = Family::<FromLabels, Counter>::default();
    for (from, count) in [("queue", load.joined), ("cache", load.cached)] {
        shared.get_or_create(&FromLabels { from }).inc_by(count);
    }
    register(
        registry,
        "microbatches_shared",
        "Requests answered without computing: joined one in the queue, or found in the cache",
        shared,
    );
}

fn add_streams(registry: &mut Registry, now: &Snapshot) {
    for (name, help, value) in [
        (
            "ready",
            "1 while the server accepts calls, 0 while it shuts down",
            f64::from(u8::from(now.ready)),
        ),
        ("streams", "Open streams", now.streams.len() as f64),
        ("streams_limit", "Limit of forebay_streams", now.streams_limit as f64),
    ] {
        register(registry, name, help, gauge(value));
    }
    for (name, help, value) in [
        ("images_served", "Images sent", now.images),
        ("payload_bytes", "Bytes of pixels sent", now.payload_bytes),
        ("streams_stalled", "Streams ended because their reader accepted no data", now.stalled),
        (
            "streams_evicted",
            "Streams ended because their reader was slow and others waited for buffers",
            now.evicted,
        ),
    ] {
        register(registry, name, help, counter(value));
    }
    for (name, help, value) in [
        (
            "reader_wait_seconds",
            "Time that readers waited for microbatches to be computed",
            now.waits.reader.as_secs_f64(),
        ),
        (
            "server_wait_seconds",
            "Time that computed microbatches waited for their readers",
            now.waits.server.as_secs_f64(),
        ),
    ] {
        register(registry, name, help, seconds(value));
    }
}

fn add_assessment(registry: &mut Registry, now: &Snapshot) {
    for (name, help, value) in [
        (
            "input_bound_ratio",
            "Share of the streams' time in which readers waited, over 30 s",
            now.input_bound_ratio,
        ),
        ("utilization_ratio", "Share of the server in use, over 30 s", now.utilization),
        (
            "recommended_replicas",
            "Servers like this one that its readers need; sum over servers",
            now.recommended_replicas,
        ),
    ] {
        register(registry, name, help, gauge(value));
    }
    let bottleneck = Family::<StageLabels, Gauge>::default();
    bottleneck.get_or_create(&StageLabels { stage: now.bottleneck }).set(1);
    register(registry, "bottleneck", "The bottleneck: a stage, queue, clients or none", bottleneck);
}

/// The figures that Prometheus expects from every process.
fn process_registry(now: &Snapshot) -> Registry {
    let mut registry = Registry::with_prefix("process");
    register(&mut registry, "cpu_seconds", "CPU time, user and system", seconds(now.cpu_s));
    if let Some(bytes) = now.resident_bytes {
        register(&mut registry, "resident_memory_bytes", "Resident memory", gauge(bytes as f64));
    }
    if let Some(files) = process::open_files() {
        register(&mut registry, "open_fds", "Open file descriptors", gauge(files as f64));
    }
    registry
}

fn register(
    registry: &mut Registry,
    name: &str,
    help: &str,
    metric: impl EncodeMetric + Debug + Send + Sync + 'static,
) {
    registry.register(name, help, metric);
}

fn gauge(value: f64) -> ConstGauge<f64> {
    ConstGauge::new(value)
}

fn counter(value: u64) -> ConstCounter<u64> {
    ConstCounter::new(value)
}

fn seconds(value: f64) -> ConstCounter<f64> {
    ConstCounter::new(value)
}
