//! A server and its clients on one host: a Unix socket, and microbatches that are read where they were made.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use forebay::{Pipeline, PipelineConfig};
use forebay_client::{
    Client, Cursor, End, Job, Microbatch, MicrobatchName, Options, Rank, SharedMemory,
};
use forebay_server::{Limits, ListenAddress};
use forebay_tests::process::ServerProcess;
use forebay_tests::world::{Server, WORLD};
use forebay_tests::{HANG, eventually, mixer};
use tempfile::TempDir;
use tokio::time::timeout;

/// Microbatches of 4 images of 128 x 128, large enough to be shared.
const SET: [&str; 3] = ["batch = 16", "microbatches = 4", "image_size = 128"];
const BYTES: usize = 4 * 128 * 128 * 3;

fn job() -> Job {
    Job { set: SET.map(str::to_owned).into(), seed: 5, ..Job::new("train", "a2") }
}

/// A server on a TCP port and a Unix socket, with memory to share.
struct Host {
    server: Server,
    pipeline: Arc<Pipeline>,
    path: PathBuf,
    _folder: TempDir,
}

impl Host {
    async fn start(buffers: usize, shared_memory: bool) -> Self {
        Self::with(buffers, shared_memory, Limits::default()).await
    }

    async fn with(buffers: usize, shared_memory: bool, limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("forebay.sock");
        let config = PipelineConfig {
            threads: NonZeroUsize::new(2).unwrap(),
            buffer_bytes: buffers * BYTES,
            cache_bytes: 0,
            shared_memory,
            ..PipelineConfig::default()
        };
        let pipeline = Arc::new(Pipeline::with_mixer(&mixer(), config).unwrap());
        let listen =
            [ListenAddress::Tcp(([127, 0, 0, 1], 0).into()), ListenAddress::Unix(path.clone())];
        let own = Arc::clone(&pipeline);
        let server = Server::listening(&listen, &WORLD.dataset, own, limits).await;
        Self { server, pipeline, path, _folder: folder }
    }

    fn unix(&self) -> Options {
        Options::new([format!("unix:{}", self.path.display())])
    }

    fn tcp(&self) -> Options {
        Options::new([self.server.endpoint()])
    }

    /// Whether it can lend: a GPU's memory is not shared.
    fn lends(&self) -> bool {
        self.pipeline.shares_memory()
    }

    async fn all_returned(&self) {
        let buffers = self.pipeline.buffers();
        eventually("every buffer returns", || buffers.bytes_in_use() == 0).await;
    }
}

type Content = (MicrobatchName, Vec<u8>, Vec<u64>, Vec<u32>, u64);

fn content(made: &Microbatch) -> Content {
    let labels = [&made.label_a[..], &made.label_b].concat();
    (made.name, made.pixels.to_vec(), made.records.clone(), labels, made.xxh3)
}

/// Everything that a client receives, and the number of microbatches in shared memory.
async fn read(options: Options, steps: u64, rank: Rank) -> (Vec<Content>, usize) {
    let client = Client::connect(options).unwrap();
    let end = End::Steps(steps);
    let mut stream = client.stream(&job(), Cursor::default(), end, rank).await.unwrap();
    let (mut received, mut shared) = (Vec::new(), 0);
    while let Some(made) = timeout(HANG, stream.next()).await.unwrap() {
        let made = made.unwrap();
        shared += usize::from(made.pixels.is_shared());
        received.push(content(&made));
    }
    (received, shared)
}

#[tokio::test(flavor = "multi_thread")]
async fn microbatches_over_tcp_over_a_unix_socket_and_in_shared_memory_are_the_same() {
    let host = Host::start(64, true).await;
    let off = |options| Options { shared_memory: SharedMemory::Off, ..options };
    let (tcp, none) = read(off(host.tcp()), 6, Rank::SINGLE).await;
    assert_eq!((tcp.len(), none), (24, 0));
    let trust = Options { shared_memory: SharedMemory::Trust, ..host.unix() };
    // A server that is called over TCP says where its memory is.
    for (options, may_share) in
        [(off(host.unix()), false), (host.unix(), true), (trust, true), (host.tcp(), true)]
    {
        let (received, shared) = read(options, 6, Rank::SINGLE).await;
        assert!(received == tcp);
        // One that comes while the trainer has others and waits may be a copy.
        assert_eq!(shared > 0, may_share && host.lends(), "{shared}");
    }
    host.all_returned().await;
    let lent = host.pipeline.buffers().unreturned_bytes();
    assert_eq!(lent, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ranks_of_one_host_share_one_server_and_train_on_the_same_bytes() {
    let host = Host::start(64, true).await;
    let whole = read(host.tcp(), 6, Rank::SINGLE).await.0;
    let ranks = (0..4).map(|rank| tokio::spawn(read(host.unix(), 6, Rank { rank, world: 4 })));
    let ranks: Vec<_> = ranks.collect();
    let mut parts = Vec::new();
    for rank in ranks {
        parts.extend(rank.await.unwrap().0);
    }
    parts.sort();
    assert!(parts == whole);
    // Nothing was decoded for one of them alone.
    let totals = host.pipeline.totals();
    assert!(totals.decoded < totals.samples, "{totals:?}");
    host.all_returned().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_that_keeps_everything_gets_everything_and_hurts_nobody() {
    let host = Host::start(16, true).await;
    let client = Client::connect(host.unix()).unwrap();
    let end = End::Steps(6);
    let mut stream = client.stream(&job(), Cursor::default(), end, Rank::SINGLE).await.unwrap();
    let mut kept = Vec::new();
    while let Some(made) = timeout(HANG, stream.next()).await.expect("copies come") {
        kept.push(made.unwrap());
    }
    assert_eq!(kept.len(), 24);
    let shared = kept.iter().filter(|made| made.pixels.is_shared()).count();
    assert!(shared <= 8, "half of the buffers: {shared}");
    // Another trainer reads beside it, and what is kept does not change.
    let other = read(host.unix(), 6, Rank::SINGLE).await.0;
    assert!(kept.iter().map(content).collect::<Vec<_>>() == other);
    drop((kept, stream, client));
    host.all_returned().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pixels_outlive_their_stream_client_and_server() {
    let host = Host::start(16, true).await;
    let client = Client::connect(host.unix()).unwrap();
    let end = End::Steps(2);
    let mut stream = client.stream(&job(), Cursor::default(), end, Rank::SINGLE).await.unwrap();
    let first = stream.next().await.unwrap().unwrap();
    let before = content(&first);
    drop(stream);
    drop(client);
    assert_eq!(read(host.unix(), 6, Rank::SINGLE).await.0.len(), 24);
    assert!(content(&first) == before);
    if host.lends() {
        let buffers = host.pipeline.buffers();
        eventually("every other buffer returns", || buffers.bytes_in_use() == BYTES).await;
    }
    let Host { server, pipeline, .. } = host;
    server.stop().await;
    drop(pipeline);
    assert!(content(&first) == before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_shared_memory_and_small_microbatches_send_frames() {
    let host = Host::start(64, false).await;
    for options in [host.unix(), host.tcp()] {
        let (received, shared) = read(options, 2, Rank::SINGLE).await;
        assert_eq!((received.len(), shared), (8, 0));
    }
    let host = Host::start(64, true).await;
    let client = Client::connect(host.unix()).unwrap();
    let small = Job { set: vec!["batch = 4".into(), "image_size = 32".into()], ..job() };
    let small = Job { set: [small.set, vec!["microbatches = 2".into()]].concat(), ..small };
    let fetched = client.fetch(&small, Cursor::default(), 0).await.unwrap();
    assert!(!fetched.pixels.is_shared());
    let fetched = client.fetch(&job(), Cursor::default(), 0).await.unwrap();
    assert_eq!(fetched.pixels.is_shared(), host.lends());
    // Only the socket itself is in the folder that both see.
    std::fs::remove_file(format!("{}.memory", host.path.display())).ok();
    let (received, shared) = read(host.unix(), 2, Rank::SINGLE).await;
    assert_eq!((received.len(), shared), (8, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_test_over_a_unix_socket_finds_no_violation_and_the_checksum_of_tcp() {
    let host = Host::start(64, true).await;
    let load = async |client: Options, trainers| {
        let options = forebay_loadtest::Options::new(client, job(), 6);
        forebay_loadtest::run(forebay_loadtest::Options { trainers, ..options }).await.unwrap()
    };
    let off = Options { shared_memory: SharedMemory::Off, ..host.tcp() };
    let tcp = load(off, 1).await;
    for trainers in [1, 4] {
        let unix = load(host.unix(), trainers).await;
        assert!(unix.violations.is_empty(), "{:?}", unix.violations);
        assert_eq!(unix.checksum, tcp.checksum);
        assert_eq!(unix.images, tcp.images);
    }
    host.all_returned().await;
}

fn quickstart(command: &str) -> Command {
    let mut quickstart = Command::new(env!("CARGO_BIN_EXE_quickstart"));
    quickstart.arg(command).env("RUST_LOG", "warn");
    quickstart
}

fn train(endpoint: &str, folder: &Path, steps: &str) -> Command {
    let mut command = quickstart("forebay-trainer");
    command.args(["train", "--endpoint", endpoint, "--dataset", "train", "--recipe", "a3"]);
    command.args(["--model", "resnet20", "--image-size", "64", "--batch", "16"]);
    command.args(["--microbatches", "2", "--stop-after", steps, "--threads", "2"]);
    command.arg("--output").arg(folder).stdout(Stdio::null());
    command
}

/// A server process with a Unix socket, and the metrics port. It mixes on the CPU: what a GPU mixes is not shared.
fn process(folder: &Path) -> (ServerProcess, String) {
    let socket = format!("unix:{}", folder.join("forebay.sock").display());
    let dataset = format!("train={}", WORLD.train().display());
    let arguments = ["--listen", &socket, "--dataset", &dataset, "--cache-bytes", "0"];
    let rest = ["--metrics-listen", "127.0.0.1:0", "--threads", "2", "--device", "cpu"];
    let server =
        ServerProcess::start(&mut quickstart("forebay"), None, &[&arguments[..], &rest].concat());
    (server, socket)
}

fn metric(server: &ServerProcess, name: &str) -> f64 {
    let metrics = server.get("/metrics");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {metrics}")).trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_learns_the_same_over_a_unix_socket_and_over_tcp() {
    let folder = tempfile::tempdir().unwrap();
    let (server, socket) = process(folder.path());
    let log = |endpoint: &str, name: &str| {
        let output = folder.path().join(name);
        let ended = train(endpoint, &output, "3").output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        let log = std::fs::read_to_string(output.join("log.jsonl")).unwrap();
        let losses = log.lines().filter_map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line.get("loss").map(ToString::to_string)
        });
        losses.collect::<Vec<_>>()
    };
    let unix = log(&socket, "unix");
    assert!(unix.len() >= 3 && unix.iter().collect::<BTreeSet<_>>().len() > 1, "{unix:?}");
    assert_eq!(unix, log(&server.address(), "tcp"));
    assert!(metric(&server, "forebay_microbatches_leased_total") > 0.0);
    let file = std::fs::metadata(folder.path().join("forebay.sock")).unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leases_of_a_trainer_that_is_killed_return() {
    let folder = tempfile::tempdir().unwrap();
    let (server, socket) = process(folder.path());
    let mut trainer = train(&socket, &folder.path().join("run"), "1000000").spawn().unwrap();
    let leased = || metric(&server, "forebay_microbatches_leased_total") > 3.0;
    eventually("microbatches are leased", leased).await;
    trainer.kill().unwrap();
    trainer.wait().unwrap();
    eventually("every buffer returns", || metric(&server, "forebay_buffer_bytes") < 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_of_a_killed_server_is_replaced_and_a_live_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, socket) = process(folder.path());
    let dataset = format!("train={}", WORLD.train().display());
    let mut second = quickstart("forebay");
    let second =
        second.args(["serve", "--dataset", &dataset, "--listen", &socket]).output().unwrap();
    let error = String::from_utf8(second.stderr).unwrap();
    assert!(!second.status.success() && error.contains("another process listens there"), "{error}");
    server.signal("-KILL");
    server.wait();
    assert!(folder.path().join("forebay.sock").exists());
    let (again, _socket) = process(folder.path());
    let client = Client::connect(Options::new([socket])).unwrap();
    client.describe(&job()).await.unwrap();
    drop(again);
}
