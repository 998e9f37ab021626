//! What a run amounts to, as a table and as JSON.

use std::fmt;
use std::time::Duration;

use forebay_client::{Description, RecipeRef, Timings};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::live::{Interval, Kill, Live};
use crate::plan::{Pace, Phase, StepTime};
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

/// A run's options in words, those that are set.
fn settings(options: &Options, description: &Description) -> Vec<(&'static str, String)> {
    let recipe = match &options.job.recipe {
        RecipeRef::Name(name) => name.clone(),
        RecipeRef::Toml(_) => "from a file".into(),
    };
    let plan: Vec<String> = options.phases().iter().map(ToString::to_string).collect();
    let pace = match options.pace {
        Pace::Free => "as fast as they can".to_owned(),
        Pace::Step(StepTime { mean, jitter }) => {
            format!("{mean:?} a microbatch, up to {:.0} % more or less", jitter * 100.0)
        }
        Pace::Rate(rate) => format!("{rate} images/s by the clock"),
    };
    let Description { batch, microbatches, image_size, .. } = description;
    let client = &options.client;
    let mut settings = vec![
        ("servers", client.endpoints.join(", ")),
        ("dataset", format!("{} ({} records)", options.job.dataset, description.records)),
        (
            "recipe",
            format!(
                "{recipe}, {batch} images in {microbatches} microbatches a step, {image_size} pixels"
            ),
        ),
        ("seed", options.job.seed.to_string()),
        (
            "pixels",
            format!("{}, {}, mixed by the {}", client.dtype, client.layout, client.mixed_by),
        ),
        ("plan (trainers x length)", plan.join(", ")),
        ("jobs", options.jobs.to_string()),
        ("trainers read", pace),
        ("received ahead", format!("{} MiB a trainer", client.prefetch_bytes >> 20)),
    ];
    if options.slow_readers > 0 {
        settings.push(("slow readers", options.slow_readers.to_string()));
    }
    if let Some(every) = options.reconnect_every {
        settings.push(("all reconnect every", format!("{every:?}")));
    }
    if let Some(spawn) = &options.spawn {
        let arguments: Vec<_> = spawn.arguments.iter().map(|word| word.to_string_lossy()).collect();
        settings.push(("servers started with", arguments.join(" ")));
        if let Some(every) = spawn.kill_every {
            settings.push(("kill -9 every", format!("{every:?}, seed {}", spawn.seed)));
        }
    }
    settings.push(("version", env!("CARGO_PKG_VERSION").into()));
    settings
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

impl Report {
    /// The figures with their names, as people read them.
    pub fn rows(&self) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        let trainers: Vec<String> = self.phases.iter().map(|p| p.trainers.to_string()).collect();
        row("trainers", format!("{} x {} jobs", trainers.join(", then "), self.jobs));
        row("images", format!("{} in {} microbatches", self.images, self.microbatches));
        row("time", format!("{:.2} s", self.seconds));
        row("images/s", format!("{:.0}", self.images_per_s));
        row("MB/s", format!("{:.1}", self.mb_per_s));
        row("first microbatch", format!("{:.0} ms", self.first_microbatch_ms));
        row("wait", self.wait_ms.to_string());
        row("client CPU per image", format!("{:.3} ms", self.cpu_ms_per_image));
        if let Some(ServerCost { cpu_seconds, cpu_ms_per_image, per_million_images }) = self.server
        {
            let value = format!("{cpu_ms_per_image:.3} ms, {cpu_seconds:.1} s in all");
            row("server CPU per image", value);
            if let Some(cost) = per_million_images {
                row("cost", format!("{cost:.4} per million images"));
            }
        }
        for (name, ms) in self.server_ms_per_image.stages() {
            row(&format!("server {name}"), format!("{ms:.3} ms per image"));
        }
        row("checksum", self.checksum.clone());
        if let Some([one, one_most, all, all_most]) = self.recoveries() {
            row("kills", self.kills.len().to_string());
            let some =
                format!("p50 {one:.0}, max {one_most:.0} ms until a trainer's next microbatch");
            row("after a kill", some);
            row("", format!("p50 {all:.0}, max {all_most:.0} ms until every trainer's"));
        }
        if let Some(compared) = self.compared {
            row(
                "undisturbed run",
                format!(
                    "{compared} of {} microbatches equal",
                    self.microbatches / u64::from(self.jobs.max(1))
                ),
            );
        }
        if self.violation_count == 0 {
            row("violations", "none".into());
        }
        for violation in &self.violations {
            row("violation", violation.clone());
        }
        let more = self.violation_count.saturating_sub(self.violations.len() as u64);
        if more > 0 {
            row("violations", format!("and {more} more"));
        }
        for missed in &self.slo_missed {
            row("objective missed", missed.clone());
        }
        rows
    }
}

impl fmt::Display for WaitMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p95, p99, p999, max } = self;
        write!(f, "p50 {p50:.1}, p95 {p95:.1}, p99 {p99:.1}, p99.9 {p999:.1}, max {max:.1} ms")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rows().iter().try_for_each(|(name, value)| writeln!(f, "{name:<24}{value}"))
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
