//! `forebay index` and `forebay inspect`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use forebay::dataset::{self, LabelSource, Summary};
use forebay_types::settings::{Number, fraction};
use indicatif::{ProgressBar, ProgressStyle};

use super::options::IndexOptions;
use super::output::{say, say_lines};
use crate::config::Threads;

#[derive(Debug, Args)]
pub(super) struct IndexArgs {
    /// Dataset: an ImageFolder directory, WebDataset tars, TFRecords, Parquet files, ILSVRC's tars, Kaggle's
    /// directory, MosaicML's or CIFAR's, or a CSV or Parquet file of paths and labels; files also by a pattern. Or the
    /// URL of tars, TFRecords or Parquet files in a bucket, such as `s3://bucket/train`.
    path: PathBuf,
    #[command(flatten)]
    index: IndexOptions,
    #[command(flatten)]
    selection: SelectionOptions,
    /// Number of threads. Default: all cores.
    #[arg(long, value_name = "N", env = "FOREBAY_THREADS")]
    threads: Option<Threads>,
    /// Share of the samples that may be skipped because they cannot be used. Ten may always be. Default 0.01.
    #[arg(long, value_name = "SHARE", value_parser = fraction)]
    max_skipped: Option<f64>,
    /// Skip no sample: refuse the dataset, as --max-skipped 0 does.
    #[arg(long, conflicts_with = "max_skipped")]
    strict: bool,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

/// The records to take, and how their labels are read.
#[derive(Debug, Args)]
struct SelectionOptions {
    /// File with the classes to take, one in each line. Their order gives the labels.
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// Take at most this many records of each class, the first ones.
    #[arg(long, value_name = "N")]
    limit_per_class: Option<Number<1, 1_000_000_000>>,
    /// File with the names of the records to take, one in each line, as `forebay inspect` shows them.
    #[arg(long, value_name = "FILE")]
    records: Option<PathBuf>,
    /// Source of the labels of a WebDataset: cls, or json:KEY, where dots lead into objects. Default: .cls,
    /// or label or cls of .json.
    #[arg(long, value_name = "cls|json:KEY")]
    label: Option<LabelSource>,
    /// Name of the image in records of named fields, if it is not the usual one. Dots lead into structs.
    #[arg(long, value_name = "NAME")]
    image_column: Option<String>,
    /// Name of the label in records of named fields, if it is not the usual one.
    #[arg(long, value_name = "NAME")]
    label_column: Option<String>,
    /// Label of the first class in TFRecords and Parquet files. Default: 1 for image/class/label, as TF-slim
    /// writes it, else 0.
    #[arg(long, value_name = "N")]
    label_offset: Option<Number<0, 1_000_000>>,
}

impl SelectionOptions {
    fn options(&self) -> dataset::IndexOptions {
        dataset::IndexOptions {
            classes: self.classes.clone(),
            limit_per_class: self.limit_per_class.map(Number::get),
            records: self.records.clone(),
            label: self.label.clone(),
            image_column: self.image_column.clone(),
            label_column: self.label_column.clone(),
            label_offset: self.label_offset.map(Number::as_u32),
            ..dataset::IndexOptions::default()
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Path of the dataset, as given to `forebay index`.
    path: PathBuf,
    #[command(flatten)]
    index: IndexOptions,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn index(args: &IndexArgs) -> anyhow::Result<()> {
    let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = args.threads.map_or_else(cores, Number::count);
    let bar = progress_bar("images");
    let progress = |progress: dataset::Progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    };
    let (datasets, path) = (args.index.datasets(), args.index.path(&args.path));
    let options = dataset::IndexOptions {
        max_skipped: if args.strict { Some(0.0) } else { args.max_skipped },
        ..args.selection.options()
    };
    let summary = datasets.build(&path, threads, &options, &progress)?;
    bar.finish_and_clear();
    if args.json {
        return print(&summary, true);
    }
    let file = datasets.index_of(&path)?;
    let (records, bad, layout) = (summary.records, summary.bad.len(), summary.layout);
    say(format!("indexed {records} records, {bad} bad, of {layout}"))?;
    for (name, value) in &summary.facts {
        say(format!("  {name}: {value}"))?;
    }
    for bad in summary.bad.iter().take(10) {
        say(format!("  bad: {}: {}", bad.name, bad.reason))?;
    }
    if summary.bad.len() > 10 {
        say(format!("  and {} more; `forebay inspect` lists all", summary.bad.len() - 10))?;
    }
    for skipped in &summary.skipped {
        say(format!("  skipped: {skipped}"))?;
    }
    for what in &summary.suspicious {
        say(format!("  suspicious: {what}"))?;
    }
    say(format!("digest {}", summary.digest))?;
    say(format!("index  {file}"))
}

pub(super) fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    let (datasets, path) = (args.index.datasets(), args.index.path(&args.path));
    let summary = datasets.summary(&datasets.open(&path)?, &path);
    print(&summary, args.json)
}

fn print(summary: &Summary, json: bool) -> anyhow::Result<()> {
    if json { say_lines(serde_json::to_string_pretty(summary)?) } else { say_lines(summary) }
}

/// A progress bar on standard error, hidden if that is not a terminal.
pub(super) fn progress_bar(unit: &str) -> ProgressBar {
    let template = format!("{{bar:40}} {{pos}}/{{len}} {unit}, {{per_sec}}, {{eta}} left");
    let style = ProgressStyle::with_template(&template).expect("a well-formed template");
    let bar = ProgressBar::no_length().with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
