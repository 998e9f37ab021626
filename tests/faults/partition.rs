//! Partitions: connections stay open, but no byte passes.
//!
//! All timeouts except that of pings are longer than a test may take, and the client sends no hedges. So when a
//! test ends, the client has detected the partition by a ping without an answer.

use std::cell::OnceCell;
use std::time::Duration;

use forebay_client::{Client, Options};
use forebay_tests::proxy::{Faults, Path};
use forebay_tests::world::Server;
use forebay_tests::{HANG, eventually};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::{job, options, proxied_server, read, undisturbed};

/// Interval at which the client sends pings, and the time after which it closes a connection without an answer.
const PING: Duration = Duration::from_secs(1);

/// Number of steps to read. They are split between the servers by a hash of their addresses, which differ in each
/// run. With this many, each server has some.
const STEPS: u64 = 24;
const SIZE: u32 = 256;
/// Bytes of a microbatch of two images.
const MICROBATCH: u64 = 2 * (SIZE * SIZE * 3) as u64;

const BLOCKED: Path = Path {
    delay: Duration::ZERO,
    jitter: Duration::ZERO,
    blocked: true,
    cut_after: None,
    flip_at: None,
    bytes_per_s: None,
};
const BOTH_WAYS: Faults = Faults { up: BLOCKED, down: BLOCKED, reset: false, half_open: false };

fn pinging<'a>(endpoints: impl IntoIterator<Item = &'a String>) -> Options {
    let mut options = options(endpoints);
    options.timeouts.keepalive = PING;
    options
}

/// Partitions one of two servers as soon as it has delivered a microbatch.
async fn another_server_continues_after(faults: Faults) {
    let (server, proxy) = proxied_server().await;
    let other = Server::start(2).await;
    let expected = undisturbed(&other, &job(SIZE), STEPS).await;
    let client = Client::connect(pinging(&[proxy.endpoint(), other.endpoint()])).unwrap();
    let mut partitioned = false;
    let received = read(&client, &job(SIZE), STEPS, async || {
        if !partitioned && proxy.sent() > MICROBATCH {
            proxy.set(faults);
            partitioned = true;
        }
    })
    .await;
    assert!(received == expected);
    assert!(partitioned, "no microbatch came through the proxy");
    drop(proxy);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_is_found_and_another_server_continues() {
    another_server_continues_after(BOTH_WAYS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_of_what_the_server_sends_is_found() {
    another_server_continues_after(Faults { down: BLOCKED, ..Faults::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_of_what_the_client_sends_is_found() {
    another_server_continues_after(Faults { up: BLOCKED, ..Faults::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_the_only_server_resumes_after_the_partition() {
    let (server, proxy) = proxied_server().await;
    let steps = 3;
    let expected = undisturbed(&server, &job(SIZE), steps).await;
    let client = Client::connect(pinging(&[proxy.endpoint()])).unwrap();
    let (connections, partitioned) = (OnceCell::new(), Notify::new());
    let partition = async || {
        connections.get_or_init(|| {
            proxy.set(BOTH_WAYS);
            partitioned.notify_one();
            proxy.connections()
        });
    };
    // The client notices the partition while it waits for a microbatch, but not while its trainer has yet to take
    // one. So both go on at the same time.
    let heal = async {
        partitioned.notified().await;
        let reconnected = || Some(&proxy.connections()) > connections.get();
        eventually("the client connects again", reconnected).await;
        proxy.set(Faults::default());
    };
    let job = job(SIZE);
    let (received, ()) = tokio::join!(read(&client, &job, steps, partition), heal);
    assert!(received == expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_accepts_and_never_answers_is_left_for_another() {
    let (server, proxy) = proxied_server().await;
    proxy.set(Faults { half_open: true, ..Faults::default() });
    let other = Server::start(2).await;
    let expected = undisturbed(&other, &job(48), STEPS).await;
    let client = Client::connect(pinging(&[proxy.endpoint(), other.endpoint()])).unwrap();
    assert!(read(&client, &job(48), STEPS, async || {}).await == expected);
    assert!(proxy.connections() > 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_server_answers_the_client_gives_up_and_names_them() {
    let (server, proxy) = proxied_server().await;
    proxy.set(Faults { half_open: true, ..Faults::default() });
    let mut options = pinging(&[proxy.endpoint()]);
    options.retry.give_up_after = Duration::from_secs(2);
    let client = Client::connect(options).unwrap();
    let described = timeout(HANG, client.describe(&job(48))).await.expect("the call hangs");
    let error = described.unwrap_err().to_string();
    assert!(error.contains("gave up after") && error.contains(&proxy.endpoint()), "{error}");
    server.stop().await;
}
