//! A run in words: its figures, and what it was asked to do.

use std::fmt;

use forebay_client::{Description, RecipeRef};

use crate::Options;
use crate::plan::{Pace, StepTime};
use crate::report::{Report, ServerCost, WaitMs};

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
        if self.servers.len() > 1 {
            for server in &self.servers {
                row("server", server.to_string());
            }
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

/// A run's options in words, those that are set.
pub(crate) fn settings(
    options: &Options,
    description: &Description,
) -> Vec<(&'static str, String)> {
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
