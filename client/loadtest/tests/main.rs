//! The load test against servers that run in the test: it accepts what is right, and tells what is
//! wrong.

#![expect(clippy::unwrap_used, reason = "a failure to set up fails the test")]

#[expect(dead_code, reason = "other tests use the rest")]
#[path = "../../tests/fake/mod.rs"]
mod fake;

use std::process::{Command, Output};
use std::time::Duration;

use fake::{Data, Fake, Fault};
use forebay_client::{Cursor, Job};
use forebay_loadtest::{Options, Report, run};
use tonic::Status;

fn options(servers: &[&Fake], steps: u64) -> Options {
    let mut client = forebay_client::Options::new(servers.iter().map(|server| server.url()));
    client.retry.first = Duration::from_millis(10);
    client.retry.give_up = Duration::from_secs(20);
    Options::new(client, Job { seed: 5, ..Job::new("tiny", "a2") }, steps)
}

async fn clean(options: Options) -> Report {
    let report = run(options).await.unwrap();
    assert_eq!(report.violations, [""; 0]);
    report
}

#[tokio::test]
async fn every_world_receives_the_same_exactly_once() {
    let server = Fake::start(Data::default(), None);
    let mut checksums = Vec::new();
    for trainers in [1, 2, 4] {
        let report = clean(Options { trainers, ..options(&[&server], 12) }).await;
        assert_eq!((report.microbatches, report.images), (48, 48 * 6));
        assert_eq!(report.bytes, 48 * 6 * 8 * 8 * 3);
        assert!((report.server_ms_per_image.decode - 0.25).abs() < 1e-9);
        checksums.push(report.checksum);
    }
    checksums.dedup();
    assert_eq!(checksums.len(), 1);
}

#[tokio::test]
async fn repeats_and_copies_and_epochs_are_accepted() {
    let server = Fake::start(Data { repeats: 3, ..Data::default() }, None);
    let from = Cursor { epoch: 1, step: 3 };
    let report = clean(Options { jobs: 3, trainers: 2, from, ..options(&[&server], 9) }).await;
    assert_eq!(report.microbatches, 3 * 36);
}

#[tokio::test]
async fn an_evaluation_is_accepted_without_the_microbatches_it_has_no_samples_for() {
    let server = Fake::start(Data::evaluation(), None);
    for trainers in [1, 2, 4] {
        let report = clean(Options { trainers, ..options(&[&server], 5) }).await;
        assert_eq!((report.microbatches, report.images), (3 * 4 + 2 * 3, 3 * 24 + 2 * 3));
    }
}

#[tokio::test]
async fn failures_on_the_way_do_not_change_the_checksum() {
    let data = Data::default();
    let undisturbed = Fake::start(data.clone(), None);
    let disturbed = Fake::start(data.clone(), Some((7, Fault::Corrupt, false)));
    let stopping =
        Fake::start(data, Some((9, Fault::Status(Status::unavailable("draining")), false)));
    let expected = clean(options(&[&undisturbed], 12)).await.checksum;
    let survived = Options { trainers: 2, ..options(&[&disturbed, &stopping], 12) };
    assert_eq!(clean(survived).await.checksum, expected);
}

#[tokio::test]
async fn a_record_in_anothers_place_is_told() {
    let server = Fake::start(Data::default(), Some((3, Fault::Record, false)));
    let report = run(options(&[&server], 5)).await.unwrap();
    let [violation] = report.violations.try_into().unwrap();
    assert!(
        violation.starts_with("epoch 0: 1 records came another number of times than 1, such"),
        "{violation}"
    );
}

#[tokio::test]
async fn copies_that_differ_are_told() {
    let server = Fake::start(Data::default(), Some((25, Fault::Record, false)));
    let report = run(Options { jobs: 2, ..options(&[&server], 5) }).await.unwrap();
    let differ =
        |violation: &String| violation.starts_with("jobs 0 and 1 got different bytes for ");
    assert!(report.violations.iter().any(differ), "{:?}", report.violations);
}

#[tokio::test]
async fn what_never_came_is_told() {
    let server = Fake::start(Data::default(), Some((10, Fault::Corrupt, true)));
    let report = run(options(&[&server], 3)).await.unwrap();
    assert_eq!(report.microbatches, 10);
    assert!(report.violations[0].contains("payload corrupted"), "{:?}", report.violations);
    assert_eq!(report.violations[1], "job 0: epoch 0, step 2, microbatch 2 never came");
    assert_eq!(report.violations.len(), 3);
}

fn command(server: &Fake, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_forebay-loadtest"))
        .args(["--endpoint", &server.url(), "--dataset", "tiny"])
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn the_command_prints_json_and_exits_by_what_it_found() {
    let server = Fake::start(Data::default(), None);
    let output = command(&server, &["--trainers", "4", "--steps", "5", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["images"], 120);
    assert!(report["wait_ms"]["p99"].is_number() && report["cpu_ms_per_image"].is_number());

    let table = String::from_utf8(command(&server, &["--steps", "2"]).stdout).unwrap();
    assert!(table.contains("images                  48 in 8 microbatches\n"), "{table}");
    assert!(table.ends_with("violations              none\n"), "{table}");

    let broken = Fake::start(Data::default(), Some((3, Fault::Order, true)));
    let output = command(&broken, &["--steps", "2"]);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("violation               job 0, rank 0: http://127.0.0.1:"), "{told}");

    let output = command(&server, &["--trainers", "3"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(told.contains("a world of 3 does not divide the 4 microbatches"), "{told}");
}
