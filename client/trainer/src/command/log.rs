//! What a run leaves to look at: `log.jsonl`, TensorBoard events, `curves.png`, a progress bar.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::curves;
use crate::eval::Accuracy;
use crate::events::Events;
use crate::train::{Cursor, Report};
use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

/// The log of a run.
pub(crate) struct Log {
    folder: PathBuf,
    file: File,
    events: Events,
    bar: ProgressBar,
    steps: u64,
    /// Step and loss, rate, share of the time waited, top-1.
    loss: Vec<(f64, f64)>,
    rate: Vec<(f64, f64)>,
    wait: Vec<(f64, f64)>,
    top1: Vec<(f64, f64)>,
}

impl Log {
    /// Opens the log of a run that goes on at a cursor: later lines, of a run that was killed, go.
    pub(crate) fn open(
        folder: &Path,
        cursor: Cursor,
        steps: u64,
        epochs: u64,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
        let path = folder.join("log.jsonl");
        let begin = cursor.epoch * steps + cursor.step;
        let before = if begin == 0 {
            String::new()
        } else {
            std::fs::read_to_string(&path).unwrap_or_default()
        };
        let parsed = before.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let kept: Vec<Value> =
            parsed.filter(|line| line["update"].as_u64().is_some_and(|u| u <= begin)).collect();
        let bar = ProgressBar::new(epochs * steps).with_position(begin);
        let style = "{bar:30} {pos}/{len} steps  {msg}  {eta} left";
        bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
        let file = File::create(&path).with_context(|| format!("{}", path.display()))?;
        let events = Events::create(&folder.join("tensorboard"))?;
        let (loss, rate, wait, top1) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut log =
            Self { folder: folder.to_owned(), file, events, bar, steps, loss, rate, wait, top1 };
        for line in kept {
            log.line(&line)?;
        }
        Ok(log)
    }

    /// Records a step.
    pub(crate) fn step(&mut self, report: &Report) -> anyhow::Result<()> {
        let update = report.epoch * self.steps + report.step + 1;
        let mut line = serde_json::to_value(report)?;
        line["update"] = update.into();
        self.line(&line)?;
        let speed = report.samples as f64 / report.seconds;
        let values = [
            ("train/loss", report.loss),
            ("train/gradient_norm", report.norm),
            ("train/learning_rate", report.rate),
            ("time/images_per_second", speed),
            ("time/wait_share", report.wait / report.seconds),
        ];
        self.events.scalars(update, &values)?;
        let waited = 100.0 * report.wait / report.seconds;
        self.bar.set_message(format!(
            "loss {:.4}  {speed:.1} images/s  {waited:.0} % waiting",
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
        let (top1, top5) = (accuracy.top1(), accuracy.top5());
        self.line(&json!({"update": update, "evaluation": name, "samples": accuracy.samples, "top1": top1, "top5": top5}))?;
        self.events
            .scalars(update, &[(&format!("{name}/top1"), top1), (&format!("{name}/top5"), top5)])?;
        let text = format!(
            "{name}: top-1 {:.2} %, top-5 {:.2} % of {} images",
            100.0 * top1,
            100.0 * top5,
            accuracy.samples
        );
        self.say(&text);
        Ok(())
    }

    /// A line for the user, above the bar; where there is no terminal, on its own.
    pub(crate) fn say(&self, text: &str) {
        if self.bar.is_hidden() { super::print(text) } else { self.bar.println(text) }
    }

    /// Draws the curves; gives their file.
    pub(crate) fn draw(&self) -> anyhow::Result<PathBuf> {
        let path = self.folder.join("curves.png");
        let mean = mean(&self.loss);
        let panels = [
            ("loss", vec![("step", &*self.loss), ("mean", &*mean)]),
            ("top-1 %", vec![("eval", &*self.top1)]),
            ("learning rate", vec![("", &*self.rate)]),
            ("data %", vec![("", &*self.wait)]),
        ];
        curves::draw(&path, &panels).with_context(|| format!("{}", path.display()))?;
        Ok(path)
    }

    fn line(&mut self, line: &Value) -> anyhow::Result<()> {
        writeln!(self.file, "{line}")?;
        self.file.flush()?;
        let update = line["update"].as_f64().unwrap_or(0.0);
        let number = |name: &str| line[name].as_f64();
        if let (Some(loss), Some(rate)) = (number("loss"), number("rate")) {
            self.loss.push((update, loss));
            self.rate.push((update, rate));
            let seconds = number("seconds").unwrap_or(0.0).max(f64::MIN_POSITIVE);
            self.wait.push((update, 100.0 * number("wait").unwrap_or(0.0) / seconds));
        }
        if let (Some(top1), "eval") =
            (number("top1"), line["evaluation"].as_str().unwrap_or_default())
        {
            self.top1.push((update, 100.0 * top1));
        }
        Ok(())
    }
}

/// The mean over the last twentieth of a run, as MixUp makes losses jump from step to step.
fn mean(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let length = (points.len() / 20).max(1);
    let last = |window: &[(f64, f64)]| window.last().map_or(0.0, |point| point.0);
    let mean = |window: &[(f64, f64)]| window.iter().map(|p| p.1).sum::<f64>() / length as f64;
    points.windows(length).map(|window| (last(window), mean(window))).collect()
}
