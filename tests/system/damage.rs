//! Datasets that change, shrink or disappear under a running server, and a full disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use forebay::dataset::{self, Dataset, index_path};
use forebay::sample_data::{self, SampleData};
use forebay_client::{Client, Cursor, End, Job, Options, Rank};
use forebay_server::Limits;
use forebay_tests::process::ServerProcess;
use forebay_tests::world::{SMALL, Server, WORLD, pipeline};
use forebay_tests::{HANG, eventually};

use crate::operation::start;

fn job() -> Job {
    let set = SMALL.iter().map(|change| (*change).to_owned()).collect();
    Job { set, seed: 5, ..Job::new("train", "a3") }
}

/// Writes the images of [`WORLD`] as a tar.
fn tar(path: &Path) {
    let folder = tempfile::tempdir().unwrap();
    for id in 0..WORLD.dataset.len() {
        let place = |suffix| folder.path().join(format!("{id:04}.{suffix}"));
        fs::copy(WORLD.train().join(WORLD.dataset.name(id)), place("jpg")).unwrap();
        fs::write(place("cls"), WORLD.dataset.record(id).label.to_string()).unwrap();
    }
    let mut command = Command::new("tar");
    command.args(["--format=ustar", "--sort=name", "-cf"]).arg(path);
    assert!(command.arg("-C").arg(folder.path()).arg(".").status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn truncating_a_shard_under_a_running_server_is_data_loss_and_not_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let shard = folder.path().join("train.tar");
    tar(&shard);
    dataset::build(&shard, None, 2, &|_| {}).unwrap();
    let opened = Arc::new(Dataset::open(&shard, None).unwrap());
    let server = Server::of(&opened, Arc::new(pipeline(2)), Limits::default()).await;
    let client = Client::connect(Options::new([server.endpoint()])).unwrap();
    let step = |step| (0..8).map(move |index| (Cursor { epoch: 0, step }, index));
    let names: Vec<(Cursor, u32)> = (0..3).flat_map(step).collect();
    let mut before = Vec::new();
    for &(step, index) in &names {
        let made = client.fetch(&job(), step, index).await.unwrap();
        before.push((made.records.clone(), made.pixels.to_vec()));
    }

    let whole = fs::read(&shard).unwrap();
    let cut = opened.record(40).offset + 100;
    fs::OpenOptions::new().write(true).open(&shard).unwrap().set_len(cut).unwrap();
    let (mut lost, mut kept) = (0, 0);
    for (&(step, index), (records, pixels)) in names.iter().zip(&before) {
        let made = client.fetch(&job(), step, index).await;
        if records.iter().any(|record| *record >= 40) {
            let error = format!("{:#}", anyhow::Error::from(made.unwrap_err()));
            for part in ["DataLoss", "train.tar", "bytes and had", "run \"forebay index\" again"] {
                assert!(error.contains(part), "{error}");
            }
            lost += 1;
        } else {
            assert!(made.unwrap().pixels[..] == pixels[..]);
            kept += 1;
        }
    }
    assert!(lost >= 8 && kept >= 4, "{lost} lost, {kept} kept");

    fs::write(&shard, whole).unwrap();
    for (&(step, index), (_, pixels)) in names.iter().zip(&before) {
        assert!(client.fetch(&job(), step, index).await.unwrap().pixels[..] == pixels[..]);
    }
    server.stop().await;
}

/// An indexed dataset of sixteen records of its own, which a test may damage.
fn small_dataset(folder: &Path) -> PathBuf {
    let spec = SampleData { classes: 2, per_class: 8, val_per_class: 0, seed: 7 };
    sample_data::write(&folder.join("data"), &spec, |_| {}).unwrap();
    let train = folder.join("data/train");
    dataset::build(&train, None, 2, &|_| {}).unwrap();
    train
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_entry_points_are_counted_and_warned_of_once() {
    let folder = tempfile::tempdir().unwrap();
    let train = small_dataset(folder.path());
    // The last byte of the file belongs to the entry points of the last record.
    let file = index_path(&train, None);
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, bytes).unwrap();

    let named = format!("damaged={}", train.display());
    let server = start(folder.path(), &["--dataset", &named]);
    let client = Client::connect(Options::new([server.address()])).unwrap();
    let counted = |count: u32| {
        let line = format!("forebay_damaged_entry_points_total{{dataset=\"damaged\"}} {count}");
        server.get("/metrics").lines().any(|found| found == line)
    };
    assert!(counted(0));
    let job = Job { dataset: "damaged".into(), ..job() };
    for epoch in 1..=3 {
        for index in 0..8 {
            client.fetch(&job, Cursor { epoch, step: 0 }, index).await.unwrap();
        }
        // An epoch has each of the sixteen records once.
        assert!(counted(epoch.try_into().unwrap()), "{}", server.get("/metrics"));
    }
    let log = server.log();
    assert_eq!(log.matches("entry points in the index are damaged").count(), 1, "{log}");
    assert!(log.contains("\"dataset\":\"damaged\""), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_waits_while_records_cannot_be_read_and_continues_when_they_can() {
    let folder = tempfile::tempdir().unwrap();
    let (train, aside) = (small_dataset(folder.path()), folder.path().join("aside"));
    let named = format!("away={}", train.display());
    let server = start(folder.path(), &["--dataset", &named, "--cache-bytes", "0"]);
    let mut options = Options::new([server.address()]);
    options.retry.give_up_after = HANG;
    let client = Client::connect(options).unwrap();
    let job = Job { dataset: "away".into(), ..job() };
    let all = async |on_first: &dyn Fn()| {
        let stream = client.stream(&job, Cursor::default(), End::Steps(4), Rank::SINGLE);
        let (mut stream, mut all) = (stream.await.unwrap(), Vec::new());
        while let Some(made) = stream.next().await {
            if all.is_empty() {
                on_first();
            }
            all.push(made.unwrap().pixels.to_vec());
        }
        all
    };
    let expected = all(&|| {}).await;
    assert_eq!(expected.len(), 32);

    let faults = || {
        let metrics = server.get("/metrics");
        let of = "forebay_data_faults_total{dataset=\"away\",fault=\"io\"} ";
        let count = metrics.lines().find_map(|line| line.strip_prefix(of));
        count.map_or(0, |count| count.parse::<u64>().unwrap())
    };
    let restore = async {
        eventually("several streams have ended", || faults() >= 3).await;
        fs::rename(&aside, &train).unwrap();
    };
    let take_away = || fs::rename(&train, &aside).unwrap();
    let (received, ()) = tokio::join!(all(&take_away), restore);
    assert!(received == expected);
    let metrics = server.get("/metrics");
    assert!(metrics.contains("code=\"Unavailable\"") && !metrics.contains("DataLoss"), "{metrics}");
    let log = server.log();
    let mut warnings = log.lines().filter(|line| line.contains("\"fault\":\"io\""));
    let warning = warnings.next().unwrap();
    for part in ["WARN", "stream ended early", "cannot open", "train/", "No such file"] {
        assert!(warning.contains(part), "{warning}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_in_place_of_a_served_record_stalls_nobody_and_the_server_ends_when_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let train = small_dataset(folder.path());
    let record = train.join(Dataset::open(&train, None).unwrap().name(5));
    let named = format!("train={}", train.display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_quickstart"));
    let arguments = ["--dataset", &named, "--cache-bytes", "0", "--drain-grace", "2s"];
    let mut server = ServerProcess::start(command.arg("forebay"), None, &arguments);
    let connect = |give_up_after| {
        let mut options = Options::new([server.address()]);
        options.retry.give_up_after = give_up_after;
        Client::connect(options).unwrap()
    };
    let (client, job, from) = (connect(Duration::ZERO), job(), Cursor::default());
    let mut expected = Vec::new();
    for index in 0..8 {
        expected.push(client.fetch(&job, from, index).await.unwrap());
    }
    fs::remove_file(&record).unwrap();
    assert!(Command::new("mkfifo").arg(&record).status().unwrap().success());
    let (mut refused, mut made) = (0, 0);
    for (index, expected) in (0..).zip(&expected).cycle().take(24) {
        match client.fetch(&job, from, index).await {
            Ok(found) => {
                assert!(found.pixels[..] == expected.pixels[..]);
                assert!(!expected.records.contains(&5));
                made += 1;
            }
            Err(error) => {
                let error = error.to_string();
                assert!(expected.records.contains(&5), "{error}");
                assert!(error.contains("Unavailable") && error.contains("named pipe"), "{error}");
                refused += 1;
            }
        }
    }
    assert_eq!((refused, made), (3, 21));
    // A stream waits for the record, and does not keep the server from its end.
    let mut stream = connect(HANG).stream(&job, from, End::Steps(1), Rank::SINGLE).await.unwrap();
    let waits = tokio::spawn(async move { while stream.next().await.unwrap().is_ok() {} });
    server.signal("-TERM");
    assert!(server.wait().success());
    waits.abort();
}

#[test]
fn a_full_disk_fails_the_index_command_and_keeps_the_previous_index() {
    let folder = tempfile::tempdir().unwrap();
    let (train, indexes) = (WORLD.train(), folder.path().join("indexes"));
    let index = |before: &str| {
        let command = format!("{before} exec \"$0\" \"$@\"");
        let mut shell = Command::new("sh");
        shell.args(["-c", &command, env!("CARGO_BIN_EXE_quickstart"), "forebay", "index"]);
        shell.arg("--index-dir").arg(&indexes).arg(&train).output().unwrap()
    };
    assert!(index("").status.success());
    let file = index_path(&train, Some(&indexes));
    let previous = fs::read(&file).unwrap();
    // A limit of 1 KiB per file, with its signal ignored, makes writes fail as a full disk does.
    let full = index("trap '' XFSZ; ulimit -f 1;");
    let error = String::from_utf8(full.stderr).unwrap();
    assert!(!full.status.success());
    assert!(error.contains("cannot write") && error.contains("indexes"), "{error}");
    assert!(error.contains("File too large"), "{error}");
    assert_eq!(fs::read(&file).unwrap(), previous);
    assert_eq!(fs::read_dir(&indexes).unwrap().count(), 1, "no temporary file is left");
}
