//! `forebay-trainer export`: writes a model for other programs.

use std::path::Path;

use anyhow::{Context as _, ensure};

use super::cli::ExportArgs;
use super::output;
use crate::Error;
use crate::checkpoint::{self, ModelInfo};
use crate::model::{Architecture, Graph};
use crate::onnx;
use crate::state::{StateDict, TrainState};

pub(crate) fn run(args: &ExportArgs) -> anyhow::Result<()> {
    let (model, batches_tracked, mut info) = read(&args.checkpoint, args.model_ema)?;
    if let Some(name) = &args.model {
        info.model.clone_from(name);
    }
    let from = args.checkpoint.display();
    ensure!(!info.model.is_empty(), "{from} does not say which model it is of: set --model");
    let bias = model.get("fc.bias").and_then(|bias| bias.shape.first().copied());
    let classes = bias.with_context(|| format!("{from} has no classifier: fc.bias is missing"))?;
    // The size of the images does not change the weights, and an ONNX file takes any.
    let graph = Graph::new(&Architecture::named(&info.model, classes)?, 224, 224);
    let state = TrainState { model, ..TrainState::default() };
    let mismatch = |problem| Error::Mismatch { path: args.checkpoint.clone(), problem };
    state.check(&graph).map_err(mismatch)?;
    let model = &state.model;
    if let Some(path) = &args.safetensors {
        let encoded = checkpoint::encode_model(model, batches_tracked, Some(&info));
        checkpoint::replace_file(path, &encoded)?;
    }
    if let Some(path) = &args.torch {
        checkpoint::write_torch(path, model, batches_tracked)?;
    }
    if let Some(path) = &args.onnx {
        let names = serde_json::to_string(&info.class_names)?;
        let metadata = [("model", info.model.clone()), ("class_names", names)];
        checkpoint::replace_file(path, &onnx::encode(&graph, model, &metadata))?;
    }
    for path in [&args.safetensors, &args.torch, &args.onnx].into_iter().flatten() {
        output::print(&format!("{} of {classes} classes: {}", info.model, path.display()))?;
    }
    Ok(())
}

/// The model of a file, of a checkpoint, or of the newest checkpoint of a run, with its counter of microbatches.
fn read(path: &Path, ema: bool) -> anyhow::Result<(StateDict, u64, ModelInfo)> {
    if !path.is_dir() {
        ensure!(
            !ema,
            "--model-ema takes the average of a checkpoint: give its folder, or the file of the average itself"
        );
        let info = checkpoint::read_model_info(path)?.unwrap_or_default();
        return Ok((checkpoint::read_model(path)?, 0, info));
    }
    let newest = checkpoint::latest_checkpoint(path)?;
    let folder = newest.as_deref().unwrap_or(path);
    let (state, run) = checkpoint::load_checkpoint(folder)?;
    let model = if ema { state.model_ema } else { state.model };
    ensure!(
        !model.is_empty(),
        "{} keeps no moving average: leave --model-ema out",
        folder.display()
    );
    Ok((model, run.batches_tracked, ModelInfo::from(&run)))
}
