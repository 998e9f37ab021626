//! Damaged transfers: bytes that arrive late, slowly, in part, or changed.

use std::time::Duration;

use forebay_client::{Client, Cursor, End, Rank};
use forebay_tests::HANG;
use forebay_tests::proxy::{Faults, Path, Proxy};
use tokio::task::{JoinSet, LocalSet};

use crate::{Content, client, content, job, options, proxied_server, read, undisturbed};

const STEPS: u64 = 6;

#[tokio::test(flavor = "multi_thread")]
async fn latency_and_jitter_change_nothing() {
    let (server, proxy) = proxied_server().await;
    let expected = undisturbed(&server, &job(48), STEPS).await;
    let ms = Duration::from_millis;
    let late = Path { delay: ms(40), jitter: ms(60), ..Path::default() };
    proxy.set(Faults { up: late, down: late, ..Faults::default() });
    let received = read(&client(&[proxy.endpoint()]), &job(48), STEPS, async || {}).await;
    assert!(received == expected);
    assert_eq!(proxy.connections(), 2, "one for calls and one for the stream: no attempt failed");
}

/// Streams through connections that end in the middle of a microbatch, one after another.
async fn cut(reset: bool) {
    let (server, proxy) = proxied_server().await;
    let expected = undisturbed(&server, &job(48), STEPS).await;
    let down = Path { cut_after: Some(60_000), ..Path::default() };
    proxy.set(Faults { down, reset, ..Faults::default() });
    let received = read(&client(&[proxy.endpoint()]), &job(48), STEPS, async || {}).await;
    assert!(received == expected);
    assert!(proxy.connections() > 8, "{} connections", proxy.connections());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_reset_lose_and_repeat_nothing() {
    cut(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_answers_are_truncated_resumes_at_the_next_microbatch() {
    cut(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_resume_after_all_connections_are_reset_at_once() {
    let (server, proxy) = proxied_server().await;
    let expected = undisturbed(&server, &job(48), STEPS).await;
    proxy.set(Faults { reset: true, ..Faults::default() });
    let client = client(&[proxy.endpoint()]);
    let ranks = (0..8).map(|rank| {
        let (client, job) = (client.clone(), job(48));
        async move {
            let rank = Rank { rank, world: 8 };
            let end = End::Steps(STEPS);
            client.stream(&job, Cursor::default(), end, rank).await.unwrap()
        }
    });
    let mut streams = Vec::new();
    for rank in ranks {
        streams.push(rank.await);
    }
    let mut received = Vec::new();
    for step in 0..STEPS {
        if step % 2 == 1 {
            proxy.cut();
        }
        for stream in &mut streams {
            received.push(content(&stream.next().await.unwrap().unwrap()));
        }
    }
    assert!(received == expected);
    assert!(proxy.connections() > 9, "{} connections", proxy.connections());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_drip_is_read_to_its_end() {
    let (server, proxy) = proxied_server().await;
    let expected = undisturbed(&server, &job(48), STEPS).await;
    let down = Path { bytes_per_s: Some(400_000), ..Path::default() };
    proxy.set(Faults { down, ..Faults::default() });
    let received = read(&client(&[proxy.endpoint()]), &job(48), STEPS, async || {}).await;
    assert!(received == expected);
    assert_eq!(proxy.connections(), 2, "a slow connection has not failed");
}

/// Flips one bit of what the server sends, in a different byte each time: in HTTP/2's frames, in gRPC's, in the
/// header of the microbatch and in its pixels. The client returns the right microbatch, or an error.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_never_changes_a_pixel_or_a_target() {
    let (server, proxy) = proxied_server().await;
    let expected = undisturbed(&server, &job(48), 1).await.swap_remove(0);
    first_microbatch(&proxy).await.unwrap();
    let length = proxy.sent();
    assert!(length > 14_000, "{length}");
    let bytes: Vec<u64> = (0..1800).step_by(3).chain((1800..length).step_by(601)).collect();
    let (mut recovered, mut refused) = (0, 0);
    let flips = LocalSet::new();
    for at_once in bytes.chunks(50) {
        let mut outcomes = JoinSet::new();
        for at in at_once.iter().copied() {
            let address = server.address;
            let flipped = async move {
                let proxy = Proxy::start(address).await;
                let down = Path { flip_at: Some(at), ..Path::default() };
                proxy.set(Faults { down, ..Faults::default() });
                (at, first_microbatch(&proxy).await, proxy.connections())
            };
            outcomes.spawn_local_on(flipped, &flips);
        }
        let outcomes = flips.run_until(outcomes.join_all()).await;
        for (at, outcome, connections) in outcomes {
            match outcome {
                Ok(made) => {
                    assert!(made == expected, "byte {at}");
                    recovered += u32::from(connections > 2);
                }
                Err(error) => {
                    assert!(!error.is_empty(), "byte {at}");
                    refused += 1;
                }
            }
        }
    }
    // Which of both depends on the attempt that the flip hits, and so on how busy the machine is.
    assert!(recovered + refused > 100, "{recovered} recovered, {refused} refused");
}

/// The first microbatch of rank 0 of 8, or the client's error.
async fn first_microbatch(proxy: &Proxy) -> Result<Content, String> {
    let mut options = options(&[proxy.endpoint()]);
    // A flipped bit of a length can make both sides wait for each other until a timeout. On a busy machine a
    // timeout can also pass without a fault. The client tries again in both cases.
    options.timeouts.keepalive = Duration::from_millis(300);
    options.timeouts.idle = Duration::from_secs(3);
    options.retry.give_up_after = HANG;
    let client = Client::connect(options).map_err(|error| error.to_string())?;
    let rank = Rank { rank: 0, world: 8 };
    let stream = client.stream(&job(48), Cursor::default(), End::Steps(1), rank).await;
    let first = stream.map_err(|error| error.to_string())?.next().await;
    let microbatch = first.ok_or("the stream ended without a microbatch")?;
    Ok(content(&microbatch.map_err(|error| error.to_string())?))
}
