//! Checkpoints: a folder `step-00001234` a checkpoint, complete or not there.
//!
//! * `model.safetensors`: parameters and running statistics by timm's names; loads in timm with
//!   `strict=True`. `average.safetensors`: the same of the moving average.
//! * `optimizer.safetensors`: `exp_avg.NAME`, `exp_avg_sq.NAME`.
//! * `run.json`: the cursor, the counters, the settings. Draws need no state: they are keyed.
//!
//! A folder is written under another name, synced and renamed, so a killed trainer leaves the last
//! whole checkpoint.

use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::Error;
use crate::backend::{Array, State, Tensors};
use crate::ranks::Ranks;
use crate::train::{Cursor, Training};

/// Checkpoints kept.
const KEPT: usize = 2;

/// What a checkpoint says about its run.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Run {
    /// Name of the model.
    pub model: String,
    /// Classes.
    pub classes: usize,
    /// Height and width of the images.
    pub image_size: usize,
    /// BLAKE3 of the recipe, as the server computes it.
    pub recipe_digest: String,
    /// BLAKE3 of the dataset.
    pub dataset_digest: String,
    /// Settings.
    pub training: Training,
    /// The next step.
    pub cursor: Cursor,
    /// The optimizer's steps.
    pub updates: u64,
    /// Batch norm's `num_batches_tracked`.
    pub passes: u64,
}

impl Run {
    /// Refuses to go on with a run whose result would differ.
    pub fn resumable(&self, other: &Self, path: &Path) -> Result<(), Error> {
        let same = |what: &str, then: &dyn std::fmt::Debug, now: &dyn std::fmt::Debug| {
            let (then, now) = (format!("{then:?}"), format!("{now:?}"));
            if then == now {
                return Ok(());
            }
            let problem = format!(
                "the checkpoint's {what} is {then}, this run's is {now}; resume with the same, or begin anew with --init"
            );
            Err(Error::Mismatch { path: path.to_owned(), problem })
        };
        same("model", &self.model, &other.model)?;
        same("number of classes", &self.classes, &other.classes)?;
        same("image size", &self.image_size, &other.image_size)?;
        same("dataset digest", &self.dataset_digest, &other.dataset_digest)?;
        same("recipe digest", &self.recipe_digest, &other.recipe_digest)?;
        same("training", &self.training, &other.training)
    }
}

/// Writes a checkpoint into `folder`, and removes the oldest ones.
pub fn save(folder: &Path, state: &State, run: &Run) -> Result<PathBuf, Error> {
    std::fs::create_dir_all(folder).map_err(file(folder))?;
    let temporary =
        tempfile::Builder::new().prefix(".step-").tempdir_in(folder).map_err(file(folder))?;
    let at = |name: &str| temporary.path().join(name);
    write_model(&at("model.safetensors"), &state.model, state.passes)?;
    if !state.average.is_empty() {
        write_model(&at("average.safetensors"), &state.average, state.passes)?;
    }
    let renamed = |prefix: &str, tensors: &Tensors| -> Vec<(String, Array)> {
        tensors.iter().map(|(name, array)| (format!("{prefix}.{name}"), array.clone())).collect()
    };
    let moments =
        [renamed("exp_avg", &state.means), renamed("exp_avg_sq", &state.squares)].concat();
    write(
        &at("optimizer.safetensors"),
        moments.iter().map(|(name, array)| (name.clone(), array)),
        None,
    )?;
    let text = serde_json::to_vec_pretty(run).expect("plain fields");
    std::fs::write(at("run.json"), text).map_err(file(&at("run.json")))?;
    sync(temporary.path())?;

    let name = format!("step-{:08}", state.updates);
    let path = folder.join(&name);
    if path.exists() {
        std::fs::remove_dir_all(&path).map_err(file(&path))?;
    }
    std::fs::rename(temporary.path(), &path).map_err(file(&path))?;
    sync(folder)?;
    for old in all(folder)?.iter().rev().skip(KEPT) {
        std::fs::remove_dir_all(old).map_err(file(old))?;
    }
    Ok(path)
}

/// The newest checkpoint of a folder, if there are a folder and a checkpoint.
pub fn latest(folder: &Path) -> Result<Option<PathBuf>, Error> {
    if folder.exists() { Ok(all(folder)?.pop()) } else { Ok(None) }
}

/// Reads a checkpoint.
pub fn load(path: &Path) -> Result<(State, Run), Error> {
    let name = path.join("run.json");
    let text = std::fs::read(&name).map_err(file(&name))?;
    let run: Run = serde_json::from_slice(&text).map_err(|e| Error::Mismatch {
        path: name,
        problem: format!("not a run's description: {e}"),
    })?;
    let mut state =
        State { model: read_model(&path.join("model.safetensors"))?, ..State::default() };
    let average = path.join("average.safetensors");
    if average.exists() {
        state.average = read_model(&average)?;
    }
    for (name, array) in read(&path.join("optimizer.safetensors"))? {
        match name.split_once('.') {
            Some(("exp_avg", name)) => state.means.insert(name.to_owned(), array),
            Some(("exp_avg_sq", name)) => state.squares.insert(name.to_owned(), array),
            _ => {
                let problem = format!("{name} is no part of an optimizer's state");
                return Err(Error::Mismatch { path: path.join("optimizer.safetensors"), problem });
            }
        };
    }
    (state.updates, state.passes) = (run.updates, run.passes);
    Ok((state, run))
}

/// Gives all ranks what rank 0 has loaded. The others' state must be one of the same network.
pub fn share(ranks: &mut Ranks, state: &mut State, run: &mut Run) -> Result<(), Error> {
    let Cursor { epoch, step } = run.cursor;
    let has = |tensors: &Tensors| u64::from(!tensors.is_empty());
    let (moments, average) = (has(&state.means), has(&state.average));
    let mut head = [state.updates, state.passes, epoch, step, moments, average];
    ranks.broadcast(&mut head)?;
    let [updates, passes, epoch, step, moments, average] = head;
    if !ranks.is_first() {
        let running = |name: &str| name.ends_with("running_mean") || name.ends_with("running_var");
        let some = |there: u64, keep: &dyn Fn(&str) -> bool| -> Tensors {
            let kept = state.model.iter().filter(|(name, _)| there == 1 && keep(name));
            kept.map(|(name, array)| (name.clone(), array.clone())).collect()
        };
        let moments = some(moments, &|name| !running(name));
        let average = some(average, &|_| true);
        (state.means, state.squares, state.average) = (moments.clone(), moments, average);
    }
    for tensors in [&mut state.model, &mut state.means, &mut state.squares, &mut state.average] {
        for array in tensors.values_mut() {
            ranks.broadcast(&mut array.values)?;
        }
    }
    (state.updates, state.passes, run.cursor) = (updates, passes, Cursor { epoch, step });
    Ok(())
}

/// Writes a model alone, as timm reads it, to a temporary name and renames it.
pub fn write_model(path: &Path, model: &Tensors, passes: u64) -> Result<(), Error> {
    let norms = model.keys().filter_map(|name| name.strip_suffix("running_mean"));
    let counters = norms.map(|norm| format!("{norm}num_batches_tracked")).collect();
    write(path, model.iter().map(|(name, array)| (name.clone(), array)), Some((counters, passes)))
}

/// Reads a model alone, ours or timm's.
pub fn read_model(path: &Path) -> Result<Tensors, Error> {
    Ok(read(path)?.into_iter().filter(|(name, _)| !name.ends_with("num_batches_tracked")).collect())
}

fn write<'a>(
    path: &Path,
    tensors: impl Iterator<Item = (String, &'a Array)>,
    counters: Option<(Vec<String>, u64)>,
) -> Result<(), Error> {
    let mut bytes: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = tensors
        .map(|(name, array)| {
            let bytes = array.values.iter().flat_map(|v| v.to_le_bytes()).collect();
            (name, Dtype::F32, array.shape.clone(), bytes)
        })
        .collect();
    if let Some((names, count)) = counters {
        bytes.extend(
            names
                .into_iter()
                .map(|name| (name, Dtype::I64, Vec::new(), count.to_le_bytes().to_vec())),
        );
    }
    let views = bytes.iter().map(|(name, dtype, shape, bytes)| {
        (
            name,
            TensorView::new(*dtype, shape.clone(), bytes)
                .expect("an array has as many numbers as its shape says"),
        )
    });
    let damaged = |cause| Error::Damaged { path: path.to_owned(), cause };
    let whole = safetensors::serialize(views, None).map_err(damaged)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut temporary = tempfile::NamedTempFile::new_in(folder).map_err(file(path))?;
    std::io::Write::write_all(&mut temporary, &whole).map_err(file(path))?;
    temporary.as_file().sync_all().map_err(file(path))?;
    temporary.persist(path).map_err(|e| Error::File { path: path.to_owned(), cause: e.error })?;
    Ok(())
}

fn read(path: &Path) -> Result<Tensors, Error> {
    let bytes = std::fs::read(path).map_err(file(path))?;
    let parsed = SafeTensors::deserialize(&bytes);
    let parsed = parsed.map_err(|cause| Error::Damaged { path: path.to_owned(), cause })?;
    let mut tensors = Tensors::new();
    for (name, view) in parsed.iter() {
        let values = match view.dtype() {
            Dtype::F32 => {
                let numbers = view.data().as_chunks::<4>().0;
                numbers.iter().map(|b| f32::from_le_bytes(*b)).collect()
            }
            Dtype::I64 if name.ends_with("num_batches_tracked") => Vec::new(),
            dtype => {
                let problem =
                    format!("{name} is {dtype:?}; only F32 weights are read: convert them");
                return Err(Error::Mismatch { path: path.to_owned(), problem });
            }
        };
        tensors.insert(name.to_owned(), Array { shape: view.shape().to_vec(), values });
    }
    Ok(tensors)
}

/// Whole checkpoints, oldest first.
fn all(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(folder).map_err(file(folder))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(file(folder))?.path();
        let name = path.file_name().and_then(std::ffi::OsStr::to_str);
        if name.is_some_and(|name| name.starts_with("step-")) && path.join("run.json").is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Waits until a file or folder is on the disk.
fn sync(path: &Path) -> Result<(), Error> {
    std::fs::File::open(path).and_then(|f| f.sync_all()).map_err(file(path))
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |cause| Error::File { path, cause }
}
