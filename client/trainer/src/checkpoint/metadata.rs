//! `run.json`: the metadata of a run, with the checksums of the checkpoint's files and one of its own.

use std::collections::BTreeMap;
use std::path::Path;

use forebay_types::Cursor;
use serde_json::{Map, Value, json};

use super::disk::{self, Checksum, xxh3};
use crate::Error;
use crate::difference::{Difference, first_difference};
use crate::loss_scaler::LossScaler;
use crate::training_loop::TrainConfig;

/// Name of the file.
pub(super) const NAME: &str = "run.json";

/// Keys of the checksums in the file.
const FILES: &str = "files";
const OWN: &str = "xxh3";

/// The checksums of the other files of a checkpoint, by name.
pub(super) type Checksums = BTreeMap<String, Checksum>;

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
    /// The loss scale, where training is in f16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scaler: Option<LossScaler>,
}

impl RunMetadata {
    /// Checks that resuming from this checkpoint gives the result that `now` would give.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the model, the data or a setting differs; it names the first that does.
    pub fn check_resumable(&self, now: &Self, path: &Path) -> Result<(), Error> {
        let fixed = |run: &Self| {
            json!({
                "model": run.model,
                "number of classes": run.classes,
                "image size": run.image_size,
                "dataset digest": run.dataset_digest,
                "recipe digest": run.recipe_digest,
                "optimizer": run.config.optimizer.name(),
                "config": run.config,
            })
        };
        match first_difference("", &fixed(self), &fixed(now)) {
            None => Ok(()),
            Some(Difference { name, left, right }) => {
                let problem = format!(
                    "the checkpoint's {name} is {left}, but this run's is {right}: resume with the same settings, \
                     or start a new run with --initial-checkpoint"
                );
                Err(Error::Mismatch { path: path.to_owned(), problem })
            }
        }
    }
}

/// The contents of `run.json`. Its own checksum is that of the compact form of everything else.
pub(super) fn to_json(run: &RunMetadata, files: &Checksums) -> serde_json::Result<Vec<u8>> {
    // By text, so that numbers are written as briefly as their type allows.
    let mut json: Map<String, Value> = serde_json::from_slice(&serde_json::to_vec(run)?)?;
    json.insert(FILES.to_owned(), serde_json::to_value(files)?);
    let own = xxh3(&serde_json::to_vec(&json)?);
    json.insert(OWN.to_owned(), own.into());
    serde_json::to_vec_pretty(&json)
}

/// Reads the `run.json` of a checkpoint. Earlier versions wrote no checksums.
///
/// # Errors
/// [`Error::Read`] if the file cannot be read, and [`Error::Corrupt`] if it is not what was written.
pub(super) fn read(checkpoint: &Path) -> Result<(RunMetadata, Option<Checksums>), Error> {
    let path = checkpoint.join(NAME);
    let parsed = parse(&disk::read(&path)?);
    parsed.map_err(|problem| Error::Corrupt { path, problem })
}

fn parse(text: &[u8]) -> Result<(RunMetadata, Option<Checksums>), String> {
    let foreign = |error: serde_json::Error| format!("it is not the metadata of a run ({error})");
    let mut json: Map<String, Value> = serde_json::from_slice(text).map_err(foreign)?;
    // The order of the other keys stays, which the checksum depends on.
    let own = json.shift_remove(OWN);
    let files = json.get(FILES).cloned();
    if own.is_some() || files.is_some() {
        let found = xxh3(&serde_json::to_vec(&json).map_err(foreign)?);
        if own.as_ref().and_then(Value::as_str) != Some(&found) {
            let own = own.unwrap_or_default();
            return Err(format!("its XXH3 is {found}, expected {own}"));
        }
    }
    let files = files.map(serde_json::from_value).transpose().map_err(foreign)?;
    let run: RunMetadata = serde_json::from_value(Value::Object(json)).map_err(foreign)?;
    run.loss_scaler.map_or(Ok(()), |scaler| scaler.check())?;
    Ok((run, files))
}
