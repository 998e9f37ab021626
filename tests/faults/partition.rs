//! Nothing gets through, and nobody is told.

use std::time::Duration;

use forebay_tests::proxy::{Faults, Path};
use forebay_tests::world::Server;

use crate::{PING, SILENCE, behind, client, job, read, undisturbed};

/// More than sockets and windows hold, so that a server cannot have sent all of it before.
const STEPS: u64 = 8;
const SIZE: u32 = 256;

/// When another server must have gone on: a ping after `PING`, and as long for its answer.
const FOUND: Duration = Duration::from_secs(2);

const BLOCKED: Path = Path {
    delay: Duration::ZERO,
    jitter: Duration::ZERO,
    blocked: true,
    cut_after: None,
    flip_at: None,
    bytes_per_s: None,
};

/// A partition after the third microbatch; the other server goes on.
async fn partitioned(faults: Faults) {
    let (server, proxy) = behind().await;
    let other = Server::start(2).await;
    let expected = undisturbed(&other, &job(SIZE), STEPS).await;
    let client = client(&[proxy.endpoint(), other.endpoint()]);
    let (received, longest) = read(&client, &job(SIZE), STEPS, || proxy.set(faults)).await;
    assert!(received == expected);
    // Found by a ping without an answer, long before the silence.
    assert!(longest > PING && longest < FOUND, "{longest:?}");
    drop(proxy);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_is_found_and_another_server_goes_on() {
    partitioned(Faults { up: BLOCKED, down: BLOCKED, ..Faults::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_of_what_the_server_sends_is_found() {
    partitioned(Faults { down: BLOCKED, ..Faults::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_of_what_the_client_sends_is_found() {
    partitioned(Faults { up: BLOCKED, ..Faults::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_from_the_only_server_is_waited_out() {
    let (server, proxy) = behind().await;
    let expected = undisturbed(&server, &job(SIZE), STEPS).await;
    let client = client(&[proxy.endpoint()]);
    // Long enough that the connection is given up.
    let outage = SILENCE + PING;
    let heal = || {
        proxy.set(Faults { up: BLOCKED, down: BLOCKED, ..Faults::default() });
        let proxy = &proxy;
        // The reader waits meanwhile on other threads.
        tokio::task::block_in_place(|| std::thread::sleep(outage));
        proxy.set(Faults::default());
    };
    let (received, longest) = read(&client, &job(SIZE), STEPS, heal).await;
    assert!(received == expected);
    assert!(longest < FOUND, "{longest:?}");
    assert!(proxy.connections() >= 3, "the stream was to need a new connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_accepts_and_never_answers_is_left_for_another() {
    let (server, proxy) = behind().await;
    proxy.set(Faults { half_open: true, ..Faults::default() });
    let other = Server::start(2).await;
    let expected = undisturbed(&other, &job(48), 2).await;
    let client = client(&[proxy.endpoint(), other.endpoint()]);
    let begun = std::time::Instant::now();
    let (received, _) = read(&client, &job(48), 2, || {}).await;
    assert!(received == expected && proxy.connections() > 0);
    // Once for the description, once for the stream.
    assert!(begun.elapsed() < SILENCE, "{:?}", begun.elapsed());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_answers_the_client_gives_up_in_the_time_set_and_says_so() {
    let (server, proxy) = behind().await;
    proxy.set(Faults { half_open: true, ..Faults::default() });
    let mut options = forebay_client::Options::new([proxy.endpoint()]);
    options.timeouts.ping = PING;
    options.retry.give_up = Duration::from_secs(2);
    let begun = std::time::Instant::now();
    let client = forebay_client::Client::connect(options).unwrap();
    let error = client.describe(&job(48)).await.unwrap_err().to_string();
    assert!(error.contains("given up after") && error.contains(&proxy.endpoint()), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    server.stop().await;
}
