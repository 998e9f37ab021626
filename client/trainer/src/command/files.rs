//! Microbatches as files: what `--dump` writes and `--replay` reads.
//!
//! `description.json`, and for each microbatch `EPOCH-STEP-INDEX.safetensors` with `pixels` (u8, NHWC),
//! `label_a`, `label_b` (u32) and `lambda` (f32).

use std::path::{Path, PathBuf};

use crate::backend::{Batch, Pixels};
use crate::train::Cursor;
use anyhow::{Context as _, bail};
use bytes::Bytes;
use forebay_client::Rank;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

/// What the microbatches of a job are.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Description {
    pub(crate) classes: usize,
    pub(crate) steps: u64,
    pub(crate) batch: u32,
    pub(crate) microbatches: u32,
    pub(crate) image_size: u32,
    pub(crate) smoothing: f64,
    pub(crate) mean: [f64; 3],
    pub(crate) std: [f64; 3],
    pub(crate) dataset_digest: String,
    pub(crate) recipe_digest: String,
}

impl Description {
    pub(crate) fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("description.json");
        let text = std::fs::read(&path).with_context(|| format!("{}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{}", path.display()))
    }

    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
        std::fs::write(folder.join("description.json"), serde_json::to_vec_pretty(self)?)?;
        Ok(())
    }
}

fn name(folder: &Path, epoch: u64, step: u64, index: u32) -> PathBuf {
    folder.join(format!("{epoch:04}-{step:06}-{index:03}.safetensors"))
}

/// Writes a microbatch.
pub(crate) fn write(folder: &Path, batch: &Batch) -> anyhow::Result<()> {
    let Pixels::Bytes(pixels) = &batch.pixels else { bail!("only u8 pixels are dumped") };
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
    let path = name(folder, batch.epoch, batch.step, batch.index);
    safetensors::serialize_to_file(views, None, &path)
        .with_context(|| format!("{}", path.display()))
}

/// Reads a rank's microbatches from a cursor on, as long as there are files.
pub(crate) fn read(
    folder: &Path,
    from: Cursor,
    about: &Description,
    rank: Rank,
) -> anyhow::Result<impl Iterator<Item = anyhow::Result<Batch>> + use<>> {
    let (folder, steps, indices) =
        (folder.to_owned(), about.steps, rank.microbatches(about.microbatches)?);
    let first = from.epoch * steps + from.step;
    let names = (first..).flat_map(move |update| {
        let name = move |index| (update / steps, update % steps, index);
        indices.clone().into_iter().map(name)
    });
    Ok(names.map_while(move |(epoch, step, index)| {
        let path = name(&folder, epoch, step, index);
        path.exists()
            .then(|| one(&path, epoch, step, index).with_context(|| format!("{}", path.display())))
    }))
}

fn one(path: &Path, epoch: u64, step: u64, index: u32) -> anyhow::Result<Batch> {
    let bytes = std::fs::read(path)?;
    let file = SafeTensors::deserialize(&bytes)?;
    let get = |name: &str, dtype: Dtype| -> anyhow::Result<TensorView<'_>> {
        let view = file.tensor(name)?;
        if view.dtype() != dtype {
            bail!("{name} is {:?}, {dtype:?} is wanted", view.dtype());
        }
        Ok(view)
    };
    let pixels = get("pixels", Dtype::U8)?;
    let [_, height, width, 3] = *pixels.shape() else {
        bail!("pixels have shape {:?}, not NHWC", pixels.shape())
    };
    let words = |name: &str, dtype: Dtype| -> anyhow::Result<Vec<[u8; 4]>> {
        Ok(get(name, dtype)?.data().as_chunks::<4>().0.to_vec())
    };
    let labels = |name: &str| -> anyhow::Result<Vec<u32>> {
        Ok(words(name, Dtype::U32)?.into_iter().map(u32::from_le_bytes).collect())
    };
    Ok(Batch {
        epoch,
        step,
        index,
        size: (height, width),
        pixels: Pixels::Bytes(Bytes::copy_from_slice(pixels.data())),
        label_a: labels("label_a")?,
        label_b: labels("label_b")?,
        lambda: words("lambda", Dtype::F32)?.into_iter().map(f32::from_le_bytes).collect(),
    })
}
