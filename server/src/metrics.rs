//! Metrics in the text format of `OpenMetrics`, which Prometheus reads.

use std::fmt::Debug;
use std::time::Duration;

use forebay_proto::v1::Timings;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tonic::Code;

use crate::board::Now;
use crate::process;

/// Upper bounds in seconds of a microbatch's times.
const SECONDS: [f64; 11] = [0.001, 0.003, 0.01, 0.03, 0.06, 0.1, 0.2, 0.4, 1.0, 3.0, 10.0];

/// What is counted as it happens.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    calls: Family<Call, Counter>,
    served: Family<Served, Counter>,
    stages: Family<Stage, Histogram>,
    /// Connections that failed to begin: no handshake, a bad certificate, not in time.
    pub(crate) refused_connections: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    method: &'static str,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Served {
    recipe: String,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stage {
    stage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct From {
    from: &'static str,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("forebay");
        let calls = Family::default();
        let served = Family::default();
        let stages = Family::<_, Histogram>::new_with_constructor(|| Histogram::new(SECONDS));
        let refused_connections = Counter::default();
        registry.register(
            "build",
            "Of which version the server is",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register("calls", "Calls ended, by method and gRPC code", calls.clone());
        registry.register(
            "microbatches_served",
            "Microbatches sent whole (Ok), and streams that ended early (other codes), by recipe",
            served.clone(),
        );
        registry.register_with_unit(
            "stage_duration",
            "Time of a microbatch by stage: CPU of read to digest, wall time of queue and make",
            Unit::Seconds,
            stages.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections that failed to begin: handshake, certificate, time",
            refused_connections.clone(),
        );
        Self { registry, calls, served, stages, refused_connections }
    }

    /// A call has ended.
    pub(crate) fn called(&self, method: &'static str, code: Code) {
        self.calls.get_or_create(&Call { method, code: format!("{code:?}") }).inc();
    }

    /// A microbatch was sent, or could not be.
    pub(crate) fn served(&self, recipe: &str, code: Code) {
        let served = Served { recipe: recipe.to_owned(), code: format!("{code:?}") };
        self.served.get_or_create(&served).inc();
    }

    /// A microbatch was made.
    pub(crate) fn made(&self, timings: &Timings) {
        let Timings { queue, make, read, decode, resize, augment, mix, digest } = *timings;
        let all = [
            ("queue", queue),
            ("make", make),
            ("read", read),
            ("decode", decode),
            ("resize", resize),
            ("augment", augment),
            ("mix", mix),
            ("digest", digest),
        ];
        for (stage, micros) in all {
            let seconds = Duration::from_micros(micros).as_secs_f64();
            self.stages.get_or_create(&Stage { stage }).observe(seconds);
        }
    }

    /// All, with what is read off at this moment.
    pub(crate) fn text(&self, now: &Now) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        encode_registry(&mut text, &moment(now))?;
        encode_registry(&mut text, &of_process(now))?;
        encode_eof(&mut text)?;
        Ok(text)
    }
}

/// What the pipeline does.
fn of_pipeline(registry: &mut Registry, now: &Now) {
    let mut add = |name, help, value: f64| register(registry, name, help, gauge(value));
    add("making", "Microbatches asked for and not yet made", now.making as f64);
    add(
        "queue_bytes",
        "Bytes of microbatches being made, sent or kept ready",
        now.pipeline.buffer_bytes as f64,
    );
    add("queue_bytes_limit", "Bytes they may have", now.pipeline.buffer_limit as f64);
    add(
        "cache_bytes",
        "Of them, those of microbatches kept ready",
        now.pipeline.cache_bytes as f64,
    );
    add(
        "queue_seconds",
        "How long it takes until all is made that is asked for",
        now.pipeline.wait.as_secs_f64(),
    );
    add("starved", "Microbatches that wait for a buffer", now.pipeline.starved as f64);
    add("threads", "Worker threads", now.pipeline.threads as f64);
    let mut add = |name, help, value: u64| register(registry, name, help, counter(value));
    add("microbatches_made", "Microbatches made", now.pipeline.microbatches);
    let shared = Family::<From, Counter>::default();
    for (from, count) in [("work", now.pipeline.joined), ("cache", now.pipeline.cached)] {
        shared.get_or_create(&From { from }).inc_by(count);
    }
    register(
        registry,
        "microbatches_shared",
        "Microbatches asked for that were not made: another caller waited for the same, or had had it",
        shared,
    );
    let mut add = |name, help, value: u64| register(registry, name, help, counter(value));
    add("images_made", "Images made", now.pipeline.samples);
    add("images_decoded", "Of them decoded: the others shared a decode", now.pipeline.decoded);
}

/// What is not counted but read off.
fn moment(now: &Now) -> Registry {
    let mut registry = Registry::with_prefix("forebay");
    of_pipeline(&mut registry, now);
    let mut add = |name, help, value: f64| register(&mut registry, name, help, gauge(value));
    add(
        "ready",
        "1 while calls are taken, 0 while the server stops",
        f64::from(u8::from(now.ready)),
    );
    add("streams", "Streams open", now.streams.len() as f64);
    add("streams_limit", "Streams that may be open", now.streams_limit as f64);
    add("images_per_second", "Images sent, of the last 30 s", now.images_per_s);
    add(
        "input_bound_ratio",
        "Part of the streams' time in which readers wait for the server, of the last 30 s",
        now.input_bound_ratio,
    );
    add(
        "utilization_ratio",
        "Part of the server that is in use, of the last 30 s",
        now.utilization,
    );
    add(
        "recommended_replicas",
        "Servers like this one that its readers need; sum over servers",
        now.recommended_replicas,
    );
    let bottleneck = Family::<Stage, prometheus_client::metrics::gauge::Gauge>::default();
    bottleneck.get_or_create(&Stage { stage: now.bottleneck }).set(1);
    register(
        &mut registry,
        "bottleneck",
        "What holds up the rest: a stage, clients or none",
        bottleneck,
    );
    let mut add = |name, help, value: u64| register(&mut registry, name, help, counter(value));
    add("images_served", "Images sent", now.images);
    add("payload_bytes", "Bytes of pixels sent", now.payload_bytes);
    add("streams_stalled", "Streams ended because nothing was taken", now.stalled);
    add(
        "streams_too_slow",
        "Streams ended because they were slow and their buffer was wanted",
        now.too_slow,
    );
    let mut add = |name, help, value: f64| register(&mut registry, name, help, seconds(value));
    add(
        "reader_wait_seconds",
        "Time in which readers waited for microbatches to be made",
        now.waits.reader.as_secs_f64(),
    );
    add(
        "server_wait_seconds",
        "Time in which made microbatches waited for their readers",
        now.waits.server.as_secs_f64(),
    );
    registry
}

/// What every process tells.
fn of_process(now: &Now) -> Registry {
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
