//! A server that may open few files: connections never take the descriptors that records need.

use forebay_client::{Client, Cursor, Job, Options};
use forebay_proto::v1::{self, DescribeRequest};
use forebay_tests::world::SMALL;
use prost::Message as _;

use crate::operation::start_with_open_files;
use crate::raw::{END_STREAM, HEADERS, Raw};
use forebay_tests::process::ServerProcess;

/// Connections, more than a server of 250 open files can have.
const CONNECTIONS: usize = 300;

fn job() -> Job {
    Job { set: SMALL.map(str::to_owned).to_vec(), seed: 5, ..Job::new("train", "a2") }
}

/// Opens a connection and makes a call that is accepted, so that the connection has authenticated.
async fn connect(server: &ServerProcess) -> Raw {
    let set = SMALL.map(str::to_owned).to_vec();
    let recipe = v1::Recipe { name: "a2".into(), set, ..v1::Recipe::default() };
    let job = v1::Job { recipe: Some(recipe), ..v1::Job::default() };
    let request = DescribeRequest { job: Some(job), first_class: 0 }.encode_to_vec();
    let mut raw = Raw::open(&server.address()).await.unwrap();
    // The server may close the connection, or refuse it.
    raw.call("Describe", &request).await.ok();
    while let Ok(Some(frame)) = raw.next().await {
        if frame.stream == 1 && frame.kind == HEADERS && frame.flags & END_STREAM != 0 {
            break;
        }
    }
    raw
}

/// Fetches all microbatches of two steps.
async fn fetch(server: &ServerProcess) {
    let endpoint = format!("http://127.0.0.1:{}", server.port);
    let client = Client::connect(Options::new([endpoint])).unwrap();
    for (step, index) in (0..2).flat_map(|step| (0..8).map(move |index| (step, index))) {
        client.fetch(&job(), Cursor { epoch: 0, step }, index).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_leave_the_descriptors_that_records_need() {
    let folder = tempfile::tempdir().unwrap();
    let server = start_with_open_files(folder.path(), "-n 250", &[]);
    let mut connections = Vec::new();
    for _ in 0..3 {
        for _ in 0..CONNECTIONS / 3 {
            connections.push(connect(&server).await);
        }
        fetch(&server).await;
    }
    assert!(server.get("/healthz").contains("200 OK"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_soft_limit_of_open_files_is_raised() {
    let folder = tempfile::tempdir().unwrap();
    let server = start_with_open_files(folder.path(), "-Sn 64", &[]);
    let max = server.max_open_files();
    assert!(max > 64, "{max}");
    fetch(&server).await;
}

#[test]
fn a_limit_that_is_too_low_for_data_is_an_error() {
    let script = "ulimit -n 80 && exec \"$0\" forebay serve --listen 127.0.0.1:0 --dataset \"$1\"";
    let train = format!("train={}", forebay_tests::world::WORLD.train().display());
    let arguments = ["-c", script, env!("CARGO_BIN_EXE_quickstart"), &train];
    let output = std::process::Command::new("sh").args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    for part in ["80 open files is too low", "ulimit -n"] {
        assert!(error.contains(part), "{error}");
    }
}
