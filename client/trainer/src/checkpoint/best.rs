//! The model of the best evaluation, in a file that says how good it is.

use std::path::Path;

use safetensors::SafeTensors;

use super::{disk, tensors};
use crate::Error;
use crate::state::StateDict;

/// Name of the file.
const NAME: &str = "model_best.safetensors";

/// Key of the figures in the metadata of the file.
const KEY: &str = "forebay.evaluation";

/// An evaluation, of which the model was the best so far.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Best {
    /// Number of updates before it.
    pub(crate) update: u64,
    /// Share of samples whose class had the highest logit.
    pub(crate) top1: f64,
    /// Share of samples whose class had one of the five highest logits.
    pub(crate) top5: f64,
    /// Mean cross-entropy; `None` if it was not finite.
    pub(crate) loss: Option<f64>,
}

/// Writes the model of an evaluation in timm's layout, atomically.
pub(crate) fn write_best(
    folder: &Path,
    best: &Best,
    model: &StateDict,
    batches_tracked: u64,
) -> Result<(), Error> {
    let figures = serde_json::to_string(best).expect("plain numbers");
    let contents = tensors::encode_model(model, batches_tracked, Some((KEY, figures)));
    disk::replace(&folder.join(NAME), &contents)
}

/// The evaluation of the best model in a folder; `None` if there is no such file, or it does not say.
pub(crate) fn read_best(folder: &Path) -> Option<Best> {
    let contents = disk::read(&folder.join(NAME)).ok()?;
    let (_, metadata) = SafeTensors::read_metadata(&contents).ok()?;
    serde_json::from_str(metadata.metadata().as_ref()?.get(KEY)?).ok()
}
