//! Metrics in the text format of `OpenMetrics`, which Prometheus reads.

use std::fmt::Debug;

use forebay_types::process;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use super::metrics::{Metrics, StageLabels};
use super::snapshot::Snapshot;
use crate::source::StorageLoad;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FromLabels {
    from: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TierLabels {
    tier: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DatasetLabels {
    dataset: String,
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
    if let Some(storage) = &now.pipeline.storage {
        add_storage(&mut registry, storage);
    }
    add_datasets(&mut registry, now);
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
            "stuck_reads",
            "Reads of records that took longer than --read-timeout and have not ended",
            load.stuck_reads as f64,
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

fn add_storage(registry: &mut Registry, load: &StorageLoad) {
    let bytes = Family::<TierLabels, Counter>::default();
    for (tier, count) in [("cache", load.cache_bytes), ("remote", load.remote_bytes)] {
        bytes.get_or_create(&TierLabels { tier }).inc_by(count);
    }
    register(
        registry,
        "storage_read_bytes",
        "Bytes of records in buckets, by where they were: the disk cache, or a bucket",
        bytes,
    );
    for (name, help, value) in [
        (
            "storage_fetched_bytes",
            "Bytes that buckets have sent, with whole blocks for the disk cache and what was sent twice",
            load.fetched_bytes,
        ),
        ("storage_requests", "Requests to buckets", load.requests),
        ("storage_retries", "Requests that were sent again after a failure", load.retries),
        ("storage_hedges", "Second requests for a first byte that was late", load.hedges),
        ("storage_throttled", "Answers of buckets that said to slow down", load.throttled),
        (
            "storage_damaged_records",
            "Records whose bytes in the disk cache were wrong, and were fetched again",
            load.damaged,
        ),
        ("storage_late_reads", "Reads for which a worker waited for a bucket", load.late_reads),
    ] {
        register(registry, name, help, counter(value));
    }
    register(
        registry,
        "storage_wait_seconds",
        "Time that microbatches waited for bytes of buckets",
        seconds(load.waited.as_secs_f64()),
    );
    for (name, help, value) in [
        (
            "storage_hit_ratio",
            "Share of the bytes of records that were in the disk cache",
            load.hit_ratio(),
        ),
        (
            "microbatches_waiting_for_storage",
            "Microbatches that wait for bytes of buckets",
            load.microbatches_waiting as f64,
        ),
        (
            "storage_held_bytes",
            "Bytes of buckets on their way or in memory until they are used",
            load.held_bytes as f64,
        ),
        (
            "storage_held_limit_bytes",
            "Limit of forebay_storage_held_bytes",
            load.held_limit_bytes as f64,
        ),
    ] {
        register(registry, name, help, gauge(value));
    }
    add_disk_cache(registry, load);
    if let Some(cost) = load.cost_per_million_images {
        let help = "Cost of a million images so far, at --request-price and --transfer-price";
        register(registry, "storage_cost_per_million_images", help, gauge(cost));
    }
}

fn add_disk_cache(registry: &mut Registry, load: &StorageLoad) {
    for (name, help, value) in [
        (
            "disk_cache_bytes",
            "Bytes in the disk cache, of all processes of the host",
            load.disk_cache_bytes as f64,
        ),
        (
            "disk_cache_limit_bytes",
            "Limit of forebay_disk_cache_bytes",
            load.disk_cache_limit_bytes as f64,
        ),
        (
            "disk_cache_failed",
            "1 if the disk cache cannot be written or its disk is full",
            f64::from(u8::from(load.disk_cache_failed)),
        ),
        (
            "disk_cache_given_up_blocks",
            "Blocks that the disk of the cache could not read, not even after they were written again",
            load.disk_cache_given_up_blocks as f64,
        ),
    ] {
        register(registry, name, help, gauge(value));
    }
}

fn add_datasets(registry: &mut Registry, now: &Snapshot) {
    let damaged = Family::<DatasetLabels, Counter>::default();
    for facts in &now.datasets {
        let labels = DatasetLabels { dataset: facts.name.clone() };
        damaged.get_or_create(&labels).inc_by(facts.damaged_entry_points);
    }
    register(
        registry,
        "damaged_entry_points",
        "Decodes from the start of a record because its entry points in the index are damaged",
        damaged,
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
