//! Several servers: which one makes a step, servers that join and leave, late servers, servers with
//! other data.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forebay_client::{
    Circuit, Client, Cursor, Digest, End, Error, Job, Network, Options, Prefetch, Rank,
};

use crate::fake::{Data, Fake, Fault};
use crate::{all, assert_are, client, job, names, options};

#[tokio::test]
async fn all_ranks_get_a_step_from_the_same_server() {
    let data = Data::default();
    let servers: Vec<Fake> = (0..3).map(|_| Fake::start(data.clone(), None)).collect();
    for rank in (0..4).map(|rank| Rank { rank, world: 4 }) {
        let client = client(&servers.iter().collect::<Vec<_>>());
        let received = all(&client, Cursor::default(), End::Steps(60), rank).await;
        assert_are(&data, &received, &names(&data, Cursor::default(), 60, rank));
    }
    let mut makers = BTreeMap::<_, BTreeSet<_>>::new();
    for (server, fake) in servers.iter().enumerate() {
        for (epoch, step, _) in fake.served() {
            makers.entry((epoch, step)).or_default().insert(server);
        }
    }
    assert_eq!(makers.len(), 60);
    assert!(makers.values().all(|makers| makers.len() == 1), "{makers:?}");
    for server in 0..3 {
        let steps = makers.values().filter(|makers| makers.contains(&server)).count();
        assert!((6..=38).contains(&steps), "server {server} made {steps} of 60 steps");
    }
}

/// The server would keep the microbatch until another server has delivered an earlier one, so that two
/// trainers whose steps come in the opposite order would wait for each other.
#[tokio::test]
async fn no_step_is_requested_before_the_trainer_has_room_for_it() {
    let data = Data { microbatches: 1, ..Data::default() };
    let servers = [Fake::start(data.clone(), None), Fake::start(data.clone(), None)];
    let begun = || servers.each_ref().map(Fake::begun);
    let mut options = options(&[&servers[0], &servers[1]]);
    options.prefetch = Prefetch::Bytes(1);
    let client = Client::connect(options).unwrap();
    let mut stream =
        client.stream(&job(), Cursor::default(), End::Steps(60), Rank::SINGLE).await.unwrap();
    while begun() == [0, 0] {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(begun().into_iter().min(), Some(0), "the other server's step comes later");
    let mut received = Vec::new();
    while let Some(microbatch) = stream.next().await {
        received.push(microbatch.unwrap());
    }
    assert_are(&data, &received, &names(&data, Cursor::default(), 60, Rank::SINGLE));
    assert!(begun().into_iter().min() > Some(5), "both servers make steps");
}

#[tokio::test]
async fn servers_join_and_leave_in_the_middle_of_an_epoch() {
    let data = Data { records: 24 * 4000, ..Data::default() };
    let (first, second) = (Fake::start(data.clone(), None), Fake::start(data.clone(), None));
    let found = Arc::new(Mutex::new(vec![first.address]));
    let mut options = Options::new(["dns+http://forebay:50051"]);
    options.resolve_interval = Duration::from_millis(20);
    options.prefetch = Prefetch::Bytes(20_000);
    options.network = Network::default().resolver({
        let found = Arc::clone(&found);
        move |host: String| {
            assert_eq!(host, "forebay:50051");
            let found: Vec<SocketAddr> = found.lock().unwrap().clone();
            async move { Ok(found) }
        }
    });
    let client = Client::connect(options).unwrap();
    let (from, n) = (Cursor::default(), 500);
    let mut stream = client.stream(&job(), from, End::Steps(n), Rank::SINGLE).await.unwrap();
    let mut received = Vec::new();
    while let Some(microbatch) = stream.next().await {
        received.push(microbatch.unwrap());
        match received.len() {
            200 => found.lock().unwrap().push(second.address),
            600 => found.lock().unwrap().retain(|address| *address == second.address),
            _ => {}
        }
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    assert_are(&data, &received, &names(&data, from, n, Rank::SINGLE));
    let steps = |fake: &Fake| fake.served().into_iter().map(|(_, step, _)| step);
    let (joined, left) = (steps(&second).min().unwrap(), steps(&first).max().unwrap());
    assert!((50..300).contains(&joined), "joined at step {joined}");
    assert!((150..450).contains(&left), "left at step {left}");
    let stats = client.servers();
    assert!(stats.iter().all(|server| server.failures == 0), "{stats:?}");
    let present: Vec<bool> = stats.iter().map(|server| server.present).collect();
    assert_eq!(present.iter().filter(|present| **present).count(), 1, "{stats:?}");
}

#[tokio::test]
async fn a_late_microbatch_is_fetched_from_the_next_server() {
    let data = Data::default();
    let hangs = Fake::start(data.clone(), Some((20, Fault::Hang, true)));
    let well = Fake::start(data.clone(), None);
    let client = client(&[&hangs, &well]);
    let received = all(&client, Cursor::default(), End::Steps(100), Rank::SINGLE).await;
    assert_are(&data, &received, &names(&data, Cursor::default(), 100, Rank::SINGLE));
    let stats = client.servers();
    let of = |fake: &Fake| stats.iter().find(|server| server.name == fake.url()).unwrap();
    assert!(of(&hangs).overtaken > 0 && of(&hangs).microbatches <= 20, "{stats:?}");
    assert!(of(&well).hedges_won > 0, "{stats:?}");
    assert_ne!(of(&hangs).circuit, Circuit::Closed, "{stats:?}");
    assert_eq!(of(&hangs).microbatches + of(&well).microbatches, 400);
}

#[tokio::test]
async fn a_server_with_another_dataset_is_excluded_and_the_job_continues_with_the_others() {
    let data = Data::default();
    let odd = Fake::start(Data { version: 9, ..data.clone() }, None);
    let others = [Fake::start(data.clone(), None), Fake::start(data.clone(), None)];
    // The majority decides, whichever server answers first.
    for servers in [[&odd, &others[0], &others[1]], [&others[0], &others[1], &odd]] {
        let client = client(&servers);
        let received = all(&client, Cursor::default(), End::Steps(20), Rank::SINGLE).await;
        assert_are(&data, &received, &names(&data, Cursor::default(), 20, Rank::SINGLE));
        let stats = client.servers();
        let server = stats.iter().find(|server| server.name == odd.url()).unwrap();
        let why = server.excluded.as_deref().unwrap();
        assert!(why.starts_with("the digest of its dataset is 0901"), "{why}");
        assert!(
            server.to_string().contains(", excluded: the digest of its dataset is"),
            "{server}"
        );
    }
    assert_eq!(odd.begun(), 0);
}

#[tokio::test]
async fn when_all_servers_are_excluded_the_error_names_each_with_its_reason() {
    let servers = [9, 8].map(|version| Fake::start(Data { version, ..Data::default() }, None));
    let client = client(&[&servers[0], &servers[1]]);
    let expected = Some(Digest(Data::default().digest(1).try_into().unwrap()));
    let job = Job { dataset_digest: expected, ..job() };
    let error = client.describe(&job).await.unwrap_err();
    assert!(matches!(error, Error::NoServer { .. }), "{error:?}");
    let error = error.to_string();
    assert!(
        error.starts_with("description of tiny: every server is excluded: http://127"),
        "{error}"
    );
    for server in &servers {
        let why = format!("{}: FailedPrecondition: another digest: give every", server.url());
        assert!(error.contains(&why), "{error}");
    }
}

#[tokio::test]
async fn several_connections_to_a_server_are_used_in_turn() {
    let data = Data::default();
    let servers = [Fake::start(data.clone(), None), Fake::start(data.clone(), None)];
    let mut options = options(&[&servers[0], &servers[1]]);
    options.connections = 3;
    let client = Client::connect(options).unwrap();
    let received = all(&client, Cursor::default(), End::Steps(30), Rank::SINGLE).await;
    assert_are(&data, &received, &names(&data, Cursor::default(), 30, Rank::SINGLE));
}
