//! Checkpoints: one folder `step-00001234` per checkpoint, which is either complete or absent.
//!
//! * `model.safetensors`: parameters and running statistics by timm's names; loads in timm with
//!   `strict=True`. `model_ema.safetensors`: the same of the moving average.
//! * `optimizer.safetensors`: `exp_avg.NAME` and `exp_avg_sq.NAME`.
//! * `run.json`: the cursor, the counters and the settings. Random draws are keyed and need no state.
//!
//! A checkpoint is written under a temporary name, synced and renamed, so a trainer that is killed
//! leaves the previous checkpoint intact.

use std::path::{Path, PathBuf};

use forebay_types::Cursor;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::Error;
use crate::process_group::ProcessGroup;
use crate::state::{StateDict, Tensor, TrainState};
use crate::train::TrainConfig;

/// Number of checkpoints that are kept.
const KEPT: usize = 2;

/// Metadata of a run, as its checkpoints store it.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct RunMetadata {
    /// Name of the model.
    pub model: String,
    /// Number of classes.
    pub classes: usize,
    /// Height and width of the images.
    pub image_size: usize,
    /// Digest of the recipe, as the server computes it.
    pub recipe_digest: String,
    /// Digest of the dataset.
    pub dataset_digest: String,
    /// Training settings.
    pub config: TrainConfig,
    /// The next step.
    pub cursor: Cursor,
    /// Optimizer updates so far.
    pub updates: u64,
    /// Batch norm's `num_batches_tracked`.
    pub batches_tracked: u64,
}

impl RunMetadata {
    /// Checks that resuming from this checkpoint gives the result that `now` would give.
    ///
    /// # Errors
    /// When the model, the data or a setting differs; the message names the first that does.
    pub fn check_resumable(&self, now: &Self, path: &Path) -> Result<(), Error> {
        let same = |what: &str, saved: &dyn std::fmt::Debug, given: &dyn std::fmt::Debug| {
            let (saved, given) = (format!("{saved:?}"), format!("{given:?}"));
            if saved == given {
                return Ok(());
            }
            let problem = format!(
                "the checkpoint's {what} is {saved}, but this run's is {given}: resume with the same settings, \
                 or start a new run with --initial-checkpoint"
            );
            Err(Error::Mismatch { path: path.to_owned(), problem })
        };
        same("model", &self.model, &now.model)?;
        same("number of classes", &self.classes, &now.classes)?;
        same("image size", &self.image_size, &now.image_size)?;
        same("dataset digest", &self.dataset_digest, &now.dataset_digest)?;
        same("recipe digest", &self.recipe_digest, &now.recipe_digest)?;
        same("training config", &self.config, &now.config)
    }
}

/// Writes a checkpoint into `folder` and removes the oldest ones. Returns its path.
///
/// # Errors
/// When a file cannot be written or removed.
pub fn save_checkpoint(
    folder: &Path,
    state: &TrainState,
    run: &RunMetadata,
) -> Result<PathBuf, Error> {
    std::fs::create_dir_all(folder).map_err(file_error(folder))?;
    let temporary = tempfile::Builder::new().prefix(".step-").tempdir_in(folder);
    let temporary = temporary.map_err(file_error(folder))?;
    let at = |name: &str| temporary.path().join(name);
    write_model(&at("model.safetensors"), &state.model, state.batches_tracked)?;
    if !state.model_ema.is_empty() {
        write_model(&at("model_ema.safetensors"), &state.model_ema, state.batches_tracked)?;
    }
    let prefixed = |prefix: &'static str, tensors: &'_ StateDict| {
        let named =
            tensors.iter().map(|(name, tensor)| (format!("{prefix}.{name}"), tensor.clone()));
        named.collect::<Vec<_>>()
    };
    let moments =
        [prefixed("exp_avg", &state.exp_avg), prefixed("exp_avg_sq", &state.exp_avg_sq)].concat();
    let moments = moments.iter().map(|(name, tensor)| (name.clone(), tensor));
    write_tensors(&at("optimizer.safetensors"), moments, None)?;
    let text = serde_json::to_vec_pretty(run).expect("plain fields");
    std::fs::write(at("run.json"), text).map_err(file_error(&at("run.json")))?;
    sync(temporary.path())?;

    let path = folder.join(format!("step-{:08}", state.updates));
    if path.exists() {
        std::fs::remove_dir_all(&path).map_err(file_error(&path))?;
    }
    std::fs::rename(temporary.path(), &path).map_err(file_error(&path))?;
    sync(folder)?;
    for old in checkpoints(folder)?.iter().rev().skip(KEPT) {
        std::fs::remove_dir_all(old).map_err(file_error(old))?;
    }
    Ok(path)
}

/// The newest complete checkpoint of a folder; `None` if the folder or a checkpoint does not exist.
///
/// # Errors
/// When the folder cannot be read.
pub fn latest_checkpoint(folder: &Path) -> Result<Option<PathBuf>, Error> {
    if folder.exists() { Ok(checkpoints(folder)?.pop()) } else { Ok(None) }
}

/// Reads a checkpoint.
///
/// # Errors
/// When a file cannot be read, is damaged, or is not part of a checkpoint.
pub fn load_checkpoint(path: &Path) -> Result<(TrainState, RunMetadata), Error> {
    let name = path.join("run.json");
    let text = std::fs::read(&name).map_err(file_error(&name))?;
    let run: RunMetadata = serde_json::from_slice(&text).map_err(|e| Error::Mismatch {
        path: name,
        problem: format!("not the metadata of a run ({e}): use another checkpoint"),
    })?;
    let mut state = TrainState {
        model: read_model(&path.join("model.safetensors"))?,
        updates: run.updates,
        batches_tracked: run.batches_tracked,
        ..TrainState::default()
    };
    let model_ema = path.join("model_ema.safetensors");
    if model_ema.exists() {
        state.model_ema = read_model(&model_ema)?;
    }
    let optimizer = path.join("optimizer.safetensors");
    for (name, tensor) in read_tensors(&optimizer)? {
        match name.split_once('.') {
            Some(("exp_avg", name)) => state.exp_avg.insert(name.to_owned(), tensor),
            Some(("exp_avg_sq", name)) => state.exp_avg_sq.insert(name.to_owned(), tensor),
            _ => {
                let problem = format!("unknown tensor {name}: expected exp_avg.* or exp_avg_sq.*");
                return Err(Error::Mismatch { path: optimizer, problem });
            }
        };
    }
    Ok((state, run))
}

/// Sends the state that rank 0 loaded to all other ranks. Their `state` must be of the same network.
///
/// # Errors
/// When another rank fails.
pub fn broadcast_checkpoint(
    group: &mut ProcessGroup,
    state: &mut TrainState,
    run: &mut RunMetadata,
) -> Result<(), Error> {
    let Cursor { epoch, step } = run.cursor;
    let present = |tensors: &StateDict| u64::from(!tensors.is_empty());
    let (moments, ema) = (present(&state.exp_avg), present(&state.model_ema));
    let mut header = [state.updates, state.batches_tracked, epoch, step, moments, ema];
    group.broadcast(&mut header)?;
    let [updates, batches_tracked, epoch, step, moments, ema] = header;
    if !group.is_primary() {
        // Allocate the tensors that rank 0 has, with the shapes of the model.
        let statistic =
            |name: &str| name.ends_with("running_mean") || name.ends_with("running_var");
        let like_model = |present: u64, keep: &dyn Fn(&str) -> bool| -> StateDict {
            let kept = state.model.iter().filter(|(name, _)| present == 1 && keep(name));
            kept.map(|(name, tensor)| (name.clone(), tensor.clone())).collect()
        };
        let moments = like_model(moments, &|name| !statistic(name));
        let ema = like_model(ema, &|_| true);
        (state.exp_avg, state.exp_avg_sq, state.model_ema) = (moments.clone(), moments, ema);
    }
    for tensors in
        [&mut state.model, &mut state.exp_avg, &mut state.exp_avg_sq, &mut state.model_ema]
    {
        for tensor in tensors.values_mut() {
            group.broadcast(&mut tensor.values)?;
        }
    }
    (state.updates, state.batches_tracked) = (updates, batches_tracked);
    run.cursor = Cursor { epoch, step };
    Ok(())
}

/// Writes a model in timm's layout, atomically.
///
/// # Errors
/// When the file cannot be written.
pub fn write_model(path: &Path, model: &StateDict, batches_tracked: u64) -> Result<(), Error> {
    let norms = model.keys().filter_map(|name| name.strip_suffix("running_mean"));
    let counters = norms.map(|norm| format!("{norm}num_batches_tracked")).collect();
    let tensors = model.iter().map(|(name, tensor)| (name.clone(), tensor));
    write_tensors(path, tensors, Some((counters, batches_tracked)))
}

/// Reads a model that this trainer or timm wrote.
///
/// # Errors
/// When the file cannot be read, is damaged, or has weights that are not f32.
pub fn read_model(path: &Path) -> Result<StateDict, Error> {
    let tensors = read_tensors(path)?.into_iter();
    Ok(tensors.filter(|(name, _)| !name.ends_with("num_batches_tracked")).collect())
}

/// Writes tensors, and counters that all have one value, to a temporary name and renames the file.
fn write_tensors<'a>(
    path: &Path,
    tensors: impl Iterator<Item = (String, &'a Tensor)>,
    counters: Option<(Vec<String>, u64)>,
) -> Result<(), Error> {
    let mut entries: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = tensors
        .map(|(name, tensor)| {
            let bytes = tensor.values.iter().flat_map(|v| v.to_le_bytes()).collect();
            (name, Dtype::F32, tensor.shape.clone(), bytes)
        })
        .collect();
    if let Some((names, count)) = counters {
        let bytes = count.to_le_bytes().to_vec();
        entries.extend(names.into_iter().map(|name| (name, Dtype::I64, Vec::new(), bytes.clone())));
    }
    let views = entries.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes);
        (name, view.expect("a tensor has as many values as its shape says"))
    });
    let damaged = |cause| Error::Damaged { path: path.to_owned(), cause };
    let contents = safetensors::serialize(views, None).map_err(damaged)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut temporary = tempfile::NamedTempFile::new_in(folder).map_err(file_error(path))?;
    std::io::Write::write_all(&mut temporary, &contents).map_err(file_error(path))?;
    temporary.as_file().sync_all().map_err(file_error(path))?;
    temporary.persist(path).map_err(|e| Error::File { path: path.to_owned(), cause: e.error })?;
    Ok(())
}

fn read_tensors(path: &Path) -> Result<StateDict, Error> {
    let bytes = std::fs::read(path).map_err(file_error(path))?;
    let parsed = SafeTensors::deserialize(&bytes);
    let parsed = parsed.map_err(|cause| Error::Damaged { path: path.to_owned(), cause })?;
    let mut tensors = StateDict::new();
    for (name, view) in parsed.iter() {
        let values = match view.dtype() {
            Dtype::F32 => {
                let numbers = view.data().as_chunks::<4>().0;
                numbers.iter().map(|b| f32::from_le_bytes(*b)).collect()
            }
            Dtype::I64 if name.ends_with("num_batches_tracked") => Vec::new(),
            dtype => {
                let problem =
                    format!("tensor {name} is {dtype:?}, expected F32: convert the weights");
                return Err(Error::Mismatch { path: path.to_owned(), problem });
            }
        };
        tensors.insert(name.to_owned(), Tensor { shape: view.shape().to_vec(), values });
    }
    Ok(tensors)
}

/// The complete checkpoints of a folder, oldest first.
fn checkpoints(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(folder).map_err(file_error(folder))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(file_error(folder))?.path();
        let name = path.file_name().and_then(std::ffi::OsStr::to_str);
        if name.is_some_and(|name| name.starts_with("step-")) && path.join("run.json").is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Waits until a file or folder is on disk.
fn sync(path: &Path) -> Result<(), Error> {
    std::fs::File::open(path).and_then(|f| f.sync_all()).map_err(file_error(path))
}

fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |cause| Error::File { path, cause }
}
