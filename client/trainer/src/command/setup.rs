//! Turns the options into a run: hyperparameters, backend and initial state.

use anyhow::{Context as _, bail};
use forebay_client::RecipeRef;
use forebay_types::process::available_memory;
use forebay_types::settings::ByteSize;
use forebay_types::{Cursor, Rank};

use super::cli::{HyperparameterChanges, LossName, ModelArgs, TrainArgs, set};
use super::replay::SourceInfo;
use crate::Error;
use crate::backend::conv_config::Norms;
use crate::backend::device::TrainDevice;
use crate::backend::precision::Precision;
use crate::backend::{Backend, BackendConfig};
use crate::checkpoint::{self, LoadedCheckpoint, RunMetadata};
use crate::init::initial_state;
use crate::loss::Criterion;
use crate::memory::MemoryPlan;
use crate::model::{Architecture, Graph};
use crate::state::TrainState;
use crate::training_loop::TrainConfig;

/// The preset of the hyperparameters: `--hyperparameters`, or else the recipe or the base of its TOML file.
pub(crate) fn hyperparameters_preset(
    args: &TrainArgs,
    recipe: &RecipeRef,
) -> anyhow::Result<String> {
    if let Some(preset) = &args.hyperparameters {
        return Ok(preset.clone());
    }
    let base = match recipe {
        RecipeRef::Name(name) => Some(name.clone()),
        RecipeRef::Toml(text) => {
            let table: toml::Table = toml::from_str(text)
                .with_context(|| format!("--recipe {} is not a TOML file", args.recipe))?;
            table.get("base").and_then(toml::Value::as_str).map(str::to_owned)
        }
    };
    match base {
        Some(name) if ["a1", "a2", "a3"].contains(&&*name) => Ok(name),
        _ => bail!(
            "--recipe {} has no hyperparameters of its own: choose those of a1, a2 or a3 by --hyperparameters",
            args.recipe
        ),
    }
}

/// The metadata of this run before its first step.
pub(crate) fn run_metadata(
    args: &TrainArgs,
    recipe: &RecipeRef,
    info: &SourceInfo,
) -> anyhow::Result<RunMetadata> {
    let preset = hyperparameters_preset(args, recipe)?;
    let config = train_config(args, &preset, (info.smoothing, info.steps, info.microbatches))?;
    if config.steps_per_epoch == 0 {
        bail!(
            "an epoch has no steps, because the dataset is smaller than a batch of {}: set a smaller --batch",
            info.batch
        );
    }
    Ok(RunMetadata {
        model: args.network.model.clone(),
        classes: info.classes,
        image_size: info.image_size as usize,
        recipe_digest: info.recipe_digest.clone(),
        dataset_digest: info.dataset_digest.clone(),
        config,
        cursor: Cursor::default(),
        updates: 0,
        batches_tracked: 0,
        loss_scaler: None,
    })
}

/// The preset with the changes by the options, for data with this label smoothing, and these steps of an epoch and
/// microbatches of a step.
pub(crate) fn train_config(
    args: &TrainArgs,
    preset: &str,
    (smoothing, steps, microbatches): (f64, u64, u32),
) -> anyhow::Result<TrainConfig> {
    let mut config = TrainConfig::preset(preset, smoothing, steps, microbatches)?;
    config.seed = args.seed.get();
    apply_changes(&mut config, &args.hyperparameter_changes);
    args.optimizer_changes.apply(&mut config);
    args.schedule_changes.apply(&mut config.schedule)?;
    Ok(config)
}

/// Overrides the preset by the options.
fn apply_changes(config: &mut TrainConfig, changes: &HyperparameterChanges) {
    set(&mut config.drop_path, changes.drop_path);
    let criterion = changes.loss.map(|loss| match loss {
        LossName::Bce => Criterion::Bce,
        LossName::BceSum => Criterion::BceSum,
        LossName::CrossEntropy => Criterion::CrossEntropy,
    });
    set(&mut config.loss.criterion, criterion);
    #[expect(clippy::cast_possible_truncation, reason = "a threshold needs no more digits")]
    let threshold = changes.bce_target_thresh.map(|t| (t >= 0.0).then_some(t as f32));
    set(&mut config.loss.target_threshold, threshold);
    config.model_ema_decay = changes.model_ema.then_some(changes.model_ema_decay);
}

/// Opens a backend for the microbatches of training and of evaluation.
pub(crate) fn open_backend(
    args: &ModelArgs,
    info: &SourceInfo,
    evaluation: Option<&SourceInfo>,
    rank: Rank,
) -> anyhow::Result<Box<dyn Backend>> {
    let evaluation = evaluation.unwrap_or(info);
    if info.classes == 0 {
        bail!("the dataset has no classes: it must have at least one");
    }
    if evaluation.classes != info.classes {
        let (training, evaluation) = (info.classes, evaluation.classes);
        bail!(
            "the training dataset has {training} classes, but the evaluation dataset has {evaluation}: use another \
             --eval-dataset"
        );
    }
    let architecture = Architecture::named(&args.model, info.classes)?;
    let graph = |info: &SourceInfo| {
        let side = info.image_size as usize;
        Graph::new(&architecture, side, side)
    };
    let samples = |info: &SourceInfo| info.batch.div_ceil(info.microbatches.max(1)) as usize;
    let config = BackendConfig {
        train_graph: graph(info),
        batch: samples(info),
        eval_graph: graph(evaluation),
        eval_batch: samples(evaluation),
        mean: info.mean,
        std: info.std,
    };
    let device = device(args)?;
    if device == TrainDevice::Cpu {
        if let Some(precision) = args.precision.filter(|&precision| precision != Precision::F32) {
            bail!(
                "invalid --precision {}: the CPU computes in f32; set --device cuda:N",
                precision.name()
            );
        }
        if args.gpu.conv.norms == Norms::Fused {
            bail!("invalid --norms fused: the CPU computes norms separately; set --device cuda:N");
        }
    }
    let gpu = args.gpu_config();
    check_memory(&config, device, gpu.precision, args.memory_limit)?;
    Ok(device.open_with(config, rank, gpu)?)
}

pub(crate) fn check_memory(
    config: &BackendConfig,
    device: TrainDevice,
    precision: Precision,
    limit: ByteSize,
) -> anyhow::Result<()> {
    let training = MemoryPlan::training(config.train_graph.clone(), config.batch).arena;
    let inference = MemoryPlan::inference(config.eval_graph.clone(), config.eval_batch).arena;
    let precision = if device == TrainDevice::Cpu { Precision::F32 } else { precision };
    let of_microbatch = training.max(inference) as u64 * precision.bytes() as u64;
    // Each with its gradient and two moments.
    let parameters = config.train_graph.parameters.iter();
    let parameters: usize = parameters.map(|p| p.shape.iter().product::<usize>()).sum();
    let of_model = 4 * size_of::<f32>() as u64 * parameters as u64;
    let machine = if device == TrainDevice::Cpu { available_memory() } else { None };
    fits(of_model, of_microbatch, limit, machine)
}

/// Checks the bytes of a model and of a microbatch against `--memory-limit`, and against the memory of the machine that
/// computes.
fn fits(
    of_model: u64,
    of_microbatch: u64,
    limit: ByteSize,
    machine: Option<u64>,
) -> anyhow::Result<()> {
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    let needed = of_model.saturating_add(of_microbatch);
    let (less, more) = if needed > limit.0 {
        (format!("--memory-limit is {limit}"), "raise --memory-limit")
    } else if let Some(machine) = machine.filter(|machine| needed > *machine) {
        (
            format!("this process may use {}", gib(machine)),
            "a machine or container with more memory",
        )
    } else {
        return Ok(());
    };
    bail!(
        "the model needs {} of memory and a microbatch {}, but {less}: use more --microbatches, a smaller --model, \
         --image-size or --validation-batch-size, or {more}",
        gib(of_model),
        gib(of_microbatch)
    )
}

/// Which device trains and how, because a run that was meant for a GPU is only slow on the CPU.
pub(crate) fn device_in_words(args: &ModelArgs) -> anyhow::Result<String> {
    let gpu = args.gpu_config();
    Ok(match (device(args)?, gpu.conv.norms) {
        (TrainDevice::Cpu, _) => "the CPU in f32".to_owned(),
        (device, Norms::Separate) => format!("{device} in {}", gpu.precision.name()),
        (device, Norms::Fused) => format!("{device} in {} with fused norms", gpu.precision.name()),
    })
}

fn device(args: &ModelArgs) -> anyhow::Result<TrainDevice> {
    let local_rank = args.local_rank.as_deref().filter(|text| !text.is_empty()).unwrap_or("0");
    let number = local_rank
        .parse()
        .with_context(|| format!("invalid LOCAL_RANK={local_rank}: expected a whole number"))?;
    Ok(args.device.with_local_rank(number))
}

/// Loads the initial state: rank 0 reads or creates it, and broadcasts it to the others.
pub(crate) fn load_initial_state(
    args: &TrainArgs,
    run: &mut RunMetadata,
    backend: &mut dyn Backend,
) -> anyhow::Result<()> {
    let mut state = backend.state()?;
    if backend.group().is_primary() {
        state = read_initial_state(args, run, backend.graph())?;
        if let Err(error) = checkpoint::remove_leftovers(&args.output) {
            tracing::warn!("cannot remove what an earlier run left: {error}");
        }
        backend.load(&state).map_err(|problem| mismatch(args, problem))?;
    }
    checkpoint::broadcast_checkpoint(backend.group(), &mut state, run)?;
    if !backend.group().is_primary() {
        backend.load(&state).map_err(|problem| mismatch(args, problem))?;
    }
    Ok(())
}

/// The state of the newest checkpoint, of `--initial-checkpoint`, or of an untrained model.
fn read_initial_state(
    args: &TrainArgs,
    run: &mut RunMetadata,
    graph: &Graph,
) -> anyhow::Result<TrainState> {
    let output = args.output.display();
    if args.resume || args.auto_resume {
        match checkpoint::load_latest_checkpoint(&args.output)? {
            Some(LoadedCheckpoint { path, state, run: saved, unusable }) => {
                for error in &unusable {
                    tracing::warn!("{error}: resuming from {} instead", path.display());
                }
                saved.check_resumable(run, &path)?;
                *run = saved;
                return Ok(state);
            }
            None if args.resume => {
                bail!("{output} has no checkpoint: check --output, or start without --resume")
            }
            None => {}
        }
    } else if checkpoint::latest_checkpoint(&args.output)?.is_some() {
        bail!("{output} has checkpoints of an earlier run: add --resume, or use another --output")
    }
    if let Some(path) = &args.network.initial_checkpoint {
        return Ok(TrainState { model: checkpoint::read_model(path)?, ..TrainState::default() });
    }
    Ok(initial_state(graph, args.seed.get()))
}

/// An error about the file from which the state was loaded.
fn mismatch(args: &TrainArgs, problem: String) -> Error {
    let resumed = checkpoint::latest_checkpoint(&args.output).is_ok_and(|path| path.is_some());
    let initial = args.network.initial_checkpoint.as_deref().filter(|_| !resumed);
    Error::Mismatch { path: initial.unwrap_or(&args.output).to_owned(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exceeds_the_memory_of_the_machine_is_refused_before_it_is_allocated() {
        let problem = |machine| fits(3 << 30, 2 << 30, ByteSize(64 << 30), machine);
        for enough in [None, Some(5 << 30)] {
            problem(enough).unwrap();
        }
        let error = problem(Some((5 << 30) - 1)).unwrap_err().to_string();
        assert!(error.contains("needs 3.0 GiB") && error.contains("may use 5.0 GiB"), "{error}");
        let error = fits(3 << 30, 2 << 30, ByteSize(4 << 30), Some(1)).unwrap_err().to_string();
        assert!(error.contains("--memory-limit is 4GiB"), "{error}");
    }

    #[test]
    fn f32_on_a_gpu_needs_twice_the_memory_of_bf16_for_a_microbatch() {
        let graph = Graph::new(&Architecture::named("resnet20", 10).unwrap(), 32, 32);
        let parameters = graph.parameters.iter().map(|p| p.shape.iter().product::<usize>());
        let of_model = 16 * parameters.sum::<usize>() as u64;
        let values = MemoryPlan::training(graph.clone(), 64).arena as u64;
        let config = BackendConfig {
            train_graph: graph.clone(),
            batch: 64,
            eval_graph: graph,
            eval_batch: 1,
            mean: [0.5; 3],
            std: [0.25; 3],
        };
        let check = |precision| {
            let limit = ByteSize(of_model + 3 * values);
            check_memory(&config, TrainDevice::Cuda(Some(0)), precision, limit)
        };
        check(Precision::Bf16).unwrap();
        check(Precision::F32).unwrap_err();
    }
}
