//! The state of a server at one moment, as metrics, the status page and `/status.json` show it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use forebay_types::{StageTimes, process};
use serde::Serialize;

use super::bottleneck::{Assessment, Interval, Point};
use super::recorder::Telemetry;
use super::stream::{StreamStats, WaitTimes};
use crate::source::{DatasetFacts, Load, Source};

/// Interval before the present over which current figures are averaged.
const WINDOW: Duration = Duration::from_secs(30);
/// Seconds of the history over which a point of the chart is averaged. A microbatch is counted as a
/// whole, so the rate of a single second fluctuates.
const SMOOTHING: usize = 5;

/// The state of a server.
#[derive(Debug, Serialize)]
pub(crate) struct Snapshot {
    pub(crate) version: &'static str,
    /// Whether the server accepts calls; false while it shuts down.
    pub(crate) ready: bool,
    pub(crate) uptime_s: f64,
    pub(crate) cpu_s: f64,
    pub(crate) resident_bytes: Option<u64>,
    /// Time over which rates, ratios and stages are taken.
    pub(crate) window_s: f64,
    pub(crate) images_per_s: f64,
    pub(crate) bytes_per_s: f64,
    pub(crate) microbatches_per_s: f64,
    /// CPU seconds per second of the whole process.
    pub(crate) cores: f64,
    pub(crate) input_bound_ratio: f64,
    pub(crate) bottleneck: &'static str,
    pub(crate) utilization: f64,
    pub(crate) recommended_replicas: f64,
    pub(crate) stages: Vec<StageSnapshot>,
    pub(crate) streams: Vec<StreamSnapshot>,
    pub(crate) streams_limit: usize,
    pub(crate) microbatches: u64,
    pub(crate) images: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) stalled: u64,
    pub(crate) evicted: u64,
    #[serde(skip)]
    pub(crate) waits: WaitTimes,
    pub(crate) pipeline: Load,
    pub(crate) datasets: Vec<DatasetFacts>,
    /// Images per second of the last minutes, one value per second, the newest last.
    pub(crate) history: Vec<f64>,
}

/// A stage of the pipeline.
#[derive(Debug, Serialize)]
pub(crate) struct StageSnapshot {
    pub(crate) name: &'static str,
    pub(crate) cpu_ms_per_image: f64,
    /// Share of the time of all stages.
    pub(crate) share: f64,
}

/// An open stream.
#[derive(Debug, Serialize)]
pub(crate) struct StreamSnapshot {
    pub(crate) identity: String,
    pub(crate) peer: String,
    pub(crate) method: &'static str,
    pub(crate) dataset: String,
    pub(crate) recipe: String,
    pub(crate) seconds: f64,
    /// Epoch, step and index of the microbatch that was sent last.
    pub(crate) last: Option<[u64; 3]>,
    pub(crate) microbatches: u64,
    pub(crate) images_per_s: f64,
    pub(crate) bytes: u64,
    /// The side that waits now: `reader` or `server`.
    pub(crate) waiting: &'static str,
    /// Share of its time that the reader has waited.
    pub(crate) reader_wait_ratio: f64,
}

impl Snapshot {
    pub(crate) fn take(
        telemetry: &Telemetry,
        source: &dyn Source,
        ready: bool,
        streams_limit: usize,
    ) -> Self {
        let (pipeline, now, history) = (source.load(), telemetry.point(), telemetry.history());
        let oldest = history.iter().find(|point| now.at - point.at <= WINDOW);
        let recent = Interval::between(oldest.unwrap_or(&now), &now);
        let Assessment { input_bound, bottleneck, utilization, replicas } =
            recent.assess(pipeline.threads);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            ready,
            uptime_s: telemetry.started.elapsed().as_secs_f64(),
            cpu_s: now.cpu.as_secs_f64(),
            resident_bytes: process::memory().map(|memory| memory.resident),
            window_s: recent.seconds,
            images_per_s: recent.per_second(recent.samples),
            bytes_per_s: recent.per_second(recent.payload_bytes),
            microbatches_per_s: recent.per_second(recent.microbatches),
            cores: recent.cpu / recent.seconds.max(f64::MIN_POSITIVE),
            input_bound_ratio: input_bound,
            bottleneck,
            utilization,
            recommended_replicas: replicas,
            stages: stages(&recent),
            streams: telemetry.streams().iter().map(StreamSnapshot::of).collect(),
            streams_limit,
            microbatches: now.microbatches,
            images: now.samples,
            payload_bytes: now.payload_bytes,
            stalled: count(&telemetry.counters.stalled),
            evicted: count(&telemetry.counters.evicted),
            waits: now.waits,
            pipeline,
            datasets: source.about(),
            history: history.windows(SMOOTHING + 1).map(images_per_s).collect(),
        }
    }
}

/// Images per second from the first to the last of some points.
fn images_per_s(points: &[Point]) -> f64 {
    let interval = Interval::between(&points[0], &points[points.len() - 1]);
    interval.per_second(interval.samples)
}

fn stages(recent: &Interval) -> Vec<StageSnapshot> {
    let images = (recent.samples as f64).max(1.0);
    let sum = recent.stages.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    let stage = |(name, seconds): (&'static str, f64)| StageSnapshot {
        name,
        cpu_ms_per_image: seconds * 1e3 / images,
        share: seconds / sum,
    };
    StageTimes::NAMES.into_iter().zip(recent.stages).map(stage).collect()
}

impl StreamSnapshot {
    fn of(stats: &Arc<StreamStats>) -> Self {
        let (info, progress) = (&stats.info, stats.progress());
        let (waits, seconds) = (progress.waits(), stats.opened.elapsed().as_secs_f64());
        let waited = (waits.reader + waits.server).as_secs_f64().max(f64::MIN_POSITIVE);
        Self {
            identity: info.identity.to_string(),
            peer: info.peer.to_string(),
            method: info.method,
            dataset: info.dataset.clone(),
            recipe: info.recipe.clone(),
            seconds,
            last: progress.last.map(|name| [name.epoch, name.step, name.index.into()]),
            microbatches: progress.microbatches,
            images_per_s: progress.samples as f64 / seconds.max(f64::MIN_POSITIVE),
            bytes: progress.bytes,
            waiting: progress.waiting.name(),
            reader_wait_ratio: waits.reader.as_secs_f64() / waited,
        }
    }
}
