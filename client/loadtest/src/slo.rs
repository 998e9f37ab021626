//! Objectives that a run must meet.

use std::time::Duration;

use crate::Report;

/// What a run is held to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slo {
    /// The longest that 99 in 100 microbatches may be waited for.
    pub p99_wait: Option<Duration>,
    /// The fewest images a second, over the whole run.
    pub images_per_second: Option<f64>,
}

impl Slo {
    /// The objectives that a run missed, in words.
    pub fn missed(&self, report: &Report) -> Vec<String> {
        let mut missed = Vec::new();
        let p99 = report.wait_ms.p99;
        if let Some(most) = self.p99_wait.filter(|most| p99 > most.as_secs_f64() * 1e3) {
            missed.push(format!("p99 wait {p99:.1} ms, allowed are {most:?}"));
        }
        let rate = report.images_per_s;
        if let Some(least) = self.images_per_second.filter(|least| rate < *least) {
            missed.push(format!("{rate:.0} images/s, at least {least} are asked for"));
        }
        missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WaitMs;

    #[test]
    fn objectives_are_missed_by_what_is_worse() {
        let wait_ms = WaitMs { p99: 120.0, ..WaitMs::default() };
        let report = Report { wait_ms, images_per_s: 900.0, ..Report::default() };
        let missed = |ms, rate| {
            let p99_wait = Some(Duration::from_millis(ms));
            Slo { p99_wait, images_per_second: Some(rate) }.missed(&report).len()
        };
        assert_eq!([missed(120, 900.0), missed(119, 900.0), missed(119, 901.0)], [0, 1, 2]);
        assert!(Slo::default().missed(&report).is_empty());
    }
}
