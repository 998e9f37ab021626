//! Flags of the command, and the options that they amount to.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{Parser, ValueEnum};
use forebay_client::{Access, Cursor, DType, Job, Layout, MixedBy, RecipeRef, ServerFlags};
use forebay_loadtest::{Options, Pace, Phase, Slo, Spawn, StepTime, duration};

/// Load forebay servers with virtual trainers, and check what they receive.
///
/// A world of N trainers reads a job as a training run would: rank r takes the microbatches g with
/// g % N == r, so N must divide the microbatches of a step; no trainer begins a step before all have
/// had the one before. --jobs J runs J such worlds, each of which reads everything.
///
/// Checked always: every position once and in order, and digests. Times are a number with ms, s or m.
///
/// Exit codes: 0 all is well; 1 something was lost, repeated, reordered or wrong; 2 wrong arguments;
/// 3 an objective (--slo-...) was missed; 4 the test could not be run.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Arguments {
    /// A server, as http://host:port or https://host:port, or every address of a name, as
    /// dns+http://name:port; may be given several times or with commas.
    #[arg(long, env = "FOREBAY_ENDPOINT", required_unless_present = "spawn", value_delimiter = ',', num_args = 1..)]
    endpoint: Vec<String>,
    /// Name of the dataset, as the servers have it; may be left out where they have just one. With
    /// --spawn NAME=PATH.
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
    /// Seed of the job, and of what is killed when.
    #[arg(long, env = "FOREBAY_SEED", default_value_t = 0)]
    seed: u64,
    /// The epoch to start in.
    #[arg(long, env = "FOREBAY_EPOCH", default_value_t = 0)]
    epoch: u64,
    /// The step of it to start at.
    #[arg(long, env = "FOREBAY_STEP", default_value_t = 0)]
    step: u64,
    /// Type of the pixels: u8, f16, bf16 or f32.
    #[arg(long, env = "FOREBAY_DTYPE", default_value_t = DType::U8)]
    dtype: DType,
    /// Layout of the pixels: nhwc or nchw.
    #[arg(long, env = "FOREBAY_LAYOUT", default_value_t = Layout::Nhwc)]
    layout: Layout,
    /// Who mixes: server or trainer.
    #[arg(long, env = "FOREBAY_MIXED_BY", default_value_t = MixedBy::Server)]
    mixed_by: MixedBy,
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    servers: ServerFlags,

    /// Trainers of a world.
    #[arg(long, help_heading = "Load", env = "FOREBAY_TRAINERS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    trainers: u32,
    /// Steps to read.
    #[arg(long, help_heading = "Load", env = "FOREBAY_STEPS", default_value_t = 10)]
    steps: u64,
    /// Phases, one after another, of trainers x time or trainers x steps, such as 2x30s,8x100; instead of
    /// --trainers and --steps. A phase ends with a step, at which the next one begins.
    #[arg(long, help_heading = "Load", value_delimiter = ',', value_name = "PHASES", conflicts_with_all = ["trainers", "steps"])]
    plan: Vec<Phase>,
    /// Worlds, each of which reads everything.
    #[arg(long, help_heading = "Load", env = "FOREBAY_JOBS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    jobs: u32,
    /// How long a trainer computes on each microbatch, as a GPU would; 300ms~10% for 270 to 330 ms.
    /// Waits are what the trainer stood idle.
    #[arg(long, help_heading = "Load", value_name = "TIME[~PART%]", conflicts_with = "rate")]
    step_time: Option<StepTime>,
    /// Images a second that all trainers together ask for by the clock, however late the answers are.
    /// A wait begins when the microbatch was due, so that a stall counts for all that it delayed
    /// (coordinated omission).
    #[arg(long, help_heading = "Load", value_name = "IMAGES/S")]
    rate: Option<f64>,
    /// Readers beside the trainers that take one microbatch each 2 s; what they get is checked too.
    #[arg(long, help_heading = "Load", value_name = "N", default_value_t = 0)]
    slow_readers: u32,
    /// All trainers drop their connections and make new ones, again and again.
    #[arg(long, help_heading = "Load", value_name = "TIME", value_parser = duration)]
    reconnect_every: Option<Duration>,
    /// Bytes that each trainer receives ahead.
    #[arg(long, help_heading = "Load", env = "FOREBAY_PREFETCH_BYTES", default_value_t = 128 << 20)]
    prefetch_bytes: usize,
    /// Give up when nothing arrives for so many seconds.
    #[arg(long, help_heading = "Load", env = "FOREBAY_GIVE_UP_S", default_value_t = 300)]
    give_up_s: u64,

    /// Start N servers for the test, of --dataset NAME=PATH, and end them after it.
    #[arg(long, help_heading = "Chaos", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    spawn: Option<u16>,
    /// The program to start.
    #[arg(long, help_heading = "Chaos", value_name = "PATH", default_value = "forebay")]
    forebay: PathBuf,
    /// A flag for these servers, such as --serve=--threads=2; may be given several times.
    #[arg(
        long,
        help_heading = "Chaos",
        value_name = "FLAG",
        allow_hyphen_values = true,
        requires = "spawn"
    )]
    serve: Vec<OsString>,
    /// kill -9 one of them after about so long, again and again; it starts again a moment later. All
    /// is then read once more from one calm server, and every digest compared.
    #[arg(long, help_heading = "Chaos", value_name = "TIME", value_parser = duration, requires = "spawn")]
    kill_every: Option<Duration>,

    /// What to check beyond names, order and digests.
    #[arg(long, help_heading = "Report", env = "FOREBAY_CHECK", value_enum, default_value_t = Check::Coverage)]
    check: Check,
    /// Digests of an undisturbed run: every microbatch is compared with them if the file is there;
    /// otherwise it is written.
    #[arg(long, help_heading = "Report", value_name = "FILE")]
    digests: Option<PathBuf>,
    /// Where a server has its metrics (its --metrics-listen), for its CPU time, memory and throughput.
    #[arg(long, help_heading = "Report", value_name = "HOST:PORT", value_delimiter = ',')]
    metrics: Vec<String>,
    /// Price of a core for an hour, for the cost of a million images.
    #[arg(long, help_heading = "Report", value_name = "PRICE")]
    core_hour_price: Option<f64>,
    /// Write report.html, report.json and intervals.csv into this folder.
    #[arg(long, help_heading = "Report", value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long, help_heading = "Report", env = "FOREBAY_JSON")]
    pub(crate) json: bool,
    /// The longest that 99 in 100 microbatches may be waited for.
    #[arg(long, help_heading = "Report", value_name = "TIME", value_parser = duration)]
    slo_p99_wait: Option<Duration>,
    /// The fewest images a second.
    #[arg(long, help_heading = "Report", value_name = "IMAGES/S")]
    slo_images_per_second: Option<f64>,
    /// The most that may be lost, repeated, reordered or wrong.
    #[arg(long, help_heading = "Report", value_name = "N", default_value_t = 0)]
    pub(crate) slo_violations: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Check {
    /// Nothing more.
    Digests,
    /// That all trainers together received everything exactly once.
    Coverage,
}

impl Arguments {
    pub(crate) fn slo(&self) -> Slo {
        Slo { p99_wait: self.slo_p99_wait, images_per_second: self.slo_images_per_second }
    }

    pub(crate) fn options(self) -> anyhow::Result<Options> {
        let coverage = self.check == Check::Coverage;
        ensure!(
            coverage || (self.digests.is_none() && self.kill_every.is_none()),
            "--digests and --kill-every need --check coverage"
        );
        let spawn = self.spawn()?;
        let rate = self.rate.map(|rate| (rate > 0.0 && rate.is_finite()).then_some(rate));
        let pace = match (self.step_time, rate) {
            (Some(step_time), _) => Pace::Step(step_time),
            (None, Some(rate)) => Pace::Rate(rate.context("--rate must be more than 0")?),
            (None, None) => Pace::Free,
        };
        ensure!(
            self.reconnect_every.is_none_or(|every| !every.is_zero())
                && self.kill_every.is_none_or(|every| !every.is_zero()),
            "--reconnect-every and --kill-every must be more than 0"
        );
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
        let dataset = self.dataset.split_once('=').filter(|_| spawn.is_some());
        let dataset = dataset.map_or(self.dataset.as_str(), |(name, _)| name);
        let job = Job { recipe, set, seed: self.seed, ..Job::new(dataset, "") };
        Ok(Options {
            from: Cursor { epoch: self.epoch, step: self.step },
            trainers: self.trainers,
            plan: self.plan,
            jobs: self.jobs,
            pace,
            slow_readers: self.slow_readers,
            reconnect_every: self.reconnect_every,
            spawn,
            metrics: self.metrics,
            digests: self.digests,
            core_hour_price: self.core_hour_price,
            coverage,
            progress: true,
            ..Options::new(client, job, self.steps)
        })
    }

    fn spawn(&self) -> anyhow::Result<Option<Spawn>> {
        let Some(servers) = self.spawn else { return Ok(None) };
        ensure!(
            self.dataset.contains('='),
            "--spawn needs the dataset's path: --dataset NAME=PATH"
        );
        let dataset = ["--dataset".into(), self.dataset.clone().into()];
        Ok(Some(Spawn {
            servers: servers.into(),
            forebay: self.forebay.clone(),
            before: Vec::new(),
            arguments: dataset.into_iter().chain(self.serve.iter().cloned()).collect(),
            kill_every: self.kill_every,
            seed: self.seed,
        }))
    }
}
