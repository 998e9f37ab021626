//! Where microbatches come from: servers, or files.

use std::path::PathBuf;

use crate::backend::{Batch, Pixels};
use crate::train::Cursor;
use anyhow::{Context as _, bail};
use bytes::Bytes;
use forebay_client::{Cursor as From, End, Job, Microbatch, Mix, Rank, blocking};

use super::cli::{Data, Source};
use super::files::{self, Description};

/// Microbatches in order.
pub(crate) type Batches = Box<dyn Iterator<Item = anyhow::Result<Batch>>>;

/// Where microbatches come from.
pub(crate) enum Feed {
    Servers(Box<Servers>),
    /// A folder that `--dump` wrote: nothing in it to evaluate on.
    Folder(PathBuf, Rank),
}

/// A client, and what to ask for.
pub(crate) struct Servers {
    client: blocking::Client,
    training: Option<Job>,
    evaluation: Option<Job>,
    rank: Rank,
}

impl Feed {
    /// A rank's share, as the flags say; `training` is the recipe to train by, its changes and the seed.
    pub(crate) fn open(
        source: &Source,
        training: Option<(&str, &Data, u64)>,
        rank: Rank,
    ) -> anyhow::Result<Self> {
        if let Some(folder) = &source.replay {
            return Ok(Self::Folder(folder.clone(), rank));
        }
        let client = blocking::Client::connect(source.client.clone().options())?;
        let dataset = source.dataset.as_deref().context("no --dataset")?;
        let only_evaluates = training.is_none().then_some(dataset);
        let evaluation = source.eval_dataset.as_deref().or(only_evaluates);
        let evaluation = evaluation
            .map(|name| Job { set: evaluated(source, rank.world), ..Job::new(name, "eval") });
        let training = match training {
            Some((recipe, data, seed)) => {
                Some(Job { set: changes(data)?, seed, ..Job::new(dataset, recipe) })
            }
            None => None,
        };
        Ok(Self::Servers(Box::new(Servers { client, training, evaluation, rank })))
    }

    /// What the training microbatches are.
    pub(crate) fn training(&self) -> anyhow::Result<Description> {
        match self {
            Self::Servers(servers) => describe(&servers.client, servers.training()?),
            Self::Folder(folder, _) => Description::read(folder),
        }
    }

    /// What the microbatches of evaluation are, if there are any.
    pub(crate) fn evaluation(&self) -> anyhow::Result<Option<Description>> {
        let Self::Servers(servers) = self else { return Ok(None) };
        servers.evaluation.as_ref().map(|job| describe(&servers.client, job)).transpose()
    }

    /// The training microbatches of the steps from a cursor on, before the end of the last epoch.
    pub(crate) fn train(
        &self,
        from: Cursor,
        epochs: u64,
        about: &Description,
    ) -> anyhow::Result<Batches> {
        let end = Cursor { epoch: epochs, step: 0 };
        match self {
            Self::Servers(servers) => servers.stream(servers.training()?, from, end, about),
            Self::Folder(folder, rank) => Ok(Box::new(files::read(folder, from, about, *rank)?)),
        }
    }

    /// The rank's microbatches of evaluation.
    pub(crate) fn evaluate(&self, about: &Description) -> anyhow::Result<Batches> {
        let Self::Servers(servers) = self else { bail!("a folder has nothing to evaluate on") };
        let job = servers.evaluation.as_ref().context("no --eval-dataset")?;
        servers.stream(job, Cursor::default(), Cursor { epoch: 1, step: 0 }, about)
    }
}

impl Servers {
    fn training(&self) -> anyhow::Result<&Job> {
        self.training.as_ref().context("opened to evaluate, not to train")
    }

    /// A stream whose microbatches must be of the digests described before.
    fn stream(
        &self,
        job: &Job,
        from: Cursor,
        to: Cursor,
        about: &Description,
    ) -> anyhow::Result<Batches> {
        let digest = |text: &str| text.parse().ok();
        let job = Job {
            dataset_digest: digest(&about.dataset_digest),
            recipe_digest: digest(&about.recipe_digest),
            ..job.clone()
        };
        let at = |cursor: Cursor| From { epoch: cursor.epoch, step: cursor.step };
        let stream = self.client.stream(&job, at(from), End::Until(at(to)), self.rank)?;
        Ok(Box::new(stream.map(|microbatch| Ok(batch(microbatch?)))))
    }
}

/// Changes to a recipe as the service takes them.
fn changes(data: &Data) -> anyhow::Result<Vec<String>> {
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
    match *data.crop_scale {
        [] => {}
        [least, most] => set.push(format!("crop.scale = [{least:?}, {most:?}]")),
        _ => bail!("--crop-scale takes the least and the most, such as 0.35,1"),
    }
    set.extend(data.set.iter().cloned());
    Ok(set)
}

/// The size of evaluation: the short side is the image's over the crop ratio, rounded down as timm. Each
/// rank has a microbatch of each step.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a few thousand pixels"
)]
fn evaluated(source: &Source, world: u32) -> Vec<String> {
    let batch = u64::from(source.eval_batch) * u64::from(world);
    let mut set = vec![format!("batch = {batch}"), format!("microbatches = {world}")];
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

/// Lends the received pixels to a batch; their buffer goes back to the stream when it is done.
struct Received(forebay_client::Pixels);

impl AsRef<[u8]> for Received {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn batch(from: Microbatch) -> Batch {
    let [_, height, width, _] = from.shape.map(|n| n as usize);
    let bytes = Bytes::from_owner(Received(from.pixels));
    let pixels = if from.mix.iter().all(|mix| *mix == Mix::Keep) {
        Pixels::Bytes(bytes)
    } else {
        Pixels::Clean(bytes, from.mix)
    };
    Batch {
        epoch: from.name.epoch,
        step: from.name.step,
        index: from.name.index,
        size: (height, width),
        pixels,
        label_a: from.label_a,
        label_b: from.label_b,
        lambda: from.lambda,
    }
}
