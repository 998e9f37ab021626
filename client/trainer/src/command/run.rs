//! `forebay-trainer train` and `eval`: flags to settings, and the files of a run.

use std::path::Path;

use crate::backend::{Backend, Device, Networks, State};
use crate::checkpoint::{self, Run};
use crate::eval::{Accuracy, evaluate};
use crate::loss::Criterion;
use crate::memory::Plan;
use crate::model::{Architecture, Graph};
use crate::train::{Cursor, Flow, Report, Training, train};
use crate::{Error, init, preset};
use anyhow::{Context as _, bail};
use forebay_client::{MixedBy, Rank};

use super::cli::{self, Change, Evaluate, Train};
use super::feed::{Batches, Feed};
use super::files::{self, Description};
use super::log::Log;
use super::place::{meet, place, settings};

/// A run in the making.
struct Session<'a> {
    args: &'a Train,
    feed: Feed,
    evaluation: Option<Description>,
    run: Run,
    /// Of rank 0.
    log: Option<Log>,
}

pub(crate) fn run(args: &Train) -> anyhow::Result<()> {
    if args.source.client.mixed_by == MixedBy::Trainer && args.network.device == Device::Cpu {
        bail!("--mixed-by trainer needs a GPU: name it by --device, or have the server mix");
    }
    let (rank, address) = place(&args.place)?;
    let feed = Feed::open(&args.source, Some((&args.recipe, &args.data, args.seed)), rank)?;
    let (about, evaluation) = (feed.training()?, feed.evaluation()?);
    rank.microbatches(about.microbatches)?;
    let run = describe(args, &about)?;
    let mut backend = backend(&args.network, &about, evaluation.as_ref(), rank)?;
    let settings = settings(args, &run, evaluation.as_ref())?;
    backend.join(meet(args, rank, address, settings)?)?;
    let done = together(args, feed, &about, evaluation, run, &mut *backend);
    if let Err(error) = &done {
        backend.ranks().fail(&format!("{error:#}"));
    }
    done
}

/// Trains as one of the ranks.
fn together(
    args: &Train,
    feed: Feed,
    about: &Description,
    evaluation: Option<Description>,
    mut run: Run,
    backend: &mut dyn Backend,
) -> anyhow::Result<()> {
    begin(args, &mut run, backend)?;
    let epochs = run.training.schedule.epochs;
    let log = || Log::open(&args.out, run.cursor, run.training.steps, epochs);
    let log = backend.ranks().is_first().then(log).transpose()?;
    let batches = dumped(feed.train(run.cursor, epochs, about)?, args, about)?;
    let mut session = Session { args, feed, evaluation, run, log };
    let (training, cursor) = (session.run.training, session.run.cursor);
    let pauses = |cursor| Due::at(args, &training, cursor).any();
    let end = train(backend, &training, cursor, batches, pauses, |backend, cursor, report| {
        session.after(backend, cursor, report)
    })?;
    session.finish(backend, end)?;
    backend.ranks().finish()?;
    Ok(())
}

/// Loads the first state: rank 0 has it, and gives it to the others.
fn begin(args: &Train, run: &mut Run, backend: &mut dyn Backend) -> anyhow::Result<()> {
    let mut state = backend.state()?;
    if backend.ranks().is_first() {
        state = first(args, run, backend.graph())?;
        backend.load(&state).map_err(|problem| mismatch(args, problem))?;
    }
    checkpoint::share(backend.ranks(), &mut state, run)?;
    if !backend.ranks().is_first() {
        backend.load(&state).map_err(|problem| mismatch(args, problem))?;
    }
    Ok(())
}

/// What is due between two steps.
#[derive(Clone, Copy)]
struct Due {
    evaluation: bool,
    checkpoint: bool,
    stop: bool,
}

impl Due {
    fn at(args: &Train, training: &Training, at: Cursor) -> Self {
        let (epoch_ends, last) = (at.step == 0, at.epoch == training.schedule.epochs);
        let done = at.epoch * training.steps + at.step;
        let stop = args.stop_after.is_some_and(|most| done >= most);
        let often = args.checkpoint_steps > 0 && done.is_multiple_of(args.checkpoint_steps);
        let evaluation = epoch_ends && (last || at.epoch.is_multiple_of(args.eval_epochs.max(1)));
        Self { evaluation, checkpoint: epoch_ends || stop || often, stop }
    }

    const fn any(self) -> bool {
        self.evaluation || self.checkpoint || self.stop
    }
}

/// Evaluates a model.
pub(crate) fn eval(args: &Evaluate) -> anyhow::Result<()> {
    let Some(init) = &args.network.init else {
        bail!("no --init: which model is to be evaluated?")
    };
    let feed = Feed::open(&args.source, None, Rank::SINGLE)?;
    let about = feed.evaluation()?.context("nothing to evaluate on; set --dataset")?;
    let mut backend = backend(&args.network, &about, Some(&about), Rank::SINGLE)?;
    let state = State { model: checkpoint::read_model(init)?, ..State::default() };
    backend.load(&state).map_err(|problem| Error::Mismatch { path: init.clone(), problem })?;
    let Accuracy { samples, .. } = report(&mut *backend, &feed, &about)?;
    if samples == 0 {
        bail!("the dataset has no samples")
    }
    Ok(())
}

fn report(backend: &mut dyn Backend, feed: &Feed, about: &Description) -> anyhow::Result<Accuracy> {
    let accuracy = evaluate(backend, feed.evaluate(about)?)?;
    let (top1, top5) = (100.0 * accuracy.top1(), 100.0 * accuracy.top5());
    super::print(&format!("top-1 {top1:.2} %, top-5 {top5:.2} % of {} images", accuracy.samples));
    Ok(accuracy)
}

impl Session<'_> {
    fn after(
        &mut self,
        backend: &mut dyn Backend,
        cursor: Cursor,
        report: &Report,
    ) -> anyhow::Result<Flow> {
        if let Some(log) = &mut self.log {
            log.step(report)?;
        }
        self.run.cursor = cursor;
        let due = Due::at(self.args, &self.run.training, cursor);
        if due.evaluation {
            self.evaluate(backend)?;
        }
        if due.checkpoint {
            self.save(backend)?;
        }
        Ok(if due.stop { Flow::Break(()) } else { Flow::Continue(()) })
    }

    fn evaluate(&mut self, backend: &mut dyn Backend) -> anyhow::Result<()> {
        let Some(about) = &self.evaluation else { return Ok(()) };
        let update = self.run.cursor.epoch * self.run.training.steps;
        let mut found = vec![("eval", evaluate(backend, self.feed.evaluate(about)?)?)];
        if self.run.training.average.is_some() {
            backend.swap_average()?;
            let accuracy = evaluate(backend, self.feed.evaluate(about)?);
            backend.swap_average()?;
            found.push(("eval_average", accuracy?));
        }
        if let Some(log) = &mut self.log {
            for (name, accuracy) in &found {
                log.evaluation(update, name, accuracy)?;
            }
        }
        Ok(())
    }

    fn save(&mut self, backend: &mut dyn Backend) -> anyhow::Result<()> {
        if !backend.ranks().is_first() {
            return Ok(());
        }
        let state = backend.state()?;
        (self.run.updates, self.run.passes) = (state.updates, state.passes);
        checkpoint::save(&self.args.out, &state, &self.run)?;
        Ok(())
    }

    /// Writes the model and the curves, and says where they are.
    fn finish(&self, backend: &mut dyn Backend, end: Cursor) -> anyhow::Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let state = backend.state()?;
        let model = self.args.out.join("model.safetensors");
        checkpoint::write_model(&model, &state.model, state.passes)?;
        let mut places = vec![("model", model)];
        if !state.average.is_empty() {
            let average = self.args.out.join("average.safetensors");
            checkpoint::write_model(&average, &state.average, state.passes)?;
            places.push(("moving average", average));
        }
        places.push(("curves", log.draw()?));
        places.push(("log", self.args.out.join("log.jsonl")));
        places.push(("TensorBoard", self.args.out.join("tensorboard")));
        places.extend(checkpoint::latest(&self.args.out)?.map(|path| ("checkpoint", path)));
        log.say(&format!("stopped at epoch {}, step {}", end.epoch, end.step));
        for (what, path) in places {
            log.say(&format!("{what}: {}", path.display()));
        }
        Ok(())
    }
}

/// What this run is, at its begin.
fn describe(args: &Train, about: &Description) -> anyhow::Result<Run> {
    let mut training =
        preset::training(&args.recipe, about.smoothing, about.steps, about.microbatches)?;
    training.seed = args.seed;
    change(&mut training, &args.change);
    if training.schedule.epochs == 0 || training.steps == 0 {
        bail!(
            "nothing to do: {} epochs of {} steps; is the dataset smaller than --batch?",
            training.schedule.epochs,
            training.steps
        );
    }
    Ok(Run {
        model: args.network.model.clone(),
        classes: about.classes,
        image_size: about.image_size as usize,
        recipe_digest: about.recipe_digest.clone(),
        dataset_digest: about.dataset_digest.clone(),
        training,
        cursor: Cursor::default(),
        updates: 0,
        passes: 0,
    })
}

/// Puts the flags over the recipe.
fn change(training: &mut Training, change: &Change) {
    let schedule = &mut training.schedule;
    schedule.epochs = change.epochs.unwrap_or(schedule.epochs);
    schedule.rate = change.lr.unwrap_or(schedule.rate);
    schedule.warmup_rate = change.warmup_lr.unwrap_or(schedule.warmup_rate);
    schedule.min_rate = change.min_lr.unwrap_or(schedule.min_rate);
    schedule.warmup_epochs = change.warmup_epochs.unwrap_or(schedule.warmup_epochs);
    schedule.by_update |= change.lr_by_step;
    training.lamb.weight_decay = change.weight_decay.unwrap_or(training.lamb.weight_decay);
    if let Some(norm) = change.clip {
        training.lamb.max_grad_norm = (norm > 0.0).then_some(norm);
    }
    training.drop_path = change.drop_path.unwrap_or(training.drop_path);
    if let Some(criterion) = change.loss {
        training.loss.criterion = match criterion {
            cli::Criterion::Bce => Criterion::Bce,
            cli::Criterion::BceSum => Criterion::BceSum,
            cli::Criterion::CrossEntropy => Criterion::CrossEntropy,
        };
    }
    if let Some(threshold) = change.threshold {
        training.loss.threshold = (threshold >= 0.0).then_some(threshold);
    }
    training.average = change.average.or(training.average);
}

/// Images larger than this are refused: the tables count an image's numbers in 32 bits.
const MOST_PIXELS: u32 = 4096;

fn backend(
    network: &cli::Network,
    about: &Description,
    evaluation: Option<&Description>,
    place: Rank,
) -> anyhow::Result<Box<dyn Backend>> {
    let evaluation = evaluation.unwrap_or(about);
    if evaluation.classes != about.classes {
        let (training, evaluation) = (about.classes, evaluation.classes);
        bail!("the training dataset has {training} classes, the evaluation dataset {evaluation}");
    }
    let net = Architecture::named(&network.model, about.classes)?;
    let samples = |about: &Description| about.batch.div_ceil(about.microbatches.max(1)) as usize;
    let graph = |about: &Description| {
        let side = about.image_size;
        if !(1..=MOST_PIXELS).contains(&side) {
            bail!("images of {side} pixels: the trainer takes 1 to {MOST_PIXELS}");
        }
        Ok(Graph::new(&net, side as usize, side as usize))
    };
    let (training, inference) = (graph(about)?, graph(evaluation)?);
    let (batch, eval_batch) = (samples(about), samples(evaluation));
    let numbers = Plan::training(training.clone(), batch).arena;
    let most = Plan::inference(inference.clone(), eval_batch).arena.max(numbers);
    let device = device(network)?;
    let bytes = if device == Device::Cpu { 4.0 } else { 2.0 };
    let (needed, limit) = (most as f64 * bytes / f64::from(1 << 30), network.memory_limit);
    if needed > limit {
        bail!(
            "a microbatch needs {needed:.1} GiB of memory, the limit is {limit} GiB: use more \
             --microbatches, a smaller --image-size or --eval-batch, or raise --memory-limit"
        );
    }
    let (mean, std, evaluation) = (about.mean, about.std, inference);
    let networks = Networks { training, batch, evaluation, eval_batch, mean, std };
    Ok(device.open(networks, place)?)
}

fn device(network: &cli::Network) -> anyhow::Result<Device> {
    let local = network.local_rank.as_deref().filter(|text| !text.is_empty()).unwrap_or("0");
    Ok(network.device.or(local.parse().with_context(|| format!("LOCAL_RANK={local}"))?))
}

/// The state to begin with: the newest checkpoint's, a file's or a new one.
fn first(args: &Train, run: &mut Run, graph: &Graph) -> anyhow::Result<State> {
    let out = args.out.display();
    match checkpoint::latest(&args.out)? {
        Some(path) if args.resume || args.auto_resume => {
            let (state, before) = checkpoint::load(&path)?;
            before.resumable(run, &path)?;
            *run = before;
            return Ok(state);
        }
        Some(_) => {
            bail!("{out} has the checkpoints of another run: --resume it, or choose another --out")
        }
        None if args.resume => bail!("no checkpoint in {out}; train without --resume"),
        None => {}
    }
    if let Some(path) = &args.network.init {
        return Ok(State { model: checkpoint::read_model(path)?, ..State::default() });
    }
    Ok(init::state(graph, args.seed))
}

fn mismatch(args: &Train, problem: String) -> Error {
    let resumed = checkpoint::latest(&args.out).is_ok_and(|newest| newest.is_some());
    let path = args.network.init.as_deref().filter(|_| !resumed).unwrap_or(&args.out);
    Error::Mismatch { path: path.to_owned(), problem }
}

/// Keeps each microbatch on its way, with `--dump`.
fn dumped(batches: Batches, args: &Train, about: &Description) -> anyhow::Result<Batches> {
    let Some(folder) = args.dump.clone() else { return Ok(batches) };
    about.write(Path::new(&folder))?;
    Ok(Box::new(batches.map(move |batch| {
        let batch = batch?;
        files::write(&folder, &batch)?;
        Ok(batch)
    })))
}
