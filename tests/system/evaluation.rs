//! What the servers of a training hold while the trainer evaluates its model.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use forebay_tests::eventually;
use forebay_tests::process::ServerProcess;
use forebay_tests::world::WORLD;
use forebay_types::command::OwnedChild;

fn serve(name: &str) -> ServerProcess {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quickstart"));
    let dataset = format!("{name}={}", WORLD.train().display());
    let arguments = ["--dataset", &dataset, "--metrics-listen", "127.0.0.1:0"];
    ServerProcess::start(command.arg("forebay"), None, &arguments)
}

/// A counter or gauge of whole numbers, without labels.
fn metric(server: &ServerProcess, name: &str) -> usize {
    let metrics = server.get("/metrics");
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.expect("the server has it").trim_end_matches(".0").parse().unwrap()
}

fn evaluations(log: &Path) -> usize {
    std::fs::read_to_string(log).unwrap_or_default().matches("\"evaluation\"").count()
}

#[tokio::test]
async fn an_evaluation_holds_no_stream_of_the_training_however_long_it_takes() {
    let folder = tempfile::tempdir().unwrap();
    let (train, val) = (serve("train"), serve("val"));
    let mut trainer = Command::new(env!("CARGO_BIN_EXE_quickstart"));
    let endpoints = format!("{},{}", train.address(), val.address());
    trainer.current_dir(folder.path()).stdout(Stdio::null()).args(["forebay-trainer", "train"]);
    trainer.args(["--endpoint", &endpoints, "--dataset", "train", "--eval-dataset", "val"]);
    trainer.args(["--recipe", "a3", "--model", "resnet20", "--batch", "16", "--microbatches", "2"]);
    trainer.args(["--image-size", "32", "--eval-image-size", "32", "--epochs", "100000"]);
    let mut trainer = OwnedChild::spawn(&mut trainer).unwrap();
    let log = folder.path().join("run/log.jsonl");
    eventually("it evaluates", || evaluations(&log) > 0).await;
    // From now on an evaluation does not end.
    val.signal("-STOP");
    let mut idle = 0;
    eventually("the server has no stream for a second", || {
        idle = if metric(&train, "forebay_streams") == 0 { idle + 1 } else { 0 };
        std::thread::sleep(Duration::from_millis(50));
        idle == 20
    })
    .await;
    // Nothing was computed ahead that the evaluation then made useless.
    let steps = std::fs::read_to_string(&log).unwrap().matches("\"lr\"").count();
    assert_eq!(metric(&train, "forebay_microbatches_computed_total"), 2 * steps);
    let before = evaluations(&log);
    val.signal("-CONT");
    eventually("it goes on", || evaluations(&log) > before + 1).await;
    assert_eq!(metric(&train, "forebay_streams_stalled_total"), 0);
    let id = trainer.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert_eq!(trainer.wait().unwrap().code(), Some(85));
    let best = std::fs::read(folder.path().join("run/model_best.safetensors")).unwrap();
    assert!(best.windows(18).any(|part| part == b"forebay.evaluation"));
    let summary = std::fs::read_to_string(folder.path().join("run/summary.csv")).unwrap();
    let row = summary.lines().nth(1).unwrap();
    assert!(row.starts_with("0,") && !row.contains(",,"), "{summary}");
}
