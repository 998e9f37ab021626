//! The figures that reports are made of.

use std::fmt;
use std::time::Duration;

use forebay_client::Timings;
use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};

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
    /// Images that the servers sent. Trainers may not have taken the last of them, or received some twice.
    pub images_sent: u64,
    /// CPU time per image sent.
    pub cpu_ms_per_image: f64,
    /// Cost of a million images, if the price of a core is known.
    pub per_million_images: Option<f64>,
}

/// The servers' time per image by stage, in milliseconds: wall time of `queue` and `make`, CPU time of the
/// other stages.
#[derive(Clone, Debug, Default)]
pub struct StageMs(pub Vec<(&'static str, f64)>);

impl ServerCost {
    pub(crate) fn new(cpu_seconds: f64, images_sent: u64, core_hour_price: Option<f64>) -> Self {
        let per_image = cpu_seconds / images_sent.max(1) as f64;
        let per_million_images = core_hour_price.map(|price| per_image * 1e6 / 3600.0 * price);
        Self { cpu_seconds, images_sent, cpu_ms_per_image: per_image * 1e3, per_million_images }
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

impl StageMs {
    /// The times of a number of images, per image.
    pub(crate) fn new(sum: &Timings, images: u64) -> Self {
        let per_image = |time: Duration| time.as_secs_f64() * 1e3 / images.max(1) as f64;
        Self(sum.named().map(|(name, time)| (name, per_image(time))).collect())
    }
}

/// A map, in the order of the stages.
impl Serialize for StageMs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
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

    #[test]
    fn stages_are_milliseconds_per_image_in_pipeline_order() {
        let queue = Duration::from_millis(30);
        let sum = Timings { queue, ..Timings::default() };
        let json = serde_json::to_string(&StageMs::new(&sum, 20)).unwrap();
        assert!(json.starts_with(r#"{"queue":1.5,"make":0.0,"read":0.0,"#), "{json}");
    }
}
