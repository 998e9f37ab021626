//! The results of a run, as JSON.

use std::time::Duration;

use forebay_client::{Description, ServerStats};
use serde::Serialize;

use crate::figures::{ServerCost, StageMs, WaitMs};
use crate::plan::Phase;
use crate::received::Received;
use crate::telemetry::{Interval, Kill, Telemetry};

/// The results of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Number of images received by all trainers.
    pub images: u64,
    /// Number of microbatches received.
    pub microbatches: u64,
    /// Number of microbatches that the servers had made before, or made for another trainer or job: they were
    /// answered from a cache, so their time is not that of making them.
    pub microbatches_reused: u64,
    /// Number of steps that each job has read.
    pub steps: u64,
    /// Whether a signal ended the run before its plan.
    pub interrupted: bool,
    /// Number of bytes of pixels received.
    pub bytes: u64,
    /// Wall time from the first connection to the last microbatch.
    pub seconds: f64,
    /// Images per second.
    pub images_per_s: f64,
    /// Pixels per second, in 10^6 bytes.
    pub mb_per_s: f64,
    /// Waits of trainers for a microbatch.
    pub wait_ms: WaitMs,
    /// Longest time that a trainer waited for its first microbatch.
    pub first_microbatch_ms: f64,
    /// CPU time of this process, which receives for all trainers.
    pub cpu_ms_per_image: f64,
    /// CPU time of the servers, if they were started here or their metrics are known.
    pub server: Option<ServerCost>,
    /// The servers' time by stage.
    pub server_ms_per_image: StageMs,
    /// Statistics of each server, as seen by the client.
    pub servers: Vec<ServerStats>,
    /// Number of copies of the job.
    pub jobs: u32,
    /// The phases of the run, in order.
    pub phases: Vec<PhaseReport>,
    /// The kills of servers.
    pub kills: Vec<Kill>,
    /// The options of the run, as names and values.
    pub settings: Vec<(&'static str, String)>,
    /// Digest of the dataset.
    pub dataset_digest: String,
    /// Digest of the recipe.
    pub recipe_digest: String,
    /// Sum of the digests of all microbatches (name, records, targets and pixels), which is the same for
    /// the same job whatever happened during the run.
    pub checksum: String,
    /// Number of microbatches that are equal to those of an undisturbed run, if there was one.
    pub compared: Option<u64>,
    /// Number of microbatches that were lost, repeated, reordered or wrong.
    pub violation_count: u64,
    /// Descriptions of the first violations.
    pub violations: Vec<String>,
    /// Descriptions of the objectives that were missed.
    pub slo_missed: Vec<String>,
    /// Measurements of each second, which are written to the CSV file.
    #[serde(skip)]
    pub intervals: Vec<Interval>,
}

/// The results of a phase.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PhaseReport {
    /// Ranks of each world.
    pub trainers: u32,
    /// Wall time.
    pub seconds: f64,
    /// Number of images received.
    pub images: u64,
    /// Images per second.
    pub images_per_s: f64,
    /// Waits of trainers for a microbatch.
    pub wait_ms: WaitMs,
}

impl Report {
    /// The report of a run that begins.
    pub(crate) fn new(
        jobs: u32,
        settings: Vec<(&'static str, String)>,
        description: &Description,
    ) -> Self {
        Self {
            jobs,
            settings,
            dataset_digest: description.dataset_digest.to_string(),
            recipe_digest: description.recipe_digest.to_string(),
            ..Self::default()
        }
    }

    /// Fills in what was received and measured during the given wall time and CPU time.
    pub(crate) fn fill(
        &mut self,
        received: &Received,
        telemetry: &Telemetry,
        (seconds, cpu): (f64, Duration),
    ) {
        let images = received.images.max(1) as f64;
        (self.wait_ms, self.intervals, self.kills) = telemetry.results();
        self.images = received.images;
        self.microbatches = received.microbatches;
        self.microbatches_reused = received.reused;
        self.bytes = received.bytes;
        self.seconds = seconds;
        self.images_per_s = received.images as f64 / seconds;
        self.mb_per_s = received.bytes as f64 / seconds / 1e6;
        self.first_microbatch_ms = received.first.as_secs_f64() * 1e3;
        self.cpu_ms_per_image = cpu.as_secs_f64() * 1e3 / images;
        self.server_ms_per_image = StageMs::new(&received.server, received.images);
        self.checksum = format!("{:016x}", received.checksum);
    }

    /// Recovery times in milliseconds: the median and the longest time from a kill to the next
    /// microbatch of the first trainer, and the same for the last trainer. `None` without kills.
    pub fn recoveries(&self) -> Option<[f64; 4]> {
        let of = |ms: fn(&Kill) -> Option<f64>| {
            let mut all: Vec<f64> = self.kills.iter().filter_map(ms).collect();
            all.sort_by(f64::total_cmp);
            Some([*all.get(all.len() / 2)?, *all.last()?])
        };
        let ([first, first_max], [last, last_max]) =
            (of(|kill| kill.next_ms)?, of(|kill| kill.all_next_ms)?);
        Some([first, first_max, last, last_max])
    }
}

impl PhaseReport {
    pub(crate) fn new(phase: Phase, received: &Received, took: Duration, wait_ms: WaitMs) -> Self {
        let (images, seconds) = (received.images, took.as_secs_f64());
        let images_per_s = images as f64 / seconds;
        Self { trainers: phase.trainers, seconds, images, images_per_s, wait_ms }
    }
}
