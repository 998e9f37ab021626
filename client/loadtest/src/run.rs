//! A run from its first connection to its report.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use forebay_client::{Client, Cursor, Description, Job, Rank};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::time::{ClockId, clock_gettime};
use tokio::task::{JoinSet, LocalSet};

use crate::check::{Coverage, Digests};
use crate::live::Live;
use crate::plan::{Gate, Length, Pace, Phase};
use crate::report::{PhaseReport, Report, ServerCost};
use crate::servers::{Chaos, Fleet, Spawn};
use crate::trainer::{Received, Trainer, read_slowly};
use crate::watch::Watch;
use crate::{Error, Options, digests, locked};

/// Between microbatches of a slow reader.
const SLOWLY: Duration = Duration::from_secs(2);

/// What all trainers of a run share.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) live: Arc<Live>,
    pub(crate) job: Job,
    pub(crate) from: Cursor,
    pub(crate) description: Arc<Description>,
    pub(crate) pace: Pace,
    pub(crate) reconnect_every: Option<Duration>,
    pub(crate) bar: ProgressBar,
    pub(crate) coverage: Option<Mutex<Coverage>>,
    /// Whether the run is to end early.
    pub(crate) interrupt: Arc<AtomicBool>,
}

impl Run {
    /// How often all trainers were to make new connections so far.
    pub(crate) fn storms(&self) -> u128 {
        let elapsed = self.live.start.elapsed().as_nanos();
        self.reconnect_every.map_or(0, |every| elapsed / every.as_nanos().max(1))
    }
}

/// Runs the trainers to their end. Errors are those of the setup; what goes wrong afterwards is in
/// the report's violations.
pub async fn run(mut options: Options) -> Result<Report, Error> {
    let mut fleet = options.spawn.as_ref().map(Fleet::start).transpose()?;
    let known = options.metrics.clone();
    if let Some(fleet) = &mut fleet {
        options.client.endpoints.splice(0..0, fleet.endpoints());
        options.metrics.splice(0..0, fleet.metrics());
    }
    let client = Client::connect(options.client.clone())?;
    let description = client.describe(&options.job).await?;
    let undisturbed = match &options.digests {
        Some(file) => digests::load(file, &options.job, &description)?,
        None => None,
    };
    for Phase { trainers, .. } in options.phases() {
        Rank { rank: 0, world: trainers }.microbatches(description.microbatches)?;
    }
    let coverage = Coverage::new(&description, options.job.seed, options.from, options.jobs);
    let run = Arc::new(Run {
        live: Arc::new(Live::new()),
        job: options.job.clone(),
        from: options.from,
        pace: options.pace,
        reconnect_every: options.reconnect_every,
        bar: bar(&options, &description),
        coverage: options.coverage.then(|| Mutex::new(coverage)),
        interrupt: Arc::clone(&options.interrupt),
        description,
    });
    let fleet = fleet.map(|fleet| Arc::new(Mutex::new(fleet)));
    // What trainers do themselves is little: streams are received on all threads of the runtime.
    let trainers = LocalSet::new();
    let loaded = trainers.run_until(load(&client, &options, &run, fleet.as_ref(), known)).await;
    let mut report = loaded?;
    run.bar.finish_and_clear();
    report.servers = client.servers();

    drop(fleet);
    report.compared = compare(&options, &run, undisturbed, &report).await?;
    if let Some(coverage) = &run.coverage {
        let none = Coverage::new(&run.description, run.job.seed, run.from, 0);
        let (count, found) = std::mem::replace(&mut *locked(coverage), none).violations();
        report.violation_count += count;
        report.violations.extend(found);
    }
    Ok(report)
}

/// All phases, with what goes on beside them.
async fn load(
    client: &Client,
    options: &Options,
    run: &Arc<Run>,
    fleet: Option<&Arc<Mutex<Fleet>>>,
    known: Vec<String>,
) -> Result<Report, Error> {
    let servers_cpu = || fleet.map_or(Duration::ZERO, |fleet| locked(fleet).cpu());
    let (cpu, spawned) = (cpu_time(), servers_cpu());
    let watch = Watch::start(&run.live, options.metrics.clone())?;
    let chaos = match (fleet, &options.spawn) {
        (Some(fleet), Some(spawn)) => spawn
            .kill_every
            .map(|every| Chaos::start(fleet, &run.live, every, spawn.seed))
            .transpose()?,
        _ => None,
    };
    let mut slow = JoinSet::new();
    let mut eager = options.client.clone();
    eager.prefetch_bytes = 1;
    for _ in 0..options.slow_readers {
        let client = Client::connect(eager.clone())?;
        slow.spawn_local(read_slowly(Arc::clone(run), client, SLOWLY));
    }

    let mut report = Report::new(options, &run.description);
    let mut received = Received::default();
    let mut steps = vec![0; options.jobs as usize];
    for phase in options.phases() {
        let (of_phase, violations) = phase_of(client, phase, run, &mut steps).await;
        report.violations.extend(violations);
        report.phases.push(of_phase.1);
        received.add(&of_phase.0);
        if run.interrupt.load(Ordering::Relaxed) {
            break;
        }
    }
    while let Some(Ok(violation)) = slow.try_join_next() {
        report.violations.push(violation);
    }
    drop(slow);
    if let Some(chaos) = chaos
        && let Err(error) = chaos.stop()
    {
        report.violations.push(error.to_string());
    }
    let seconds = run.live.seconds();
    let cpu = cpu_time().saturating_sub(cpu);
    let watched = watch.stop();
    // The kernel knows more of servers that were killed than these said last.
    let spawned = servers_cpu().saturating_sub(spawned).as_secs_f64();
    let server_cpu = if known.is_empty() && fleet.is_some() { spawned } else { watched };
    report.violation_count = report.violations.len() as u64;
    if let Some(coverage) = &run.coverage {
        locked(coverage).finish(&steps);
    }
    report.steps = steps[0];
    report.fill(&received, &run.live, (seconds, cpu));
    if !options.metrics.is_empty() {
        report.server = Some(ServerCost::new(server_cpu, received.images, options.core_hour_price));
    }
    Ok(report)
}

/// One phase: the trainers of all jobs until they end. Adds to the steps that each job has read.
async fn phase_of(
    client: &Client,
    phase: Phase,
    run: &Arc<Run>,
    steps: &mut [u64],
) -> ((Received, PhaseReport), Vec<String>) {
    let begin = Instant::now();
    let world = phase.trainers;
    let copies = u32::try_from(steps.len()).unwrap_or(u32::MAX);
    let gates: Vec<_> = steps.iter().map(|first| Arc::new(Gate::new(phase, *first))).collect();
    let mut trainers = JoinSet::new();
    for (copy, gate) in (0..copies).zip(&gates) {
        for rank in 0..world {
            let trainer = Trainer {
                run: Arc::clone(run),
                client: client.clone(),
                gate: Arc::clone(gate),
                copy,
                rank: Rank { rank, world },
                at: steps[copy as usize],
                number: copy * world + rank,
                of: copies * world,
            };
            trainers.spawn_local(trainer.train());
        }
    }
    let mut received = Received::default();
    let mut violations = Vec::new();
    while let Some(ended) = trainers.join_next().await {
        match ended {
            Ok(Ok(of_one)) => received.add(&of_one),
            Ok(Err((of_one, violation))) => {
                received.add(&of_one);
                violations.push(violation);
            }
            Err(error) => violations.push(format!("a trainer failed: {error}")),
        }
    }
    for (steps, gate) in steps.iter_mut().zip(&gates) {
        *steps = gate.end();
    }
    let waits = run.live.end_phase();
    let report = PhaseReport::new(phase, &received, begin.elapsed(), waits);
    ((received, report), violations)
}

/// How many microbatches agree with an undisturbed run: that of the file, or, where servers were
/// killed, one more over the same steps from one calm server.
async fn compare(
    options: &Options,
    run: &Run,
    undisturbed: Option<Digests>,
    report: &Report,
) -> Result<Option<u64>, Error> {
    let Some(coverage) = &run.coverage else { return Ok(None) };
    if let Some(undisturbed) = undisturbed {
        return Ok(Some(locked(coverage).compare(&undisturbed)));
    }
    let (compared, digests) = match &options.spawn {
        Some(spawn) if !report.kills.is_empty() => {
            let digests = replay(options, run, spawn, report.steps).await?;
            if run.interrupt.load(Ordering::Relaxed) {
                return Ok(None);
            }
            (Some(locked(coverage).compare(&digests)), digests)
        }
        _ => (None, locked(coverage).digests().clone()),
    };
    if let Some(file) = &options.digests {
        digests::keep(file, &run.job, &run.description, &digests)?;
    }
    Ok(compared)
}

/// The same steps once more.
async fn replay(options: &Options, run: &Run, spawn: &Spawn, steps: u64) -> Result<Digests, Error> {
    let calm = Fleet::start(&Spawn { servers: 1, ..spawn.clone() })?;
    let mut client = options.client.clone();
    client.endpoints = calm.endpoints();
    let client = Client::connect(client)?;
    let once = Options { plan: Vec::new(), jobs: 1, steps, ..options.clone() };
    let bar = bar(&once, &run.description).with_message("undisturbed: ");
    let beside = (&bar, &*run.interrupt);
    let digests = digests::read_calmly(&client, &run.job, run.from, steps, beside).await?;
    bar.finish_and_clear();
    Ok(digests)
}

fn bar(options: &Options, description: &Description) -> ProgressBar {
    if !options.progress {
        return ProgressBar::hidden();
    }
    let steps = options.phases().iter().try_fold(0_u64, |sum, phase| match phase.length {
        Length::Steps(steps) => sum.checked_add(steps),
        Length::Time(_) => None,
    });
    let each = u64::from(description.batch) * u64::from(options.jobs);
    let (bar, style) = match steps {
        Some(steps) => (
            ProgressBar::new(steps.saturating_mul(each)),
            "{msg}{elapsed_precise} {bar:40} {human_pos}/{human_len} images, {per_sec}, {eta} left",
        ),
        None => {
            (ProgressBar::new_spinner(), "{msg}{elapsed_precise} {human_pos} images, {per_sec}")
        }
    };
    bar.with_style(ProgressStyle::with_template(style).expect("a valid template"))
}

/// CPU time of this process.
fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}
