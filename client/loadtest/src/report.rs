//! What a run amounts to, as JSON.

use std::time::Duration;

use forebay_client::{Description, ServerStats, Timings};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::live::{Interval, Kill, Live};
use crate::plan::Phase;
use crate::table::settings;
use crate::trainer::Received;
use crate::{Options, Slo};

/// The figures of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Samples received, over all trainers.
    pub images: u64,
    /// Microbatches received.
    pub microbatches: u64,
    /// Steps that each job has read.
    pub steps: u64,
    /// Bytes of pixels received.
    pub bytes: u64,
    /// Wall time from the first connection to the last microbatch.
    pub seconds: f64,
    /// Images by that time.
    pub images_per_s: f64,
    /// Pixels by that time, in 10^6 bytes.
    pub mb_per_s: f64,
    /// How long trainers waited for a microbatch.
    pub wait_ms: WaitMs,
    /// When the first microbatch came, of the trainer for which that took longest.
    pub first_microbatch_ms: f64,
    /// CPU time of this process, the receiving side of all trainers.
    pub cpu_ms_per_image: f64,
    /// CPU time of the servers, where they were started here or their metrics are known.
    pub server: Option<ServerCost>,
    /// What the servers say of their own time.
    pub server_ms_per_image: StageTimes,
    /// What came from each server, as the client saw it.
    pub servers: Vec<ServerStats>,
    /// Copies of the world.
    pub jobs: u32,
    /// Parts of the run, in order.
    pub phases: Vec<PhaseReport>,
    /// Servers killed.
    pub kills: Vec<Kill>,
    /// What was to be run.
    pub settings: Vec<(&'static str, String)>,
    /// Digest of the dataset.
    pub dataset_digest: String,
    /// Digest of the recipe.
    pub recipe_digest: String,
    /// The sum of a hash of every microbatch's name, records, targets and pixels: the same for the
    /// same job, whatever happened on the way.
    pub checksum: String,
    /// Microbatches whose hash is that of an undisturbed run, where there was one.
    pub compared: Option<u64>,
    /// How much was lost, repeated, reordered or wrong.
    pub violation_count: u64,
    /// The first of it, in words.
    pub violations: Vec<String>,
    /// Objectives that were missed, in words.
    pub slo_missed: Vec<String>,
    /// What happened second by second; in the CSV file.
    #[serde(skip)]
    pub intervals: Vec<Interval>,
}

/// A phase: how many trainers got how much.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PhaseReport {
    /// Ranks of each world.
    pub trainers: u32,
    /// Wall time.
    pub seconds: f64,
    /// Samples received.
    pub images: u64,
    /// Images by that time.
    pub images_per_s: f64,
    /// How long trainers waited for a microbatch.
    pub wait_ms: WaitMs,
}

/// What serving takes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ServerCost {
    /// CPU seconds of all servers.
    pub cpu_seconds: f64,
    /// CPU time an image received.
    pub cpu_ms_per_image: f64,
    /// By the price of a core's hour.
    pub per_million_images: Option<f64>,
}

/// Quantiles in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct WaitMs {
    /// Half of the waits were no longer.
    pub p50: f64,
    /// 95 in 100.
    pub p95: f64,
    /// 99 in 100.
    pub p99: f64,
    /// 999 in 1000.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

/// The server's time by stage; `queue` and `make` are wall time, the others CPU time.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct StageTimes {
    /// Waiting for a buffer and for workers.
    pub queue: f64,
    /// From the first worker's start to the last one's end.
    pub make: f64,
    /// Reading records.
    pub read: f64,
    /// Decoding.
    pub decode: f64,
    /// Cropping and resizing.
    pub resize: f64,
    /// Flip and augmentation.
    pub augment: f64,
    /// Mixing and normalising.
    pub mix: f64,
    /// Hashing the payload.
    pub digest: f64,
}

impl Report {
    /// Of a run that begins.
    pub(crate) fn new(options: &Options, description: &Description) -> Self {
        Self {
            jobs: options.jobs,
            settings: settings(options, description),
            dataset_digest: description.dataset_digest.to_string(),
            recipe_digest: description.recipe_digest.to_string(),
            ..Self::default()
        }
    }

    /// What was received and seen, in wall time and CPU time.
    pub(crate) fn fill(
        &mut self,
        received: &Received,
        live: &Live,
        (seconds, cpu): (f64, Duration),
    ) {
        let images = received.images.max(1) as f64;
        (self.wait_ms, self.intervals, self.kills) = live.seen();
        self.images = received.images;
        self.microbatches = received.microbatches;
        self.bytes = received.bytes;
        self.seconds = seconds;
        self.images_per_s = received.images as f64 / seconds;
        self.mb_per_s = received.bytes as f64 / seconds / 1e6;
        self.first_microbatch_ms = received.first.as_secs_f64() * 1e3;
        self.cpu_ms_per_image = cpu.as_secs_f64() * 1e3 / images;
        self.server_ms_per_image = received.server.scaled(1e-3 / images);
        self.checksum = format!("{:016x}", received.checksum);
    }

    /// Notes the objectives that were missed.
    pub fn judge(&mut self, slo: &Slo) {
        self.slo_missed = slo.missed(self);
    }

    /// Kills after which every trainer had its next microbatch, in milliseconds: the median and the
    /// longest until some trainer had it, and until all had.
    pub fn recoveries(&self) -> Option<[f64; 4]> {
        let of = |ms: fn(&Kill) -> Option<f64>| {
            let mut all: Vec<f64> = self.kills.iter().filter_map(ms).collect();
            all.sort_by(f64::total_cmp);
            Some([*all.get(all.len() / 2)?, *all.last()?])
        };
        let ([one, one_most], [all, all_most]) =
            (of(|kill| kill.next_ms)?, of(|kill| kill.all_next_ms)?);
        Some([one, one_most, all, all_most])
    }
}

impl PhaseReport {
    pub(crate) fn new(phase: Phase, received: &Received, took: Duration, wait_ms: WaitMs) -> Self {
        let (images, seconds) = (received.images, took.as_secs_f64());
        let images_per_s = images as f64 / seconds;
        Self { trainers: phase.trainers, seconds, images, images_per_s, wait_ms }
    }
}

impl ServerCost {
    pub(crate) fn new(cpu_seconds: f64, images: u64, core_hour_price: Option<f64>) -> Self {
        let each = cpu_seconds / images.max(1) as f64;
        let per_million_images = core_hour_price.map(|price| each * 1e6 / 3600.0 * price);
        Self { cpu_seconds, cpu_ms_per_image: each * 1e3, per_million_images }
    }
}

impl WaitMs {
    /// Of microseconds.
    pub(crate) fn of(waits: &Histogram<u64>) -> Self {
        let at = |quantile| waits.value_at_quantile(quantile) as f64 / 1e3;
        let max = waits.max() as f64 / 1e3;
        // A histogram says the upper end of a bucket.
        let at = |quantile| at(quantile).min(max);
        Self { p50: at(0.5), p95: at(0.95), p99: at(0.99), p999: at(0.999), max }
    }
}

impl StageTimes {
    pub(crate) fn of(timings: &Timings) -> Self {
        Self {
            queue: timings.queue as f64,
            make: timings.make as f64,
            read: timings.read as f64,
            decode: timings.decode as f64,
            resize: timings.resize as f64,
            augment: timings.augment as f64,
            mix: timings.mix as f64,
            digest: timings.digest as f64,
        }
    }

    /// The stages with their names.
    pub fn stages(&self) -> [(&'static str, f64); 8] {
        let Self { queue, make, read, decode, resize, augment, mix, digest } = *self;
        [
            ("queue (wall)", queue),
            ("make (wall)", make),
            ("read", read),
            ("decode", decode),
            ("resize", resize),
            ("augment", augment),
            ("mix", mix),
            ("digest", digest),
        ]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.queue += other.queue;
        self.make += other.make;
        self.read += other.read;
        self.decode += other.decode;
        self.resize += other.resize;
        self.augment += other.augment;
        self.mix += other.mix;
        self.digest += other.digest;
    }

    fn scaled(mut self, by: f64) -> Self {
        let Self { queue, make, read, decode, resize, augment, mix, digest } = &mut self;
        for time in [queue, make, read, decode, resize, augment, mix, digest] {
            *time *= by;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_thousandth_of_waits_that_occurred() {
        let mut waits = Histogram::new(3).unwrap();
        assert_eq!(WaitMs::of(&waits).max.to_bits(), 0);
        (1..=100_000_u64).for_each(|us| waits.record(us).unwrap());
        let WaitMs { p50, p95, p99, p999, max } = WaitMs::of(&waits);
        for (found, right) in [(p50, 50.0), (p95, 95.0), (p99, 99.0), (p999, 99.9), (max, 100.0)] {
            assert!((found / right - 1.0_f64).abs() < 1.1e-3, "{found} for {right}");
        }
    }

    #[test]
    fn cost_is_cpu_time_by_its_price() {
        let cost = ServerCost::new(36.0, 60_000, Some(0.05));
        assert!((cost.cpu_ms_per_image - 0.6).abs() < 1e-12);
        // 600 core seconds, a sixth of an hour.
        assert!((cost.per_million_images.unwrap() - 0.05 / 6.0).abs() < 1e-12);
    }
}
