//! `forebay sample-data`: a procedural dataset.

use std::path::PathBuf;

use clap::Args;
use forebay::sample_data::{self, SampleData};

use super::index::progress_bar;
use super::output::say;

#[derive(Debug, Args)]
pub(super) struct SampleDataArgs {
    /// Folder to create, with the ImageFolder directories `train/` and `val/`.
    dir: PathBuf,
    /// Number of classes.
    #[arg(long, default_value_t = 10)]
    classes: u32,
    /// Training images per class; 0 writes none.
    #[arg(long, default_value_t = 100)]
    per_class: u32,
    /// Validation images per class; 0 writes none.
    #[arg(long, default_value_t = 20)]
    val_per_class: u32,
    /// Seed of the images. Another seed draws other images of the same classes.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub(super) fn sample_data(args: &SampleDataArgs) -> anyhow::Result<()> {
    let SampleDataArgs { ref dir, classes, per_class, val_per_class, seed } = *args;
    let what = SampleData { classes, per_class, val_per_class, seed };
    let bar = progress_bar("images");
    bar.set_length(u64::from(classes) * (u64::from(per_class) + u64::from(val_per_class)));
    let written = sample_data::write(dir, &what, |done| bar.set_position(done))?;
    bar.finish_and_clear();
    let mib = written.bytes as f64 / f64::from(1 << 20);
    say(format!("{} images, {mib:.1} MiB, in {}", written.images, dir.display()))
}
