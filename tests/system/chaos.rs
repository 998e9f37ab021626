//! Servers killed with -9 under load, again and again: every position arrives exactly once, with the bytes of
//! an undisturbed run.

use std::path::PathBuf;
use std::time::Duration;

use forebay_client::Job;
use forebay_loadtest::{Length, Options, Pace, Phase, Spawn};
use forebay_tests::HANG;
use forebay_tests::world::{SMALL, WORLD};
use tokio::time::timeout;

/// Microbatches of a step.
const MICROBATCHES: u64 = 8;

#[tokio::test(flavor = "multi_thread")]
async fn killed_servers_lose_repeat_and_change_nothing() {
    let dataset = format!("train={}", WORLD.train().display());
    let spawn = Spawn {
        hidden_variables: Vec::new(),
        servers: 3,
        forebay: PathBuf::from(env!("CARGO_BIN_EXE_quickstart")),
        before: vec!["forebay".into()],
        arguments: ["--threads=1", "--dataset", &dataset].map(Into::into).to_vec(),
        kill_every: Some(Duration::from_millis(700)),
        seed: 3,
    };
    let job = Job { set: SMALL.map(str::to_owned).to_vec(), seed: 5, ..Job::new("train", "a2") };
    let client = forebay_client::Options::new([""; 0]);
    let phases = [(8, 120), (2, 20), (8, 60)];
    let phase = |(trainers, steps)| Phase { trainers, length: Length::Steps(steps) };
    let options = Options {
        plan: phases.map(phase).to_vec(),
        spawn: Some(spawn),
        // A time per step, so that the run lasts for several kills on a fast machine.
        pace: Pace::Step("20ms~50%".parse().unwrap()),
        reconnect_every: Some(Duration::from_millis(1500)),
        ..Options::new(client, job, 0)
    };
    let run = timeout(HANG, forebay_loadtest::run(options));
    let report = run.await.expect("the run hangs").unwrap();
    assert_eq!(report.violations, [""; 0], "{report}");
    let steps: u64 = phases.iter().map(|(_, steps)| steps).sum();
    assert_eq!(report.microbatches, steps * MICROBATCHES, "{report}");
    assert_eq!(report.compared, Some(report.microbatches));
    assert!(report.kills.len() >= 3 && report.recoveries().is_some(), "{report}");
    assert!(report.servers.iter().all(|server| server.microbatches > 0), "{report}");
    assert!(report.server.unwrap().cpu_seconds > 0.0);
}
