//! Failures: nothing is lost, repeated or wrong.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forebay_client::{
    Client, Connection, Cursor, Digest, End, Error, Job, Microbatch, Microbatches, Network,
    Options, Rank,
};
use tonic::Status;
use tonic::body::Body;
use tower::Service as _;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::fake::{Data, Fake, Fault};
use crate::{all, assert_are, client, job, names, options};

/// Streams 12 steps from several servers. The first one has a fault in its sixth microbatch, if it makes
/// that many: which server makes a step depends on its port.
async fn survives(fault: Fault, servers: usize) {
    let data = Data::default();
    let first = Fake::start(data.clone(), Some((5, fault, false)));
    let others: Vec<Fake> = (1..servers).map(|_| Fake::start(data.clone(), None)).collect();
    let all_servers: Vec<&Fake> = [&first].into_iter().chain(&others).collect();
    let client = client(&all_servers);
    let received = all(&client, Cursor::default(), End::Steps(12), Rank::SINGLE).await;
    assert_are(&data, &received, &names(&data, Cursor::default(), 12, Rank::SINGLE));
    let stats = client.servers();
    assert_eq!(stats.iter().map(|server| server.microbatches).sum::<u64>(), 48);
    let failures: u64 = stats.iter().map(|server| server.failures).sum();
    assert_eq!(failures, u64::from(first.begun() > 5), "{stats:?}");
}

#[tokio::test]
async fn a_truncated_stream_is_resumed() {
    survives(Fault::Truncated, 1).await;
    survives(Fault::Truncated, 2).await;
}

#[tokio::test]
async fn a_server_that_drains_is_replaced() {
    survives(Fault::Status(Status::unavailable("draining")), 1).await;
    survives(Fault::Status(Status::unavailable("draining")), 3).await;
}

#[tokio::test]
async fn a_corrupt_payload_is_requested_again() {
    survives(Fault::Corrupt, 1).await;
    survives(Fault::Corrupt, 2).await;
}

#[tokio::test]
async fn a_missing_frame_and_a_wrong_order_are_detected() {
    survives(Fault::Gap, 2).await;
    survives(Fault::Order, 2).await;
}

#[tokio::test]
async fn a_server_with_another_recipe_is_replaced() {
    survives(Fault::Recipe, 2).await;
}

#[tokio::test]
async fn a_server_that_falls_silent_is_replaced() {
    let data = Data::default();
    let silent = Fake::start(data.clone(), Some((5, Fault::Hang, false)));
    let other = Fake::start(data.clone(), None);
    let mut options = options(&[&silent, &other]);
    // A server that is only slow is then tried again.
    options.timeouts.idle = Duration::from_millis(500);
    let client = Client::connect(options).unwrap();
    let received = all(&client, Cursor::default(), End::Steps(4), Rank::SINGLE).await;
    assert_are(&data, &received, &names(&data, Cursor::default(), 4, Rank::SINGLE));
}

#[tokio::test]
async fn a_stream_resumes_after_its_server_was_killed_and_restarted() {
    let data = Data::default();
    let server = Fake::start(data.clone(), Some((9, Fault::Hang, false)));
    let address = server.address;
    let client = client(&[&server]);
    let rank = Rank { rank: 1, world: 2 };
    let mut stream = client.stream(&job(), Cursor::default(), End::Steps(10), rank).await.unwrap();
    let mut received: Vec<Microbatch> = Vec::new();
    for _ in 0..9 {
        received.push(stream.next().await.unwrap().unwrap());
    }
    drop(server);
    let _restarted = Fake::at(address, data.clone(), None);
    while let Some(microbatch) = stream.next().await {
        received.push(microbatch.unwrap());
    }
    assert_are(&data, &received, &names(&data, Cursor::default(), 10, rank));
}

#[tokio::test]
async fn another_server_takes_over_from_a_killed_server() {
    let data = Data::default();
    let server = Fake::start(data.clone(), Some((9, Fault::Hang, false)));
    let other = Fake::start(data.clone(), None);
    let client = client(&[&server, &other]);
    let mut stream =
        client.stream(&job(), Cursor::default(), End::Steps(30), Rank::SINGLE).await.unwrap();
    let mut received: Vec<Microbatch> = Vec::new();
    // The server makes a tenth microbatch, except with one port in millions.
    while server.begun() < 10 {
        received.push(stream.next().await.unwrap().unwrap());
    }
    drop(server);
    while let Some(microbatch) = stream.next().await {
        received.push(microbatch.unwrap());
    }
    assert_are(&data, &received, &names(&data, Cursor::default(), 30, Rank::SINGLE));
    assert!(other.begun() > 50, "{}", other.begun());
}

/// The error that ends a stream of one server, and the number of microbatches delivered before it.
async fn error_of(fault: Fault) -> (usize, Error) {
    let server = Fake::start(Data::default(), Some((5, fault, true)));
    let client = client(&[&server]);
    let mut stream =
        client.stream(&job(), Cursor::default(), End::Steps(4), Rank::SINGLE).await.unwrap();
    let mut delivered = 0;
    let error = loop {
        match stream.next().await.unwrap() {
            Ok(_) => delivered += 1,
            Err(error) => break error,
        }
    };
    assert!(stream.next().await.is_none(), "an error ends the stream");
    (delivered, error)
}

#[tokio::test]
async fn errors_name_the_server_the_microbatch_and_what_to_do() {
    let (delivered, error) = error_of(Fault::Corrupt).await;
    let error = error.to_string();
    assert_eq!(delivered, 5);
    assert!(error.starts_with("http://127.0.0.1:"), "{error}");
    assert!(
        error.contains(
            ": stream of tiny at epoch 0, step 1, microbatch 1: corrupt payload: its XXH3 is "
        ),
        "{error}"
    );
    assert!(error.ends_with(": check the network and the server's memory"), "{error}");

    let (_, error) = error_of(Fault::Order).await;
    let order = "received epoch 0, step 1, microbatch 2, expected epoch 0, step 1, microbatch 1";
    assert!(error.to_string().contains(order), "{error}");

    let (_, error) = error_of(Fault::Recipe).await;
    assert!(error.to_string().contains("the digest of its recipe is 0109"), "{error}");

    let (_, error) = error_of(Fault::Status(Status::data_loss("record 7 changed"))).await;
    let advice = "DataLoss: record 7 changed: index the dataset again, or restore its files";
    assert!(error.to_string().ends_with(advice), "{error}");
}

#[tokio::test]
async fn errors_that_a_retry_cannot_fix_are_returned_after_one_attempt() {
    let server = Fake::start(Data::default(), None);
    let client = client(&[&server]);
    let error = client.describe(&Job::new("large", "a2")).await.unwrap_err().to_string();
    let refused = "description of large: NotFound: unknown dataset \"large\": this server has tiny: use a \
                   dataset that the server has";
    assert!(error.contains(refused), "{error}");
    let past = Cursor { epoch: 0, step: 99 };
    let error = client.fetch(&job(), past, 0).await.unwrap_err().to_string();
    assert!(error.contains("OutOfRange: step or microbatch is out of range"), "{error}");
    let failures: Vec<u64> = client.servers().iter().map(|server| server.failures).collect();
    assert_eq!(failures, [2], "one attempt each");
}

#[tokio::test]
async fn a_client_gives_up_on_servers_that_do_not_run() {
    let server = Fake::start(Data::default(), None);
    let mut options = options(&[&server]);
    drop(server);
    options.retry.give_up_after = Duration::from_millis(300);
    let client = Client::connect(options).unwrap();
    let error = client.describe(&job()).await.unwrap_err();
    // On a busy machine the second attempt may already be too late for a third.
    assert!(matches!(error, Error::GaveUp { attempts: 2.., .. }), "{error:?}");
    let error = error.to_string();
    assert!(error.contains("connection failed") && error.contains("refused"), "{error}");
    assert!(error.contains("check that the server runs and can be reached"), "{error}");
}

#[tokio::test]
async fn a_socket_on_which_no_server_listens_is_named_and_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let (absent, left) = (folder.path().join("absent"), folder.path().join("left"));
    // As a killed server leaves it.
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    for path in [absent, left] {
        let mut options = Options::new([format!("unix:{}", path.display())]);
        options.retry.initial_backoff = Duration::from_millis(10);
        options.retry.give_up_after = Duration::from_millis(300);
        let client = Client::connect(options).unwrap();
        // A job of the only dataset has no name.
        let error = client.describe(&Job { dataset: String::new(), ..job() }).await.unwrap_err();
        // The server may be one that restarts, which removes its socket and makes it again.
        assert!(matches!(error, Error::GaveUp { attempts: 2.., .. }), "{error:?}");
        let error = error.to_string();
        let says = format!("no server listens on the socket {}: start the server", path.display());
        assert!(error.starts_with("description of the dataset: gave up"), "{error}");
        assert!(error.contains(&says) && !error.contains("TLS"), "{error}");
    }
}

#[tokio::test]
async fn the_first_description_pins_the_digests() {
    let data = Data::default();
    let server = Fake::start(data.clone(), None);
    let address = server.address;
    let mut options = options(&[&server]);
    // A stream waits as long for its server to be rolled back.
    options.retry.give_up_after = Duration::from_millis(100);
    let client = Client::connect(options).unwrap();
    client.describe(&job()).await.unwrap();
    drop(server);
    let _other = Fake::at(address, Data { version: 9, ..data }, None);
    let error = client.describe(&job()).await.unwrap_err().to_string();
    assert!(error.contains("FailedPrecondition: the client expects the"), "{error}");
    let stream = client.stream(&job(), Cursor::default(), End::Steps(1), Rank::SINGLE).await;
    let error = stream.unwrap().next().await.unwrap().unwrap_err().to_string();
    assert!(error.contains("FailedPrecondition: the client expects the"), "{error}");
}

#[tokio::test]
async fn a_microbatch_that_contradicts_the_description_is_rejected() {
    let data = Data::default();
    let server = Fake::start(data.clone(), None);
    let client = client(&[&server]);
    client.describe(&job()).await.unwrap();
    let address = server.address;
    drop(server);
    // It has the same digests, but larger images.
    let _other = Fake::at(address, Data { image_size: 9, ..data }, None);
    let error = client.fetch(&job(), Cursor::default(), 0).await.unwrap_err().to_string();
    assert!(error.contains("the height is 9, expected 8"), "{error}");
}

#[tokio::test]
async fn a_microbatch_that_is_fetched_has_a_limit_of_time() {
    let server = Fake::start(Data::default(), Some((0, Fault::Hang, true)));
    let mut options = options(&[&server]);
    options.timeouts.microbatch = Duration::from_millis(50);
    options.retry.give_up_after = Duration::ZERO;
    let client = Client::connect(options).unwrap();
    let error = client.fetch(&job(), Cursor::default(), 0).await.unwrap_err().to_string();
    assert!(error.contains("the whole answer did not arrive within 50ms"), "{error}");
}

#[tokio::test]
async fn a_microbatch_over_the_clients_limit_is_rejected() {
    let server = Fake::start(Data::default(), None);
    let mut options = options(&[&server]);
    options.max_microbatch_bytes = 1000;
    let client = Client::connect(options).unwrap();
    let error = client.fetch(&job(), Cursor::default(), 0).await.unwrap_err().to_string();
    assert!(error.contains("payload of 1152 bytes exceeds the limit of 1000"), "{error}");
}

/// Counts what is logged as a warning or an error on this thread.
#[derive(Clone, Debug, Default)]
struct Warnings(Arc<AtomicU64>);

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, _event: &Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

#[tokio::test]
async fn a_stream_that_is_closed_with_its_server_logs_no_failure() {
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    for closes in [true, false] {
        let server = Fake::start(Data::default(), None);
        let client = client(&[&server]);
        let end = End::Steps(1000);
        let mut stream = client.stream(&job(), Cursor::default(), end, Rank::SINGLE).await.unwrap();
        stream.next().await.unwrap().unwrap();
        drop(server);
        if closes {
            stream.close().await;
        } else {
            drop(stream);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(warnings.0.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_stream_that_is_dropped_while_its_task_runs_logs_no_failure_of_what_follows() {
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    let kept: Arc<Mutex<Option<Microbatches>>> = Arc::default();
    let dropped = Arc::new(AtomicU64::new(0));
    let mut options = Options::new(["http://a:50051"]);
    options.network = Network::default().connector({
        let (kept, dropped) = (Arc::clone(&kept), Arc::clone(&dropped));
        move |_| {
            let (kept, dropped, mut service) =
                (Arc::clone(&kept), Arc::clone(&dropped), Fake::service(Data::default()));
            Connection::new(tower::service_fn(move |request: http::Request<Body>| {
                let is_stream = request.uri().path().ends_with("/Stream");
                let (kept, dropped) = (Arc::clone(&kept), Arc::clone(&dropped));
                let answer = service.call(request);
                async move {
                    if !is_stream {
                        return Ok(answer.await.unwrap_or_else(|never| match never {}));
                    }
                    while kept.lock().unwrap().is_none() {
                        tokio::task::yield_now().await;
                    }
                    // Within one poll of the task that receives: the trainer drops the stream, and the connection breaks.
                    drop(kept.lock().unwrap().take());
                    dropped.fetch_add(1, Ordering::Relaxed);
                    Err(Status::from_error(io::Error::from(io::ErrorKind::ConnectionReset).into()))
                }
            }))
        }
    });
    let client = Client::connect(options).unwrap();
    let end = End::Steps(1000);
    let stream = client.stream(&job(), Cursor::default(), end, Rank::SINGLE).await.unwrap();
    *kept.lock().unwrap() = Some(stream);
    while dropped.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(warnings.0.load(Ordering::Relaxed), 0);
    // Nor does it count as one, which would keep other streams of the client from the server.
    assert_eq!(client.servers()[0].failures, 0);
}

#[tokio::test]
async fn a_refused_job_is_an_error_and_no_warning() {
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    let server = Fake::start(Data::default(), None);
    let client = client(&[&server]);
    let expected = Some(Digest([9; 32]));
    let job = Job { recipe_digest: expected, ..job() };
    let error = client.describe(&job).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert_eq!(warnings.0.load(Ordering::Relaxed), 0);
}
