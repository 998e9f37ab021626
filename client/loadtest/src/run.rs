//! A run from its first connection to its report.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use forebay_client::{Client, Description, Prefetch, Rank};
use forebay_types::process::cpu_time;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::{JoinSet, LocalSet};

use crate::check::{Coverage, Digests};
use crate::digests;
use crate::error::Error;
use crate::figures::ServerCost;
use crate::gate::Gate;
use crate::options::Options;
use crate::plan::{Length, Phase};
use crate::received::Received;
use crate::report::{PhaseReport, Report};
use crate::servers::{Chaos, Fleet, Spawn};
use crate::settings::settings;
use crate::state::RunState;
use crate::sync::locked;
use crate::telemetry::Telemetry;
use crate::trainer::{Trainer, read_slowly};
use crate::watch::Watch;

/// Interval of a slow reader's microbatches.
const SLOW_INTERVAL: Duration = Duration::from_secs(2);

/// Runs a load test.
///
/// # Errors
/// When the run could not begin: a server does not start or refuses the job, or a file cannot be read.
/// Later failures are in the report's violations.
pub async fn run(mut options: Options) -> Result<Report, Error> {
    let mut fleet = options.spawn.as_ref().map(Fleet::start).transpose()?;
    let given = options.metrics.clone();
    if let Some(fleet) = &mut fleet {
        options.client.endpoints.splice(0..0, fleet.endpoints());
        options.metrics.splice(0..0, fleet.metrics());
    }
    let client = Client::connect(options.client.clone())?;
    let description = tokio::select! {
        description = client.describe(&options.job) => description?,
        () = options.interrupt.wait() => return Err(Error::Interrupted),
    };
    let undisturbed = match &options.digests {
        Some(file) => digests::load(file, &options.job, &description)?,
        None => None,
    };
    for Phase { trainers, .. } in options.phases() {
        Rank { rank: 0, world: trainers }.microbatches(description.microbatches)?;
    }
    let coverage = Coverage::new(&description, options.job.seed, options.from, options.jobs);
    let run = Arc::new(RunState {
        telemetry: Arc::new(Telemetry::new()),
        job: options.job.clone(),
        from: options.from,
        pace: options.pace,
        reconnect_every: options.reconnect_every,
        bar: bar(&options, &description),
        coverage: options.coverage.then(|| Mutex::new(coverage)),
        interrupt: options.interrupt.clone(),
        description,
    });
    let fleet = fleet.map(|fleet| Arc::new(Mutex::new(fleet)));
    // Trainers themselves do little; streams are received on all threads of the runtime.
    let trainers = LocalSet::new();
    let loaded = trainers.run_until(load(&client, &options, &run, fleet.as_ref(), given)).await;
    let mut report = loaded?;
    run.bar.finish_and_clear();
    report.servers = client.servers();

    drop(fleet);
    // Boxed, because the future is large, and the rest of the run does not need it.
    match Box::pin(compare(&options, &run, undisturbed, &report)).await {
        Ok(compared) => report.compared = compared,
        // The rest of the report is worth having.
        Err(error) => {
            report.violation_count += 1;
            report.violations.push(format!("the digests cannot be compared or saved: {error}"));
        }
    }
    if let Some(coverage) = &run.coverage {
        let none = Coverage::new(&run.description, run.job.seed, run.from, 0);
        let (count, found) = std::mem::replace(&mut *locked(coverage), none).violations();
        report.violation_count += count;
        report.violations.extend(found);
    }
    Ok(report)
}

/// Runs all phases, with slow readers, kills and metrics at the same time.
async fn load(
    client: &Client,
    options: &Options,
    run: &Arc<RunState>,
    fleet: Option<&Arc<Mutex<Fleet>>>,
    given: Vec<String>,
) -> Result<Report, Error> {
    let servers_cpu = || fleet.map_or(Duration::ZERO, |fleet| locked(fleet).cpu());
    let (cpu, spawned) = (cpu_time(), servers_cpu());
    let watch = Watch::start(&run.telemetry, options.metrics.clone())?;
    let chaos = match (fleet, &options.spawn) {
        (Some(fleet), Some(spawn)) => spawn
            .kill_every
            .map(|every| Chaos::start(fleet, &run.telemetry, every, spawn.seed))
            .transpose()?,
        _ => None,
    };
    let mut slow = JoinSet::new();
    let mut unbuffered = options.client.clone();
    unbuffered.prefetch = Prefetch::Bytes(1);
    for _ in 0..options.slow_readers {
        let client = Client::connect(unbuffered.clone())?;
        slow.spawn_local(read_slowly(Arc::clone(run), client, SLOW_INTERVAL));
    }

    let mut report =
        Report::new(options.jobs, settings(options, &run.description), &run.description);
    let mut received = Received::default();
    let mut steps = vec![0; options.jobs as usize];
    for phase in options.phases() {
        let (of_phase, violations) = phase_of(client, phase, run, &mut steps).await;
        report.violations.extend(violations);
        report.phases.push(of_phase.1);
        received.add(&of_phase.0);
        if run.interrupt.is_set() {
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
    let seconds = run.telemetry.seconds();
    let cpu = cpu_time().saturating_sub(cpu);
    let watched = watch.stop();
    // For killed servers the kernel's figures are more recent than their last metrics.
    let spawned = servers_cpu().saturating_sub(spawned).as_secs_f64();
    let server_cpu =
        if given.is_empty() && fleet.is_some() { spawned } else { watched.cpu_seconds };
    report.violation_count = report.violations.len() as u64;
    if let Some(coverage) = &run.coverage {
        let mut coverage = locked(coverage);
        if run.interrupt.is_set() {
            coverage.leave_out_unfinished(&steps);
        }
        coverage.finish(&steps);
    }
    report.steps = steps[0];
    report.interrupted = run.interrupt.is_set();
    report.fill(&received, &run.telemetry, (seconds, cpu));
    if !options.metrics.is_empty() {
        // What a killed server sent since its last metrics is known from the trainers alone.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let sent = received.images.max(watched.images as u64);
        report.server = Some(ServerCost::new(server_cpu, sent, options.core_hour_price));
    }
    Ok(report)
}

/// Runs the trainers of all jobs for a phase. Adds to the number of steps that each job has read.
async fn phase_of(
    client: &Client,
    phase: Phase,
    run: &Arc<RunState>,
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
                total: copies * world,
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
            Err(error) => violations.push(format!("a trainer panicked: {error}")),
        }
    }
    for (steps, gate) in steps.iter_mut().zip(&gates) {
        *steps = gate.end();
    }
    let waits = run.telemetry.end_phase();
    let report = PhaseReport::new(phase, &received, begin.elapsed(), waits);
    ((received, report), violations)
}

/// Compares the run with an undisturbed one: that of the file, or, if servers were killed, another run
/// of the same steps from a server without faults. Returns how many microbatches are equal.
async fn compare(
    options: &Options,
    run: &RunState,
    undisturbed: Option<Digests>,
    report: &Report,
) -> Result<Option<u64>, Error> {
    let Some(coverage) = &run.coverage else { return Ok(None) };
    if let Some(undisturbed) = undisturbed {
        return Ok(Some(locked(coverage).compare(&undisturbed)));
    }
    if run.interrupt.is_set() {
        return Ok(None);
    }
    let (compared, digests) = match &options.spawn {
        Some(spawn) if !report.kills.is_empty() => {
            let digests = replay(options, run, spawn, report.steps).await?;
            if run.interrupt.is_set() {
                return Ok(None);
            }
            (Some(locked(coverage).compare(&digests)), digests)
        }
        _ => (None, locked(coverage).digests().clone()),
    };
    if let Some(file) = &options.digests {
        digests::save(file, &run.job, &run.description, &digests)?;
    }
    Ok(compared)
}

/// Reads the same steps again, from a server without faults.
async fn replay(
    options: &Options,
    run: &RunState,
    spawn: &Spawn,
    steps: u64,
) -> Result<Digests, Error> {
    let fleet = Fleet::start(&Spawn { servers: 1, ..spawn.clone() })?;
    let mut client = options.client.clone();
    client.endpoints = fleet.endpoints();
    let client = Client::connect(client)?;
    let once = Options { plan: Vec::new(), jobs: 1, steps, ..options.clone() };
    let bar = bar(&once, &run.description).with_message("undisturbed: ");
    let progress = (&bar, &run.interrupt);
    let digests = digests::read(&client, &run.job, run.from, steps, progress).await?;
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
