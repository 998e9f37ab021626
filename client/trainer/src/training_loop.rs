//! The training loop: for every step, the rank's microbatches go forward and backward, then one
//! optimizer update follows.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use forebay_types::{Cursor, MicrobatchName, Rank};

use crate::Error;
use crate::backend::{Backend, MicroStep, UpdateReport};
use crate::batch::Batch;
use crate::drop_path::DropPath;
use crate::loss::Loss;
use crate::loss_scaler::MIN_SCALE;
use crate::optimizer::Optimizer;
use crate::optimizer::clip::ClipGrad;
use crate::process_group::ProcessGroup;
use crate::schedule::Schedule;

/// Everything that decides the result of a training run, except the data and the initial weights.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct TrainConfig {
    /// Loss minimized at every step.
    pub loss: Loss,
    /// Optimizer hyperparameters.
    pub optimizer: Optimizer,
    /// How gradients are clipped before the update; `None` does not. LAMB clips by itself as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_grad: Option<ClipGrad>,
    /// Learning-rate schedule.
    pub schedule: Schedule,
    /// Stochastic depth: the probability that the last residual block is dropped.
    pub drop_path: f64,
    /// Decay of the exponential moving average of the model; `None` keeps no average.
    pub model_ema_decay: Option<f64>,
    /// Seed of the data and of the stochastic-depth masks.
    pub seed: u64,
    /// Steps of an epoch.
    pub steps_per_epoch: u64,
    /// Microbatches of a step over all ranks; the gradient of a step is their mean.
    pub microbatches: u32,
}

/// The result of one step, over all ranks.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct StepReport {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Step of the epoch, from 0.
    pub step: u64,
    /// Mean loss of the microbatches.
    pub loss: f64,
    /// Norm of the gradient before clipping. Not finite if the update was skipped.
    pub grad_norm: f64,
    /// The loss scale after the update, and whether the update was skipped, where training is in f16.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScaleReport>,
    /// Learning rate of the update.
    pub lr: f64,
    /// Number of samples of the step.
    pub samples: usize,
    /// Seconds spent waiting for data, by the rank that waited longest.
    pub data_wait_seconds: f64,
    /// Seconds since the previous step was reported.
    pub step_seconds: f64,
    /// Whether this is the last step, because a rank was asked to stop. The backend then holds exactly the state after
    /// it.
    #[serde(skip)]
    pub stops: bool,
}

/// What became of the loss scale in a step.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct LossScaleReport {
    /// The scale after the update.
    pub loss_scale: f64,
    /// Whether the update was skipped, because a gradient was not finite.
    pub skipped: bool,
    /// Number of updates that were skipped so far.
    pub skipped_updates: u64,
}

/// Whether the training loop continues after a step.
pub type Flow = std::ops::ControlFlow<()>;

/// Trains from `start` to the last epoch, until `on_step` breaks, or until a rank is asked to stop
/// ([`ProcessGroup::stop_request`]). Returns the next step's cursor.
///
/// `batches` yields the microbatches of this rank, ordered by step and then by index. Every rank must
/// stop at the same step.
///
/// `on_step` is called after each step, in order, with the cursor of the next step. A GPU backend may
/// already compute that next step, because it reports a step while the following one runs. If
/// `sync_at` returns true for the cursor, then the backend holds exactly the state after the step when
/// `on_step` is called, so that it can be evaluated and saved. Break only there: elsewhere the returned cursor may be one
/// step past the one that was reported.
///
/// The same backend state, cursor and microbatches give the same bits, however often training is
/// stopped and resumed.
///
/// # Errors
/// [`Error::Setting`] if the world does not divide the microbatches, [`Error::Batch`] if `batches` ends
/// or yields an unexpected microbatch, [`Error::Diverged`] if the loss or the gradient is not finite,
/// [`Error::Rank`] if another rank fails, and the errors of the backend, of `batches` and of `on_step`.
pub fn train<B: Backend + ?Sized, E: From<Error>>(
    backend: &mut B,
    config: &TrainConfig,
    start: Cursor,
    mut batches: impl Iterator<Item = Result<Batch, E>>,
    sync_at: impl Fn(Cursor) -> bool,
    mut on_step: impl FnMut(&mut B, Cursor, &StepReport) -> Result<Flow, E>,
) -> Result<Cursor, E> {
    let indices = microbatches_of_rank(backend.group().rank(), config.microbatches)?;
    // The gradients and losses of microbatches add up to their mean.
    let microbatch_weight = 1.0 / f64::from(config.microbatches);
    let mut mask = DropPath::enabled(config.drop_path, backend.graph().blocks);
    let mut pending_steps = VecDeque::new();
    let mut last_report = Instant::now();
    let (mut cursor, mut stops) = (start, false);
    while cursor.epoch < config.schedule.total_epochs() {
        let Cursor { epoch, step } = cursor;
        let updates_before = epoch * config.steps_per_epoch + step;
        let (mut samples, mut data_wait) = (0, Duration::ZERO);
        for (i, &index) in indices.iter().enumerate() {
            let name = MicrobatchName { seed: config.seed, epoch, step, index };
            let (batch, waited) = timed(|| next_batch(&mut batches, name));
            let batch = batch?;
            let drop_path = mask.as_mut().map(|mask| {
                mask.reserve(batch.samples());
                mask.draw(config.seed, updates_before, index)
            });
            let last = i + 1 == indices.len();
            let micro =
                MicroStep { drop_path, loss: &config.loss, weight: microbatch_weight, last };
            backend.forward(&batch, &micro)?;
            backend.backward(&batch, &micro)?;
            samples += batch.samples();
            data_wait += waited;
        }
        let lr = config.schedule.lr(epoch, step, config.steps_per_epoch);
        backend.update(&config.optimizer, config.clip_grad, lr, config.model_ema_decay)?;

        pending_steps.push_back(PendingStep { cursor, lr, samples, data_wait });
        cursor = cursor.after(1, config.steps_per_epoch);
        // On a GPU, reports come one step late. A flush waits for all of them.
        let flush = sync_at(cursor) || cursor.epoch == config.schedule.total_epochs();
        while let Some(update) = backend.poll_report(flush || stops)? {
            let reported = pending_steps.pop_front().expect("every step is reported once");
            let time = last_report.elapsed();
            let mut report = reported.report(backend.group(), &update, microbatch_weight, time)?;
            // All ranks learn of it in the same report. Steps that a GPU computes already are finished first.
            stops |= report.stops;
            report.stops = stops && pending_steps.is_empty();
            let next = reported.cursor.after(1, config.steps_per_epoch);
            let flow = on_step(backend, next, &report)?;
            last_report = Instant::now();
            if flow.is_break() || report.stops {
                return Ok(cursor);
            }
        }
    }
    Ok(cursor)
}

/// The indices of the microbatches that a rank computes in every step.
fn microbatches_of_rank(rank: Rank, microbatches: u32) -> Result<Vec<u32>, Error> {
    let indices = rank.microbatches(microbatches);
    indices.map_err(|error| Error::Setting { setting: "--world", problem: error.to_string() })
}

/// The next microbatch, which must have this name.
fn next_batch<E: From<Error>>(
    batches: &mut impl Iterator<Item = Result<Batch, E>>,
    name: MicrobatchName,
) -> Result<Batch, E> {
    let problem = match batches.next() {
        Some(Ok(batch))
            if batch.name.cursor() == name.cursor() && batch.name.index == name.index =>
        {
            return Ok(batch);
        }
        Some(Ok(batch)) => format!(
            "the data source returned {} instead: it must start at the cursor and keep the order",
            batch.name
        ),
        Some(Err(error)) => return Err(error),
        None => "the data source ended before the last epoch".to_owned(),
    };
    Err(Error::Batch { name, problem }.into())
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    (work(), start.elapsed())
}

/// A step whose update has been started and not yet reported.
struct PendingStep {
    cursor: Cursor,
    lr: f64,
    /// Samples of this rank.
    samples: usize,
    /// Time that this rank waited for data.
    data_wait: Duration,
}

impl PendingStep {
    /// Combines the reports of all ranks.
    fn report(
        &self,
        group: &mut ProcessGroup,
        update: &UpdateReport,
        weight: f64,
        time: Duration,
    ) -> Result<StepReport, Error> {
        // Each rank contributes its losses, then its number of samples, its waiting time, and whether it was asked to
        // stop.
        let count = update.losses.len();
        let stop = f64::from(u8::from(group.stop_request().is_asked()));
        let own = [&update.losses[..], &[self.samples as f64, self.data_wait.as_secs_f64(), stop]];
        let own = own.concat();
        let mut all = vec![0.0; own.len() * group.rank().world as usize];
        group.all_gather(&own, &mut all)?;
        let of_ranks = |i: usize| all.iter().skip(i).step_by(own.len()).copied();

        // Microbatch `i * world + rank` is the i-th of its rank. Adding in the order of microbatches
        // gives the same loss in every world.
        let losses = (0..count).flat_map(of_ranks);
        let loss = losses.fold(0.0, |sum, loss| sum + weight * loss);
        let Cursor { epoch, step } = self.cursor;
        let grad_norm = update.grad_norm;
        // A skipped update has changed nothing; but a scale that falls without end does not help.
        let skipped = update
            .loss_scaler
            .is_some_and(|(scaler, skipped)| skipped && scaler.scale >= MIN_SCALE);
        if !(loss.is_finite() && (grad_norm.is_finite() || skipped)) {
            return Err(Error::Diverged { epoch, step, lr: self.lr, loss, grad_norm });
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let samples = of_ranks(count).sum::<f64>() as usize;
        Ok(StepReport {
            epoch,
            step,
            loss,
            grad_norm,
            loss_scale: update.loss_scaler.map(|(scaler, skipped)| LossScaleReport {
                loss_scale: scaler.scale.into(),
                skipped,
                skipped_updates: scaler.skipped,
            }),
            lr: self.lr,
            samples,
            data_wait_seconds: of_ranks(count + 1).fold(0.0, f64::max),
            step_seconds: time.as_secs_f64(),
            stops: of_ranks(count + 2).any(|stop| stop > 0.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gradient_that_is_not_finite_ends_training_although_the_loss_is() {
        let step = PendingStep {
            cursor: Cursor { epoch: 1, step: 2 },
            lr: 0.5,
            samples: 4,
            data_wait: Duration::ZERO,
        };
        let report = |loss, grad_norm| {
            let update = UpdateReport { losses: vec![loss], grad_norm, loss_scaler: None };
            step.report(&mut ProcessGroup::single(), &update, 1.0, Duration::ZERO)
        };
        assert_eq!(report(0.25, 3.0).unwrap().samples, 4);
        for (loss, grad_norm) in [(0.25, f64::NAN), (0.25, f64::INFINITY), (f64::NAN, 3.0)] {
            let error = report(loss, grad_norm).unwrap_err();
            assert!(matches!(error, Error::Diverged { epoch: 1, step: 2, .. }), "{error}");
        }
    }
}
