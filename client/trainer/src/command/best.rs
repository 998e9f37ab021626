//! The best model of a run, by the metric of its evaluations.

use std::path::Path;

use super::cli::run::EvalMetric;
use crate::accuracy::Accuracy;
use crate::checkpoint::{self, Best};

/// The best evaluation so far.
pub(crate) struct BestModel {
    metric: EvalMetric,
    best: Option<Best>,
}

impl BestModel {
    /// The best evaluation of a run that resumes in a folder, or of one that begins. That of an earlier run, which this one
    /// resumed from an older checkpoint, counts as well: this run gets there again.
    pub(crate) fn open(folder: &Path, metric: EvalMetric, resumes: bool) -> Self {
        let best = resumes.then(|| checkpoint::read_best(folder)).flatten();
        Self { metric, best }
    }

    /// Records an evaluation after a number of updates. Returns it if it is the best so far.
    pub(crate) fn add(&mut self, update: u64, accuracy: &Accuracy) -> Option<Best> {
        let loss = Some(accuracy.loss()).filter(|loss| loss.is_finite());
        let (top1, top5) = (accuracy.top1_rate(), accuracy.top5_rate());
        self.offer(Best { update, top1, top5, loss })
    }

    fn offer(&mut self, now: Best) -> Option<Best> {
        let is_best = self.best.is_none_or(|best| self.score(&now) > self.score(&best));
        is_best.then(|| *self.best.insert(now))
    }

    /// A number that is higher for a better model.
    fn score(&self, evaluation: &Best) -> f64 {
        match self.metric {
            EvalMetric::Top1 => evaluation.top1,
            EvalMetric::Top5 => evaluation.top5,
            EvalMetric::Loss => -evaluation.loss.unwrap_or(f64::INFINITY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(update: u64, top1: f64, loss: Option<f64>) -> Best {
        Best { update, top1, top5: 1.0 - top1, loss }
    }

    #[test]
    fn each_metric_has_its_best_evaluation_and_the_first_of_equals_stays() {
        let evaluations = [
            best(3, 0.5, Some(2.0)),
            best(6, 0.5, Some(1.0)),
            best(9, 0.7, None),
            best(12, 0.1, Some(1.5)),
        ];
        for (metric, expected) in
            [(EvalMetric::Top1, 9), (EvalMetric::Top5, 12), (EvalMetric::Loss, 6)]
        {
            let mut models = BestModel { metric, best: None };
            let found = evaluations.iter().filter_map(|one| models.offer(*one)).last().unwrap();
            assert_eq!(found.update, expected, "{metric:?}");
        }
    }
}
