//! Microbatches as files, which `--dump` writes and `--replay` reads.
//!
//! A folder has `description.json`, and for each microbatch `EPOCH-STEP-INDEX.safetensors` with `pixels`
//! (u8, NHWC), `label_a`, `label_b` (u32) and `lambda` (f32).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use forebay_types::limits::{self, RecipeFields};
use forebay_types::{Cursor, MicrobatchName, Rank, file};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::batch::{Batch, Pixels};

/// Largest `description.json`.
const MAX_DESCRIPTION: u64 = 1 << 20;

/// Properties of all microbatches of a source.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct SourceInfo {
    /// Number of classes.
    pub(crate) classes: usize,
    /// Steps per epoch.
    pub(crate) steps: u64,
    /// Samples per step, over all ranks.
    pub(crate) batch: u32,
    /// Microbatches per step.
    pub(crate) microbatches: u32,
    /// Height and width of the images.
    pub(crate) image_size: u32,
    /// Label smoothing, which the loss applies.
    pub(crate) smoothing: f64,
    /// Mean of R, G and B.
    pub(crate) mean: [f64; 3],
    /// Standard deviation of R, G and B.
    pub(crate) std: [f64; 3],
    pub(crate) dataset_digest: String,
    pub(crate) recipe_digest: String,
}

impl SourceInfo {
    pub(crate) fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("description.json");
        let text = file::read(&path, MAX_DESCRIPTION)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let context = || format!("{} does not describe microbatches of --dump", path.display());
        let info: Self = serde_json::from_slice(&text).with_context(context)?;
        info.check().with_context(context)?;
        Ok(info)
    }

    /// Checks what is computed with before a microbatch is read.
    fn check(&self) -> anyhow::Result<()> {
        let Self { batch, microbatches, image_size, smoothing, ref mean, ref std, .. } = *self;
        let recipe = RecipeFields { batch, microbatches, image_size, smoothing, mean, std };
        recipe.problem().map_or(Ok(()), |problem| bail!("{problem}"))?;
        ensure!(self.classes as u64 <= limits::CLASSES, "classes must be at most 2^24");
        ensure!(self.steps <= limits::RECORDS, "steps must be at most 2^40");
        Ok(())
    }

    /// Checks that there is something to evaluate on, before a run and not after its first epoch.
    pub(crate) fn check_for_evaluation(&self) -> anyhow::Result<()> {
        ensure!(self.steps > 0, "the dataset to evaluate on has no samples: use another one");
        Ok(())
    }

    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let path = folder.join("description.json");
        std::fs::write(&path, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

fn file_path(folder: &Path, name: MicrobatchName) -> PathBuf {
    let MicrobatchName { epoch, step, index, .. } = name;
    folder.join(format!("{epoch:04}-{step:06}-{index:03}.safetensors"))
}

/// Writes a microbatch.
pub(crate) fn write(folder: &Path, batch: &Batch) -> anyhow::Result<()> {
    let Pixels::Bytes(pixels) = &batch.pixels else {
        bail!("--dump writes mixed u8 pixels only: use --mixed-by server")
    };
    let samples = batch.samples();
    let labels = [&batch.label_a, &batch.label_b]
        .map(|l| l.iter().flat_map(|l| l.to_le_bytes()).collect::<Vec<u8>>());
    let lambda: Vec<u8> = batch.lambda.iter().flat_map(|l| l.to_le_bytes()).collect();
    let shape = vec![samples, batch.size.0, batch.size.1, 3];
    let views = [
        ("pixels", TensorView::new(Dtype::U8, shape, pixels)?),
        ("label_a", TensorView::new(Dtype::U32, vec![samples], &labels[0])?),
        ("label_b", TensorView::new(Dtype::U32, vec![samples], &labels[1])?),
        ("lambda", TensorView::new(Dtype::F32, vec![samples], &lambda)?),
    ];
    let path = file_path(folder, batch.name);
    // `serialize_to_file` of the library would leave a file that only its owner can read.
    std::fs::write(&path, safetensors::serialize(views, None)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Reads a rank's microbatches from a cursor on, until a file is missing.
pub(crate) fn read(
    folder: &Path,
    from: Cursor,
    info: &SourceInfo,
    seed: u64,
    rank: Rank,
) -> anyhow::Result<impl Iterator<Item = anyhow::Result<Batch>> + use<>> {
    let (folder, steps) = (folder.to_owned(), info.steps);
    let indices = rank.microbatches(info.microbatches)?;
    let first = from.epoch * steps + from.step;
    let names = (first..).flat_map(move |update| {
        let (epoch, step) = (update / steps, update % steps);
        let name = move |index| MicrobatchName { seed, epoch, step, index };
        indices.clone().into_iter().map(name)
    });
    Ok(names.map_while(move |name| {
        let path = file_path(&folder, name);
        let context = || format!("cannot read {}", path.display());
        let read = || read_one(&path, name).with_context(context);
        path.exists().then(read)
    }))
}

fn read_one(path: &Path, name: MicrobatchName) -> anyhow::Result<Batch> {
    let bytes = file::read(path, u64::MAX)?;
    let file = SafeTensors::deserialize(&bytes)?;
    let get = |name: &str, dtype: Dtype| -> anyhow::Result<TensorView<'_>> {
        let view = file.tensor(name)?;
        if view.dtype() != dtype {
            bail!("tensor {name} is {:?}, expected {dtype:?}", view.dtype());
        }
        Ok(view)
    };
    let pixels = get("pixels", Dtype::U8)?;
    let [_, height, width, 3] = *pixels.shape() else {
        bail!("pixels have shape {:?}, expected [samples, height, width, 3]", pixels.shape())
    };
    let words = |name: &str, dtype: Dtype| -> anyhow::Result<Vec<[u8; 4]>> {
        Ok(get(name, dtype)?.data().as_chunks::<4>().0.to_vec())
    };
    let labels = |name: &str| -> anyhow::Result<Vec<u32>> {
        Ok(words(name, Dtype::U32)?.into_iter().map(u32::from_le_bytes).collect())
    };
    Ok(Batch {
        name,
        size: (height, width),
        pixels: Pixels::Bytes(Bytes::copy_from_slice(pixels.data())),
        label_a: labels("label_a")?,
        label_b: labels("label_b")?,
        lambda: words("lambda", Dtype::F32)?.into_iter().map(f32::from_le_bytes).collect(),
    })
}
