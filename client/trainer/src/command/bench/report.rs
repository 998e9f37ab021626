//! What `forebay-trainer bench` prints, and writes as JSON.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use crate::backend::device::TrainDevice;
use crate::backend::precision::Precision;
use crate::command::cli::BenchArgs;

/// All measurements. The JSON form is documented and stable.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    version: &'static str,
    device: String,
    model: String,
    classes: u64,
    /// CPU threads.
    threads: usize,
    runs: Vec<Run>,
}

/// The measurement of one combination.
#[derive(Debug, Serialize)]
pub(super) struct Run {
    batch: usize,
    image_size: usize,
    precision: Precision,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Outcome {
    Measured(Measured),
    Failed { error: String },
}

/// The times of steps.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Measured {
    /// Steps that were measured.
    pub(super) steps: u64,
    /// Time of a step.
    pub(super) step_ms: Quartiles,
    /// Images per second at the median.
    pub(crate) images_per_s: f64,
    /// CPU time of the process for a step, the median.
    pub(super) cpu_ms: f64,
    /// Time until the host has queued all work of a step, the median. On the CPU it is that of the step.
    pub(super) queued_ms: f64,
}

/// Quartiles in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Quartiles {
    lower: f64,
    pub(super) median: f64,
    upper: f64,
}

impl Quartiles {
    pub(super) fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let at = |quarter| {
            let time: Duration = times.get(times.len() * quarter / 4).copied().unwrap_or_default();
            time.as_secs_f64() * 1e3
        };
        Self { lower: at(1), median: at(2), upper: at(3) }
    }
}

impl Run {
    pub(super) fn new(
        batch: usize,
        image_size: usize,
        precision: Precision,
        measured: anyhow::Result<Measured>,
    ) -> Self {
        let outcome = match measured {
            Ok(measured) => Outcome::Measured(measured),
            Err(error) => Outcome::Failed { error: format!("{error:#}") },
        };
        Self { batch, image_size, precision, outcome }
    }
}

impl Report {
    pub(super) fn new(args: &BenchArgs, device: TrainDevice) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            device: device.to_string(),
            model: args.model.clone(),
            classes: args.classes.get(),
            threads: rayon::current_num_threads(),
            runs: Vec::new(),
        }
    }

    /// Adds a run. Returns it in words.
    pub(super) fn add(&mut self, run: Run) -> String {
        let what = format!(
            "{} on {}, {} px, batch {}, {}",
            self.model,
            self.device,
            run.image_size,
            run.batch,
            run.precision.name()
        );
        let text = match &run.outcome {
            Outcome::Failed { error } => format!("{what}: {error}"),
            Outcome::Measured(Measured { step_ms, images_per_s, cpu_ms, queued_ms, .. }) => {
                format!(
                    "{what}: {images_per_s:.1} images/s; step {:.2} ms (quartiles {:.2} and {:.2}), queued in {queued_ms:.2} \
                     ms, {cpu_ms:.2} ms of CPU time on {} threads",
                    step_ms.median, step_ms.lower, step_ms.upper, self.threads
                )
            }
        };
        self.runs.push(run);
        text
    }

    /// Whether every run was measured.
    pub(super) fn complete(&self) -> bool {
        self.runs.iter().all(|run| matches!(run.outcome, Outcome::Measured(_)))
    }

    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_of_few_times_are_times() {
        let of = |times: &[u64]| {
            let Quartiles { lower, median, upper } =
                Quartiles::of(times.iter().map(|&ms| Duration::from_millis(ms)).collect());
            [lower, median, upper].map(|ms| format!("{ms:.0}"))
        };
        assert_eq!(of(&[7]), ["7", "7", "7"]);
        assert_eq!(of(&[5, 1]), ["1", "5", "5"]);
        assert_eq!(of(&[4, 2, 1, 3]), ["2", "3", "4"]);
    }
}
