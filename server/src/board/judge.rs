//! Who holds up whom, from two points in time.
//!
//! - `input_bound`: the part of the streams' time in which readers waited for a microbatch to be made.
//! - `bottleneck`: `clients` where readers (or the network) are waited for more than they wait; else
//!   the stage that takes most CPU time.
//! - `utilization`: CPU time of the stages over that of all threads; at least `input_bound`, because
//!   somebody who waits means that all is in use, be it a disk.
//! - `replicas`: how many servers like this one its readers need. Without waiting they would read
//!   `1 / (1 - input_bound)` times as much, and servers are to be in use to 80 %. A reader who only
//!   waits does not show what he could read, so at most four times as much is taken.

use std::time::{Duration, Instant};

use super::seat::Waits;

/// Names of the stages, in pipeline order.
pub(crate) const STAGES: [&str; 6] = ["read", "decode", "resize", "augment", "mix", "digest"];

/// Servers are to be in use to this part.
const TARGET: f64 = 0.8;
/// The most of a reader's time that is taken for waiting.
const MOST_WAITING: f64 = 0.75;

/// All that was done until some time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) at: Instant,
    /// CPU time of the process.
    pub(crate) cpu: Duration,
    pub(crate) microbatches: u64,
    pub(crate) samples: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) stages: [Duration; STAGES.len()],
    pub(crate) waits: Waits,
}

/// What happened between two points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Recent {
    pub(crate) seconds: f64,
    pub(crate) cpu: f64,
    pub(crate) microbatches: u64,
    pub(crate) samples: u64,
    pub(crate) payload_bytes: u64,
    /// CPU seconds by stage.
    pub(crate) stages: [f64; STAGES.len()],
    /// Seconds that readers waited, and that the server did.
    pub(crate) waits: [f64; 2],
}

/// The judgement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) input_bound: f64,
    /// A stage, `clients`, or `none` while nothing is asked for.
    pub(crate) bottleneck: &'static str,
    pub(crate) utilization: f64,
    pub(crate) replicas: f64,
}

impl Recent {
    pub(crate) fn between(before: &Point, after: &Point) -> Self {
        let seconds =
            |later: Duration, earlier: Duration| later.saturating_sub(earlier).as_secs_f64();
        let mut stages = [0.0; STAGES.len()];
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
        }
    }

    /// So many a second.
    pub(crate) fn rate(&self, count: u64) -> f64 {
        if self.seconds > 0.0 { count as f64 / self.seconds } else { 0.0 }
    }

    pub(crate) fn judge(&self, threads: usize) -> Verdict {
        let [reader, server] = self.waits;
        let waited = reader + server;
        if waited <= 0.0 {
            return Verdict {
                input_bound: 0.0,
                bottleneck: "none",
                utilization: 0.0,
                replicas: 0.0,
            };
        }
        let input_bound = reader / waited;
        let capacity = threads as f64 * self.seconds;
        let busy = self.stages.iter().sum::<f64>() / capacity.max(f64::MIN_POSITIVE);
        let utilization = busy.min(1.0).max(input_bound);
        Verdict {
            input_bound,
            bottleneck: if input_bound > 0.5 { self.longest() } else { "clients" },
            utilization,
            replicas: utilization / (1.0 - input_bound.min(MOST_WAITING)) / TARGET,
        }
    }

    /// The stage that took most; without any, the queue in which all wait.
    fn longest(&self) -> &'static str {
        let longest = STAGES.iter().zip(self.stages).max_by(|a, b| a.1.total_cmp(&b.1));
        longest.filter(|(_, seconds)| *seconds > 0.0).map_or("queue", |(stage, _)| stage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recent(reader: f64, server: f64, stages: [f64; 6]) -> Recent {
        Recent {
            seconds: 10.0,
            cpu: 1.0,
            microbatches: 5,
            samples: 500,
            payload_bytes: 1,
            stages,
            waits: [reader, server],
        }
    }

    #[test]
    fn readers_who_wait_point_to_the_longest_stage() {
        let verdict = recent(30.0, 10.0, [1.0, 9.0, 3.0, 2.0, 1.0, 0.5]).judge(2);
        assert_eq!(verdict.bottleneck, "decode");
        assert!((verdict.input_bound - 0.75).abs() < 1e-9);
        assert!((verdict.utilization - 0.825).abs() < 1e-9);
        assert!((verdict.replicas - 0.825 / 0.25 / 0.8).abs() < 1e-9);
    }

    #[test]
    fn readers_who_are_waited_for_are_the_bottleneck() {
        let verdict = recent(1.0, 39.0, [0.1, 3.0, 0.5, 0.3, 0.1, 0.0]).judge(4);
        assert_eq!(verdict.bottleneck, "clients");
        assert!((verdict.utilization - 0.1).abs() < 1e-9);
        assert!(verdict.replicas < 0.15, "{verdict:?}");
    }

    #[test]
    fn nobody_reads_nothing_holds_up() {
        let verdict = recent(0.0, 0.0, [0.0; 6]).judge(4);
        assert_eq!((verdict.bottleneck, verdict.replicas), ("none", 0.0));
    }

    #[test]
    fn a_server_that_is_stuck_asks_for_no_more_than_five() {
        let verdict = recent(40.0, 0.0, [0.0; 6]).judge(4);
        assert_eq!(verdict.bottleneck, "queue");
        assert!((verdict.replicas - 5.0).abs() < 1e-9);
    }

    #[test]
    fn rates_are_per_second() {
        assert!((recent(1.0, 1.0, [0.0; 6]).rate(500) - 50.0).abs() < 1e-9);
    }
}
