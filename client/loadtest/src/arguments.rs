//! The command line, and the options that it stands for.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{ArgAction, CommandFactory as _, Parser, ValueEnum};
use forebay_client::{ClientFlags, Cursor, DType, Job, Layout, RecipeRef};
use forebay_types::settings::{
    AnyNumber, NonZeroTimeSpan, Number, boolean, duration, non_negative, positive,
};

use crate::options::Options;
use crate::plan::{Pace, Phase, StepTime, Steps, Trainers};
use crate::servers::Spawn;
use crate::slo::Slo;

/// Load forebay servers with virtual trainers, and check what they receive.
///
/// A world of N trainers reads a job as a training run would: rank r takes the microbatches g with
/// g % N == r, so N must divide the microbatches of a step; no trainer begins a step before all have
/// received the previous one. --jobs J runs J such worlds, each of which reads everything.
///
/// Names, order and digests are always checked. Durations have a unit (300ms, 5m), sizes may have one
/// (256MiB).
///
/// Exit codes: 0 no violations; 1 something was lost, repeated, reordered or wrong; 2 invalid
/// arguments; 3 an objective (--slo-...) was missed; 4 the test could not be run; 130 or 143 stopped by
/// SIGINT or SIGTERM before it began, or by a second signal. The first signal ends the test within a
/// second, with a report of what was received.
#[derive(Debug, Parser)]
#[command(name = "forebay-loadtest", version, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    client: ClientFlags,

    /// Name of the dataset on the servers. May be omitted if they have only one. With --spawn, its name
    /// and path as NAME=PATH.
    #[arg(
        long,
        help_heading = "Job",
        env = "FOREBAY_DATASET",
        default_value = "",
        hide_default_value = true
    )]
    dataset: String,
    /// Recipe: a preset (a1, a2, a3, eval), a name from the servers' configuration, or a TOML file.
    #[arg(
        long,
        help_heading = "Job",
        value_name = "NAME|FILE.toml",
        env = "FOREBAY_RECIPE",
        default_value = "a2"
    )]
    recipe: String,
    /// Change a field of the recipe, such as `batch = 32`. May be given several times.
    #[arg(long, help_heading = "Job", value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// Change the samples per step of the recipe, 1 to 1048576.
    #[arg(long, help_heading = "Job", value_name = "N")]
    batch: Option<Number<1, 1_048_576>>,
    /// Change the microbatches per step of the recipe, 1 to 1024.
    #[arg(long, help_heading = "Job", value_name = "N")]
    microbatches: Option<Number<1, 1024>>,
    /// Seed of the job, and of the choice and times of kills.
    #[arg(long, help_heading = "Job", env = "FOREBAY_SEED", default_value = "0")]
    seed: AnyNumber,
    /// First epoch, counted from 0.
    #[arg(long, help_heading = "Job", env = "FOREBAY_EPOCH", default_value = "0")]
    epoch: AnyNumber,
    /// First step of that epoch, counted from 0.
    #[arg(long, help_heading = "Job", env = "FOREBAY_STEP", default_value = "0")]
    step: AnyNumber,
    /// Type of the pixels: u8, f16, bf16 or f32.
    #[arg(long, help_heading = "Job", env = "FOREBAY_DTYPE", default_value_t = DType::U8)]
    dtype: DType,
    /// Layout of the pixels: nhwc or nchw.
    #[arg(long, help_heading = "Job", env = "FOREBAY_LAYOUT", default_value_t = Layout::Nhwc)]
    layout: Layout,

    /// Number of trainers of a world, 1 to 1024.
    #[arg(long, help_heading = "Load", env = "FOREBAY_TRAINERS", default_value = "1")]
    trainers: Trainers,
    /// Number of steps to read, 1 to 10^12.
    #[arg(long, help_heading = "Load", env = "FOREBAY_STEPS", default_value = "10")]
    steps: Steps,
    /// Phases to run one after another, instead of --trainers and --steps. A phase is
    /// `TRAINERSxTIME` or `TRAINERSxSTEPS`, as in 2x30s,8x100, and ends at the end of a step.
    #[arg(long, help_heading = "Load", env = "FOREBAY_PLAN", value_delimiter = ',', value_name = "PHASES", conflicts_with_all = ["trainers", "steps"])]
    plan: Vec<Phase>,
    /// Number of worlds, each of which reads everything, 1 to 10000.
    #[arg(long, help_heading = "Load", env = "FOREBAY_JOBS", default_value = "1")]
    jobs: Number<1, 10_000>,
    /// Time that a trainer computes on each microbatch, as a GPU would. 300ms~10% is 270 to 330 ms. The
    /// time in which the trainer is idle counts as its wait.
    #[arg(
        long,
        help_heading = "Load",
        env = "FOREBAY_STEP_TIME",
        value_name = "TIME[~PERCENT%]",
        conflicts_with = "rate"
    )]
    step_time: Option<StepTime>,
    /// Images per second that all trainers together request by the clock, however late the responses
    /// are; more than 0. A wait begins when the microbatch is due, so a stall counts for every
    /// microbatch that it delays. This avoids coordinated omission.
    #[arg(long, help_heading = "Load", env = "FOREBAY_RATE", value_name = "IMAGES/S", value_parser = positive)]
    rate: Option<f64>,
    /// Number of additional readers that take one microbatch every 2 s, at most 10000. What they receive is checked,
    /// too.
    #[arg(
        long,
        help_heading = "Load",
        env = "FOREBAY_SLOW_READERS",
        value_name = "N",
        default_value = "0"
    )]
    slow_readers: Number<0, 10_000>,
    /// Interval at which all trainers drop their connections and make new ones; more than 0.
    #[arg(long, help_heading = "Load", env = "FOREBAY_RECONNECT_EVERY", value_name = "TIME")]
    reconnect_every: Option<NonZeroTimeSpan>,

    /// Start N servers for --dataset NAME=PATH, and stop them after the test; 1 to 1024.
    #[arg(long, help_heading = "Chaos", value_name = "N")]
    spawn: Option<Number<1, 1024>>,
    /// Server program to start.
    #[arg(long, help_heading = "Chaos", value_name = "PATH", default_value = "forebay")]
    forebay: PathBuf,
    /// Flag for the started servers, such as --serve=--threads=2. May be given several times.
    #[arg(
        long,
        help_heading = "Chaos",
        value_name = "FLAG",
        allow_hyphen_values = true,
        requires = "spawn"
    )]
    serve: Vec<OsString>,
    /// Mean interval at which one of the started servers is killed with SIGKILL and restarted; more than
    /// 0. A kill waits until every trainer has received something since the one before, and then twice as
    /// long as that took. At the end everything is read again from one server without faults, and all
    /// digests are compared.
    #[arg(long, help_heading = "Chaos", value_name = "TIME", requires = "spawn")]
    kill_every: Option<NonZeroTimeSpan>,

    /// Check to make in addition to names, order and digests.
    #[arg(long, help_heading = "Report", env = "FOREBAY_CHECK", value_enum, default_value_t = Check::Coverage)]
    check: Check,
    /// File of the digests of an undisturbed run. If the file exists, every microbatch is compared with
    /// it; otherwise it is written.
    #[arg(long, help_heading = "Report", env = "FOREBAY_DIGESTS", value_name = "FILE")]
    digests: Option<PathBuf>,
    /// Metrics addresses of the servers (their --metrics-listen). The report then includes their CPU
    /// time, memory and throughput.
    #[arg(
        long,
        help_heading = "Report",
        env = "FOREBAY_METRICS",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    metrics: Vec<String>,
    /// Price of one core for one hour, from which the report computes the cost of a million images; at
    /// least 0.
    #[arg(long, help_heading = "Report", env = "FOREBAY_CORE_HOUR_PRICE", value_name = "PRICE", value_parser = non_negative)]
    core_hour_price: Option<f64>,
    /// Write report.html, report.json and intervals.csv into this folder.
    #[arg(long, help_heading = "Report", env = "FOREBAY_REPORT", value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long, help_heading = "Report", env = "FOREBAY_JSON", action = ArgAction::SetTrue, value_parser = boolean)]
    pub(crate) json: bool,
    /// Objective: the 99th percentile of the waits is at most this.
    #[arg(long, help_heading = "Report", env = "FOREBAY_SLO_P99_WAIT", value_name = "TIME", value_parser = duration)]
    slo_p99_wait: Option<Duration>,
    /// Objective: the throughput is at least this.
    #[arg(
        long,
        help_heading = "Report",
        env = "FOREBAY_SLO_IMAGES_PER_SECOND",
        value_name = "IMAGES/S",
        value_parser = non_negative
    )]
    slo_images_per_second: Option<f64>,
    /// Objective: at most this many microbatches are lost, repeated, reordered or wrong.
    #[arg(
        long,
        help_heading = "Report",
        env = "FOREBAY_SLO_VIOLATIONS",
        value_name = "N",
        default_value = "0"
    )]
    pub(crate) slo_violations: AnyNumber,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Check {
    /// Check nothing in addition.
    Digests,
    /// Check that all trainers together received everything exactly once.
    Coverage,
}

impl Arguments {
    pub(crate) fn slo(&self) -> Slo {
        Slo { p99_wait: self.slo_p99_wait, images_per_second: self.slo_images_per_second }
    }

    /// The options that the arguments stand for. Fails if they contradict each other.
    pub(crate) fn options(self) -> anyhow::Result<Options> {
        let coverage = self.check == Check::Coverage;
        ensure!(
            coverage || (self.digests.is_none() && self.kill_every.is_none()),
            "--digests and --kill-every need --check coverage"
        );
        let spawn = self.spawn()?;
        ensure!(
            spawn.is_some() || !self.client.endpoint.is_empty(),
            "no server: set --endpoint (or FOREBAY_ENDPOINT) to http://host:port, or start servers by --spawn"
        );
        let pace = match (self.rate, self.step_time) {
            (Some(rate), _) => Pace::Rate(rate),
            (None, step_time) => step_time.map_or(Pace::Free, Pace::Step),
        };
        let recipe = RecipeRef::from_name_or_path(&self.recipe)?;
        let mut client = self.client.options();
        client.format.dtype = self.dtype;
        client.format.layout = self.layout;
        let batch = self.batch.map(|number| format!("batch = {number}"));
        let microbatches = self.microbatches.map(|number| format!("microbatches = {number}"));
        let set = self.set.into_iter().chain(batch).chain(microbatches).collect();
        let dataset = self.dataset.split_once('=').filter(|_| spawn.is_some());
        let dataset = dataset.map_or(self.dataset.as_str(), |(name, _)| name);
        let job = Job { recipe, set, seed: self.seed.get(), ..Job::new(dataset, "") };
        Ok(Options {
            from: Cursor { epoch: self.epoch.get(), step: self.step.get() },
            trainers: self.trainers.as_u32(),
            plan: self.plan,
            jobs: self.jobs.as_u32(),
            pace,
            slow_readers: self.slow_readers.as_u32(),
            reconnect_every: self.reconnect_every.map(NonZeroTimeSpan::get),
            spawn,
            metrics: self.metrics,
            digests: self.digests,
            core_hour_price: self.core_hour_price,
            coverage,
            progress: true,
            ..Options::new(client, job, self.steps.get())
        })
    }

    fn spawn(&self) -> anyhow::Result<Option<Spawn>> {
        let Some(servers) = self.spawn else { return Ok(None) };
        let (_name, _path) = self
            .dataset
            .split_once('=')
            .context("--spawn needs the path of the dataset: expected --dataset NAME=PATH")?;
        let dataset = ["--dataset".into(), self.dataset.clone().into()];
        Ok(Some(Spawn {
            servers: servers.count(),
            forebay: self.forebay.clone(),
            before: Vec::new(),
            arguments: dataset.into_iter().chain(self.serve.iter().cloned()).collect(),
            hidden_variables: own_variables(),
            kill_every: self.kill_every.map(NonZeroTimeSpan::get),
            seed: self.seed.get(),
        }))
    }
}

/// The environment variables of this command. Some, such as `FOREBAY_TOKEN_FILE`, mean something else to a server.
fn own_variables() -> Vec<OsString> {
    let command = Arguments::command();
    command.get_arguments().filter_map(|argument| argument.get_env()).map(OsString::from).collect()
}

#[cfg(test)]
#[path = "../../../tests/src/walk.rs"]
mod walk;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_accepts_the_ends_of_its_range_or_says_what_it_expects() {
        walk::every_flag(Arguments::command());
    }

    fn options(arguments: &[&str]) -> anyhow::Result<Options> {
        Arguments::try_parse_from(["forebay-loadtest"].iter().chain(arguments))?.options()
    }

    #[test]
    fn a_recipe_is_a_name_or_a_file() {
        let recipe = |text| options(&["--endpoint", "a:1", "--recipe", text]).map(|o| o.job.recipe);
        assert_eq!(recipe("ours").unwrap(), RecipeRef::Name("ours".into()));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ours.toml");
        std::fs::write(&file, "base = \"a3\"").unwrap();
        let expected = RecipeRef::Toml("base = \"a3\"".into());
        assert_eq!(recipe(file.to_str().unwrap()).unwrap(), expected);
        assert!(recipe("absent.toml").unwrap_err().to_string().contains("absent.toml"));
        assert_eq!(
            options(&["--endpoint", "a:1"]).unwrap().job.recipe,
            RecipeRef::Name("a2".into())
        );
    }

    #[test]
    fn invalid_values_are_refused_with_what_is_expected() {
        let refused = |arguments: &[&str]| {
            let all: Vec<_> = ["--endpoint", "a:1"].iter().chain(arguments).copied().collect();
            options(&all).unwrap_err().to_string()
        };
        assert!(refused(&["--rate", "0"]).contains("expected a number above 0"));
        assert!(refused(&["--kill-every", "0", "--spawn", "1"]).contains("--kill-every"));
        assert!(refused(&["--spawn", "1"]).contains("--dataset NAME=PATH"));
        assert!(refused(&["--core-hour-price=-1"]).contains("at least 0"));
        assert!(refused(&["--steps", "0"]).contains("--steps"));
        assert!(refused(&["--digests", "d", "--check", "digests"]).contains("--check coverage"));
        assert!(options(&[]).unwrap_err().to_string().contains("FOREBAY_ENDPOINT"));
    }
}
