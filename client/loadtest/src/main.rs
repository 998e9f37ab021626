//! The `forebay-loadtest` command.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use forebay_client::{Access, Cursor, Dtype, Job, Layout, MixedBy, RecipeRef, ServerFlags};
use forebay_loadtest::Options;

/// Load forebay servers with virtual trainers, and check what they receive.
///
/// A world of N trainers reads a job as a training run would: rank r takes the microbatches g with
/// g % N == r, so N must divide the microbatches of a step. --jobs J runs J such worlds, each of
/// which reads everything. Exits with 1 if anything was lost, repeated, reordered or wrong.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// A server, as http://host:port or https://host:port, or every address of a name, as
    /// dns+http://name:port; may be given several times or with commas.
    #[arg(long, env = "FOREBAY_ENDPOINT", required = true, value_delimiter = ',', num_args = 1..)]
    endpoint: Vec<String>,
    /// Name of the dataset, as the servers have it; may be left out where they have just one.
    #[arg(long, env = "FOREBAY_DATASET", default_value = "", hide_default_value = true)]
    dataset: String,
    /// Name of a recipe.
    #[arg(long, env = "FOREBAY_RECIPE", default_value = "a2")]
    recipe: String,
    /// A file with a whole recipe as TOML, instead of a name.
    #[arg(long, env = "FOREBAY_RECIPE_FILE")]
    recipe_file: Option<PathBuf>,
    /// A change to the recipe, such as `batch = 32`; may be given several times.
    #[arg(long)]
    set: Vec<String>,
    /// Samples of a step, a change to the recipe.
    #[arg(long)]
    batch: Option<u32>,
    /// Microbatches of a step, a change to the recipe.
    #[arg(long)]
    microbatches: Option<u32>,
    /// Seed of the job.
    #[arg(long, env = "FOREBAY_SEED", default_value_t = 0)]
    seed: u64,
    /// Trainers of a world.
    #[arg(long, env = "FOREBAY_TRAINERS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    trainers: u32,
    /// Worlds, each of which reads everything.
    #[arg(long, env = "FOREBAY_JOBS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    jobs: u32,
    /// Steps to read.
    #[arg(long, env = "FOREBAY_STEPS", default_value_t = 10)]
    steps: u64,
    /// The epoch to start in.
    #[arg(long, env = "FOREBAY_EPOCH", default_value_t = 0)]
    epoch: u64,
    /// The step of it to start at.
    #[arg(long, env = "FOREBAY_STEP", default_value_t = 0)]
    step: u64,
    /// Type of the pixels: u8, f16, bf16 or f32.
    #[arg(long, env = "FOREBAY_DTYPE", default_value_t = Dtype::U8)]
    dtype: Dtype,
    /// Layout of the pixels: nhwc or nchw.
    #[arg(long, env = "FOREBAY_LAYOUT", default_value_t = Layout::Nhwc)]
    layout: Layout,
    /// Who mixes: server or trainer.
    #[arg(long, env = "FOREBAY_MIXED_BY", default_value_t = MixedBy::Server)]
    mixed_by: MixedBy,
    /// How long a trainer computes on each microbatch, in milliseconds.
    #[arg(long, env = "FOREBAY_THINK_MS", default_value_t = 0)]
    think_ms: u64,
    /// Bytes that each trainer receives ahead.
    #[arg(long, env = "FOREBAY_PREFETCH_BYTES", default_value_t = 128 << 20)]
    prefetch_bytes: usize,
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    servers: ServerFlags,
    /// Give up when nothing arrives for so many seconds.
    #[arg(long, env = "FOREBAY_GIVE_UP_S", default_value_t = 300)]
    give_up_s: u64,
    /// What to check beyond names, order and digests.
    #[arg(long, env = "FOREBAY_CHECK", value_enum, default_value_t = Check::Coverage)]
    check: Check,
    /// Print the report as JSON.
    #[arg(long, env = "FOREBAY_JSON")]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Check {
    /// Nothing more.
    Digests,
    /// That all trainers together received everything exactly once.
    Coverage,
}

impl Arguments {
    fn options(self) -> anyhow::Result<Options> {
        let recipe = match &self.recipe_file {
            None => RecipeRef::Name(self.recipe),
            Some(path) => RecipeRef::Toml(
                std::fs::read_to_string(path).with_context(|| path.display().to_string())?,
            ),
        };
        let mut client = self.servers.apply(forebay_client::Options::new(self.endpoint));
        client.access = self.access;
        client.prefetch_bytes = self.prefetch_bytes;
        client.dtype = self.dtype;
        client.layout = self.layout;
        client.mixed_by = self.mixed_by;
        client.retry.give_up = Duration::from_secs(self.give_up_s);
        let number = |field, value: Option<u32>| value.map(|value| format!("{field} = {value}"));
        let numbers = [number("batch", self.batch), number("microbatches", self.microbatches)];
        let set = self.set.into_iter().chain(numbers.into_iter().flatten()).collect();
        let job = Job { recipe, set, seed: self.seed, ..Job::new(self.dataset, "") };
        Ok(Options {
            from: Cursor { epoch: self.epoch, step: self.step },
            trainers: self.trainers,
            jobs: self.jobs,
            think: Duration::from_millis(self.think_ms),
            coverage: self.check == Check::Coverage,
            progress: true,
            ..Options::new(client, job, self.steps)
        })
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    let json = arguments.json;
    let report = forebay_loadtest::run(arguments.options()?).await?;
    let text = if json { serde_json::to_string(&report)? + "\n" } else { report.to_string() };
    std::io::stdout().write_all(text.as_bytes()).context("standard output")?;
    let failed = !report.violations.is_empty();
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
