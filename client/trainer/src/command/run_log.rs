//! Reports of a run: `log.jsonl`, `summary.csv`, TensorBoard events, `curves.html`, and what it says.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use forebay_types::{Cursor, file};
use serde_json::{Value, json};

use super::progress::Progress;
use super::summary::Summary;
use crate::accuracy::Accuracy;
use crate::checkpoint;
use crate::curves::Curves;
use crate::events::EventWriter;
use crate::training_loop::StepReport;

/// The log of a run.
pub(crate) struct RunLog {
    folder: PathBuf,
    file: File,
    events: EventWriter,
    progress: Progress,
    steps_per_epoch: u64,
    epochs: u64,
    curves: Curves,
    summary: Summary,
    /// The updates after which the model was evaluated.
    evaluated: BTreeSet<u64>,
}

const EVENTS: &str = "cannot write TensorBoard events";

impl RunLog {
    /// Opens the log of a run that starts at a cursor. A resumed run keeps the lines up to the cursor. It
    /// removes those after it, which an earlier run wrote after its last checkpoint.
    pub(crate) fn open(
        folder: &Path,
        cursor: Cursor,
        (steps_per_epoch, epochs): (u64, u64),
        log_interval: u64,
    ) -> anyhow::Result<Self> {
        let path = folder.join("log.jsonl");
        let start = cursor.epoch * steps_per_epoch + cursor.step;
        let before = match file::read_to_string(&path, u64::MAX) {
            _ if start == 0 => String::new(),
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let parsed = before.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let kept: Vec<Value> =
            parsed.filter(|line| line["update"].as_u64().is_some_and(|u| u <= start)).collect();
        // Replaced in one step, so that a run which is killed here loses no line.
        let mut lines = Vec::new();
        for line in &kept {
            writeln!(lines, "{line}")?;
        }
        checkpoint::replace_file(&path, &lines)?;
        let file = File::options().append(true).open(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        let tensorboard = folder.join("tensorboard");
        let events = EventWriter::create(&tensorboard, start)
            .with_context(|| format!("cannot write to {}", tensorboard.display()))?;
        let mut log = Self {
            folder: folder.to_owned(),
            file,
            events,
            progress: Progress::new(start, steps_per_epoch, epochs, log_interval),
            steps_per_epoch,
            epochs,
            curves: Curves::default(),
            summary: Summary::new(steps_per_epoch),
            evaluated: BTreeSet::new(),
        };
        for line in &kept {
            log.add(line);
        }
        log.summarize(cursor)?;
        Ok(log)
    }

    /// Records a step.
    pub(crate) fn step(&mut self, report: &StepReport) -> anyhow::Result<()> {
        let update = report.epoch * self.steps_per_epoch + report.step + 1;
        let mut line = serde_json::to_value(report)?;
        line["update"] = update.into();
        self.line(&line)?;
        let values = [
            ("train/loss", report.loss),
            ("train/gradient_norm", report.grad_norm),
            ("train/learning_rate", report.lr),
            ("time/images_per_second", report.samples as f64 / report.step_seconds),
            ("time/data_wait_share", report.data_wait_seconds / report.step_seconds),
        ];
        self.events.scalars(update, &values).context(EVENTS)?;
        self.progress.step(update, report);
        Ok(())
    }

    /// Whether the model was evaluated after this many updates.
    pub(crate) fn has_evaluation(&self, update: u64) -> bool {
        self.evaluated.contains(&update)
    }

    /// Waits until the log is on disk, which is then not behind a checkpoint.
    pub(crate) fn sync(&self) -> anyhow::Result<()> {
        self.file.sync_data().with_context(|| self.cannot_write())
    }

    fn cannot_write(&self) -> String {
        format!("cannot write {}", self.folder.join("log.jsonl").display())
    }

    /// Records an evaluation.
    pub(crate) fn evaluation(
        &mut self,
        update: u64,
        name: &str,
        accuracy: &Accuracy,
    ) -> anyhow::Result<()> {
        let (top1, top5) = (accuracy.top1_rate(), accuracy.top5_rate());
        let (loss, samples) = (accuracy.loss(), accuracy.samples);
        let line = json!({
            "update": update, "evaluation": name, "samples": samples, "top1": top1, "top5": top5, "loss": loss
        });
        self.line(&line)?;
        for (figure, value) in [("top1", top1), ("top5", top5), ("loss", loss)] {
            let tag = format!("{name}/{figure}");
            self.events.scalars(update, &[(&tag, value)]).context(EVENTS)?;
        }
        let [top1, top5] = [top1, top5].map(|share| 100.0 * share);
        let text = format!(
            "{name}: top-1 {top1:.2} %, top-5 {top5:.2} %, loss {loss:.4} of {samples} images"
        );
        self.progress.say(&text, "evaluation", line);
        Ok(())
    }

    /// Records a checkpoint.
    pub(crate) fn checkpoint(&self, path: &Path) {
        // On a terminal the lines would push away what is of interest there.
        if !self.progress.has_bar() {
            let path = path.display().to_string();
            self.progress.say(&format!("checkpoint: {path}"), "checkpoint", json!({"path": path}));
        }
    }

    /// Prints a line above the progress bar, or to standard output without a terminal.
    pub(crate) fn print(&self, text: &str) {
        self.progress.say(text, "message", json!({"text": text}));
    }

    /// Writes `summary.csv` with the epochs before a cursor.
    pub(crate) fn summarize(&self, next: Cursor) -> anyhow::Result<()> {
        let csv = self.summary.to_csv(next.epoch);
        Ok(checkpoint::replace_file(&self.folder.join("summary.csv"), csv.as_bytes())?)
    }

    /// Writes the page with the curves. Returns the path of the file.
    pub(crate) fn draw(&self) -> anyhow::Result<PathBuf> {
        let path = self.folder.join("curves.html");
        let page = self.curves.page(self.epochs * self.steps_per_epoch);
        std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    fn line(&mut self, line: &Value) -> anyhow::Result<()> {
        let written = writeln!(self.file, "{line}");
        written.with_context(|| self.cannot_write())?;
        self.add(line);
        Ok(())
    }

    fn add(&mut self, line: &Value) {
        self.curves.add(line);
        self.summary.add(line);
        self.evaluated.extend(line["update"].as_u64().filter(|_| line["evaluation"].is_string()));
    }
}
