//! What a run says while it trains: a progress bar on a terminal, and lines elsewhere, as text or as JSON.

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::output::{print_event, print_progress, prints_json};
use crate::training_loop::StepReport;

/// The progress of a run.
pub(crate) struct Progress {
    bar: ProgressBar,
    /// Steps between two lines; 0 for none but at the end of epochs.
    interval: u64,
    steps_per_epoch: u64,
    epochs: u64,
    /// The steps since the last line.
    recent: Recent,
}

/// Sums over steps.
#[derive(Default)]
struct Recent {
    steps: u64,
    samples: usize,
    loss: f64,
    seconds: f64,
    data_wait_seconds: f64,
}

impl Recent {
    fn add(&mut self, report: &StepReport) {
        self.steps += 1;
        self.samples += report.samples;
        self.loss += report.loss;
        self.seconds += report.step_seconds;
        self.data_wait_seconds += report.data_wait_seconds;
    }

    fn loss(&self) -> f64 {
        self.loss / self.steps as f64
    }

    fn images_per_second(&self) -> f64 {
        self.samples as f64 / self.seconds
    }

    fn data_wait_share(&self) -> f64 {
        self.data_wait_seconds / self.seconds
    }
}

impl Progress {
    /// The progress of a run that starts after this many updates.
    pub(crate) fn new(start: u64, steps_per_epoch: u64, epochs: u64, interval: u64) -> Self {
        let bar = if prints_json() {
            ProgressBar::hidden()
        } else {
            ProgressBar::new(epochs * steps_per_epoch).with_position(start)
        };
        let style = "{bar:30} {pos}/{len} steps  {msg}  {eta} left";
        bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
        Self { bar, interval, steps_per_epoch, epochs, recent: Recent::default() }
    }

    /// Shows a step. Where there is no bar, a line has the means over the steps since the last one.
    pub(crate) fn step(&mut self, update: u64, report: &StepReport) {
        self.recent.add(report);
        if !self.bar.is_hidden() {
            let mut one = Recent::default();
            one.add(report);
            self.bar.set_message(format!(
                "loss {:.4}  lr {:.2e}  {:.1} images/s  {:.0} % data wait",
                report.loss,
                report.lr,
                one.images_per_second(),
                100.0 * one.data_wait_share()
            ));
            self.bar.set_position(update);
            return;
        }
        let step = report.step + 1;
        if step != self.steps_per_epoch
            && (self.interval == 0 || !step.is_multiple_of(self.interval))
        {
            return;
        }
        let Self { steps_per_epoch, epochs, .. } = *self;
        let recent = std::mem::take(&mut self.recent);
        let updates = epochs.saturating_mul(steps_per_epoch).saturating_sub(update);
        let seconds_left = updates as f64 * recent.seconds / recent.steps as f64;
        if prints_json() {
            let mut event = serde_json::to_value(report).unwrap_or_default();
            let figures = [
                ("event", json!("progress")),
                ("update", update.into()),
                ("epochs", epochs.into()),
                ("steps_per_epoch", steps_per_epoch.into()),
                ("loss", recent.loss().into()),
                ("images_per_second", recent.images_per_second().into()),
                ("data_wait_share", recent.data_wait_share().into()),
                ("seconds_left", seconds_left.into()),
            ];
            for (name, value) in figures {
                event[name] = value;
            }
            return print_event(&event);
        }
        print_progress(&format!(
            "epoch {} of {epochs}, step {step} of {steps_per_epoch}: loss {:.4}, lr {:.2e}, {:.1} images/s, {:.0} % data \
             wait, {} left",
            report.epoch + 1,
            recent.loss(),
            report.lr,
            recent.images_per_second(),
            100.0 * recent.data_wait_share(),
            rough_time(seconds_left)
        ));
    }

    /// Says something, which is an event with these fields for machines.
    pub(crate) fn say(&self, text: &str, kind: &str, fields: Value) {
        if prints_json() {
            let mut event = json!({"event": kind});
            if let (Value::Object(event), Value::Object(fields)) = (&mut event, fields) {
                event.extend(fields);
            }
            print_event(&event);
        } else if self.bar.is_hidden() {
            print_progress(text);
        } else {
            self.bar.println(text);
        }
    }

    /// Whether there is a bar, beside which fewer lines are of use.
    pub(crate) fn has_bar(&self) -> bool {
        !self.bar.is_hidden()
    }
}

/// A time in two units.
fn rough_time(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    let seconds = seconds.round() as u64;
    let [minutes, hours, days] = [60, 3600, 86_400].map(|unit| seconds / unit);
    match () {
        () if days > 0 => format!("{days}d {}h", hours % 24),
        () if hours > 0 => format!("{hours}h {}m", minutes % 60),
        () if minutes > 0 => format!("{minutes}m {}s", seconds % 60),
        () => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_two_units() {
        for (seconds, text) in [
            (0.4, "0s"),
            (59.6, "1m 0s"),
            (3599.0, "59m 59s"),
            (7260.0, "2h 1m"),
            (180_000.0, "2d 2h"),
        ] {
            assert_eq!(rough_time(seconds), text);
        }
        assert_eq!(rough_time(f64::NAN), "0s");
    }
}
