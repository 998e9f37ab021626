//! Options that several commands share.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use forebay::dataset::{Dataset, with_split};
use forebay::gpu::DeviceError;
use forebay::mix::{DEVICE_BYTES, Device, Mixer};
use forebay::recipe::{Recipe, RecipeSpec};
use forebay::{MicrobatchName, Pipeline, PipelineConfig, PixelFormat, Request};
use forebay_types::settings::{AnyNumber, Number};

use crate::config::{Mix, StorageSettings, Threads, recipes_in};
use crate::datasets::Datasets;
use crate::device::DeviceChoice;
use crate::recipes;

/// A dataset and its index.
#[derive(Clone, Debug, Args)]
pub(super) struct DatasetOptions {
    /// Dataset: an ImageFolder directory, WebDataset tars, TFRecords, Parquet files, ILSVRC's tars, Kaggle's or
    /// another directory, or a manifest; files also by a pattern such as `train-{000000..000146}.tar`. Or the URL of
    /// shards in a bucket.
    /// PATH:WEIGHT,PATH:WEIGHT mixes datasets.
    #[arg(long, value_name = "PATH")]
    dataset: Mix,
    #[command(flatten)]
    index: IndexOptions,
}

/// The part of a dataset, the folder of index files, and what is about datasets in buckets.
#[derive(Clone, Debug, Args)]
pub(super) struct IndexOptions {
    /// Split, such as train or val, of a path that has several. A path of the form PATH#SPLIT selects it too.
    #[arg(long, value_name = "NAME", env = "FOREBAY_SPLIT")]
    split: Option<String>,
    /// Folder for index files, if they cannot be stored next to the dataset.
    #[arg(long, value_name = "DIR", env = "FOREBAY_INDEX_DIR")]
    index_dir: Option<PathBuf>,
    #[command(flatten)]
    storage: StorageSettings,
}

impl DatasetOptions {
    /// Opens the dataset.
    pub(super) fn open(&self) -> anyhow::Result<Arc<Dataset>> {
        let mix = self.dataset.with_split(self.index.split.as_deref());
        Ok(Arc::new(self.index.datasets().open_mix(&mix)?))
    }
}

impl IndexOptions {
    /// What opens and indexes datasets.
    pub(super) fn datasets(&self) -> Datasets {
        Datasets::new(self.index_dir.clone(), self.storage.clone())
    }

    /// The path of a dataset, with the split.
    pub(super) fn path(&self, path: &Path) -> PathBuf {
        with_split(path, self.split.as_deref())
    }
}

/// A recipe with changes.
#[derive(Clone, Debug, Args)]
pub(super) struct RecipeOptions {
    /// Recipe: a preset (a1, a2, a3, eval), a name from the file of --config, or a TOML file.
    #[arg(long, value_name = "NAME|FILE.toml", default_value = "a2", env = "FOREBAY_RECIPE")]
    pub(super) recipe: String,
    #[command(flatten)]
    pub(super) book: RecipeBook,
    #[command(flatten)]
    pub(super) changes: RecipeChanges,
}

/// Changes to a recipe.
#[derive(Clone, Debug, Args)]
pub(super) struct RecipeChanges {
    /// Change a field of the recipe, such as `--set 'crop.scale = [0.35, 1.0]'`. May be given several
    /// times.
    #[arg(long, value_name = "FIELD=VALUE")]
    pub(super) set: Vec<String>,
    /// Change the samples per step of the recipe.
    #[arg(long, value_name = "N")]
    pub(super) batch: Option<Number<1, 1_048_576>>,
    /// Change the microbatches per step of the recipe.
    #[arg(long, value_name = "N")]
    pub(super) microbatches: Option<Number<1, 1024>>,
}

impl RecipeChanges {
    /// The changes as TOML assignments.
    pub(super) fn assignments(&self) -> impl Iterator<Item = String> + '_ {
        let batch = self.batch.map(|number| format!("batch = {number}"));
        let microbatches = self.microbatches.map(|number| format!("microbatches = {number}"));
        self.set.iter().cloned().chain(batch).chain(microbatches)
    }
}

impl RecipeOptions {
    /// The recipe with the changes and then `more`.
    pub(super) fn resolve(&self, more: impl IntoIterator<Item = String>) -> anyhow::Result<Recipe> {
        self.book.open()?.resolve(&self.recipe, self.changes.assignments().chain(more))
    }
}

/// The options that name a configuration file, in which recipes are looked up.
#[derive(Clone, Debug, Args)]
pub(super) struct RecipeBook {
    /// Configuration file of a server, whose recipes can then be used by name.
    #[arg(long, value_name = "FILE", env = "FOREBAY_CONFIG")]
    config: Option<PathBuf>,
}

/// The recipes of a configuration.
pub(super) struct OpenRecipeBook(BTreeMap<String, RecipeSpec>);

impl RecipeBook {
    pub(super) fn open(&self) -> anyhow::Result<OpenRecipeBook> {
        let recipes = self.config.as_deref().map(recipes_in).transpose()?;
        Ok(OpenRecipeBook(recipes.unwrap_or_default()))
    }
}

impl OpenRecipeBook {
    /// A recipe by name or file, with changes.
    pub(super) fn resolve(
        &self,
        argument: &str,
        changes: impl IntoIterator<Item = String>,
    ) -> anyhow::Result<Recipe> {
        let spec = match self.0.get(argument) {
            Some(spec) => spec.clone(),
            None => RecipeSpec::from_name_or_path(argument)?,
        };
        Ok(recipes::resolve(&self.0, &spec.with_changes(changes))?)
    }
}

/// The name of a microbatch, with its dataset and recipe.
#[derive(Clone, Debug, Args)]
pub(super) struct MicrobatchOptions {
    #[command(flatten)]
    pub(super) dataset: DatasetOptions,
    #[command(flatten)]
    pub(super) recipe: RecipeOptions,
    /// Seed of the job.
    #[arg(long, default_value = "0")]
    pub(super) seed: AnyNumber,
    /// Epoch, counted from 0.
    #[arg(long, default_value = "0")]
    pub(super) epoch: AnyNumber,
    /// Step of the epoch, counted from 0.
    #[arg(long, default_value = "0")]
    pub(super) step: AnyNumber,
    /// Microbatch of the step, counted from 0.
    #[arg(long, default_value = "0")]
    pub(super) index: Number<0, { u32::MAX as u64 }>,
}

impl MicrobatchOptions {
    pub(super) fn request(&self, format: PixelFormat) -> anyhow::Result<Request> {
        let dataset = self.dataset.open()?;
        let recipe = Arc::new(self.recipe.resolve([])?);
        let name = MicrobatchName {
            seed: self.seed.get(),
            epoch: self.epoch.get(),
            step: self.step.get(),
            index: self.index.as_u32(),
        };
        forebay::sampler(&dataset, &recipe, name.seed)?;
        Ok(Request { dataset, recipe, name, format })
    }
}

/// The device that mixes.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct DeviceOptions {
    /// Device that mixes: auto (the first GPU, else the CPU), cpu, cuda or cuda:N.
    #[arg(long, default_value_t = DeviceChoice::Only(Device::Cpu), env = "FOREBAY_DEVICE")]
    device: DeviceChoice,
}

impl DeviceOptions {
    /// Opens the device.
    pub(super) fn open(self) -> Result<Mixer, DeviceError> {
        self.device.open(DEVICE_BYTES)
    }
}

/// A pipeline for one command, whose buffers hold two microbatches of any recipe, and whose workers have
/// memory for any picture of the dataset.
pub(super) fn pipeline_for(
    dataset: &Dataset,
    recipe: &Recipe,
    format: PixelFormat,
    threads: Option<Threads>,
    mixer: &Mixer,
) -> anyhow::Result<Pipeline> {
    let defaults = PipelineConfig::default();
    let size = forebay::Size::square(recipe.largest_image_size());
    let bytes = recipe.microbatch_size() as usize * size.rgb_bytes() * format.dtype.bytes();
    let buffer_bytes = defaults.buffer_bytes.max(2 * bytes);
    let worker_bytes = defaults.worker_bytes.max(2 * forebay::sample_bytes(dataset, size));
    let threads = threads.and_then(|threads| NonZeroUsize::new(threads.count()));
    let threads = threads.unwrap_or(defaults.threads);
    Ok(Pipeline::with_mixer(
        mixer,
        PipelineConfig { threads, buffer_bytes, worker_bytes, cache_bytes: 0, ..defaults },
    )?)
}
