//! `forebay-trainer train`: trains, evaluates and writes the files of a run.

use anyhow::bail;
use forebay_client::RecipeRef;
use forebay_types::{Cursor, MixedBy};

use super::cli::TrainArgs;
use super::distributed::{common_settings, join, rank_and_address};
use super::replay::{self, SourceInfo};
use super::run_log::RunLog;
use super::setup;
use super::source::{BatchSource, Batches};
use crate::Error;
use crate::accuracy::evaluate;
use crate::backend::Backend;
use crate::backend::device::TrainDevice;
use crate::checkpoint::{self, RunMetadata};
use crate::process_group::ProcessGroup;
use crate::training_loop::{Flow, StepReport, TrainConfig, train};

pub(crate) fn run(args: &TrainArgs) -> anyhow::Result<()> {
    if args.source.client.mixed_by == MixedBy::Trainer && args.network.device == TrainDevice::Cpu {
        bail!("--mixed-by trainer needs a GPU: set --device cuda, or use --mixed-by server");
    }
    let (rank, address) = rank_and_address(&args.distributed)?;
    let recipe = RecipeRef::from_name_or_path(&args.recipe)?;
    let source = BatchSource::for_training(args, recipe.clone(), rank)?;
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
    let preset = setup::hyperparameters_preset(args, &recipe)?;
    let trained = train_as_rank(args, source, &info, evaluation, (run, preset), &mut *backend);
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
    source: BatchSource,
    info: &SourceInfo,
    evaluation: Option<SourceInfo>,
    (mut run, preset): (RunMetadata, String),
    backend: &mut dyn Backend,
) -> anyhow::Result<()> {
    let lock = || checkpoint::lock_folder(&args.output);
    let _locked = backend.group().is_primary().then(lock).transpose()?;
    setup::load_initial_state(args, &mut run, backend)?;
    let (config, start) = (run.config, run.cursor);
    let epochs = config.schedule.total_epochs();
    let open_log = || RunLog::open(&args.output, start, config.steps_per_epoch, epochs);
    let log = backend.group().is_primary().then(open_log).transpose()?;
    if let Some(log) = &log {
        let device = setup::device_in_words(&args.network)?;
        log.print(&describe(&run, info, &preset, &device));
    }
    let batches = with_dump(source.train(start, epochs, info)?, args, info)?;
    let mut training = TrainingRun { args, source, evaluation, run, log };
    let sync_at = |cursor| Due::at(args, &config, cursor).any();
    let mut end = start;
    if !Due::stops(args, start.epoch * config.steps_per_epoch + start.step) {
        end = train(backend, &config, start, batches, sync_at, |backend, next, report| {
            training.after_step(backend, next, report)
        })?;
    }
    training.finish(backend, end)?;
    backend.group().finish()?;
    Ok(())
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
    source: BatchSource,
    evaluation: Option<SourceInfo>,
    run: RunMetadata,
    /// The log, which only rank 0 has.
    log: Option<RunLog>,
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
        self.run.cursor = next;
        let due = Due::at(self.args, &self.run.config, next);
        // First the checkpoint: an evaluation that fails or is interrupted must not cost an epoch.
        if due.checkpoint {
            self.save_checkpoint(backend)?;
        }
        if due.evaluation {
            self.evaluate(backend)?;
        }
        Ok(if due.stop { Flow::Break(()) } else { Flow::Continue(()) })
    }

    /// Evaluates the model and, if one is kept, its moving average.
    fn evaluate(&mut self, backend: &mut dyn Backend) -> anyhow::Result<()> {
        let Some(info) = &self.evaluation else { return Ok(()) };
        let mut accuracies = vec![("eval", evaluate(backend, self.source.evaluate(info)?)?)];
        if self.run.config.model_ema_decay.is_some() {
            backend.swap_ema()?;
            let accuracy = evaluate(backend, self.source.evaluate(info)?);
            backend.swap_ema()?;
            accuracies.push(("eval_ema", accuracy?));
        }
        let update = self.run.cursor.epoch * self.run.config.steps_per_epoch;
        if let Some(log) = &mut self.log {
            for (name, accuracy) in &accuracies {
                log.evaluation(update, name, accuracy)?;
            }
        }
        Ok(())
    }

    fn save_checkpoint(&mut self, backend: &mut dyn Backend) -> anyhow::Result<()> {
        if !backend.group().is_primary() {
            return Ok(());
        }
        let state = backend.state()?;
        (self.run.updates, self.run.batches_tracked) = (state.updates, state.batches_tracked);
        self.run.loss_scaler = state.loss_scaler;
        checkpoint::save_checkpoint(&self.args.output, &state, &self.run)?;
        Ok(())
    }

    /// Writes the model and the curves, and prints where all files are.
    fn finish(&self, backend: &mut dyn Backend, end: Cursor) -> anyhow::Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
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
