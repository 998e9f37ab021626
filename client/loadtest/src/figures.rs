//! The figures that reports are made of.

use std::fmt;

use forebay_client::Timings;
use hdrhistogram::Histogram;
use serde::Serialize;

/// Quantiles of waits in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct WaitMs {
    /// The median.
    pub p50: f64,
    /// The 95th percentile.
    pub p95: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The 99.9th percentile.
    pub p999: f64,
    /// The longest wait.
    pub max: f64,
}

/// CPU time of the servers.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ServerCost {
    /// CPU seconds of all servers.
    pub cpu_seconds: f64,
    /// CPU time per received image.
    pub cpu_ms_per_image: f64,
    /// Cost of a million images, if the price of a core is known.
    pub per_million_images: Option<f64>,
}

/// The servers' time by stage. `queue` and `make` are wall time, the others are CPU time.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct StageTimes {
    /// Waiting for a buffer and for workers.
    pub queue: f64,
    /// From the start of the first worker to the end of the last one.
    pub make: f64,
    /// Reading records.
    pub read: f64,
    /// Decoding.
    pub decode: f64,
    /// Cropping and resizing.
    pub resize: f64,
    /// Flip and augmentation.
    pub augment: f64,
    /// Mixing and normalizing.
    pub mix: f64,
    /// Hashing the payload.
    pub digest: f64,
}

impl ServerCost {
    pub(crate) fn new(cpu_seconds: f64, images: u64, core_hour_price: Option<f64>) -> Self {
        let per_image = cpu_seconds / images.max(1) as f64;
        let per_million_images = core_hour_price.map(|price| per_image * 1e6 / 3600.0 * price);
        Self { cpu_seconds, cpu_ms_per_image: per_image * 1e3, per_million_images }
    }
}

impl WaitMs {
    /// The quantiles of a histogram of microseconds.
    pub(crate) fn of(waits: &Histogram<u64>) -> Self {
        let at = |quantile| waits.value_at_quantile(quantile) as f64 / 1e3;
        let max = waits.max() as f64 / 1e3;
        // A histogram returns the upper end of a bucket.
        let at = |quantile| at(quantile).min(max);
        Self { p50: at(0.5), p95: at(0.95), p99: at(0.99), p999: at(0.999), max }
    }
}

impl fmt::Display for WaitMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p95, p99, p999, max } = self;
        write!(f, "p50 {p50:.1}, p95 {p95:.1}, p99 {p99:.1}, p99.9 {p999:.1}, max {max:.1} ms")
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

    pub(crate) fn scaled(mut self, by: f64) -> Self {
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
    fn quantiles_are_within_a_thousandth_of_the_recorded_waits() {
        let mut waits = Histogram::new(3).unwrap();
        assert_eq!(WaitMs::of(&waits).max.to_bits(), 0);
        (1..=100_000_u64).for_each(|us| waits.record(us).unwrap());
        let WaitMs { p50, p95, p99, p999, max } = WaitMs::of(&waits);
        for (found, right) in [(p50, 50.0), (p95, 95.0), (p99, 99.0), (p999, 99.9), (max, 100.0)] {
            assert!((found / right - 1.0_f64).abs() < 1.1e-3, "{found} for {right}");
        }
    }

    #[test]
    fn cost_is_cpu_time_times_its_price() {
        let cost = ServerCost::new(36.0, 60_000, Some(0.05));
        assert!((cost.cpu_ms_per_image - 0.6).abs() < 1e-12);
        // 600 core seconds are a sixth of an hour.
        assert!((cost.per_million_images.unwrap() - 0.05 / 6.0).abs() < 1e-12);
    }
}
