//! Reports of a run: `log.jsonl`, TensorBoard events, `curves.png` and a progress bar.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::curves;
use crate::eval::Accuracy;
use crate::events::EventWriter;
use crate::train::StepReport;
use anyhow::Context as _;
use forebay_types::Cursor;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

/// The log of a run.
pub(crate) struct RunLog {
    folder: PathBuf,
    file: File,
    events: EventWriter,
    bar: ProgressBar,
    steps_per_epoch: u64,
    /// Loss by update, as are all curves below.
    loss: Vec<(f64, f64)>,
    /// Learning rate.
    lr: Vec<(f64, f64)>,
    /// Percentage of the time spent waiting for data.
    wait: Vec<(f64, f64)>,
    /// Top-1 accuracy in percent.
    top1: Vec<(f64, f64)>,
}

impl RunLog {
    /// Opens the log of a run that starts at a cursor. A resumed run keeps the lines up to the cursor. It
    /// removes those after it, which an earlier run wrote after its last checkpoint.
    pub(crate) fn open(
        folder: &Path,
        cursor: Cursor,
        steps_per_epoch: u64,
        epochs: u64,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let path = folder.join("log.jsonl");
        let start = cursor.epoch * steps_per_epoch + cursor.step;
        let before = if start == 0 {
            String::new()
        } else {
            std::fs::read_to_string(&path).unwrap_or_default()
        };
        let parsed = before.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let kept: Vec<Value> =
            parsed.filter(|line| line["update"].as_u64().is_some_and(|u| u <= start)).collect();
        let bar = ProgressBar::new(epochs * steps_per_epoch).with_position(start);
        let style = "{bar:30} {pos}/{len} steps  {msg}  {eta} left";
        bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
        let file =
            File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let tensorboard = folder.join("tensorboard");
        let events = EventWriter::create(&tensorboard)
            .with_context(|| format!("cannot write to {}", tensorboard.display()))?;
        let (loss, lr, wait, top1) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut log = Self {
            folder: folder.to_owned(),
            file,
            events,
            bar,
            steps_per_epoch,
            loss,
            lr,
            wait,
            top1,
        };
        for line in kept {
            log.line(&line)?;
        }
        Ok(log)
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
        self.events.scalars(update, &values)?;
        let wait_percent = 100.0 * report.data_wait_seconds / report.step_seconds;
        self.bar.set_message(format!(
            "loss {:.4}  {speed:.1} images/s  {wait_percent:.0} % data wait",
            report.loss
        ));
        self.bar.set_position(update);
        Ok(())
    }

    /// Records an evaluation.
    pub(crate) fn evaluation(
        &mut self,
        update: u64,
        name: &str,
        accuracy: &Accuracy,
    ) -> anyhow::Result<()> {
        let (top1, top5) = (accuracy.top1_rate(), accuracy.top5_rate());
        self.line(&json!({"update": update, "evaluation": name, "samples": accuracy.samples, "top1": top1, "top5": top5}))?;
        self.events
            .scalars(update, &[(&format!("{name}/top1"), top1), (&format!("{name}/top5"), top5)])?;
        let text = format!(
            "{name}: top-1 {:.2} %, top-5 {:.2} % of {} images",
            100.0 * top1,
            100.0 * top5,
            accuracy.samples
        );
        self.print(&text);
        Ok(())
    }

    /// Prints a line above the progress bar, or to standard output without a terminal.
    pub(crate) fn print(&self, text: &str) {
        if self.bar.is_hidden() { super::output::print(text) } else { self.bar.println(text) }
    }

    /// Draws the curves. Returns the path of the file.
    pub(crate) fn draw(&self) -> anyhow::Result<PathBuf> {
        let path = self.folder.join("curves.png");
        let mean = moving_average(&self.loss);
        let panels = [
            ("loss", vec![("step", &*self.loss), ("mean", &*mean)]),
            ("top-1 %", vec![("eval", &*self.top1)]),
            ("learning rate", vec![("", &*self.lr)]),
            ("data %", vec![("", &*self.wait)]),
        ];
        curves::draw(&path, &panels).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    fn line(&mut self, line: &Value) -> anyhow::Result<()> {
        writeln!(self.file, "{line}")?;
        self.file.flush()?;
        let update = line["update"].as_f64().unwrap_or(0.0);
        let number = |name: &str| line[name].as_f64();
        if let (Some(loss), Some(lr)) = (number("loss"), number("lr")) {
            self.loss.push((update, loss));
            self.lr.push((update, lr));
            let seconds = number("step_seconds").unwrap_or(0.0).max(f64::MIN_POSITIVE);
            self.wait.push((update, 100.0 * number("data_wait_seconds").unwrap_or(0.0) / seconds));
        }
        if let (Some(top1), "eval") =
            (number("top1"), line["evaluation"].as_str().unwrap_or_default())
        {
            self.top1.push((update, 100.0 * top1));
        }
        Ok(())
    }
}

/// The moving average over a twentieth of the run. The losses of mixed samples are too noisy to read.
fn moving_average(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let length = (points.len() / 20).max(1);
    let last = |window: &[(f64, f64)]| window.last().map_or(0.0, |point| point.0);
    let mean = |window: &[(f64, f64)]| window.iter().map(|p| p.1).sum::<f64>() / length as f64;
    points.windows(length).map(|window| (last(window), mean(window))).collect()
}
