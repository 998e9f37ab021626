//! Objectives that a run must meet.

use std::time::Duration;

use forebay_types::settings::TimeSpan;

use crate::report::Report;

/// The objectives of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slo {
    /// Longest 99th percentile of the waits.
    pub p99_wait: Option<Duration>,
    /// Lowest throughput over the whole run, in images per second.
    pub images_per_second: Option<f64>,
}

impl Slo {
    /// Descriptions of the objectives that a run missed.
    fn missed(&self, report: &Report) -> Vec<String> {
        let mut missed = Vec::new();
        let p99 = report.wait_ms.p99;
        if let Some(max) = self.p99_wait.filter(|max| p99 > max.as_secs_f64() * 1e3) {
            missed.push(format!("p99 wait of {p99:.1} ms, expected at most {}", TimeSpan(max)));
        }
        let rate = report.images_per_s;
        if let Some(min) = self.images_per_second.filter(|min| rate < *min) {
            missed.push(format!("{rate:.0} images/s, expected at least {min}"));
        }
        missed
    }
}

impl Report {
    /// Records the objectives that were missed.
    pub fn judge(&mut self, slo: &Slo) {
        self.slo_missed = slo.missed(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::WaitMs;

    #[test]
    fn an_objective_is_missed_by_a_worse_figure_only() {
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
