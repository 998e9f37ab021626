//! Bytes that come late, slowly, not all, or changed.

use std::time::{Duration, Instant};

use forebay_client::{Cursor, End, Rank};
use forebay_tests::proxy::{Faults, Path};

use crate::{SILENCE, behind, client, content, job, read, undisturbed};

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
/// headers of microbatches and pixels. What comes is right, or the client says what is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_never_taken_for_a_pixel() {
    let (server, proxy) = behind().await;
    let expected = undisturbed(&server, &job(48), 1).await;
    read(&client(&[proxy.endpoint()]), &job(48), 1, || {}).await;
    let length = proxy.sent();
    let (mut recovered, mut told) = (0, 0);
    for at in (0..1500).chain((1500..length).step_by(997)) {
        let proxy = forebay_tests::proxy::Proxy::start(server.address).await;
        let down = Path { flip_at: Some(at), ..Path::default() };
        proxy.set(Faults { down, ..Faults::default() });
        let client = client(&[proxy.endpoint()]);
        let stream = client.stream(&job(48), Cursor::default(), End::Steps(1), Rank::ALONE).await;
        let mut stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                told += 1;
                continue;
            }
        };
        let mut received = Vec::new();
        while let Some(Ok(made)) = stream.next().await {
            received.push(content(&made));
        }
        if received.len() < expected.len() {
            told += 1;
        }
        for (received, expected) in received.iter().zip(&expected) {
            assert_eq!(received.0, expected.0, "byte {at}");
            assert!(received.1 == expected.1, "byte {at}: other pixels of {}", expected.0);
            if received != expected {
                println!("byte {at}: {:?} {:?} {:?}", received.0, received.2, received.3);
            }
        }
        recovered += u32::from(received.len() == expected.len() && proxy.connections() > 2);
    }
    println!("{recovered} {told}");
    assert!(recovered > 100, "{recovered} recovered, {told} told");
}
