//! `forebay-trainer eval`: evaluates a model.

use anyhow::{Context as _, bail};
use forebay_types::Rank;

use super::cli::EvalArgs;
use super::source::BatchSource;
use super::{output, setup};
use crate::Error;
use crate::checkpoint;
use crate::confusion::evaluate;
use crate::confusion_page::confusion_page;
use crate::fine_tuning::FineTuning;
use crate::state::TrainState;

pub(crate) fn run(args: &EvalArgs) -> anyhow::Result<()> {
    let Some(path) = &args.network.initial_checkpoint else {
        bail!("no model to evaluate: set --initial-checkpoint to a file of weights")
    };
    let source = BatchSource::for_evaluation(&args.source)?;
    let info = source.evaluation_info()?;
    let info = info.context("no dataset to evaluate on: set --dataset to its name")?;
    info.check_for_evaluation()?;
    let all = FineTuning::default();
    let mut backend = setup::open_backend(&args.network, &info, Some(&info), &all, Rank::SINGLE)?;
    let state = TrainState { model: checkpoint::read_model(path)?, ..TrainState::default() };
    backend.load(&state).map_err(|problem| Error::Mismatch { path: path.clone(), problem })?;
    let trained = checkpoint::read_model_info(path)?.unwrap_or_default();
    let names = &info.class_names;
    let mut pairs = trained.class_names.iter().zip(names).enumerate();
    if let Some((label, (one, other))) = pairs.find(|(_, (one, other))| one != other) {
        tracing::warn!(
            "class {label} is {one} in the model and {other} in the dataset: the accuracy is meaningless unless these are \
             names of the same classes in the same order"
        );
    }
    let confusion = evaluate(&mut *backend, source.evaluate(&info)?, args.report.tta_flip)?;
    let accuracy = confusion.total();
    let (top1, top5) = (100.0 * accuracy.top1_rate(), 100.0 * accuracy.top5_rate());
    let result = format!("top-1 {top1:.2} %, top-5 {top5:.2} % of {} images", accuracy.samples);
    if let Some(file) = &args.report.json {
        let mut json = confusion.json(names);
        json["model"] = args.network.model.clone().into();
        json["weights"] = path.display().to_string().into();
        json["dataset_digest"] = info.dataset_digest.clone().into();
        json["recipe_digest"] = info.recipe_digest.clone().into();
        json["image_size"] = info.image_size.into();
        json["tta_flip"] = args.report.tta_flip.into();
        checkpoint::replace_file(file, &serde_json::to_vec_pretty(&json)?)?;
    }
    if let Some(file) = &args.report.confusion {
        let title = format!("{}, {}", args.network.model, path.display());
        checkpoint::replace_file(file, confusion_page(&title, &confusion, names).as_bytes())?;
    }
    output::print(&result)
}
