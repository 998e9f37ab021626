//! `forebay index` and `forebay inspect`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use forebay::dataset::{self, Dataset, MAX_SKIPPED, Summary};
use forebay_types::settings::fraction;
use indicatif::{ProgressBar, ProgressStyle};

use super::options::IndexOptions;
use super::output::{say, say_lines};
use crate::config::Threads;

#[derive(Debug, Args)]
pub(super) struct IndexArgs {
    /// Dataset: an ImageFolder directory, a WebDataset tar, a directory of tars, or a pattern.
    path: PathBuf,
    #[command(flatten)]
    index: IndexOptions,
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
    let threads = args.threads.map_or_else(cores, forebay_types::settings::Number::count);
    let bar = progress_bar("images");
    let progress = |progress: dataset::Progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    };
    let index_dir = args.index.index_dir.as_deref();
    let max_skipped = if args.strict { 0.0 } else { args.max_skipped.unwrap_or(MAX_SKIPPED) };
    let path = &args.path;
    let summary = dataset::build_skipping(max_skipped, path, index_dir, threads, &progress)?;
    bar.finish_and_clear();
    if args.json {
        return print(&summary, true);
    }
    let file = dataset::index_path(&args.path, index_dir);
    say(format!("indexed {} records, {} bad", summary.records, summary.bad.len()))?;
    for bad in summary.bad.iter().take(10) {
        say(format!("  bad: {}: {}", bad.name, bad.reason))?;
    }
    if summary.bad.len() > 10 {
        say(format!("  and {} more; `forebay inspect` lists all", summary.bad.len() - 10))?;
    }
    for skipped in &summary.skipped {
        say(format!("  skipped: {skipped}"))?;
    }
    say(format!("digest {}", summary.digest))?;
    say(format!("index  {}", file.display()))
}

pub(super) fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    let dataset = Dataset::open(&args.path, args.index.index_dir.as_deref())?;
    print(&dataset.summary(), args.json)
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
