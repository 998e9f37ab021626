//! Reports of a run: `log.jsonl`, TensorBoard events, `curves.html` and a progress bar.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::accuracy::Accuracy;
use crate::checkpoint;
use crate::curves::Curves;
use crate::events::EventWriter;
use crate::training_loop::StepReport;
use anyhow::Context as _;
use forebay_types::{Cursor, file};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

/// The log of a run.
pub(crate) struct RunLog {
    folder: PathBuf,
    file: File,
    events: EventWriter,
    bar: ProgressBar,
    steps_per_epoch: u64,
    epochs: u64,
    /// When the last line about progress was printed, where there is no bar.
    printed: Instant,
    curves: Curves,
    /// The updates after which the model was evaluated.
    evaluated: BTreeSet<u64>,
}

/// Longest time without a line about progress, where there is no bar: in the log of a pod, for example.
const PRINT_INTERVAL: Duration = Duration::from_mins(1);

const EVENTS: &str = "cannot write TensorBoard events";

impl RunLog {
    /// Opens the log of a run that starts at a cursor. A resumed run keeps the lines up to the cursor. It
    /// removes those after it, which an earlier run wrote after its last checkpoint.
    pub(crate) fn open(
        folder: &Path,
        cursor: Cursor,
        steps_per_epoch: u64,
        epochs: u64,
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
        let bar = ProgressBar::new(epochs * steps_per_epoch).with_position(start);
        let style = "{bar:30} {pos}/{len} steps  {msg}  {eta} left";
        bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
        // Replaced in one step, so that a run which is killed here loses no line.
        let (mut lines, mut curves, mut evaluated) =
            (Vec::new(), Curves::default(), BTreeSet::new());
        for line in &kept {
            writeln!(lines, "{line}")?;
            curves.add(line);
            evaluated.extend(line["update"].as_u64().filter(|_| line["evaluation"].is_string()));
        }
        checkpoint::replace_file(&path, &lines)?;
        let file = File::options().append(true).open(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        let tensorboard = folder.join("tensorboard");
        let events = EventWriter::create(&tensorboard)
            .with_context(|| format!("cannot write to {}", tensorboard.display()))?;
        let (folder, printed) = (folder.to_owned(), Instant::now());
        Ok(Self { folder, file, events, bar, steps_per_epoch, epochs, printed, curves, evaluated })
    }

    /// Records a step.
    pub(crate) fn step(&mut self, report: &StepReport) -> anyhow::Result<()> {
        let update = report.epoch * self.steps_per_epoch + report.step + 1;
        let mut line = serde_json::to_value(report)?;
        line["update"] = update.into();
        self.line(&line)?;
        let speed = report.samples as f64 / report.step_seconds;
        let values = [
            ("train/loss", report.loss),
            ("train/gradient_norm", report.grad_norm),
            ("train/learning_rate", report.lr),
            ("time/images_per_second", speed),
            ("time/data_wait_share", report.data_wait_seconds / report.step_seconds),
        ];
        self.events.scalars(update, &values).context(EVENTS)?;
        let wait_percent = 100.0 * report.data_wait_seconds / report.step_seconds;
        let progress =
            format!("loss {:.4}  {speed:.1} images/s  {wait_percent:.0} % data wait", report.loss);
        let (epoch, step) = (report.epoch + 1, report.step + 1);
        let due = step == self.steps_per_epoch || self.printed.elapsed() > PRINT_INTERVAL;
        if self.bar.is_hidden() && due {
            let (epochs, steps) = (self.epochs, self.steps_per_epoch);
            self.print(&format!("epoch {epoch} of {epochs}, step {step} of {steps}: {progress}"));
            self.printed = Instant::now();
        }
        self.bar.set_message(progress);
        self.bar.set_position(update);
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
        let loss = accuracy.loss();
        self.line(&json!({"update": update, "evaluation": name, "samples": accuracy.samples, "top1": top1, "top5": top5, "loss": loss}))?;
        self.events
            .scalars(
                update,
                &[
                    (&format!("{name}/top1"), top1),
                    (&format!("{name}/top5"), top5),
                    (&format!("{name}/loss"), loss),
                ],
            )
            .context(EVENTS)?;
        let text = format!(
            "{name}: top-1 {:.2} %, top-5 {:.2} %, loss {loss:.4} of {} images",
            100.0 * top1,
            100.0 * top5,
            accuracy.samples
        );
        self.print(&text);
        Ok(())
    }

    /// Prints a line above the progress bar, or to standard output without a terminal.
    pub(crate) fn print(&self, text: &str) {
        if self.bar.is_hidden() {
            super::output::print_progress(text);
        } else {
            self.bar.println(text);
        }
    }

    /// Writes the page with the curves. Returns the path of the file.
    pub(crate) fn draw(&self) -> anyhow::Result<PathBuf> {
        let path = self.folder.join("curves.html");
        let page = self.curves.page(self.bar.length().unwrap_or(0));
        std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    fn line(&mut self, line: &Value) -> anyhow::Result<()> {
        let written = writeln!(self.file, "{line}");
        written.with_context(|| self.cannot_write())?;
        self.curves.add(line);
        Ok(())
    }
}
