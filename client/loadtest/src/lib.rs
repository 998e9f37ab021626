//! Virtual trainers that load forebay servers and check what they receive.
//!
//! A run is `jobs` copies of one job, each read by a world of `trainers` ranks, as a training run
//! would: rank r takes the microbatches g with `g % trainers == r`. The client checks names, order
//! and digests of each rank; [`check`] adds what only all ranks together show: every microbatch of
//! every step exactly once, every record as often as the epoch has it, and the same bytes in all
//! copies.

pub mod check;
mod report;
mod trainer;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use forebay_client::{Client, Cursor, Description, End, Error, Job, Rank};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinSet;

use crate::check::Coverage;
pub use crate::report::{Report, StageTimes, WaitMs};
use crate::trainer::{Received, Trainer};

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Servers, and how to receive from them.
    pub client: forebay_client::Options,
    /// What to ask for.
    pub job: Job,
    /// The first step.
    pub from: Cursor,
    /// How many steps.
    pub steps: u64,
    /// Ranks of a world; must divide the microbatches of a step.
    pub trainers: u32,
    /// Copies of the whole world, all asking for the same.
    pub jobs: u32,
    /// How long a trainer computes on each microbatch.
    pub think: Duration,
    /// Whether to check coverage; digests, names and order are always checked.
    pub coverage: bool,
    /// Whether to draw a progress bar on standard error.
    pub progress: bool,
}

impl Options {
    /// One trainer that reads so many steps from the start, checks them and draws nothing.
    pub fn new(client: forebay_client::Options, job: Job, steps: u64) -> Self {
        Self {
            client,
            job,
            from: Cursor::default(),
            steps,
            trainers: 1,
            jobs: 1,
            think: Duration::ZERO,
            coverage: true,
            progress: false,
        }
    }
}

/// What all trainers of a run share.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) start: Instant,
    pub(crate) think: Duration,
    pub(crate) bar: ProgressBar,
    pub(crate) coverage: Option<Mutex<Coverage>>,
}

/// Runs the trainers to their end. Errors are those of the setup; what goes wrong afterwards is in
/// the report's violations.
pub async fn run(options: Options) -> Result<Report, Error> {
    let client = Client::connect(options.client.clone())?;
    let description = client.describe(&options.job).await?;
    let coverage = options.coverage.then(|| {
        let coverage = Coverage::new(&description, options.from, options.steps, options.jobs);
        Mutex::new(coverage)
    });
    let run = Arc::new(Run {
        start: Instant::now(),
        think: options.think,
        bar: bar(&options, &description),
        coverage,
    });
    let cpu = cpu_time();
    let trainers = start(&client, &options, &run).await?;
    let (received, mut violations) = finish(trainers).await;
    let seconds = run.start.elapsed().as_secs_f64();
    let cpu = cpu_time().saturating_sub(cpu);
    run.bar.finish_and_clear();
    if let Some(coverage) = &run.coverage {
        let mut coverage = coverage.lock().unwrap_or_else(PoisonError::into_inner);
        violations.append(&mut coverage.violations());
    }
    Ok(Report::new(&options, &description, received, violations, (seconds, cpu)))
}

type Trainers = JoinSet<Result<Received, (Received, String)>>;

async fn start(client: &Client, options: &Options, run: &Arc<Run>) -> Result<Trainers, Error> {
    let mut trainers = JoinSet::new();
    for copy in 0..options.jobs {
        for rank in 0..options.trainers {
            let rank = Rank { rank, world: options.trainers };
            let end = End::Steps(options.steps);
            let stream = client.stream(&options.job, options.from, end, rank).await?;
            trainers.spawn(Trainer { run: Arc::clone(run), copy, rank, stream }.train());
        }
    }
    Ok(trainers)
}

async fn finish(mut trainers: Trainers) -> (Received, Vec<String>) {
    let mut received = Received::default();
    let mut violations = Vec::new();
    while let Some(ended) = trainers.join_next().await {
        match ended {
            Ok(Ok(of_one)) => received.add(of_one),
            Ok(Err((of_one, violation))) => {
                received.add(of_one);
                violations.push(violation);
            }
            Err(error) => violations.push(format!("a trainer failed: {error}")),
        }
    }
    (received, violations)
}

fn bar(options: &Options, description: &Description) -> ProgressBar {
    if !options.progress {
        return ProgressBar::hidden();
    }
    let samples = options.steps.saturating_mul(description.batch.into());
    let style = "{elapsed_precise} {bar:40} {human_pos}/{human_len} images, {per_sec}, {eta} left";
    let style = ProgressStyle::with_template(style).expect("a valid template");
    ProgressBar::new(samples.saturating_mul(options.jobs.into())).with_style(style)
}

/// CPU time of this process.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
