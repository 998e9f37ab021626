//! What a run amounts to, as a table and as JSON.

use std::fmt;
use std::time::Duration;

use forebay_client::{Description, Timings};
use serde::Serialize;

use crate::Options;
use crate::trainer::Received;

/// The figures of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Samples received, over all trainers.
    pub images: u64,
    /// Microbatches received.
    pub microbatches: u64,
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
    /// What the servers say of their own time.
    pub server_ms_per_image: StageTimes,
    /// Ranks of a world.
    pub trainers: u32,
    /// Copies of the world.
    pub jobs: u32,
    /// Digest of the dataset.
    pub dataset_digest: String,
    /// Digest of the recipe.
    pub recipe_digest: String,
    /// The sum of a hash of every microbatch's name, records, targets and pixels: the same for the
    /// same job, whatever happened on the way.
    pub checksum: String,
    /// What was wrong. Empty: nothing.
    pub violations: Vec<String>,
}

/// Quantiles in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct WaitMs {
    /// Half of the waits were no longer.
    pub p50: f64,
    /// 95 in 100.
    pub p95: f64,
    /// 99 in 100.
    pub p99: f64,
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
    pub(crate) fn new(
        options: &Options,
        description: &Description,
        received: Received,
        violations: Vec<String>,
        (seconds, cpu): (f64, Duration),
    ) -> Self {
        let images = received.images.max(1) as f64;
        Self {
            images: received.images,
            microbatches: received.microbatches,
            bytes: received.bytes,
            seconds,
            images_per_s: received.images as f64 / seconds,
            mb_per_s: received.bytes as f64 / seconds / 1e6,
            wait_ms: WaitMs::of(received.waits),
            first_microbatch_ms: received.first.as_secs_f64() * 1e3,
            cpu_ms_per_image: cpu.as_secs_f64() * 1e3 / images,
            server_ms_per_image: received.server.scaled(1e-3 / images),
            trainers: options.trainers,
            jobs: options.jobs,
            dataset_digest: description.dataset_digest.to_string(),
            recipe_digest: description.recipe_digest.to_string(),
            checksum: format!("{:016x}", received.checksum),
            violations,
        }
    }
}

impl WaitMs {
    /// Of microseconds.
    fn of(mut waits: Vec<u32>) -> Self {
        waits.sort_unstable();
        let at = |percent: usize| {
            let rank = (waits.len() * percent).div_ceil(100).saturating_sub(1);
            waits.get(rank).map_or(0.0, |us| f64::from(*us) / 1e3)
        };
        Self { p50: at(50), p95: at(95), p99: at(99), max: at(100) }
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

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WaitMs { p50, p95, p99, max } = self.wait_ms;
        let row = |f: &mut fmt::Formatter<'_>, name: &str, value: String| {
            writeln!(f, "{name:<24}{value}")
        };
        row(f, "trainers", format!("{} x {} jobs", self.trainers, self.jobs))?;
        row(f, "images", format!("{} in {} microbatches", self.images, self.microbatches))?;
        row(f, "time", format!("{:.2} s", self.seconds))?;
        row(f, "images/s", format!("{:.0}", self.images_per_s))?;
        row(f, "MB/s", format!("{:.1}", self.mb_per_s))?;
        row(f, "first microbatch", format!("{:.0} ms", self.first_microbatch_ms))?;
        let waits = format!("p50 {p50:.1}, p95 {p95:.1}, p99 {p99:.1}, max {max:.1} ms");
        row(f, "wait", waits)?;
        row(f, "client CPU per image", format!("{:.3} ms", self.cpu_ms_per_image))?;
        for (name, ms) in self.server_ms_per_image.stages() {
            row(f, &format!("server {name}"), format!("{ms:.3} ms per image"))?;
        }
        row(f, "checksum", self.checksum.clone())?;
        if self.violations.is_empty() {
            return row(f, "violations", "none".into());
        }
        self.violations.iter().try_for_each(|violation| row(f, "violation", violation.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_waits_that_occurred() {
        let WaitMs { p50, p95, p99, max } = WaitMs::of((1..=1000).rev().collect());
        assert_eq!(format!("{p50} {p95} {p99} {max}"), "0.5 0.95 0.99 1");
        assert_eq!(WaitMs::of(vec![3000]).p50.to_bits(), 3.0_f64.to_bits());
        assert_eq!(WaitMs::of(vec![]).max.to_bits(), 0);
    }
}
