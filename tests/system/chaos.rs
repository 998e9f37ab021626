//! Servers killed with -9 under load, again and again: every position exactly once, and the bytes of an
//! undisturbed run.

use std::path::PathBuf;
use std::time::Duration;

use forebay_client::Job;
use forebay_loadtest::{Length, Options, Phase, Spawn};

use forebay_tests::world::{SMALL, WORLD};

#[tokio::test(flavor = "multi_thread")]
async fn servers_killed_under_eight_trainers_lose_repeat_and_change_nothing() {
    let dataset = format!("train={}", WORLD.train().display());
    let spawn = Spawn {
        servers: 3,
        forebay: PathBuf::from(env!("CARGO_BIN_EXE_quickstart")),
        before: vec!["forebay".into()],
        arguments: ["--threads=1", "--dataset", &dataset].map(Into::into).to_vec(),
        kill_every: Some(Duration::from_millis(700)),
        seed: 3,
    };
    let job = Job { set: SMALL.map(str::to_owned).to_vec(), seed: 5, ..Job::new("train", "a2") };
    let client = forebay_client::Options::new([""; 0]);
    let eight = |seconds| Phase { trainers: 8, length: Length::Time(Duration::from_secs(seconds)) };
    let two = Phase { trainers: 2, length: Length::Time(Duration::from_secs(2)) };
    let options = Options {
        plan: vec![eight(4), two, eight(2)],
        spawn: Some(spawn),
        // So that trainers are still reading when the servers are killed.
        pace: forebay_loadtest::Pace::Step("20ms~50%".parse().unwrap()),
        reconnect_every: Some(Duration::from_millis(1500)),
        ..Options::new(client, job, 0)
    };
    let report = forebay_loadtest::run(options).await.unwrap();
    assert_eq!(report.violations, [""; 0], "{report}");
    assert!(report.kills.len() >= 5 && report.recoveries().is_some(), "{report}");
    assert!(report.microbatches > 500, "{report}");
    assert_eq!(report.compared, Some(report.microbatches));
    assert!(report.server.unwrap().cpu_seconds > 0.0);
    // Each server was seen at work.
    for server in 0..3 {
        let images = |interval: &forebay_loadtest::Interval| {
            interval.servers[server].map_or(0.0, |server| server.images)
        };
        assert!(report.intervals.iter().map(images).sum::<f64>() > 0.0, "server {server}");
    }
}
