//! Sources of microbatches: servers, or a folder that `--dump` wrote.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use forebay_client::{End, Job, Microbatch, Mix, RecipeRef, blocking};
use forebay_types::{Cursor, Rank};

use super::cli::{RecipeChanges, SourceArgs, TrainArgs};
use super::replay::{self, SourceInfo};
use crate::batch::{Batch, Pixels};

/// Microbatches of one rank, in order.
pub(crate) type Batches = Box<dyn Iterator<Item = anyhow::Result<Batch>>>;

/// A source of microbatches for one rank.
pub(crate) enum BatchSource {
    /// Forebay servers.
    Servers(Box<Servers>),
    /// A folder that `--dump` wrote. It has training microbatches only.
    Folder { folder: PathBuf, seed: u64, rank: Rank },
}

/// A client with the jobs that it requests.
pub(crate) struct Servers {
    client: blocking::Client,
    training: Option<Job>,
    evaluation: Option<Job>,
    rank: Rank,
}

impl BatchSource {
    /// Opens a source for training, and also for evaluation if there is an `--eval-dataset`.
    pub(crate) fn for_training(
        args: &TrainArgs,
        recipe: RecipeRef,
        rank: Rank,
    ) -> anyhow::Result<Self> {
        let (source, seed) = (&args.source, args.seed.get());
        if let Some(folder) = source.replay.clone() {
            return Ok(Self::Folder { folder, seed, rank });
        }
        let dataset = source
            .dataset
            .as_deref()
            .context("no dataset to train on: set --dataset to its name")?;
        let set = recipe_assignments(&args.recipe_changes)?;
        let training = Job { recipe, set, seed, ..Job::new(dataset, "") };
        Servers::connect(source, Some(training), source.eval_dataset.as_deref(), rank)
    }

    /// Opens a source for evaluation only.
    pub(crate) fn for_evaluation(source: &SourceArgs) -> anyhow::Result<Self> {
        if source.replay.is_some() {
            bail!(
                "cannot evaluate on --replay, which has training microbatches only: set --endpoint and --dataset"
            );
        }
        let dataset = source.eval_dataset.as_deref().or(source.dataset.as_deref());
        Servers::connect(source, None, dataset, Rank::SINGLE)
    }

    /// Describes the training microbatches.
    pub(crate) fn training_info(&self) -> anyhow::Result<SourceInfo> {
        match self {
            Self::Servers(servers) => describe(&servers.client, servers.training()?),
            Self::Folder { folder, .. } => SourceInfo::read(folder),
        }
    }

    /// Describes the microbatches of evaluation, if there are any.
    pub(crate) fn evaluation_info(&self) -> anyhow::Result<Option<SourceInfo>> {
        let Self::Servers(servers) = self else { return Ok(None) };
        servers.evaluation.as_ref().map(|job| describe(&servers.client, job)).transpose()
    }

    /// The client of the servers, if they are the source.
    pub(crate) fn client(&self) -> Option<blocking::Client> {
        let Self::Servers(servers) = self else { return None };
        Some(servers.client.clone())
    }

    /// The first class that has another name in evaluation than in training, with both names.
    pub(crate) fn other_class(&self) -> anyhow::Result<Option<(usize, String, String)>> {
        let Self::Servers(servers) = self else { return Ok(None) };
        let (Some(training), Some(evaluation)) = (&servers.training, &servers.evaluation) else {
            return Ok(None);
        };
        let [training, evaluation] =
            [servers.client.describe(training)?, servers.client.describe(evaluation)?];
        let mut pairs = training.classes.iter().zip(&evaluation.classes).enumerate();
        let other = pairs.find(|(_, (one, other))| one != other);
        Ok(other.map(|(label, (one, other))| (label, one.clone(), other.clone())))
    }

    /// The training microbatches from a cursor to another one.
    pub(crate) fn train(
        &self,
        from: Cursor,
        end: Cursor,
        info: &SourceInfo,
    ) -> anyhow::Result<Batches> {
        match self {
            Self::Servers(servers) => servers.stream(servers.training()?, from, end, info),
            Self::Folder { folder, seed, rank } => {
                Ok(Box::new(replay::read(folder, from, info, *seed, *rank)?))
            }
        }
    }

    /// The microbatches of evaluation.
    pub(crate) fn evaluate(&self, info: &SourceInfo) -> anyhow::Result<Batches> {
        let Self::Servers(servers) = self else {
            bail!("cannot evaluate on --replay, which has training microbatches only")
        };
        let job = servers
            .evaluation
            .as_ref()
            .context("no dataset to evaluate on: set --eval-dataset to its name")?;
        servers.stream(job, Cursor::default(), Cursor { epoch: 1, step: 0 }, info)
    }
}

impl Servers {
    fn connect(
        source: &SourceArgs,
        training: Option<Job>,
        evaluation: Option<&str>,
        rank: Rank,
    ) -> anyhow::Result<BatchSource> {
        let client = blocking::Client::connect(source.client.clone().options())?;
        let set = evaluation_assignments(source, rank.world);
        let evaluation = evaluation.map(|dataset| Job { set, ..Job::new(dataset, "eval") });
        Ok(BatchSource::Servers(Box::new(Self { client, training, evaluation, rank })))
    }

    fn training(&self) -> anyhow::Result<&Job> {
        self.training.as_ref().context("the source was opened for evaluation only")
    }

    /// A stream that accepts only microbatches of the dataset and recipe that were described before.
    fn stream(
        &self,
        job: &Job,
        from: Cursor,
        to: Cursor,
        info: &SourceInfo,
    ) -> anyhow::Result<Batches> {
        let digest = |text: &str| text.parse().ok();
        let job = Job {
            dataset_digest: digest(&info.dataset_digest),
            recipe_digest: digest(&info.recipe_digest),
            ..job.clone()
        };
        let stream = self.client.stream(&job, from, End::Until(to), self.rank)?;
        Ok(Box::new(stream.map(|microbatch| Ok(to_batch(microbatch?)))))
    }
}

/// The changes to the recipe as TOML assignments.
fn recipe_assignments(changes: &RecipeChanges) -> anyhow::Result<Vec<String>> {
    let mut set: Vec<String> = [
        changes.image_size.map(|number| format!("image_size = {number}")),
        changes.batch.map(|number| format!("batch = {number}")),
        changes.microbatches.map(|number| format!("microbatches = {number}")),
        changes.smoothing.map(|s| format!("smoothing = {s:?}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    if let [min, max] = changes.scale[..] {
        if min > max {
            bail!("invalid --scale {min} {max}: expected the smaller number first");
        }
        set.push(format!("crop.scale = [{min:?}, {max:?}]"));
    }
    set.extend(changes.set.iter().cloned());
    Ok(set)
}

/// Batch and image size of evaluation as TOML assignments. Every rank gets one microbatch of each step.
/// The short side is resized to the image size divided by `--crop-pct`, rounded down, as in timm.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a few thousand pixels"
)]
fn evaluation_assignments(source: &SourceArgs, world: u32) -> Vec<String> {
    let batch = source.validation_batch_size.get() * u64::from(world);
    let mut set = vec![format!("batch = {batch}"), format!("microbatches = {world}")];
    if let Some(size) = source.eval_image_size {
        let side = (f64::from(size.as_u32()) / source.crop_pct).floor() as u32;
        set.extend([format!("image_size = {size}"), format!("crop.resize = {side}")]);
    }
    set
}

fn describe(client: &blocking::Client, job: &Job) -> anyhow::Result<SourceInfo> {
    let description = client.describe(job)?;
    if let Some((epoch, size)) = description.image_sizes.first() {
        bail!(
            "the recipe's schedule changes image_size from {} to {size} in epoch {epoch}, but a run of the trainer has \
             one size; remove image_size from the schedule (its other fields are trained with)",
            description.image_size
        );
    }
    Ok(SourceInfo {
        classes: description.classes.len(),
        steps: description.steps_per_epoch,
        batch: description.batch,
        microbatches: description.microbatches,
        image_size: description.image_size,
        smoothing: description.smoothing,
        mean: description.mean,
        std: description.std,
        dataset_digest: description.dataset_digest.to_string(),
        recipe_digest: description.recipe_digest.to_string(),
    })
}

/// Received pixels, whose buffer returns to the stream when the batch is dropped.
struct ReceivedPixels(forebay_client::Pixels);

impl AsRef<[u8]> for ReceivedPixels {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn to_batch(from: Microbatch) -> Batch {
    let [_, height, width, _] = from.shape.map(|n| n as usize);
    let bytes = Bytes::from_owner(ReceivedPixels(from.pixels));
    let pixels = if from.mix.iter().all(|mix| *mix == Mix::Keep) {
        Pixels::Bytes(bytes)
    } else {
        Pixels::Unmixed(bytes, from.mix)
    };
    Batch {
        name: from.name,
        size: (height, width),
        pixels,
        label_a: from.label_a,
        label_b: from.label_b,
        lambda: from.lambda,
    }
}
