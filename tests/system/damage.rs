//! Datasets that change, shrink or disappear under a running server, and a full disk.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use forebay::dataset::{self, Dataset, index_path};
use forebay_client::{Client, Cursor, Job, Options};
use forebay_server::Limits;
use forebay_tests::world::{SMALL, Server, WORLD, pipeline};

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
