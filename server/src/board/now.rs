//! The state of a server at one moment: what the metrics, the status page and `/status.json` tell.

use std::sync::atomic::Ordering;

use serde::Serialize;

use super::{Board, Point, Recent, STAGES, Side, Verdict, WINDOW, Waits, lock};
use crate::process;
use crate::service::Shared;
use crate::source::{DatasetFacts, Load};

/// A microbatch is sent as one, so single seconds jump: the history has means of so many.
const SMOOTH: usize = 5;

/// The moment.
#[derive(Debug, Serialize)]
pub(crate) struct Now {
    pub(crate) version: &'static str,
    /// Whether it takes calls: false while it stops.
    pub(crate) ready: bool,
    pub(crate) uptime_s: f64,
    pub(crate) cpu_s: f64,
    pub(crate) resident_bytes: Option<u64>,
    /// Rates, ratios and stages are of so many seconds up to now.
    pub(crate) window_s: f64,
    pub(crate) images_per_s: f64,
    pub(crate) bytes_per_s: f64,
    pub(crate) microbatches_per_s: f64,
    /// CPU seconds a second, of all of the process.
    pub(crate) cores: f64,
    pub(crate) input_bound_ratio: f64,
    pub(crate) bottleneck: &'static str,
    pub(crate) utilization: f64,
    pub(crate) recommended_replicas: f64,
    pub(crate) stages: Vec<StageNow>,
    pub(crate) streams: Vec<StreamNow>,
    pub(crate) streams_limit: usize,
    pub(crate) microbatches: u64,
    pub(crate) images: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) stalled: u64,
    pub(crate) too_slow: u64,
    /// Microbatches asked for and not yet made.
    pub(crate) making: usize,
    #[serde(skip)]
    pub(crate) waits: Waits,
    pub(crate) pipeline: Load,
    pub(crate) datasets: Vec<DatasetFacts>,
    /// Images a second of the last minutes, a value each second, the newest last.
    pub(crate) history: Vec<f64>,
}

/// A stage.
#[derive(Debug, Serialize)]
pub(crate) struct StageNow {
    pub(crate) name: &'static str,
    pub(crate) cpu_ms_per_image: f64,
    /// Of all stages' time.
    pub(crate) share: f64,
}

/// A stream.
#[derive(Debug, Serialize)]
pub(crate) struct StreamNow {
    pub(crate) identity: String,
    pub(crate) peer: String,
    pub(crate) method: &'static str,
    pub(crate) dataset: String,
    pub(crate) recipe: String,
    pub(crate) seconds: f64,
    /// Epoch, step and index of the microbatch sent last.
    pub(crate) at: Option<[u64; 3]>,
    pub(crate) microbatches: u64,
    pub(crate) images_per_s: f64,
    pub(crate) bytes: u64,
    /// `reader` or `server`: who waits now.
    pub(crate) waits: &'static str,
    /// The part of its time that the reader waited.
    pub(crate) reader_waits: f64,
}

impl Now {
    pub(crate) fn of(shared: &Shared) -> Self {
        let board = &shared.board;
        let (pipeline, now) = (shared.source.load(), board.point());
        let history: Vec<Point> = lock(&board.history).iter().copied().collect();
        let oldest = history.iter().find(|point| now.at - point.at <= WINDOW);
        let recent = Recent::between(oldest.unwrap_or(&now), &now);
        let Verdict { input_bound, bottleneck, utilization, replicas } =
            recent.judge(pipeline.threads);
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let making = pipeline.asked;
        Self {
            version: env!("CARGO_PKG_VERSION"),
            ready: !*shared.draining.borrow(),
            cpu_s: now.cpu.as_secs_f64(),
            resident_bytes: process::resident_bytes(),
            uptime_s: board.started.elapsed().as_secs_f64(),
            window_s: recent.seconds,
            images_per_s: recent.rate(recent.samples),
            bytes_per_s: recent.rate(recent.payload_bytes),
            microbatches_per_s: recent.rate(recent.microbatches),
            cores: recent.cpu / recent.seconds.max(f64::MIN_POSITIVE),
            input_bound_ratio: input_bound,
            bottleneck,
            utilization,
            recommended_replicas: replicas,
            stages: stages(&recent),
            streams: board.streams(),
            streams_limit: shared.limits.streams,
            microbatches: now.microbatches,
            images: now.samples,
            payload_bytes: now.payload_bytes,
            stalled: count(&board.counts.stalled),
            too_slow: count(&board.counts.too_slow),
            making,
            waits: now.waits,
            pipeline,
            datasets: shared.source.about(),
            history: history.windows(SMOOTH + 1).map(images_per_s).collect(),
        }
    }
}

/// From the first to the last of some points.
fn images_per_s(points: &[Point]) -> f64 {
    let recent = Recent::between(&points[0], &points[points.len() - 1]);
    recent.rate(recent.samples)
}

fn stages(recent: &Recent) -> Vec<StageNow> {
    let images = (recent.samples as f64).max(1.0);
    let sum = recent.stages.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    let stage = |(name, seconds): (&'static str, f64)| StageNow {
        name,
        cpu_ms_per_image: seconds * 1e3 / images,
        share: seconds / sum,
    };
    STAGES.into_iter().zip(recent.stages).map(stage).collect()
}

impl Board {
    fn streams(&self) -> Vec<StreamNow> {
        let seats: Vec<_> = lock(&self.seats).taken.values().cloned().collect();
        let stream = |seat: &std::sync::Arc<super::Seat>| {
            let (asked, progress) = (&seat.asked, seat.progress());
            let (waits, seconds) = (progress.waits(), seat.since.elapsed().as_secs_f64());
            let waited = (waits.reader + waits.server).as_secs_f64().max(f64::MIN_POSITIVE);
            StreamNow {
                identity: asked.identity.to_string(),
                peer: asked.address.to_string(),
                method: asked.method,
                dataset: asked.dataset.clone(),
                recipe: asked.recipe.clone(),
                seconds,
                at: progress.at.map(|name| [name.epoch, name.step, name.index.into()]),
                microbatches: progress.microbatches,
                images_per_s: progress.samples as f64 / seconds.max(f64::MIN_POSITIVE),
                bytes: progress.bytes,
                waits: if progress.side == Side::Reader { "reader" } else { "server" },
                reader_waits: waits.reader.as_secs_f64() / waited,
            }
        };
        seats.iter().map(stream).collect()
    }
}
