//! `forebay-trainer train`: trains, evaluates and writes the files of a run.

use std::path::Path;

use anyhow::{Context as _, bail};
use forebay_client::RecipeRef;
use forebay_types::{Cursor, MixedBy};

use super::best::BestModel;
use super::cli::TrainArgs;
use super::distributed::{common_settings, join, rank_and_address};
use super::hook::CheckpointHook;
use super::metrics::Metrics;
use super::replay::{self, SourceInfo};
use super::run_log::RunLog;
use super::setup;
use super::source::{BatchSource, Batches};
use super::stop;
use super::training_stream::TrainingStream;
use crate::Error;
use crate::accuracy::{Accuracy, evaluate};
use crate::backend::Backend;
use crate::backend::device::TrainDevice;
use crate::checkpoint::{self, RunMetadata};
use crate::process_group::ProcessGroup;
use crate::training_loop::{Flow, StepReport, TrainConfig, train};

/// Trains to the end of the run, or breaks because a rank was asked to stop.
pub(crate) fn run(args: &TrainArgs) -> anyhow::Result<Flow> {
    if args.source.client.mixed_by == MixedBy::Trainer && args.network.device == TrainDevice::Cpu {
        bail!("--mixed-by trainer needs a GPU: set --device cuda, or use --mixed-by server");
    }
    let (rank, address) = rank_and_address(&args.distributed)?;
    let recipe = RecipeRef::from_name_or_path(&args.recipe)?;
    let source = BatchSource::for_training(args, recipe.clone(), rank)?;
    let serve = |address: &String| Metrics::serve(address, source.client());
    let metrics = args.logs.metrics_address.as_ref().map(serve).transpose()?.unwrap_or_default();
    let (info, evaluation) = (source.training_info()?, source.evaluation_info()?);
    evaluation.as_ref().map_or(Ok(()), SourceInfo::check_for_evaluation)?;
    if let Some((label, training, evaluation)) = source.other_class()? {
        tracing::warn!(
            "class {label} is {training} in training and {evaluation} in evaluation: the accuracy is meaningless \
             unless these are names of the same classes in the same order"
        );
    }
    rank.microbatches(info.microbatches)?;
    let run = setup::run_metadata(args, &recipe, &info)?;
    let mut backend = setup::open_backend(&args.network, &info, evaluation.as_ref(), rank)?;
    let settings = common_settings(args, &run, evaluation.as_ref())?;
    backend.join(join(&args.distributed, rank, address, settings)?)?;
    stop::ask_at_signals(backend.group().stop_request(), args.checkpoints.stop_grace);
    let preset = setup::hyperparameters_preset(args, &recipe)?;
    let source = Source { batches: source, info, evaluation };
    let trained = train_as_rank(args, &source, (run, preset), metrics, &mut *backend);
    trained.map_err(|error| report_failure(error, backend.group()))
}

/// Checks and prints the settings, as far as they do not depend on a server.
pub(crate) fn dry_run(args: &TrainArgs, settings: &str) -> anyhow::Result<()> {
    let recipe = RecipeRef::from_name_or_path(&args.recipe)?;
    setup::train_config(args, &setup::hyperparameters_preset(args, &recipe)?, (0.0, 1, 1))?;
    super::output::print(settings.trim_end())
}

/// Reports to the other ranks why this one fails. Returns the error to print.
///
/// A GPU also fails when a rank with which it exchanges is lost, and often before the closed connection is noticed.
/// Then the lost rank is the cause, and what the GPU reports only follows from it.
fn report_failure(error: anyhow::Error, group: &mut ProcessGroup) -> anyhow::Error {
    if error.downcast_ref().is_some_and(Error::is_of_device)
        && let Some(cause) = group.wait_for_failure()
    {
        return error.context(cause);
    }
    group.fail(&format!("{error:#}"));
    error
}

/// Trains as one of the ranks, after all of them have joined.
fn train_as_rank(
    args: &TrainArgs,
    source: &Source,
    (mut run, preset): (RunMetadata, String),
    metrics: Metrics,
    backend: &mut dyn Backend,
) -> anyhow::Result<Flow> {
    let lock = || checkpoint::lock_folder(&args.output);
    let _locked = backend.group().is_primary().then(lock).transpose()?;
    setup::load_initial_state(args, &mut run, backend)?;
    let (config, start) = (run.config, run.cursor);
    let epochs = config.schedule.total_epochs();
    let updates = start.epoch * config.steps_per_epoch + start.step;
    let (steps, interval) = (config.steps_per_epoch, args.logs.log_interval.get());
    let open_log = || RunLog::open(&args.output, start, (steps, epochs), interval);
    let log = backend.group().is_primary().then(open_log).transpose()?;
    if let Some(log) = &log {
        let device = setup::device_in_words(&args.network)?;
        log.print(&describe(&run, &source.info, &preset, &device));
    }
    let Source { batches, info, .. } = source;
    let batches = TrainingStream::new(start, |from| {
        let end = next_evaluation(args, source, from, epochs);
        with_dump(batches.train(from, end, info)?, args, info)
    });
    let best = BestModel::open(&args.output, args.checkpoints.eval_metric, updates > 0);
    let mut training = TrainingRun {
        args,
        source,
        batches: batches.clone(),
        run,
        log,
        metrics,
        best,
        hook: start_hook(args)?,
        stops: false,
    };
    training.evaluate_again(backend)?;
    training.stops |= backend.group().agree_to_stop()?;
    let sync_at = |cursor| Due::at(args, &config, cursor).any();
    let mut end = start;
    if !training.stops && !Due::stops(args, updates) {
        end = train(backend, &config, start, batches, sync_at, |backend, next, report| {
            training.after_step(backend, next, report)
        })?;
    }
    training.finish(backend, end)?;
    backend.group().finish()?;
    if let Some(hook) = training.hook {
        hook.finish();
    }
    Ok(if training.stops { Flow::Break(()) } else { Flow::Continue(()) })
}

/// The end of the epochs from a cursor on that the next evaluation follows, or else of the last one.
fn next_evaluation(args: &TrainArgs, source: &Source, from: Cursor, epochs: u64) -> Cursor {
    let interval = args.eval_epochs.get();
    let next = from.epoch.checked_div(interval).and_then(|n| (n + 1).checked_mul(interval));
    let next = next.filter(|_| source.evaluation.is_some()).unwrap_or(epochs);
    Cursor { epoch: next.min(epochs), step: 0 }
}

/// Starts the thread that runs `--checkpoint-command`.
fn start_hook(args: &TrainArgs) -> anyhow::Result<Option<CheckpointHook>> {
    let command = args.checkpoints.checkpoint_command.clone();
    let hook = command.map(CheckpointHook::start).transpose();
    hook.context("cannot start a thread for --checkpoint-command")
}

/// The microbatches of training and of evaluation, and what is known of them.
struct Source {
    batches: BatchSource,
    info: SourceInfo,
    evaluation: Option<SourceInfo>,
}

/// A line about what is trained, from where and how.
fn describe(run: &RunMetadata, info: &SourceInfo, preset: &str, device: &str) -> String {
    let RunMetadata { model, classes, image_size, config, cursor, .. } = run;
    format!(
        "{model} of {classes} classes at {image_size} pixels, by the hyperparameters of {preset} ({}, learning rate {}, \
         {} epochs of {} steps of {} samples), from {cursor}, on {device}",
        config.optimizer.name(),
        config.schedule.lr,
        config.schedule.total_epochs(),
        config.steps_per_epoch,
        info.batch
    )
}

/// Actions that are due between two steps.
#[derive(Clone, Copy)]
struct Due {
    evaluation: bool,
    checkpoint: bool,
    stop: bool,
}

impl Due {
    fn at(args: &TrainArgs, config: &TrainConfig, next: Cursor) -> Self {
        let (epoch_ended, done) = (next.step == 0, next.epoch == config.schedule.total_epochs());
        let updates = next.epoch * config.steps_per_epoch + next.step;
        let stop = Self::stops(args, updates);
        let interval = |every: u64, count: u64| every > 0 && count.is_multiple_of(every);
        let checkpoint = epoch_ended || stop || interval(args.checkpoint_steps.get(), updates);
        let evaluation = epoch_ended && (done || interval(args.eval_epochs.get(), next.epoch));
        Self { evaluation, checkpoint, stop }
    }

    /// Whether `--stop-after` ends the run after this many updates.
    fn stops(args: &TrainArgs, updates: u64) -> bool {
        args.stop_after.is_some_and(|max| updates >= max.get())
    }

    const fn any(self) -> bool {
        self.evaluation || self.checkpoint || self.stop
    }
}

/// A run in progress.
struct TrainingRun<'a> {
    args: &'a TrainArgs,
    source: &'a Source,
    batches: TrainingStream<'a>,
    run: RunMetadata,
    /// The log, which only rank 0 has.
    log: Option<RunLog>,
    metrics: Metrics,
    best: BestModel,
    /// Runs `--checkpoint-command`.
    hook: Option<CheckpointHook>,
    /// Whether a rank was asked to stop.
    stops: bool,
}

impl TrainingRun<'_> {
    fn after_step(
        &mut self,
        backend: &mut dyn Backend,
        next: Cursor,
        report: &StepReport,
    ) -> anyhow::Result<Flow> {
        if let Some(log) = &mut self.log {
            log.step(report)?;
        }
        self.metrics.step(report);
        self.run.cursor = next;
        let mut due = Due::at(self.args, &self.run.config, next);
        if report.stops {
            // The time that is left is for the checkpoint. The next run makes the evaluation.
            self.stops = !due.stop;
            due = Due { evaluation: false, checkpoint: true, stop: true };
        }
        // First the checkpoint: an evaluation that fails or is interrupted must not cost an epoch.
        if due.checkpoint {
            self.save_checkpoint(backend)?;
        }
        if due.evaluation {
            self.evaluate(backend)?;
        }
        if let Some(log) = self.log.as_ref().filter(|_| next.step == 0) {
            log.summarize(next)?;
        }
        Ok(if due.stop || self.stops { Flow::Break(()) } else { Flow::Continue(()) })
    }

    /// Makes the evaluation that is due where this run begins, if the one before it was interrupted.
    fn evaluate_again(&mut self, backend: &mut dyn Backend) -> anyhow::Result<()> {
        let (config, cursor) = (self.run.config, self.run.cursor);
        let update = cursor.epoch * config.steps_per_epoch;
        let due = cursor.epoch > 0 && Due::at(self.args, &config, cursor).evaluation;
        // Only rank 0 knows.
        let was_made = self.log.as_ref().is_some_and(|log| log.has_evaluation(update));
        let mut missing = [u64::from(due && !was_made)];
        backend.group().broadcast(&mut missing)?;
        if missing == [1] {
            self.evaluate(backend)?;
            return self.log.as_ref().map_or(Ok(()), |log| log.summarize(cursor));
        }
        Ok(())
    }

    /// Evaluates the model and, if one is kept, its moving average.
    fn evaluate(&mut self, backend: &mut dyn Backend) -> anyhow::Result<()> {
        let Source { batches, evaluation: Some(info), .. } = self.source else { return Ok(()) };
        self.batches.close(self.run.cursor);
        let mut accuracies = vec![("eval", evaluate(backend, batches.evaluate(info)?)?)];
        if self.run.config.model_ema_decay.is_some() && accuracies[0].1.is_some() {
            backend.swap_ema()?;
            let accuracy = evaluate(backend, batches.evaluate(info)?);
            backend.swap_ema()?;
            accuracies.push(("eval_ema", accuracy?));
        }
        let complete = |(name, accuracy): (_, Option<Accuracy>)| Some((name, accuracy?));
        let accuracies: Option<Vec<_>> = accuracies.into_iter().map(complete).collect();
        let Some(accuracies) = accuracies else {
            self.stops = true;
            return Ok(());
        };
        for (name, accuracy) in &accuracies {
            self.metrics.evaluation(name, accuracy);
        }
        let Some(log) = &mut self.log else { return Ok(()) };
        let update = self.run.cursor.epoch * self.run.config.steps_per_epoch;
        for (name, accuracy) in &accuracies {
            log.evaluation(update, name, accuracy)?;
        }
        // As in timm, the moving average decides where there is one.
        let [.., (_, accuracy)] = &accuracies[..] else { return Ok(()) };
        if let Some(best) = self.best.add(update, accuracy) {
            let state = backend.state()?;
            let model = if state.model_ema.is_empty() { &state.model } else { &state.model_ema };
            checkpoint::write_best(&self.args.output, &best, model, state.batches_tracked)?;
        }
        Ok(())
    }

    fn save_checkpoint(&mut self, backend: &mut dyn Backend) -> anyhow::Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let state = backend.state()?;
        (self.run.updates, self.run.batches_tracked) = (state.updates, state.batches_tracked);
        self.run.loss_scaler = state.loss_scaler;
        let (folder, keep) = (&self.args.output, self.args.checkpoints.checkpoint_hist.count());
        log.sync()?;
        let path = checkpoint::save_checkpoint(folder, &state, &self.run)?;
        log.checkpoint(&path);
        self.metrics.checkpoint();
        if let Some(hook) = &self.hook {
            hook.run(&path);
        }
        let is_in_use = |path: &Path| self.hook.as_ref().is_some_and(|hook| hook.uses(path));
        checkpoint::remove_old_checkpoints(folder, state.updates, keep, is_in_use)?;
        Ok(())
    }

    /// Writes the model and the curves, and prints where all files are.
    fn finish(&self, backend: &mut dyn Backend, end: Cursor) -> anyhow::Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        if self.stops {
            // Within the time that is left, the checkpoint was written.
            log.print(&format!("asked to stop: stopped at {end}; --resume continues"));
            return Ok(());
        }
        let state = backend.state()?;
        let output = &self.args.output;
        let model = output.join("model.safetensors");
        checkpoint::write_model(&model, &state.model, state.batches_tracked)?;
        let mut files = vec![("model", model)];
        if !state.model_ema.is_empty() {
            let ema = output.join("model_ema.safetensors");
            checkpoint::write_model(&ema, &state.model_ema, state.batches_tracked)?;
            files.push(("moving average", ema));
        }
        files.push(("curves", log.draw()?));
        files.push(("log", output.join("log.jsonl")));
        files.push(("TensorBoard", output.join("tensorboard")));
        files.extend(checkpoint::latest_checkpoint(output)?.map(|path| ("checkpoint", path)));
        let epochs = self.run.config.schedule.total_epochs();
        log.print(&if end.epoch == epochs {
            format!("trained all {epochs} epochs")
        } else {
            format!("stopped at {end}; --resume continues")
        });
        for (what, path) in files {
            log.print(&format!("{what}: {}", path.display()));
        }
        Ok(())
    }
}

/// The microbatches, each of which is written to the folder of `--dump` first, if there is one.
fn with_dump(batches: Batches, args: &TrainArgs, info: &SourceInfo) -> anyhow::Result<Batches> {
    let Some(folder) = args.dump.clone() else { return Ok(batches) };
    info.write(&folder)?;
    Ok(Box::new(batches.map(move |batch| {
        let batch = batch?;
        replay::write(&folder, &batch)?;
        Ok(batch)
    })))
}
