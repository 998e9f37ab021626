//! Order, ranks, resumption and bounds, without failures.

use std::time::Duration;

use forebay_client::{
    Client, Cursor, End, Job, MicrobatchName, Options, Prefetch, Rank, Start, State, blocking,
};
use tokio::time::timeout;

use crate::fake::{CLASSES, Data, Fake, Fault};
use crate::{HANG, all, assert_are, client, job, names, options};

#[tokio::test]
async fn microbatches_arrive_in_order_across_the_ends_of_epochs() {
    let data = Data::default();
    let server = Fake::start(data.clone(), None);
    let from = Cursor { epoch: 3, step: 2 };
    let received = all(&client(&[&server]), from, End::Steps(12), Rank::SINGLE).await;
    assert_eq!(received.len(), 48);
    assert_are(&data, &received, &names(&data, from, 12, Rank::SINGLE));
}

#[tokio::test]
async fn every_microbatch_goes_to_exactly_one_rank() {
    let data = Data::default();
    let server = Fake::start(data.clone(), None);
    let client = client(&[&server]);
    for world in [1, 2, 4] {
        let mut union = Vec::new();
        for rank in 0..world {
            let rank = Rank { rank, world };
            let received = all(&client, Cursor::default(), End::Steps(6), rank).await;
            assert_are(&data, &received, &names(&data, Cursor::default(), 6, rank));
            union.extend(received.iter().map(|microbatch| microbatch.name));
        }
        union.sort_unstable();
        assert_eq!(union, names(&data, Cursor::default(), 6, Rank::SINGLE), "world {world}");
    }
}

#[tokio::test]
async fn a_stream_resumed_at_any_step_equals_the_uninterrupted_stream() {
    let data = Data::default();
    let server = Fake::start(data.clone(), None);
    let client = client(&[&server]);
    let rank = Rank { rank: 1, world: 2 };
    let (from, n) = (Cursor { epoch: 0, step: 3 }, 9);
    for k in 0..=n {
        let middle = from.after(k, data.steps_per_epoch());
        let mut received = all(&client, from, End::Steps(k), rank).await;
        received.extend(all(&client, middle, End::Steps(n - k), rank).await);
        assert_are(&data, &received, &names(&data, from, n, rank));
        let before = all(&client, from, End::Until(middle), rank).await;
        assert_are(&data, &before, &names(&data, from, k, rank));
    }
}

#[tokio::test]
async fn a_stream_starts_at_any_microbatch_of_a_step() {
    let data = Data::default();
    let server = Fake::start(data.clone(), None);
    let client = client(&[&server]);
    let cursor = Cursor { epoch: 1, step: 2 };
    for rank in [Rank::SINGLE, Rank { rank: 1, world: 2 }] {
        let expected = names(&data, cursor, 3, rank);
        let each = u32::try_from(expected.len() / 3).unwrap();
        for done in 0..=each {
            let start = Start { cursor, done };
            let mut stream = client.stream(&job(), start, End::Steps(3), rank).await.unwrap();
            let mut received = Vec::new();
            while let Some(microbatch) = timeout(HANG, stream.next()).await.unwrap() {
                received.push(microbatch.unwrap());
            }
            assert_are(&data, &received, &expected[done as usize..]);
        }
        let start = Start { cursor, done: each + 1 };
        let error = client.stream(&job(), start, End::Steps(3), rank).await.unwrap_err();
        assert!(error.to_string().starts_with("invalid number of microbatches"), "{error}");
    }
}

#[tokio::test]
async fn an_evaluation_ends_with_the_microbatches_that_have_samples() {
    // The last step has 3, 1 or 2 of 4 microbatches, so that some ranks have none in it.
    for records in [27, 49, 26] {
        let data = Data { records, ..Data::evaluation() };
        let server = Fake::start(data.clone(), None);
        let client = client(&[&server]);
        let n = 2 * data.steps_per_epoch() + 1;
        for world in [1, 2, 4] {
            let mut union = Vec::new();
            for rank in 0..world {
                let rank = Rank { rank, world };
                for from in (0..n).map(|k| Cursor::default().after(k, data.steps_per_epoch())) {
                    let received = all(&client, from, End::Steps(n), rank).await;
                    assert_are(&data, &received, &names(&data, from, n, rank));
                    if from == Cursor::default() {
                        union.extend(received.iter().map(|microbatch| microbatch.name));
                    }
                }
            }
            union.sort_unstable();
            assert_eq!(union, names(&data, Cursor::default(), n, Rank::SINGLE), "world {world}");
        }
    }
}

#[tokio::test]
async fn an_evaluation_resumes_at_whichever_name_a_server_fails() {
    let data = Data::evaluation();
    for world in [1, 2, 4] {
        for rank in (0..world).map(|rank| Rank { rank, world }) {
            let expected = names(&data, Cursor::default(), 5, rank);
            for at in 0..expected.len() as u64 {
                let server = Fake::start(data.clone(), Some((at, Fault::Truncated, false)));
                let client = client(&[&server]);
                let received = all(&client, Cursor::default(), End::Steps(5), rank).await;
                assert_are(&data, &received, &expected);
                assert_eq!(server.begun(), expected.len() as u64 + 1, "one failure");
            }
        }
    }
}

#[tokio::test]
async fn the_stream_of_a_rank_without_samples_is_empty() {
    let data = Data { records: 3, ..Data::evaluation() };
    let server = Fake::start(data.clone(), None);
    let client = client(&[&server]);
    for rank in (0..4).map(|rank| Rank { rank, world: 4 }) {
        let received = all(&client, Cursor::default(), End::Steps(3), rank).await;
        assert_are(&data, &received, &names(&data, Cursor::default(), 3, rank));
    }
    let last = Rank { rank: 3, world: 4 };
    let end = End::Steps(u64::MAX);
    assert!(all(&client, Cursor::default(), end, last).await.is_empty());
    let error = client.fetch(&job(), Cursor::default(), 3).await.unwrap_err().to_string();
    assert!(error.contains("OutOfRange"), "{error}");
}

#[tokio::test]
async fn fetch_returns_the_same_as_the_stream() {
    let data = Data::default();
    let server = Fake::start(data.clone(), None);
    let name = MicrobatchName { seed: job().seed, epoch: 2, step: 4, index: 3 };
    let fetched = client(&[&server]).fetch(&job(), name.cursor(), 3).await.unwrap();
    assert_are(&data, &[fetched], &[name]);
    let json = client(&[&server]).explain(&job(), name.cursor(), 3).await.unwrap();
    assert_eq!(json, "{\"step\":4,\"samples\":[0,1,2]}");
}

#[tokio::test]
async fn bytes_received_ahead_are_bounded() {
    // With 1.5 MiB per microbatch and 6 MiB ahead: 4 ahead, 1 waiting for room, and what the flow
    // control windows and the server's queue hold.
    let data = Data { image_size: 296, frame: 1 << 20, ..Data::default() };
    let server = Fake::start(data.clone(), None);
    let mut options = options(&[&server]);
    options.prefetch = Prefetch::Bytes(6 << 20);
    let client = Client::connect(options).unwrap();
    let mut stream =
        client.stream(&job(), Cursor::default(), End::Steps(100), Rank::SINGLE).await.unwrap();
    settle(&server, 4).await;
    let ahead = server.begun();
    assert!((4..=9).contains(&ahead), "{ahead} microbatches ahead of a trainer that took none");
    for _ in 0..6 {
        stream.next().await.unwrap().unwrap();
    }
    settle(&server, 10).await;
    let begun = server.begun();
    assert!((10..=15).contains(&begun), "{begun} microbatches begun when 6 were taken");
}

/// Waits until the server has begun `least` microbatches and begins no further one.
async fn settle(server: &Fake, least: u64) {
    let pause = || tokio::time::sleep(Duration::from_millis(150));
    while server.begun() < least {
        pause().await;
    }
    loop {
        let begun = server.begun();
        pause().await;
        if server.begun() == begun {
            return;
        }
    }
}

#[tokio::test]
async fn one_microbatch_is_received_ahead_even_without_a_window() {
    let data = Data::default();
    let server = Fake::start(data.clone(), None);
    let mut options = options(&[&server]);
    options.prefetch = Prefetch::Bytes(0);
    let client = Client::connect(options).unwrap();
    let received = all(&client, Cursor::default(), End::Steps(3), Rank::SINGLE).await;
    assert_are(&data, &received, &names(&data, Cursor::default(), 3, Rank::SINGLE));
}

#[tokio::test]
async fn a_dropped_stream_ends_on_the_server() {
    let data = Data { image_size: 200, frame: 1 << 20, ..Data::default() };
    let server = Fake::start(data, None);
    let mut options = options(&[&server]);
    options.prefetch = Prefetch::Bytes(1 << 20);
    let client = Client::connect(options).unwrap();
    let end = End::Steps(u64::MAX);
    let mut stream = client.stream(&job(), Cursor::default(), end, Rank::SINGLE).await.unwrap();
    stream.next().await.unwrap().unwrap();
    assert_eq!(server.open_streams(), 1);
    drop(stream);
    let ended = async {
        while server.open_streams() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(HANG, ended).await.expect("the stream ends");
}

#[test]
fn the_blocking_client_is_an_iterator() {
    let data = Data::default();
    let server = Fake::start(data.clone(), None);
    let client = blocking::Client::connect(options(&[&server])).unwrap();
    assert_eq!(client.describe(&job()).unwrap().steps_per_epoch, 5);
    let stream = client.stream(&job(), Cursor::default(), End::Steps(2), Rank::SINGLE).unwrap();
    drop(client);
    let received: Result<Vec<_>, _> = stream.collect();
    assert_are(&data, &received.unwrap(), &names(&data, Cursor::default(), 2, Rank::SINGLE));
}

#[tokio::test]
async fn a_resumed_job_has_the_seed_and_the_digests_of_its_checkpoint() {
    let server = Fake::start(Data::default(), None);
    let description = client(&[&server]).describe(&job()).await.unwrap();
    assert_eq!(description.classes, CLASSES);
    let next = Cursor { epoch: 1, step: 3 };
    let state = State::new(&description, 5, next);
    let resumed = Job::new("tiny", "a2").resumed(&state);
    assert_eq!((resumed.seed, state.cursor()), (5, next));
    client(&[&server]).describe(&resumed).await.unwrap();

    let other = Fake::start(Data { version: 2, ..Data::default() }, None);
    let error = client(&[&other]).describe(&resumed).await.unwrap_err().to_string();
    assert!(error.contains("with another digest: give every server"), "{error}");
}

#[tokio::test]
async fn invalid_arguments_are_refused_with_what_to_do() {
    let server = Fake::start(Data::default(), None);
    let client = client(&[&server]);
    let refused = async |from: Cursor, rank: Rank| {
        client.stream(&job(), from, End::Steps(1), rank).await.unwrap_err().to_string()
    };
    let start = Cursor::default();
    assert_eq!(
        refused(start, Rank { rank: 0, world: 3 }).await,
        "a world of 3 does not divide the 4 microbatches of a step: choose a world that does, or \
         change the recipe's microbatches"
    );
    assert_eq!(
        refused(start, Rank { rank: 2, world: 2 }).await,
        "invalid rank 2 for a world of 2: expected a rank from 0 to world - 1"
    );
    assert_eq!(
        refused(Cursor { epoch: 7, step: 5 }, Rank::SINGLE).await,
        "invalid step 5 of epoch 7: an epoch has 5 steps, numbered from 0"
    );
}

#[tokio::test]
async fn invalid_endpoints_are_refused() {
    let refused = |name: &str| Client::connect(Options::new([name])).unwrap_err().to_string();
    assert!(refused("localhost").contains("expected http://host:port"));
    assert!(refused("ftp://localhost:1").contains("expected http://host:port"));
    assert!(refused("").contains("expected http://host:port"));
    assert!(refused("dns+ftp://forebay:1").contains("dns+http://name:port for every address"));
    assert!(refused("dns+http://forebay").contains("not a URL with http or https and a port"));
    let none = Client::connect(Options::new([""; 0])).unwrap_err().to_string();
    assert!(none.starts_with("no endpoint: expected at least one server"), "{none}");
}
