//! Where microbatches come from: servers, or files.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use forebay_client::{Cursor as From, End, Job, Microbatch, Options, Rank, blocking};
use forebay_trainer::backend::{Batch, Pixels};
use forebay_trainer::train::Cursor;

use crate::cli::{Data, Source};
use crate::files::{self, Description};

/// A source of microbatches for training, and perhaps one for evaluation.
pub(crate) enum Feed {
    /// Servers.
    Servers { client: blocking::Client, training: Option<Job>, evaluation: Option<Job> },
    /// A folder that `--dump` wrote.
    Folder(PathBuf),
}

/// Microbatches in order.
pub(crate) type Batches = Box<dyn Iterator<Item = anyhow::Result<Batch>>>;

impl Feed {
    /// As the flags say; `training` is the recipe to train by, its changes and the seed.
    pub(crate) fn open(source: &Source, training: Option<(&str, &Data, u64)>) -> anyhow::Result<Self> {
        if let Some(folder) = &source.replay {
            return Ok(Self::Folder(folder.clone()));
        }
        let client = blocking::Client::connect(Options::new(source.server.iter().map(String::as_str)))?;
        let dataset = source.dataset.clone().context("no --dataset")?;
        let training = training.map(|(recipe, data, seed)| Job { set: changes(data), seed, ..Job::new(dataset.as_str(), recipe) });
        let named = source.eval_dataset.as_ref().or(if training.is_none() { Some(&dataset) } else { None });
        let evaluation = named.map(|name| Job { set: evaluation(source), ..Job::new(name.as_str(), "eval") });
        Ok(Self::Servers { client, training, evaluation })
    }

    /// What the training microbatches are.
    pub(crate) fn training(&self) -> anyhow::Result<Description> {
        match self {
            Self::Servers { client, training: Some(job), .. } => describe(client, job),
            Self::Servers { .. } => bail!("nothing to train on"),
            Self::Folder(folder) => Description::read(folder),
        }
    }

    /// What the microbatches of evaluation are, if there are any.
    pub(crate) fn evaluation(&self) -> anyhow::Result<Option<Description>> {
        match self {
            Self::Servers { client, evaluation: Some(job), .. } => Ok(Some(describe(client, job)?)),
            _ => Ok(None),
        }
    }

    /// The training microbatches of the steps from a cursor on, before the end of the last epoch.
    pub(crate) fn train(&self, from: Cursor, epochs: u64, about: &Description) -> anyhow::Result<Batches> {
        match self {
            Self::Servers { client, training: Some(job), .. } => {
                stream(client, job, from, Cursor { epoch: epochs, step: 0 }, about)
            }
            Self::Servers { .. } => bail!("nothing to train on"),
            Self::Folder(folder) => Ok(Box::new(files::read(folder, from, about))),
        }
    }

    /// All microbatches of evaluation.
    pub(crate) fn evaluate(&self, about: &Description) -> anyhow::Result<Batches> {
        match self {
            Self::Servers { client, evaluation: Some(job), .. } => {
                stream(client, job, Cursor::default(), Cursor { epoch: 1, step: 0 }, about)
            }
            _ => bail!("nothing to evaluate on; set --eval-dataset"),
        }
    }
}

/// Changes to a recipe as the service takes them.
fn changes(data: &Data) -> Vec<String> {
    let number = |name: &str, value: Option<u32>| value.map(|value| format!("{name} = {value}"));
    let mut set: Vec<String> = [
        number("image_size", data.image_size),
        number("batch", data.batch),
        number("microbatches", data.microbatches),
        data.smoothing.map(|s| format!("smoothing = {s:?}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    if let [least, most] = *data.crop_scale {
        set.push(format!("crop.scale = [{least:?}, {most:?}]"));
    }
    set.extend(data.set.iter().cloned());
    set
}

/// The size of evaluation: the short side is the image's over the crop ratio, rounded down as timm.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few thousand pixels")]
fn evaluation(source: &Source) -> Vec<String> {
    let mut set = vec![format!("batch = {}", source.eval_batch), "microbatches = 1".to_owned()];
    if let Some(size) = source.eval_image_size {
        let side = (f64::from(size) / source.eval_crop).floor() as u32;
        set.extend([format!("image_size = {size}"), format!("crop.resize = {side}")]);
    }
    set
}

fn describe(client: &blocking::Client, job: &Job) -> anyhow::Result<Description> {
    let about = client.describe(job)?;
    Ok(Description {
        classes: about.classes.len(),
        steps: about.steps_per_epoch,
        batch: about.batch,
        microbatches: about.microbatches,
        image_size: about.image_size,
        smoothing: about.smoothing,
        mean: about.mean,
        std: about.std,
        dataset_digest: about.dataset_digest.to_string(),
        recipe_digest: about.recipe_digest.to_string(),
    })
}

/// A stream whose microbatches must be of the digests described before.
fn stream(client: &blocking::Client, job: &Job, from: Cursor, to: Cursor, about: &Description) -> anyhow::Result<Batches> {
    let digest = |text: &str| text.parse().ok();
    let job = Job { dataset_digest: digest(&about.dataset_digest), recipe_digest: digest(&about.recipe_digest), ..job.clone() };
    let at = |cursor: Cursor| From { epoch: cursor.epoch, step: cursor.step };
    let stream = client.stream(&job, at(from), End::Until(at(to)), Rank::ALONE)?;
    Ok(Box::new(stream.map(|microbatch| Ok(batch(microbatch?)))))
}

/// Lends the received pixels to a batch; their buffer goes back to the stream when it is done.
struct Received(forebay_client::Pixels);

impl AsRef<[u8]> for Received {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn batch(from: Microbatch) -> Batch {
    let [_, height, width, _] = from.shape.map(|n| n as usize);
    Batch {
        epoch: from.name.epoch,
        step: from.name.step,
        index: from.name.index,
        size: (height, width),
        pixels: Pixels::Bytes(Bytes::from_owner(Received(from.pixels))),
        label_a: from.label_a,
        label_b: from.label_b,
        lambda: from.lambda,
    }
}
