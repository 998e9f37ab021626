//! Bytes that come late, slowly, not all, or changed.

use std::time::{Duration, Instant};

use forebay_client::{Cursor, End, Rank};
use forebay_tests::proxy::{Faults, Path, Proxy};
use tokio::task::{JoinSet, LocalSet};

use crate::{Content, SILENCE, behind, client, content, job, read, undisturbed};

const STEPS: u64 = 6;

#[tokio::test(flavor = "multi_thread")]
async fn latency_and_jitter_change_nothing() {
    let (server, proxy) = behind().await;
    let expected = undisturbed(&server, &job(48), STEPS).await;
    let ms = Duration::from_millis;
    let late = Path { delay: ms(40), jitter: ms(60), ..Path::default() };
    proxy.set(Faults { up: late, down: late, ..Faults::default() });
    let (received, _) = read(&client(&[proxy.endpoint()]), &job(48), STEPS, || {}).await;
    assert!(received == expected);
    assert_eq!(proxy.connections(), 2, "one for calls, one for the stream: nobody gave up");
}

/// Connections that end again and again, in the middle of microbatches.
async fn cut(reset: bool) {
    let (server, proxy) = behind().await;
    let expected = undisturbed(&server, &job(48), STEPS).await;
    let down = Path { cut_after: Some(60_000), ..Path::default() };
    proxy.set(Faults { down, reset, ..Faults::default() });
    let (received, _) = read(&client(&[proxy.endpoint()]), &job(48), STEPS, || {}).await;
    assert!(received == expected);
    assert!(proxy.connections() > 8, "{} connections", proxy.connections());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_reset_lose_and_repeat_nothing() {
    cut(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_answers_are_resumed_at_the_next_microbatch() {
    cut(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_connections_reset_at_once_are_made_again() {
    let (server, proxy) = behind().await;
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
    let (server, proxy) = behind().await;
    let expected = undisturbed(&server, &job(48), STEPS).await;
    let down = Path { bytes_per_s: Some(400_000), ..Path::default() };
    proxy.set(Faults { down, ..Faults::default() });
    let begun = Instant::now();
    let (received, longest) = read(&client(&[proxy.endpoint()]), &job(48), STEPS, || {}).await;
    assert!(received == expected);
    assert_eq!(proxy.connections(), 2, "slow is not silent");
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(1) && longest < SILENCE, "{took:?}, {longest:?}");
}

/// One bit flipped, in one byte after another of what the server sends: HTTP/2's frames, gRPC's, the
/// header of the microbatch and its pixels. What comes is right, or the client says what is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_never_taken_for_a_pixel_or_a_target() {
    let (server, proxy) = behind().await;
    let expected = undisturbed(&server, &job(48), 1).await.swap_remove(0);
    first_microbatch(&proxy).await.unwrap();
    let length = proxy.sent();
    assert!(length > 14_000, "{length}");
    let bytes: Vec<u64> = (0..1800).step_by(3).chain((1800..length).step_by(601)).collect();
    let (mut recovered, mut told) = (0, 0);
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
                Err(said) => {
                    assert!(!said.is_empty(), "byte {at}");
                    told += 1;
                }
            }
        }
    }
    assert!(recovered > 100 && told > 10, "{recovered} recovered, {told} told");
}

/// Of rank 0 of 8, or what the client says.
async fn first_microbatch(proxy: &Proxy) -> Result<Content, String> {
    let rank = Rank { rank: 0, world: 8 };
    let stream =
        client(&[proxy.endpoint()]).stream(&job(48), Cursor::default(), End::Steps(1), rank).await;
    let made = stream.map_err(|error| error.to_string())?.next().await;
    let made = made.ok_or("nothing came")?;
    Ok(content(&made.map_err(|error| error.to_string())?))
}
