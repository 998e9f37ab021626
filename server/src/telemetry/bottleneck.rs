//! The bottleneck between two points in time.
//!
//! - `input_bound`: share of the streams' time in which readers waited for a microbatch to be computed.
//! - `bottleneck`: `clients` if the server waits more for its readers (or the network) than they wait
//!   for it; `storage` if microbatches wait for a bucket while the workers are mostly idle; otherwise the stage with
//!   the most CPU time.
//! - `utilization`: CPU time of the stages over that of all worker threads. At least `input_bound` for as much of
//!   the interval as there were streams, because readers that wait mean that something is in full use, even if it is
//!   a disk.
//! - `replicas`: servers like this one that its readers need. Without waiting they would read
//!   `1 / (1 - input_bound)` times as much, and the target utilization is 80%. A reader that only waits
//!   does not show how fast it could read, so the factor is at most four.

use std::time::{Duration, Instant};

use forebay_types::StageTimes;

use super::stream::WaitTimes;

/// Number of stages.
const STAGES: usize = StageTimes::NAMES.len();

/// Utilization at which a server still has room for bursts.
const TARGET_UTILIZATION: f64 = 0.8;
/// Largest share of waiting that the recommendation uses: a reader that waits longer does not show how
/// fast it could read.
const MAX_INPUT_BOUND: f64 = 0.75;

/// Totals at a point in time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) at: Instant,
    pub(super) cpu: Duration,
    pub(super) microbatches: u64,
    pub(super) samples: u64,
    pub(super) payload_bytes: u64,
    pub(super) stages: [Duration; STAGES],
    pub(super) waits: WaitTimes,
    /// Time that microbatches have waited for their bytes.
    pub(super) storage_wait: Duration,
}

/// The difference of two points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Interval {
    pub(super) seconds: f64,
    pub(super) cpu: f64,
    pub(super) microbatches: u64,
    pub(super) samples: u64,
    pub(super) payload_bytes: u64,
    /// CPU seconds by stage.
    pub(super) stages: [f64; STAGES],
    /// Seconds that readers waited, and that the server waited.
    pub(super) waits: [f64; 2],
    /// Seconds that microbatches waited for their bytes.
    pub(super) storage_wait: f64,
}

/// The assessment of a server over an interval; the fields are defined at the top of this file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Assessment {
    pub(super) input_bound: f64,
    /// A stage, `storage`, `queue`, `clients`, or `none` while nothing is read.
    pub(super) bottleneck: &'static str,
    pub(super) utilization: f64,
    pub(super) replicas: f64,
}

impl Interval {
    pub(super) fn between(before: &Point, after: &Point) -> Self {
        let seconds =
            |later: Duration, earlier: Duration| later.saturating_sub(earlier).as_secs_f64();
        let mut stages = [0.0; STAGES];
        for (stage, (later, earlier)) in
            stages.iter_mut().zip(after.stages.iter().zip(before.stages))
        {
            *stage = seconds(*later, earlier);
        }
        Self {
            seconds: (after.at - before.at).as_secs_f64(),
            cpu: seconds(after.cpu, before.cpu),
            microbatches: after.microbatches - before.microbatches,
            samples: after.samples - before.samples,
            payload_bytes: after.payload_bytes - before.payload_bytes,
            stages,
            waits: [
                seconds(after.waits.reader, before.waits.reader),
                seconds(after.waits.server, before.waits.server),
            ],
            storage_wait: seconds(after.storage_wait, before.storage_wait),
        }
    }

    pub(super) fn per_second(&self, count: u64) -> f64 {
        if self.seconds > 0.0 { count as f64 / self.seconds } else { 0.0 }
    }

    pub(super) fn assess(&self, threads: usize) -> Assessment {
        let [reader, server] = self.waits;
        let waited = reader + server;
        if waited <= 0.0 {
            return Assessment {
                input_bound: 0.0,
                bottleneck: "none",
                utilization: 0.0,
                replicas: 0.0,
            };
        }
        let input_bound = reader / waited;
        let capacity = threads as f64 * self.seconds;
        let busy = self.stages.iter().sum::<f64>() / capacity.max(f64::MIN_POSITIVE);
        let presence = (waited / self.seconds.max(f64::MIN_POSITIVE)).min(1.0);
        let utilization = busy.min(1.0).max(input_bound * presence);
        // On average at least one microbatch waits for its bytes.
        let waits_for_storage = busy < 0.5 && self.storage_wait >= self.seconds;
        let bottleneck = if input_bound <= 0.5 {
            "clients"
        } else if waits_for_storage {
            "storage"
        } else {
            self.longest_stage()
        };
        Assessment {
            input_bound,
            bottleneck,
            utilization,
            replicas: utilization / (1.0 - input_bound.min(MAX_INPUT_BOUND)) / TARGET_UTILIZATION,
        }
    }

    /// The stage with the most CPU time. If no stage has worked, everything waits in the queue.
    fn longest_stage(&self) -> &'static str {
        let longest = StageTimes::NAMES.iter().zip(self.stages).max_by(|a, b| a.1.total_cmp(&b.1));
        longest.filter(|(_, seconds)| *seconds > 0.0).map_or("queue", |(stage, _)| stage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(reader: f64, server: f64, stages: [f64; 6]) -> Interval {
        Interval {
            seconds: 10.0,
            cpu: 1.0,
            microbatches: 5,
            samples: 500,
            payload_bytes: 1,
            stages,
            waits: [reader, server],
            storage_wait: 0.0,
        }
    }

    #[test]
    fn waiting_readers_point_to_the_longest_stage() {
        let found = interval(30.0, 10.0, [1.0, 9.0, 3.0, 2.0, 1.0, 0.5]).assess(2);
        assert_eq!(found.bottleneck, "decode");
        assert!((found.input_bound - 0.75).abs() < 1e-9);
        assert!((found.utilization - 0.825).abs() < 1e-9);
        assert!((found.replicas - 0.825 / 0.25 / 0.8).abs() < 1e-9);
    }

    #[test]
    fn waiting_readers_point_to_storage_if_microbatches_wait_for_it_and_workers_do_not_work() {
        let waiting = |stages, storage_wait| {
            let interval = Interval { storage_wait, ..interval(30.0, 10.0, stages) };
            interval.assess(2).bottleneck
        };
        let idle = [0.1, 1.0, 0.3, 0.2, 0.1, 0.0];
        assert_eq!(waiting(idle, 15.0), "storage");
        assert_eq!(waiting(idle, 5.0), "decode");
        assert_eq!(waiting([1.0, 9.0, 3.0, 2.0, 1.0, 0.5], 15.0), "decode");
    }

    #[test]
    fn readers_that_the_server_waits_for_are_the_bottleneck() {
        let found = interval(1.0, 39.0, [0.1, 3.0, 0.5, 0.3, 0.1, 0.0]).assess(4);
        assert_eq!(found.bottleneck, "clients");
        assert!((found.utilization - 0.1).abs() < 1e-9);
        assert!(found.replicas < 0.15, "{found:?}");
    }

    #[test]
    fn without_readers_there_is_no_bottleneck() {
        let found = interval(0.0, 0.0, [0.0; 6]).assess(4);
        assert_eq!((found.bottleneck, found.replicas), ("none", 0.0));
    }

    #[test]
    fn a_stuck_server_recommends_at_most_five() {
        let found = interval(40.0, 0.0, [0.0; 6]).assess(4);
        assert_eq!(found.bottleneck, "queue");
        assert!((found.replicas - 5.0).abs() < 1e-9);
    }

    #[test]
    fn a_moment_of_waiting_recommends_no_servers() {
        let found = interval(0.1, 0.0, [0.05; 6]).assess(4);
        assert!((found.input_bound - 1.0).abs() < 1e-9 && found.replicas < 0.1, "{found:?}");
    }

    #[test]
    fn rates_are_per_second() {
        assert!((interval(1.0, 1.0, [0.0; 6]).per_second(500) - 50.0).abs() < 1e-9);
    }
}
