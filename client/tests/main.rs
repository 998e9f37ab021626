//! The client against servers that run in the test, some of which fail.

#![expect(clippy::unwrap_used, reason = "a failure to set up fails the test")]

#[expect(dead_code, reason = "other tests use the rest")]
mod fake;
mod faults;
mod fleet;
mod order;
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "it prints the seed that failed, and reads seeds from the environment"
)]
mod sim;
mod single_trainer;

use std::time::Duration;

use fake::{Data, Fake};
use forebay_client::{
    Client, Cursor, End, Job, Microbatch, MicrobatchName, Options, Rank, Retry, Timeouts,
};

/// Bound that only a hang exceeds.
const HANG: Duration = Duration::from_mins(5);

/// A client of these servers, as [`options`] says.
fn client(servers: &[&Fake]) -> Client {
    Client::connect(options(servers)).unwrap()
}

/// Options with short backoffs, under which only a failure makes the client try again: every timeout is
/// one that only a hang exceeds, and there are no hedges. So a busy machine changes no count of attempts.
fn options(servers: &[&Fake]) -> Options {
    let mut options = Options::new(servers.iter().map(|server| server.url()));
    options.retry = Retry {
        initial_backoff: Duration::from_millis(10),
        max_backoff: Duration::from_millis(50),
        give_up_after: HANG,
    };
    options.timeouts = Timeouts { connect: HANG, keepalive: HANG, idle: HANG, microbatch: HANG };
    options.hedge.quantile = 0.0;
    options
}

fn job() -> Job {
    Job { seed: 5, ..Job::new("tiny", "a2") }
}

/// The names of a rank's next `n` steps, in order.
fn names(data: &Data, from: Cursor, n: u64, rank: Rank) -> Vec<MicrobatchName> {
    let indices = rank.microbatches(data.microbatches).unwrap();
    let cursors = (0..n).map(|k| from.after(k, data.steps_per_epoch()));
    let step = |Cursor { epoch, step }| {
        let there = indices.iter().filter(move |index| **index < data.microbatches_of(step));
        there.map(move |index| MicrobatchName { seed: job().seed, epoch, step, index: *index })
    };
    cursors.flat_map(step).collect()
}

/// Everything a stream delivers.
async fn all(client: &Client, from: Cursor, end: End, rank: Rank) -> Vec<Microbatch> {
    let mut stream = client.stream(&job(), from, end, rank).await.unwrap();
    let mut all = Vec::new();
    while let Some(microbatch) = stream.next().await {
        all.push(microbatch.unwrap());
    }
    all
}

/// Fails unless the microbatches are those of the names, in order, byte for byte.
fn assert_are(data: &Data, microbatches: &[Microbatch], names: &[MicrobatchName]) {
    let found: Vec<MicrobatchName> =
        microbatches.iter().map(|microbatch| microbatch.name).collect();
    assert_eq!(found, names);
    for microbatch in microbatches {
        let MicrobatchName { seed, epoch, step, index } = microbatch.name;
        let (header, pixels) = data.microbatch(seed, epoch, step, index);
        assert_eq!(*microbatch.pixels, *pixels, "{}", microbatch.name);
        assert_eq!(microbatch.records, header.records);
        assert_eq!(microbatch.label_a, header.label_a);
        assert_eq!(microbatch.label_b, header.label_b);
        assert_eq!(microbatch.lambda, header.lambda);
        assert_eq!(microbatch.shape.to_vec(), header.shape);
        assert_eq!(microbatch.xxh3, header.payload_xxh3);
    }
}
