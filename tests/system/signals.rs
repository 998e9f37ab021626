//! SIGINT and SIGTERM end every command, also where it is the first process of a container, and with it the
//! processes that it started. What is said while no server answers.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};

use forebay_proto::v1;
use forebay_tests::eventually;
use forebay_tests::world::{SMALL, WORLD};
use prost::Message as _;

use crate::operation::start;
use crate::raw::{DATA, Raw};

fn quickstart() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quickstart"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn signal(child: &Child, signal: &str) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
}

async fn ended(child: &mut Child) -> ExitStatus {
    let mut status = None;
    eventually("the process ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    })
    .await;
    status.unwrap()
}

#[tokio::test]
async fn a_trainer_without_a_server_says_so_and_ends_at_a_signal() {
    for (name, code) in [("-TERM", 143), ("-INT", 130)] {
        // Nothing listens there.
        let arguments = ["train", "--endpoint", "127.0.0.1:1", "--dataset", "train"];
        let folder = tempfile::tempdir().unwrap();
        let mut trainer = quickstart();
        trainer.arg("forebay-trainer").args(arguments).current_dir(folder.path());
        let mut trainer = trainer.spawn().unwrap();
        let mut lines = BufReader::new(trainer.stderr.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        for part in ["WARN", "retrying", "127.0.0.1:1", "Connection refused"] {
            assert!(first.contains(part), "{first}");
        }
        signal(&trainer, name);
        assert_eq!(ended(&mut trainer).await.code(), Some(code));
        let last = lines.map_while(Result::ok).last().unwrap();
        assert!(last.contains("stopped by SIG") && last.contains("--resume"), "{last}");
    }
}

#[tokio::test]
async fn a_command_of_forebay_ends_at_a_signal() {
    let train = WORLD.train();
    let mut bench = quickstart();
    bench.args(["forebay", "bench", "--images", "1000000000", "--batch", "16"]);
    let mut bench = bench.arg("--dataset").arg(train).spawn().unwrap();
    // Its workers have names, and its handler of signals is installed before they start.
    let tasks = format!("/proc/{}/task", bench.id());
    eventually("workers start", || std::fs::read_dir(&tasks).unwrap().count() > 3).await;
    signal(&bench, "-INT");
    assert_eq!(ended(&mut bench).await.code(), Some(130));
}

/// Whether a process handles a signal.
fn handles(id: u32, signal: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.unwrap_or(0) >> (signal - 1) & 1 == 1
}

#[tokio::test]
async fn a_server_that_has_only_begun_to_start_survives_the_signal_to_reload() {
    let named = format!("train={}", WORLD.train().display());
    let mut server = quickstart();
    server.args(["forebay", "serve", "--listen", "127.0.0.1:0", "--dataset", &named]);
    let mut server = server.spawn().unwrap();
    // SIGTERM is handled before settings are read and datasets are opened.
    while !handles(server.id(), 15) && server.try_wait().unwrap().is_none() {
        std::hint::spin_loop();
    }
    signal(&server, "-HUP");
    let first = BufReader::new(server.stdout.take().unwrap()).lines().next();
    assert!(first.expect("it starts").unwrap().starts_with("listening on "));
    signal(&server, "-TERM");
    assert!(ended(&mut server).await.success());
}

#[tokio::test]
async fn a_second_signal_ends_a_server_that_drains() {
    let folder = tempfile::tempdir().unwrap();
    // It drains for five minutes, as long as a reader takes nothing.
    let mut server = start(folder.path(), &[]);
    let set = SMALL.map(str::to_owned).to_vec();
    let recipe = v1::Recipe { name: "a2".into(), set, ..v1::Recipe::default() };
    let job = v1::Job { recipe: Some(recipe), ..v1::Job::default() };
    let request = v1::StreamRequest { job: Some(job), steps: 1000, ..v1::StreamRequest::default() };
    let mut reader = Raw::open(&server.address()).await.unwrap();
    reader.call("Stream", &request.encode_to_vec()).await.unwrap();
    // As much as a reader gets that grants nothing.
    let mut received = 0;
    while received < 65_535 {
        let frame = reader.next().await.unwrap().expect("the stream is served");
        received += if frame.kind == DATA { frame.payload.len() } else { 0 };
    }
    server.signal("-TERM");
    eventually("it drains", || server.log().contains("SIGTERM: draining")).await;
    assert!(server.try_wait().is_none(), "{}", server.log());
    server.signal("-TERM");
    assert_eq!(server.wait().code(), Some(143));
}

/// The running children of a process.
fn children(parent: u32) -> Vec<u32> {
    let of = |id: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // State and parent follow the name.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let is_running = fields.next()? != "Z";
        (is_running && fields.next()?.parse() == Ok(parent)).then_some(id)
    };
    let processes = std::fs::read_dir("/proc").unwrap();
    let ids = processes.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    ids.filter_map(of).collect()
}

fn is_running(id: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn a_signal_ends_the_quickstart_and_its_processes() {
    let folder = tempfile::tempdir().unwrap();
    let mut quickstart = quickstart();
    quickstart.current_dir(folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut quickstart = quickstart.spawn().unwrap();
    let mut started = Vec::new();
    eventually("it starts a process", || {
        started = children(quickstart.id());
        !started.is_empty()
    })
    .await;
    signal(&quickstart, "-TERM");
    assert_eq!(ended(&mut quickstart).await.code(), Some(143));
    eventually("its process ends", || !started.iter().any(|id| is_running(*id))).await;
}
