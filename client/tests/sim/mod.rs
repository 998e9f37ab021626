//! Clients and servers simulated in virtual time, with faults drawn from a seed: every rank receives
//! each of its microbatches once, in order, byte for byte, and every run ends.
//!
//! `FOREBAY_SEEDS=10000` runs 10000 seeds, `FOREBAY_SEED=7` runs seed 7 and prints its log.

mod world;

use std::time::Duration;

use forebay_client::{Client, Cursor, Digest, End, Job, Options, Prefetch, Rank, ServerStats};
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};

use crate::fake::Data;
use crate::{assert_are, job, names};
use world::{Faults, Random, Shared};

/// Number of seeds of an ordinary test run.
const SEEDS: u64 = 1000;

/// What happened in a run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    log: Vec<String>,
    servers: Vec<ServerStats>,
    microbatches: u64,
}

/// Simulates a training run: its servers, its ranks, its faults.
fn run(seed: u64) -> Outcome {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        // A rank gives up after 30 minutes without a microbatch.
        let limit = Duration::from_hours(2);
        timeout(limit, simulate(seed)).await.expect("the run must end")
    })
}

async fn simulate(seed: u64) -> Outcome {
    let mut random = Random::new(seed);
    let rate = random.pick(&[0, 300, 3000, 15_000]);
    let of = |part: u64| rate * part / 4;
    let faults = Faults { lost: of(1), reset: of(4), truncated: of(2), corrupt: of(4) };
    let horizon = Duration::from_secs(random.pick(&[0, 2, 20, 60]));
    let data = if random.below(4) == 0 { Data::evaluation() } else { Data::default() };
    let (servers, has_other_data) = (1 + random.below(4), random.below(3) == 0);
    let ranks = random.pick(&[1_u32, 2, 4]);
    let steps = random.pick(&[3, 12, 40]);
    let from = Cursor { epoch: random.below(9), step: random.below(data.steps_per_epoch()) };
    let options = options(&mut random);
    let world = Shared::new(random, faults, horizon, number("FOREBAY_SEED").is_some());
    for _ in 0..servers {
        world.lock().add(data.clone());
    }
    if has_other_data {
        world.lock().add(Data { version: 9, ..data.clone() });
    }
    world.lock().newcomers = ranks;
    let churn = tokio::spawn(world.clone().churn(data.clone()));
    let ranks: Vec<_> = (0..ranks)
        .map(|rank| {
            let rank = Rank { rank, world: ranks };
            let mut options = options.clone();
            options.network = world.network(rank.rank.into(), seed);
            tokio::spawn(train(world.clone(), options, data.clone(), (from, steps, rank)))
        })
        .collect();
    let mut outcome = Outcome::default();
    for rank in ranks {
        let servers = rank.await.unwrap();
        outcome.microbatches += servers.iter().map(|server| server.microbatches).sum::<u64>();
        outcome.servers.extend(servers);
    }
    churn.abort();
    outcome.log = std::mem::take(&mut world.lock().log);
    outcome
}

fn options(random: &mut Random) -> Options {
    let mut options = Options::new(["dns+http://forebay:50051"]);
    options.timeouts.idle = Duration::from_secs(random.pick(&[1, 60]));
    options.timeouts.microbatch = Duration::from_secs(random.pick(&[5, 300]));
    options.hedge.quantile = random.pick(&[0.0, 0.5, 0.95]);
    options.hedge.budget = random.pick(&[0.05, 1.0]);
    options.resolve_interval = Duration::from_secs(random.pick(&[1, 30]));
    options.prefetch = Prefetch::Bytes(random.pick(&[0, 4096, 20_000, 1 << 20]));
    options.retry.give_up_after = Duration::from_mins(30);
    options
}

/// One rank, which receives, compares and computes.
async fn train(
    world: Shared,
    options: Options,
    data: Data,
    (from, steps, rank): (Cursor, u64, Rank),
) -> Vec<ServerStats> {
    let digest = |of| Some(Digest(data.digest(of).try_into().unwrap()));
    let job = Job { dataset_digest: digest(1), recipe_digest: digest(2), ..job() };
    let client = Client::connect(options).unwrap();
    let mut stream = client.stream(&job, from, End::Steps(steps), rank).await.unwrap();
    let mut received = Vec::new();
    while let Some(microbatch) = stream.next().await {
        let microbatch = microbatch.unwrap();
        let compute = {
            let mut world = world.lock();
            world.note(format!("rank {} takes {}", rank.rank, microbatch.name));
            world.newcomers -= u32::from(received.is_empty());
            let longest = world.random.pick(&[1, 10, 10, 500]);
            Duration::from_millis(world.random.below(longest))
        };
        received.push(microbatch);
        sleep(compute).await;
    }
    assert_are(&data, &received, &names(&data, from, steps, rank));
    let servers = client.servers();
    let counted: u64 = servers.iter().map(|server| server.microbatches).sum();
    assert!(counted >= received.len() as u64, "{servers:?}");
    for server in servers.iter().filter(|server| server.excluded.is_some()) {
        assert_eq!(server.microbatches, 0, "{server}");
    }
    servers
}

/// Runs a seed, and prints it if the run fails.
fn run_or_print(seed: u64) -> Outcome {
    std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|panic| {
        eprintln!(
            "reproduce with FOREBAY_SEED={seed} cargo test -p forebay-client --test client sim"
        );
        std::panic::resume_unwind(panic)
    })
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

#[test]
fn every_microbatch_is_received_once_in_order_and_unchanged_under_any_faults() {
    if let Some(seed) = number("FOREBAY_SEED") {
        let outcome = run_or_print(seed);
        outcome.servers.iter().for_each(|server| println!("{server}"));
        return;
    }
    let seeds = number("FOREBAY_SEEDS").unwrap_or(SEEDS);
    let mut sums = [0; 7];
    for seed in 0..seeds {
        let Outcome { log, servers, microbatches } = run_or_print(seed);
        let sum = |of: fn(&ServerStats) -> u64| servers.iter().map(of).sum::<u64>();
        let corrupt = log.iter().filter(|line| line.ends_with("corrupts")).count() as u64;
        let killed = log.iter().filter(|line| line.ends_with("is killed")).count() as u64;
        let of_run = [
            microbatches,
            sum(|server| server.failures),
            sum(|server| server.hedges_sent),
            sum(|server| server.hedges_won),
            sum(|server| server.excluded.is_some().into()),
            corrupt,
            killed,
        ];
        sums.iter_mut().zip(of_run).for_each(|(sum, of_run)| *sum += of_run);
    }
    let what = "microbatches, failures, hedges sent, hedges won, exclusions, corruptions, kills";
    println!("{seeds} seeds: {what}: {sums:?}");
    // A simulation without faults would prove nothing.
    assert!(seeds < SEEDS || sums.iter().all(|sum| *sum > 20), "{what}: {sums:?}");
}

#[test]
fn a_seed_reproduces_every_event() {
    for seed in 0..20 {
        let (first, again) = (run_or_print(seed), run_or_print(seed));
        let differs = first.log.iter().zip(&again.log).position(|(one, other)| one != other);
        if let Some(at) = differs {
            let before = &first.log[at.saturating_sub(9)..at];
            assert_eq!(first.log[at], again.log[at], "seed {seed}, after {before:#?}");
        }
        assert_eq!(first, again, "seed {seed}");
    }
}
