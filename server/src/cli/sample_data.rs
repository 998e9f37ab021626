//! `forebay sample-data`: a procedural dataset.

use std::path::PathBuf;

use clap::Args;
use forebay::sample_data::{self, MAX_CLASSES, SampleData};
use forebay_types::settings::{AnyNumber, Number};

use super::index::progress_bar;
use super::output::say;

#[derive(Debug, Args)]
pub(super) struct SampleDataArgs {
    /// Folder to create, with the ImageFolder directories `train/` and `val/`.
    dir: PathBuf,
    /// Number of classes.
    #[arg(long, value_name = "N", default_value = "10")]
    classes: Number<1, { MAX_CLASSES as u64 }>,
    /// Training images per class, at most 100000; 0 writes none.
    #[arg(long, value_name = "N", default_value = "100")]
    per_class: Number<0, 100_000>,
    /// Validation images per class, at most 100000; 0 writes none.
    #[arg(long, value_name = "N", default_value = "20")]
    val_per_class: Number<0, 100_000>,
    /// Seed of the images. Another seed draws other images of the same classes.
    #[arg(long, default_value = "0")]
    seed: AnyNumber,
}

pub(super) fn sample_data(args: &SampleDataArgs) -> anyhow::Result<()> {
    let SampleDataArgs { ref dir, classes, per_class, val_per_class, seed } = *args;
    let bar = progress_bar("images");
    bar.set_length(classes.get() * (per_class.get() + val_per_class.get()));
    let what = SampleData {
        classes: classes.as_u32(),
        per_class: per_class.as_u32(),
        val_per_class: val_per_class.as_u32(),
        seed: seed.get(),
    };
    let written = sample_data::write(dir, &what, |done| bar.set_position(done))?;
    bar.finish_and_clear();
    let mib = written.bytes as f64 / f64::from(1 << 20);
    say(format!("{} images, {mib:.1} MiB, in {}", written.images, dir.display()))
}
