//! `summary.csv`, with the columns of timm's: a row for each epoch, in the units of timm.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

/// The epochs of a run, computed from the lines of its log. So a resumed run writes the rows of one that was not
/// interrupted.
#[derive(Debug)]
pub(crate) struct Summary {
    steps_per_epoch: u64,
    epochs: BTreeMap<u64, Epoch>,
}

#[derive(Debug, Default)]
struct Epoch {
    loss: f64,
    steps: u64,
    /// Learning rate of the last step.
    lr: f64,
    /// Loss, top-1 and top-5 of the evaluation after it.
    evaluation: Option<[f64; 3]>,
}

impl Summary {
    pub(crate) const fn new(steps_per_epoch: u64) -> Self {
        Self { steps_per_epoch, epochs: BTreeMap::new() }
    }

    /// Adds a line of the log.
    pub(crate) fn add(&mut self, line: &Value) {
        let number = |name: &str| line[name].as_f64().unwrap_or(f64::NAN);
        if let (Some(epoch), Some(lr)) = (line["epoch"].as_u64(), line["lr"].as_f64()) {
            let epoch = self.epochs.entry(epoch).or_default();
            (epoch.loss, epoch.steps, epoch.lr) =
                (epoch.loss + number("loss"), epoch.steps + 1, lr);
        }
        if line["evaluation"].is_string()
            && let Some(after) =
                line["update"].as_u64().and_then(|u| u.checked_div(self.steps_per_epoch))
            && let Some(epoch) = after.checked_sub(1)
        {
            // That of the moving average follows that of the model, and takes its place, as in timm.
            let evaluation = [number("loss"), 100.0 * number("top1"), 100.0 * number("top5")];
            self.epochs.entry(epoch).or_default().evaluation = Some(evaluation);
        }
    }

    /// The file with the epochs before `end`, which are complete.
    pub(crate) fn to_csv(&self, end: u64) -> String {
        let mut csv = "epoch,train_loss,eval_loss,eval_top1,eval_top5,lr\n".to_owned();
        for (number, epoch) in self.epochs.range(..end) {
            let Epoch { loss, steps, lr, evaluation } = epoch;
            let evaluation = match evaluation {
                Some([loss, top1, top5]) => format!("{loss},{top1},{top5}"),
                None => ",,".to_owned(),
            };
            // Writing to a string cannot fail.
            writeln!(csv, "{number},{},{evaluation},{lr}", loss / *steps as f64).ok();
        }
        csv
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_complete_epoch_has_a_row_with_the_evaluation_of_the_moving_average_if_there_is_one() {
        let mut summary = Summary::new(2);
        for (update, loss, lr) in
            [(1, 8.0, 0.1), (2, 7.0, 0.2), (3, 6.0, 0.3), (4, 5.5, 0.4), (5, 5.0, 0.5)]
        {
            let epoch = (update - 1) / 2;
            summary.add(&json!({"update": update, "epoch": epoch, "loss": loss, "lr": lr}));
        }
        for (name, top1) in [("eval", 0.25), ("eval_ema", 0.5)] {
            summary.add(
                &json!({"update": 4, "evaluation": name, "top1": top1, "top5": 1.0, "loss": 2.0}),
            );
        }
        let expected = "epoch,train_loss,eval_loss,eval_top1,eval_top5,lr\n0,7.5,,,,0.2\n1,5.75,2,50,100,0.4\n";
        assert_eq!(summary.to_csv(2), expected);
    }
}
