//! Checkpoints: one folder `step-00001234` per checkpoint, which is either complete or absent.
//!
//! * `model.safetensors`: parameters and running statistics by timm's names; loads in timm with
//!   `strict=True`. `model_ema.safetensors`: the same of the moving average.
//! * `optimizer.safetensors`: `exp_avg.NAME` and `exp_avg_sq.NAME`, or `momentum_buffer.NAME` of SGD.
//! * `run.json`: the cursor, the counters, the settings, and checksums of all files. Random draws are
//!   keyed and need no state.
//!
//! ```text
//! .step-aB3xYz/   files, each written and synced; then the folder is synced
//!    | rename
//! step-00001234/  then the folder above is synced, and old checkpoints are removed
//! ```
//!
//! `model_best.safetensors` beside them is the model of the best evaluation, with its figures.
//!
//! So a trainer or a machine that stops at any time leaves the previous checkpoint intact, and maybe a
//! folder with a temporary name, which the next run removes. A checkpoint that was damaged later is
//! noticed by its checksums, and the next older one is used.

mod best;
mod disk;
mod metadata;
mod tensors;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use forebay_types::Cursor;

use crate::Error;
use crate::loss_scaler::LossScaler;
use crate::process_group::ProcessGroup;
use crate::state::{StateDict, TrainState};

use disk::{Checksum, create_folder, read_error, write_error};
use metadata::Checksums;

pub(crate) use best::{Best, read_best, write_best};
pub(crate) use disk::{lock as lock_folder, replace as replace_file};
pub use metadata::RunMetadata;
pub use tensors::{read_model, write_model};

/// Names of the files with tensors.
const MODEL: &str = "model.safetensors";
const MODEL_EMA: &str = "model_ema.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";

/// A checkpoint to resume from.
#[derive(Debug)]
pub struct LoadedCheckpoint {
    /// Its folder.
    pub path: PathBuf,
    /// The state of training.
    pub state: TrainState,
    /// Its metadata.
    pub run: RunMetadata,
    /// Why newer checkpoints cannot be used, newest first.
    pub unusable: Vec<Error>,
}

/// Writes a checkpoint into `folder`. Returns its path.
///
/// # Errors
/// [`Error::NotFinite`] if the state has diverged, and [`Error::Write`] if a file cannot be written.
pub fn save_checkpoint(
    folder: &Path,
    state: &TrainState,
    run: &RunMetadata,
) -> Result<PathBuf, Error> {
    if let Some(tensor) = state.not_finite() {
        return Err(Error::NotFinite { tensor: tensor.to_owned(), updates: state.updates });
    }
    create_folder(folder)?;
    let temporary = disk::temporary(0o777).tempdir_in(folder).map_err(write_error(folder))?;
    let mut files = Checksums::new();
    let mut write = |name: &str, contents: &[u8]| {
        files.insert(name.to_owned(), Checksum::of(contents));
        disk::write(&temporary.path().join(name), contents)
    };
    write(MODEL, &tensors::encode_model(&state.model, state.batches_tracked, None))?;
    if !state.model_ema.is_empty() {
        write(MODEL_EMA, &tensors::encode_model(&state.model_ema, state.batches_tracked, None))?;
    }
    let moments = [
        ("exp_avg", &state.exp_avg),
        ("exp_avg_sq", &state.exp_avg_sq),
        ("momentum_buffer", &state.momentum_buffer),
    ];
    let moments = moments.into_iter().flat_map(|(prefix, tensors)| {
        tensors.iter().map(move |(name, tensor)| (format!("{prefix}.{name}"), tensor))
    });
    write(OPTIMIZER, &tensors::encode_tensors(moments, None, None))?;
    let json = metadata::to_json(run, &files).expect("plain fields");
    disk::write(&temporary.path().join(metadata::NAME), &json)?;
    disk::sync(temporary.path())?;

    let path = folder.join(format!("step-{:08}", state.updates));
    // An earlier checkpoint of the same step is moved away, because a folder cannot be replaced at once.
    let replaced = if path.exists() {
        let away = disk::temporary(0o777).tempdir_in(folder).map_err(write_error(folder))?;
        std::fs::rename(&path, away.path().join("replaced")).map_err(write_error(&path))?;
        Some(away)
    } else {
        None
    };
    std::fs::rename(temporary.path(), &path).map_err(write_error(&path))?;
    disk::sync(folder)?;
    drop(replaced);
    Ok(path)
}

/// Removes all but the newest checkpoints of a run that has just written the one of `updates`. `is_in_use` tells which are
/// left alone although they are older.
///
/// # Errors
/// [`Error::Read`] if the folder cannot be read.
pub fn remove_old_checkpoints(
    folder: &Path,
    updates: u64,
    keep: usize,
    is_in_use: impl Fn(&Path) -> bool,
) -> Result<(), Error> {
    // Newer ones are of an earlier run, which this one resumed from an older checkpoint.
    let saved = checkpoints(folder)?.into_iter().filter(|(of, _)| *of <= updates);
    for (_, old) in saved.rev().skip(keep).filter(|(_, path)| !is_in_use(path)) {
        // Someone may be reading it. The new one is written, so that training can continue.
        if let Err(error) = std::fs::remove_dir_all(&old) {
            tracing::warn!("cannot remove the checkpoint {}: {error}", old.display());
        }
    }
    Ok(())
}

/// The newest checkpoint of a folder; `None` if the folder or a checkpoint does not exist.
///
/// # Errors
/// [`Error::Read`] if the folder cannot be read.
pub fn latest_checkpoint(folder: &Path) -> Result<Option<PathBuf>, Error> {
    let newest = checkpoints(folder)?.into_iter().rev();
    // One that cannot be looked at is there, too.
    let is_there = |path: &PathBuf| match path.join(metadata::NAME).metadata() {
        Ok(metadata) => metadata.is_file(),
        Err(error) => error.kind() != ErrorKind::NotFound,
    };
    Ok(newest.map(|(_, path)| path).find(is_there))
}

/// Reads the newest checkpoint of a folder that can be used; `None` if there is no checkpoint.
///
/// # Errors
/// [`Error::Read`] if the folder cannot be read, and [`Error::NoUsableCheckpoint`] if it has checkpoints
/// of which none can be used.
pub fn load_latest_checkpoint(folder: &Path) -> Result<Option<LoadedCheckpoint>, Error> {
    let mut unusable = Vec::new();
    for (_, path) in checkpoints(folder)?.into_iter().rev() {
        match load_checkpoint(&path) {
            Ok((state, run)) => return Ok(Some(LoadedCheckpoint { path, state, run, unusable })),
            Err(error) => unusable.push(error),
        }
    }
    if unusable.is_empty() {
        return Ok(None);
    }
    let problems = unusable.iter().map(ToString::to_string).collect();
    Err(Error::NoUsableCheckpoint { folder: folder.to_owned(), problems })
}

/// Reads a checkpoint.
///
/// # Errors
/// [`Error::Read`] if a file cannot be read, [`Error::Corrupt`] or [`Error::Damaged`] if it is not what
/// was written, and [`Error::Mismatch`] if it is not part of a checkpoint.
pub fn load_checkpoint(path: &Path) -> Result<(TrainState, RunMetadata), Error> {
    let (run, files) = metadata::read(path)?;
    let read = |name: &str| {
        let path = path.join(name);
        let contents = disk::read(&path)?;
        if let Some(files) = &files {
            let unlisted = || Error::Corrupt {
                path: path.clone(),
                problem: format!("{} does not have its checksum", metadata::NAME),
            };
            files.get(name).ok_or_else(unlisted)?.check(&contents, &path)?;
        }
        Ok::<_, Error>((contents, path))
    };
    let model = |name: &str| {
        let (contents, path) = read(name)?;
        tensors::decode_model(&contents, &path)
    };
    let has_ema = match &files {
        Some(files) => files.contains_key(MODEL_EMA),
        None => path.join(MODEL_EMA).exists(),
    };
    let mut state = TrainState {
        model: model(MODEL)?,
        model_ema: if has_ema { model(MODEL_EMA)? } else { StateDict::new() },
        updates: run.updates,
        batches_tracked: run.batches_tracked,
        loss_scaler: run.loss_scaler,
        ..TrainState::default()
    };
    let (contents, optimizer) = read(OPTIMIZER)?;
    for (name, tensor) in tensors::decode_tensors(&contents, &optimizer)? {
        match name.split_once('.') {
            Some(("exp_avg", name)) => state.exp_avg.insert(name.to_owned(), tensor),
            Some(("exp_avg_sq", name)) => state.exp_avg_sq.insert(name.to_owned(), tensor),
            Some(("momentum_buffer", name)) => {
                state.momentum_buffer.insert(name.to_owned(), tensor)
            }
            _ => {
                let expected = "exp_avg.*, exp_avg_sq.* or momentum_buffer.*";
                let problem = format!("unknown tensor {name}: expected {expected}");
                return Err(Error::Mismatch { path: optimizer, problem });
            }
        };
    }
    Ok((state, run))
}

/// Removes the files and folders with temporary names that a run leaves which is stopped while it writes.
/// The folder must be locked.
///
/// # Errors
/// [`Error::Read`] if the folder cannot be read, and [`Error::Write`] if something cannot be removed.
pub(crate) fn remove_leftovers(folder: &Path) -> Result<(), Error> {
    for path in entries(folder)? {
        if !name(&path).is_some_and(|name| name.starts_with(disk::TEMPORARY)) {
            continue;
        }
        let is_folder = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
        let remove = if is_folder { std::fs::remove_dir_all } else { std::fs::remove_file };
        remove(&path).map_err(write_error(&path))?;
    }
    Ok(())
}

/// Sends the state that rank 0 loaded to all other ranks. Their `state` must be of the same network.
///
/// # Errors
/// [`Error::Rank`] if another rank fails.
pub fn broadcast_checkpoint(
    group: &mut ProcessGroup,
    state: &mut TrainState,
    run: &mut RunMetadata,
) -> Result<(), Error> {
    let Cursor { epoch, step } = run.cursor;
    let present = |tensors: &StateDict| u64::from(!tensors.is_empty());
    let (moments, ema) = (present(&state.exp_avg), present(&state.model_ema));
    let momentum = present(&state.momentum_buffer);
    let scaler = state.loss_scaler;
    let [scales, scale, growth, skipped] = scaler.map_or([0; 4], |scaler| {
        [1, scaler.scale.to_bits().into(), scaler.growth.into(), scaler.skipped]
    });
    let mut header = [
        state.updates,
        state.batches_tracked,
        epoch,
        step,
        moments,
        momentum,
        ema,
        scales,
        scale,
        growth,
        skipped,
    ];
    group.broadcast(&mut header)?;
    let [updates, batches_tracked, epoch, step, moments, momentum, ema, ..] = header;
    let [.., scales, scale, growth, skipped] = header;
    if !group.is_primary() {
        // Allocate the tensors that rank 0 has, with the shapes of the model.
        let statistic =
            |name: &str| name.ends_with("running_mean") || name.ends_with("running_var");
        let like_model = |present: u64, keep: &dyn Fn(&str) -> bool| -> StateDict {
            let kept = state.model.iter().filter(|(name, _)| present == 1 && keep(name));
            kept.map(|(name, tensor)| (name.clone(), tensor.clone())).collect()
        };
        let parameters = |present| like_model(present, &|name: &str| !statistic(name));
        let moments = parameters(moments);
        state.momentum_buffer = parameters(momentum);
        let ema = like_model(ema, &|_| true);
        (state.exp_avg, state.exp_avg_sq, state.model_ema) = (moments.clone(), moments, ema);
    }
    for tensors in [
        &mut state.model,
        &mut state.exp_avg,
        &mut state.exp_avg_sq,
        &mut state.momentum_buffer,
        &mut state.model_ema,
    ] {
        for tensor in tensors.values_mut() {
            group.broadcast(&mut tensor.values)?;
        }
    }
    (state.updates, state.batches_tracked) = (updates, batches_tracked);
    let word = |value: u64| u32::try_from(value).expect("a word that rank 0 widened");
    let scaler = LossScaler { scale: f32::from_bits(word(scale)), growth: word(growth), skipped };
    state.loss_scaler = (scales == 1).then_some(scaler);
    run.cursor = Cursor { epoch, step };
    Ok(())
}

/// The checkpoints of a folder, by their number of updates.
fn checkpoints(folder: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let updates = |path: &PathBuf| name(path)?.strip_prefix("step-")?.parse().ok();
    let found = entries(folder)?.into_iter().filter_map(|path| Some((updates(&path)?, path)));
    let mut found: Vec<(u64, PathBuf)> = found.collect();
    found.sort();
    Ok(found)
}

fn name(path: &Path) -> Option<&str> {
    path.file_name().and_then(std::ffi::OsStr::to_str)
}

/// The paths in a folder; none if it does not exist. One that cannot be read is an error: a run must not start anew
/// beside checkpoints that it does not see.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(read_error(folder))?,
    };
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(read_error(folder))).collect()
}
