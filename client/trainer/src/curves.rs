//! The curves of a run as a page: loss, accuracy, learning rate and wait for data, by update.

use forebay_report::chart::{Axis, COLORS, Chart, INK, Line, PALE};
use forebay_report::number::{count, percent};
use forebay_report::page::{page, section, tiles};
use maud::{Markup, html};
use serde_json::Value;

/// Points of (update, value).
type Points = Vec<(f64, f64)>;

/// The curves of a run.
#[derive(Debug, Default)]
pub(crate) struct Curves {
    loss: Points,
    /// Learning rate.
    lr: Points,
    /// Share of the time spent waiting for data.
    wait: Points,
    /// Top-1 accuracy, from 0 to 1.
    top1: Points,
}

impl Curves {
    /// Adds a line of the log.
    pub(crate) fn add(&mut self, line: &Value) {
        let update = line["update"].as_f64().unwrap_or(0.0);
        let number = |name: &str| line[name].as_f64();
        if let (Some(loss), Some(lr)) = (number("loss"), number("lr")) {
            self.loss.push((update, loss));
            self.lr.push((update, lr));
            let seconds = number("step_seconds").unwrap_or(0.0).max(f64::MIN_POSITIVE);
            self.wait.push((update, number("data_wait_seconds").unwrap_or(0.0) / seconds));
        }
        if let (Some(top1), Some("eval")) = (number("top1"), line["evaluation"].as_str()) {
            self.top1.push((update, top1));
        }
    }

    /// The page of a run of this many updates in all, some of which may not have happened yet.
    pub(crate) fn page(&self, updates: u64) -> String {
        let done = self.loss.last().map_or(0.0, |point| point.0);
        let body = html! {
            header {
                h1 { "forebay training run" }
                small { "update " (count(done)) " of " (count(updates as f64)) }
            }
            main {
                (tiles(&self.figures()))
                @for chart in self.charts(done) { (section("", "", &chart)) }
            }
        };
        page("forebay training run", None, &body)
    }

    /// The newest figures, and what they are.
    fn figures(&self) -> Vec<(String, String)> {
        let mut figures = Vec::new();
        if let Some((_, loss)) = moving_average(&self.loss).last() {
            figures.push((format!("{loss:.4}"), "loss, mean of the last steps".to_owned()));
        }
        if let Some((_, top1)) = self.top1.last() {
            let best = self.top1.iter().map(|point| point.1).fold(0.0, f64::max);
            let what = format!("top-1 accuracy; best {:.2} %", 100.0 * best);
            figures.push((format!("{:.2} %", 100.0 * top1), what));
        }
        if let Some((_, lr)) = self.lr.last() {
            figures.push((format!("{lr:.3e}"), "learning rate".into()));
        }
        if !self.wait.is_empty() {
            let mean = self.wait.iter().map(|point| point.1).sum::<f64>() / self.wait.len() as f64;
            figures.push((percent(mean), "of the time waiting for data".into()));
        }
        figures
    }

    fn charts(&self, end: f64) -> Vec<Markup> {
        let chart = |title, unit, axis, lines| {
            Chart { title, unit, axis, lines, end, ..Chart::default() }.draw()
        };
        let mean = moving_average(&self.loss);
        let loss = vec![line("step", PALE, &self.loss, 1.0), line("mean", COLORS[0], &mean, 1.0)];
        let mut charts = vec![chart("Loss", "by update", Axis::Span, loss)];
        if !self.top1.is_empty() {
            let top1 = vec![line("", COLORS[2], &self.top1, 100.0)];
            charts.push(chart("Top-1 accuracy", "% of the evaluation set", Axis::Span, top1));
        }
        let lr = vec![line("", INK, &self.lr, 1.0)];
        charts.push(chart("Learning rate", "by update", Axis::Zero, lr));
        let wait = vec![line("", COLORS[1], &self.wait, 100.0)];
        charts.push(chart("Wait for data", "% of the time of a step", Axis::Zero, wait));
        charts
    }
}

fn line(name: &str, color: &'static str, points: &[(f64, f64)], factor: f64) -> Line {
    let points = points.iter().map(|(update, value)| (*update, Some(value * factor))).collect();
    Line { name: name.to_owned(), color, points }
}

/// The moving average over a twentieth of the run. The losses of mixed samples are too noisy to read.
fn moving_average(points: &[(f64, f64)]) -> Points {
    let length = (points.len() / 20).max(1);
    let last = |window: &[(f64, f64)]| window.last().map_or(0.0, |point| point.0);
    let mean = |window: &[(f64, f64)]| window.iter().map(|p| p.1).sum::<f64>() / length as f64;
    points.windows(length).map(|window| (last(window), mean(window))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_figure_of_the_log_has_a_curve() {
        let mut curves = Curves::default();
        for update in 1..=40_u32 {
            let loss = 8.0 - f64::from(update) / 10.0;
            curves.add(&json!({"update": update, "loss": loss, "lr": 0.005, "step_seconds": 2.0, "data_wait_seconds": 0.5}));
        }
        for (name, top1) in [("eval_ema", 0.9), ("eval", 0.61), ("eval", 0.5925)] {
            curves.add(&json!({"update": 40, "evaluation": name, "top1": top1}));
        }
        let page = curves.page(1200);
        for part in
            ["update 40 of 1\u{2009}200", "4.0500", "59.25 %", "best 61.00 %", "5.000e-3", "25 %"]
        {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert_eq!(page.matches("<svg").count(), 4);
    }

    #[test]
    fn a_run_without_steps_has_a_page() {
        let mut curves = Curves::default();
        assert_eq!(curves.page(8).matches("<svg").count(), 3);
        // A loss that is not a number is null in JSON.
        curves.add(&json!({"update": 1, "loss": null, "lr": 0.1}));
        assert!(curves.page(8).contains("update 0 of 8"));
    }
}
