//! `forebay-trainer eval`: evaluates a model.

use anyhow::{Context as _, bail};
use forebay_types::Rank;

use super::cli::EvalArgs;
use super::setup;
use super::source::BatchSource;
use crate::Error;
use crate::accuracy::evaluate;
use crate::checkpoint;
use crate::state::TrainState;

pub(crate) fn run(args: &EvalArgs) -> anyhow::Result<()> {
    let Some(path) = &args.network.initial_checkpoint else {
        bail!("no model to evaluate: set --initial-checkpoint to a safetensors file")
    };
    let source = BatchSource::for_evaluation(&args.source)?;
    let info = source.evaluation_info()?;
    let info = info.context("no dataset to evaluate on: set --dataset to its name")?;
    info.check_for_evaluation()?;
    let mut backend = setup::open_backend(&args.network, &info, Some(&info), Rank::SINGLE)?;
    let state = TrainState { model: checkpoint::read_model(path)?, ..TrainState::default() };
    backend.load(&state).map_err(|problem| Error::Mismatch { path: path.clone(), problem })?;
    let accuracy = evaluate(&mut *backend, source.evaluate(&info)?)?;
    let accuracy = accuracy.context("the evaluation was asked to stop")?;
    let (top1, top5) = (100.0 * accuracy.top1_rate(), 100.0 * accuracy.top5_rate());
    super::output::print(&format!(
        "top-1 {top1:.2} %, top-5 {top5:.2} %, loss {:.4} of {} images",
        accuracy.loss(),
        accuracy.samples
    ))
}
