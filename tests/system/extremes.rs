//! The server at the ends of the ranges of its flags.

use std::process::Command;

use forebay_client::{Client, Cursor, End, Job, Options, Rank};
use forebay_tests::process::ServerProcess;
use forebay_tests::world::{SMALL, WORLD};

#[path = "../src/extremes.rs"]
mod walk;

fn serve(more: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quickstart"));
    command
        .args(["forebay", "serve", "--dataset", &format!("train={}", WORLD.train().display())])
        .args(more)
        .env("FOREBAY_LISTEN", "127.0.0.1:0");
    command
}

#[test]
fn a_server_starts_with_every_value_that_a_flag_accepts() {
    walk::every_flag(serve);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_served_under_the_smallest_limits() {
    let limits = [
        "--max-queued=1",
        "--max-streams=1",
        "--identity-streams=1",
        "--max-connections=2",
        "--window-bytes=0",
        "--cache-bytes=0",
        "--share-bytes=0",
        "--threads=1",
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_quickstart"));
    let dataset = format!("--dataset=train={}", WORLD.train().display());
    let arguments = [&[&*dataset], &limits[..]].concat();
    let server = ServerProcess::start(command.arg("forebay"), None, &arguments);
    let client = Client::connect(Options::new([server.address()])).unwrap();
    let job = Job { set: SMALL.map(str::to_owned).to_vec(), ..Job::new("train", "a2") };
    let end = End::Steps(5);
    let mut stream = client.stream(&job, Cursor::default(), end, Rank::SINGLE).await.unwrap();
    let mut received = 0;
    while let Some(microbatch) = stream.next().await {
        microbatch.unwrap();
        received += 1;
    }
    assert_eq!(received, 5 * 8);
    let failures: u64 = client.servers().iter().map(|server| server.failures).sum();
    assert_eq!(failures, 0);
}
