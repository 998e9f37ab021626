//! Several servers: which one makes a step, servers that join and leave, late servers, servers with
//! other data.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forebay_client::{
    Circuit, Client, Connection, Cursor, Digest, End, Error, Hedge, Job, Network, Options,
    Prefetch, Rank, ServerStats,
};
use tonic::Status;
use tonic::body::Body;
use tower::Service as _;
use tower::util::MapErr;

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
    let mut options = options(&[&hangs, &well]);
    // Hedges that a busy machine causes must not use up the budget.
    options.hedge = Hedge { budget: 1.0, ..Hedge::default() };
    let client = Client::connect(options).unwrap();
    let received = all(&client, Cursor::default(), End::Steps(100), Rank::SINGLE).await;
    assert_are(&data, &received, &names(&data, Cursor::default(), 100, Rank::SINGLE));
    let stats = client.servers();
    let of = |fake: &Fake| stats.iter().find(|server| server.name == fake.url()).unwrap();
    assert!(of(&hangs).overtaken > 0 && of(&hangs).microbatches <= 20, "{stats:?}");
    assert!(of(&well).hedges_won > 0, "{stats:?}");
    assert_ne!(of(&hangs).circuit, Circuit::Closed, "{stats:?}");
    assert_eq!(of(&hangs).microbatches + of(&well).microbatches, 400);
}

/// The client waits two seconds for the other descriptions, so the time is virtual.
#[tokio::test(start_paused = true)]
async fn a_server_with_another_dataset_is_excluded_and_the_job_continues_with_the_others() {
    let data = Data::default();
    let odd = "http://odd:50051";
    // The majority decides, whichever server answers first.
    let others = ["http://a:50051", "http://b:50051"];
    for servers in [[odd, others[0], others[1]], [others[0], others[1], odd]] {
        let mut options = Options::new(servers);
        options.network = Network::default().connector({
            let data = data.clone();
            move |url| {
                let version = if url == odd { 9 } else { data.version };
                let service = Fake::service(Data { version, ..data.clone() });
                let service: MapErr<_, fn(Infallible) -> Status> =
                    MapErr::new(service, |never| match never {});
                Connection::new(service)
            }
        });
        let client = Client::connect(options).unwrap();
        let received = all(&client, Cursor::default(), End::Steps(20), Rank::SINGLE).await;
        assert_are(&data, &received, &names(&data, Cursor::default(), 20, Rank::SINGLE));
        let stats = client.servers();
        let server = stats.iter().find(|server| server.name == odd).unwrap();
        assert_eq!(server.microbatches, 0);
        let why = server.excluded.as_deref().unwrap();
        assert!(why.starts_with("the digest of its dataset is 0901"), "{why}");
        assert!(
            server.to_string().contains(", excluded: the digest of its dataset is"),
            "{server}"
        );
    }
}

const TWO: [&str; 2] = ["http://a:50051", "http://b:50051"];

/// Servers in virtual time. `behavior` is given the URL of a server and the path of a call. It says whether
/// the server has the right data, and after which time it answers. Connections are listed in `made`.
fn network(
    made: &Arc<Mutex<Vec<String>>>,
    behavior: impl Fn(&str, &str) -> (bool, Duration) + Send + Sync + 'static,
) -> Network {
    let (made, behavior) = (Arc::clone(made), Arc::new(behavior));
    Network::default().connector(move |url| {
        made.lock().unwrap().push(url.to_owned());
        let (behavior, url) = (Arc::clone(&behavior), url.to_owned());
        let services = [9, 1].map(|version| Fake::service(Data { version, ..Data::default() }));
        Connection::new(tower::service_fn(move |request: http::Request<Body>| {
            let (is_right, delay) = behavior(&url, request.uri().path());
            let mut service = services[usize::from(is_right)].clone();
            async move {
                tokio::time::sleep(delay).await;
                let answer: Result<_, Infallible> = service.call(request).await;
                answer.map_err(|never| match never {})
            }
        }))
    })
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_rolled_back_serves_the_job_again() {
    let data = Data::default();
    let rolled_back = Arc::new(AtomicBool::new(false));
    let is_right = Arc::clone(&rolled_back);
    let mut options = Options::new(TWO);
    options.prefetch = Prefetch::Bytes(1);
    options.network = network(&Arc::default(), move |url, _| {
        (url == TWO[0] || is_right.load(Ordering::Relaxed), Duration::ZERO)
    });
    let readmit_after = options.readmit_after;
    let client = Client::connect(options).unwrap();
    let digest = |of| Some(Digest(data.digest(of).try_into().unwrap()));
    let job = Job { dataset_digest: digest(1), recipe_digest: digest(2), ..job() };
    let (from, n) = (Cursor::default(), 60);
    let mut stream = client.stream(&job, from, End::Steps(n), Rank::SINGLE).await.unwrap();
    let other = || client.servers().into_iter().find(|server| server.name == TWO[1]).unwrap();
    let mut received = Vec::new();
    while let Some(microbatch) = stream.next().await {
        received.push(microbatch.unwrap());
        if received.len() == 80 {
            let why = other().excluded.unwrap();
            assert!(why.starts_with("FailedPrecondition"), "{why}");
            // It is tried again, and refuses again.
            tokio::time::sleep(readmit_after).await;
        }
        if received.len() == 120 {
            assert!(other().excluded.is_some() && other().microbatches == 0, "{}", other());
            rolled_back.store(true, Ordering::Relaxed);
            tokio::time::sleep(readmit_after).await;
        }
    }
    assert_are(&data, &received, &names(&data, from, n, Rank::SINGLE));
    assert!(other().excluded.is_none() && other().microbatches > 0, "{}", other());
}

/// Streams while one stream begins late, and hedges take a while. Returns the statistics, and the number of
/// connections to each server.
async fn hedged(late: Duration, hedge: Duration) -> (Vec<ServerStats>, [usize; 2]) {
    let data = Data::default();
    let (made, streams) = (Arc::default(), AtomicU64::new(0));
    let mut options = Options::new(TWO);
    options.network = network(&made, move |_, path| {
        let nth = |n| streams.fetch_add(1, Ordering::Relaxed) == n;
        let delay = match path.rsplit('/').next().unwrap() {
            "Stream" if nth(8) => late,
            "Fetch" => hedge,
            _ => Duration::ZERO,
        };
        (true, delay)
    });
    let client = Client::connect(options).unwrap();
    let received = all(&client, Cursor::default(), End::Steps(100), Rank::SINGLE).await;
    assert_are(&data, &received, &names(&data, Cursor::default(), 100, Rank::SINGLE));
    let made = made.lock().unwrap();
    (client.servers(), TWO.map(|server| made.iter().filter(|url| *url == server).count()))
}

/// Late is not down: neither the server of a hedge that lost nor one that is late once counts as failed,
/// and both keep their connections, one of which is for single calls and one for the stream.
#[tokio::test(start_paused = true)]
async fn neither_a_lost_hedge_nor_one_late_microbatch_is_a_failure() {
    let (ms, hour) = (Duration::from_millis, Duration::from_hours(1));
    for (late, hedge, won) in [(ms(300), hour, 0), (hour, ms(10), 1)] {
        let (servers, connections) = hedged(late, hedge).await;
        let sum = |of: fn(&ServerStats) -> u64| servers.iter().map(of).sum::<u64>();
        assert_eq!(sum(|server| server.hedges_sent), 1, "{servers:?}");
        assert_eq!([sum(|server| server.hedges_won), sum(|server| server.overtaken)], [won; 2]);
        assert_eq!(sum(|server| server.failures), 0, "{servers:?}");
        assert!(servers.iter().all(|server| server.circuit == Circuit::Closed), "{servers:?}");
        assert_eq!(connections, [2, 2]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_client_is_an_internal_error() {
    let connections = AtomicU64::new(0);
    let mut options = Options::new(["http://a:50051"]);
    options.network = Network::default().connector(move |_| {
        assert!(connections.fetch_add(1, Ordering::Relaxed) == 0, "a bug");
        let service = Fake::service(Data::default());
        let service: MapErr<_, fn(Infallible) -> Status> =
            MapErr::new(service, |never| match never {});
        Connection::new(service)
    });
    let client = Client::connect(options).unwrap();
    let stream = client.stream(&job(), Cursor::default(), End::Steps(2), Rank::SINGLE).await;
    let error = stream.unwrap().next().await.unwrap().map(drop).unwrap_err();
    assert!(matches!(error, Error::Internal(_)), "{error:?}");
    assert!(error.to_string().contains("panicked"), "{error}");
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
        let why = format!(
            "{}: FailedPrecondition: the client expects the dataset with another digest: give every",
            server.url()
        );
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
