//! The results of a run as a table of text.

use std::fmt;

use crate::figures::ServerCost;
use crate::report::Report;

impl Report {
    /// The rows of the table: names and values.
    pub fn rows(&self) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        let trainers: Vec<String> = self.phases.iter().map(|p| p.trainers.to_string()).collect();
        row("trainers", format!("{} x {} jobs", trainers.join(", then "), self.jobs));
        row("images", format!("{} in {} microbatches", self.images, self.microbatches));
        if self.microbatches_reused > 0 {
            let share = 100.0 * self.microbatches_reused as f64 / self.microbatches.max(1) as f64;
            row(
                "from a cache",
                format!("{share:.0} % of microbatches; another --seed has them made"),
            );
        }
        let interrupted = if self.interrupted { ", then interrupted by a signal" } else { "" };
        row("time", format!("{:.2} s{interrupted}", self.seconds));
        row("images/s", format!("{:.0}", self.images_per_s));
        row("MB/s", format!("{:.1}", self.mb_per_s));
        row("first microbatch", format!("{:.0} ms", self.first_microbatch_ms));
        row("wait", self.wait_ms.to_string());
        row("client CPU per image", format!("{:.3} ms", self.cpu_ms_per_image));
        if let Some(ServerCost { cpu_seconds, images_sent, cpu_ms_per_image, per_million_images }) =
            self.server
        {
            let value =
                format!("{cpu_ms_per_image:.3} ms, {cpu_seconds:.1} s for {images_sent} sent");
            row("server CPU per image", value);
            if let Some(cost) = per_million_images {
                row("cost", format!("{cost:.4} per million images"));
            }
        }
        for (name, ms) in &self.server_ms_per_image.0 {
            let wall = if ["queue", "make"].contains(name) { " (wall)" } else { "" };
            row(&format!("server {name}{wall}"), format!("{ms:.3} ms per image"));
        }
        if self.servers.len() > 1 {
            for server in &self.servers {
                row("server", server.to_string());
            }
        }
        row("checksum", self.checksum.clone());
        if let Some([first, first_max, last, last_max]) = self.recoveries() {
            row("kills", self.kills.len().to_string());
            row("first recovery", format!("p50 {first:.0}, max {first_max:.0} ms to a microbatch"));
            row("full recovery", format!("p50 {last:.0}, max {last_max:.0} ms for all trainers"));
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

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rows().iter().try_for_each(|(name, value)| writeln!(f, "{name:<24}{value}"))
    }
}
