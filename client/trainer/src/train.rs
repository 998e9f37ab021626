//! The training loop.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use forebay_client::Rank;

use crate::Error;
use crate::backend::{Backend, Batch, Outcome, Part};
use crate::droppath::Drops;
use crate::lamb::Lamb;
use crate::loss::Loss;
use crate::ranks::Ranks;
use crate::schedule::Schedule;

/// All that decides the result, besides the data and the first weights.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Training {
    /// What is made small.
    pub loss: Loss,
    /// How.
    pub lamb: Lamb,
    /// How fast.
    pub schedule: Schedule,
    /// Chance of the last residual block to be left out.
    pub drop_path: f64,
    /// Decay of the model's moving average; `None`: none is kept.
    pub average: Option<f64>,
    /// Of the draws of stochastic depth.
    pub seed: u64,
    /// Steps an epoch.
    pub steps: u64,
    /// Microbatches a step; gradients are the mean over them.
    pub microbatches: u32,
}

/// Where training stands: the next step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cursor {
    /// Epoch.
    pub epoch: u64,
    /// Step of the epoch.
    pub step: u64,
}

/// One step, done.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Report {
    /// Epoch.
    pub epoch: u64,
    /// Step of the epoch.
    pub step: u64,
    /// Mean over the microbatches.
    pub loss: f64,
    /// Of the gradient, before it is clipped.
    pub norm: f64,
    /// Learning rate.
    pub rate: f64,
    /// Samples of the step.
    pub samples: usize,
    /// Seconds spent waiting for microbatches, by the rank that waited longest.
    pub wait: f64,
    /// Seconds since the step before was told.
    pub seconds: f64,
}

/// Whether to go on.
pub type Flow = std::ops::ControlFlow<()>;

/// Trains from a cursor to the last epoch on the rank's microbatches, which come in order of their
/// names, or until `after` stops it. All ranks must stop at the same step.
///
/// `after` is called for each step, in order, with the cursor of the next one. Where `pauses` says so of
/// that cursor, the backend is then as it was after the step, and may be looked at, and stopped; else a GPU
/// may be a step ahead, as it tells of a step while it does the next.
///
/// The same backend state, cursor and microbatches give the same bits, however often stopped.
pub fn train<B: Backend + ?Sized, E: From<Error>>(
    backend: &mut B,
    training: &Training,
    mut cursor: Cursor,
    mut source: impl Iterator<Item = Result<Batch, E>>,
    pauses: impl Fn(Cursor) -> bool,
    mut after: impl FnMut(&mut B, Cursor, &Report) -> Result<Flow, E>,
) -> Result<Cursor, E> {
    let mut drops: Option<Drops> = None;
    let mine = microbatches_of(backend.ranks().place(), training.microbatches)?;
    let share = 1.0 / f64::from(training.microbatches);
    let mut untold = VecDeque::new();
    let mut told = Instant::now();
    while cursor.epoch < training.schedule.epochs {
        let (mut samples, mut wait) = (0, Duration::ZERO);
        let update = cursor.epoch * training.steps + cursor.step;
        for (i, &index) in mine.iter().enumerate() {
            let asked = Instant::now();
            let batch = source.next().unwrap_or_else(|| Err(ended(cursor, index).into()))?;
            wait += asked.elapsed();
            expect(&batch, cursor, index)?;
            let few = drops.as_ref().is_none_or(|drops| drops.samples() < batch.samples());
            if few && training.drop_path > 0.0 {
                let blocks = backend.graph().blocks;
                drops = Some(Drops::new(training.drop_path, blocks, batch.samples()));
            }
            if let Some(drops) = &mut drops {
                drops.draw(training.seed, update, index);
            }
            let (drops, loss, last) = (drops.as_ref(), &training.loss, i + 1 == mine.len());
            backend.accumulate(&batch, &Part { drops, loss, share, last })?;
            samples += batch.samples();
        }
        let rate = training.schedule.rate(cursor.epoch, cursor.step, training.steps);
        backend.update(&training.lamb, rate, training.average)?;
        untold.push_back(Step { at: cursor, rate, samples, wait });
        cursor = training.next(cursor);
        let all = pauses(cursor) || cursor.epoch == training.schedule.epochs;
        while let Some(outcome) = backend.outcome(all)? {
            let step = untold.pop_front().expect("each step is told once");
            let report = step.report(backend.ranks(), &outcome, share, told.elapsed())?;
            let flow = after(backend, training.next(step.at), &report)?;
            told = Instant::now();
            if flow.is_break() {
                return Ok(cursor);
            }
        }
    }
    Ok(cursor)
}

impl Training {
    /// The cursor after one.
    const fn next(&self, Cursor { epoch, step }: Cursor) -> Cursor {
        if step + 1 == self.steps {
            Cursor { epoch: epoch + 1, step: 0 }
        } else {
            Cursor { epoch, step: step + 1 }
        }
    }
}

/// A step under way.
struct Step {
    at: Cursor,
    rate: f64,
    samples: usize,
    wait: Duration,
}

impl Step {
    /// What is told of it. A loss that is not a number ends the training.
    fn report(
        &self,
        ranks: &mut Ranks,
        outcome: &Outcome,
        share: f64,
        time: Duration,
    ) -> Result<Report, Error> {
        let Sum { loss, samples, wait } =
            sum(ranks, &outcome.losses, share, self.samples, self.wait)?;
        let (Cursor { epoch, step }, rate, norm) = (self.at, self.rate, outcome.norm);
        if !loss.is_finite() {
            return Err(Error::Diverged { epoch, step, rate, loss });
        }
        Ok(Report { epoch, step, loss, norm, rate, samples, wait, seconds: time.as_secs_f64() })
    }
}

/// The microbatches of a step that a rank computes: a world must divide them.
fn microbatches_of(place: Rank, microbatches: u32) -> Result<Vec<u32>, Error> {
    let setting = |error: forebay_client::RankError| Error::Setting {
        setting: "--world",
        problem: error.to_string(),
    };
    place.microbatches(microbatches).map_err(setting)
}

/// A step, over all ranks.
struct Sum {
    loss: f64,
    samples: usize,
    wait: f64,
}

/// Adds up the losses in the order of microbatches, so that any world reports the same.
fn sum(
    ranks: &mut Ranks,
    losses: &[f64],
    share: f64,
    samples: usize,
    wait: Duration,
) -> Result<Sum, Error> {
    let own = [losses, &[samples as f64, wait.as_secs_f64()]].concat();
    let mut all = vec![0.0; own.len() * ranks.place().world as usize];
    ranks.gather(&own, &mut all)?;
    let of = |i: usize| all.iter().skip(i).step_by(own.len()).copied();
    let losses_in_order = (0..losses.len()).flat_map(of);
    let loss = losses_in_order.fold(0.0, |sum, loss| sum + share * loss);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let samples = of(losses.len()).sum::<f64>() as usize;
    Ok(Sum { loss, samples, wait: of(losses.len() + 1).fold(0.0, f64::max) })
}

/// Refuses a microbatch of another name.
fn expect(batch: &Batch, Cursor { epoch, step }: Cursor, index: u32) -> Result<(), Error> {
    if (batch.epoch, batch.step, batch.index) == (epoch, step, index) {
        return Ok(());
    }
    let problem = format!(
        "the source gave epoch {}, step {}, microbatch {} instead; it must stream from the cursor, in order",
        batch.epoch, batch.step, batch.index
    );
    Err(Error::Batch { epoch, step, index, problem })
}

fn ended(Cursor { epoch, step }: Cursor, index: u32) -> Error {
    Error::Batch { epoch, step, index, problem: "the source ended before the training".to_owned() }
}
