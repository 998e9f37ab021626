//! Servers whose file system hangs. Its tests mount one, so that they exist only where that is possible:
//! Linux, FUSE, and the right to mount.

#![expect(clippy::unwrap_used, reason = "a test")]

mod fuse;

use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use forebay::dataset::{self, Dataset, MAX_STUCK_READS};
use forebay::sample_data::{self, SampleData};
use forebay_client::{Client, Cursor, End, Job, Options, Rank};
use forebay_tests::process::ServerProcess;
use forebay_tests::world::SMALL;
use forebay_tests::{HANG, eventually};
use fuse::Hanging;
use libtest_mimic::{Arguments, Trial};
use tempfile::TempDir;

const THREADS: usize = 2;

/// Two datasets, one of them on a file system that can hang, and a server of both.
struct Setup {
    server: ServerProcess,
    hanging: Hanging,
    folder: TempDir,
}

impl Setup {
    fn new(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (name, seed) in [("healthy", 7), ("source", 8)] {
            let spec = SampleData { classes: 2, per_class: 8, val_per_class: 0, seed };
            sample_data::write(&at(name), &spec, |_| {}).unwrap();
        }
        std::fs::create_dir(at("mounted")).unwrap();
        let hanging = Hanging::mount(&at("source"), &at("mounted")).unwrap();
        let train = |name: &str| at(name).join("train");
        for name in ["healthy", "mounted"] {
            dataset::build(&train(name), Some(&at("indexes")), 2, &|_| {}).unwrap();
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_quickstart"));
        let datasets = ["healthy", "mounted"]
            .map(|name| format!("--dataset={name}={}", train(name).display()));
        let (threads, indexes) = (THREADS.to_string(), at("indexes").display().to_string());
        let usual =
            ["--metrics-listen", "127.0.0.1:0", "--cache-bytes", "0", "--threads", &threads];
        let data = ["--index-dir", &*indexes, &*datasets[0], &*datasets[1]];
        let arguments = [&usual[..], &data, arguments].concat();
        let server = ServerProcess::start(command.arg("forebay"), Some(&at("log")), &arguments);
        Self { server, hanging, folder }
    }

    fn train(&self, name: &str) -> PathBuf {
        self.folder.path().join(name).join("train")
    }

    fn client(&self, give_up_after: Duration) -> Client {
        let mut options = Options::new([self.server.address()]);
        options.retry.give_up_after = give_up_after;
        Client::connect(options).unwrap()
    }

    /// The value of a metric, 0 if there is none.
    fn metric(&self, name: &str) -> f64 {
        let answer = self.server.get("/metrics");
        let value = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        self.hanging.release();
    }
}

fn job(dataset: &str) -> Job {
    let set = SMALL.map(str::to_owned).to_vec();
    Job { set, seed: 5, ..Job::new(dataset, "a3") }
}

/// The pixels of a stream of some steps.
async fn stream(client: &Client, dataset: &str, steps: u64) -> Vec<Vec<u8>> {
    let (job, from) = (job(dataset), Cursor::default());
    let mut stream = client.stream(&job, from, End::Steps(steps), Rank::SINGLE).await.unwrap();
    let mut all = Vec::new();
    while let Some(made) = stream.next().await {
        all.push(made.unwrap().pixels.to_vec());
    }
    all
}

async fn a_file_system_that_hangs_stops_its_dataset_and_no_other() {
    let setup = Setup::new(&["--read-timeout", "500ms"]);
    let client = setup.client(HANG);
    let expected = stream(&client, "mounted", 2).await;
    let healthy = stream(&client, "healthy", 2).await;

    setup.hanging.freeze();
    let others = async {
        eventually("reads are stuck", || setup.metric("forebay_stuck_reads") > 0.0).await;
        let faults = "forebay_data_faults_total{dataset=\"mounted\",fault=\"io\"}";
        eventually("streams end with it", || setup.metric(faults) > 1.0).await;
        for _ in 0..5 {
            assert!(stream(&setup.client(HANG), "healthy", 2).await == healthy);
        }
        assert!(setup.metric("forebay_stuck_reads") <= (MAX_STUCK_READS + THREADS) as f64);
        setup.hanging.release();
    };
    let (waited, ()) = tokio::join!(stream(&client, "mounted", 2), others);
    assert!(waited == expected);
    eventually("all reads ended", || setup.metric("forebay_stuck_reads") < 1.0).await;
}

async fn a_file_that_hangs_costs_the_microbatches_that_show_it() {
    let setup = Setup::new(&["--read-timeout", "500ms"]);
    let indexes = setup.folder.path().join("indexes");
    let dataset = Dataset::open(&setup.train("mounted"), Some(&indexes)).unwrap();
    let name = dataset.name(5);
    let client = setup.client(Duration::ZERO);
    let job = job("mounted");
    let fetch = |index| client.fetch(&job, Cursor::default(), index);
    let mut expected = Vec::new();
    for index in 0..8 {
        expected.push(fetch(index).await.unwrap());
    }
    setup.hanging.hold(name);
    let (mut refused, mut made) = (0, 0);
    for (index, expected) in (0..).zip(&expected).cycle().take(24) {
        match fetch(index).await {
            Ok(found) => {
                assert!(found.pixels[..] == expected.pixels[..]);
                assert!(!found.records.contains(&5));
                made += 1;
            }
            Err(error) => {
                assert!(expected.records.contains(&5), "{error}");
                let error = error.to_string();
                assert!(error.contains("Unavailable") && error.contains(name), "{error}");
                refused += 1;
            }
        }
    }
    assert_eq!((refused, made), (3, 21));
    // Once it is known to hang, it is not read again.
    assert_eq!(setup.hanging.held(), 1);
    assert!((setup.metric("forebay_stuck_reads") - 1.0).abs() < 0.1);
}

async fn a_server_whose_reads_hang_ends_when_it_is_told_to() {
    let mut setup = Setup::new(&["--read-timeout", "1h", "--drain-grace", "1s"]);
    let client = setup.client(HANG);
    stream(&client, "mounted", 1).await;
    setup.hanging.freeze();
    let hanging = stream(&client, "mounted", 1);
    let ended = async {
        eventually("a microbatch is being made", || {
            setup.metric("forebay_microbatches_pending") > 0.0
        })
        .await;
        setup.server.signal("-TERM");
        let mut status: Option<ExitStatus> = None;
        eventually("the server ends", || {
            status = setup.server.try_wait();
            status.is_some()
        })
        .await;
        status.unwrap()
    };
    tokio::select! {
        status = ended => assert!(status.success(), "{status}"),
        _ = hanging => panic!("the stream ended"),
    }
}

/// A trial for each async function, with its name.
macro_rules! trials {
    ($($name:ident),* $(,)?) => {
        vec![$(Trial::test(stringify!($name), || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on($name());
            Ok(())
        })),*]
    };
}

fn main() {
    let trials = trials![
        a_file_system_that_hangs_stops_its_dataset_and_no_other,
        a_file_that_hangs_costs_the_microbatches_that_show_it,
        a_server_whose_reads_hang_ends_when_it_is_told_to,
    ];
    // Where FUSE cannot be mounted they are shown as ignored, instead of not at all.
    let is_ignored = !fuse::is_possible();
    let trials = trials.into_iter().map(|trial| trial.with_ignored_flag(is_ignored)).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
