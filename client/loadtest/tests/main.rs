//! The load test against servers that run in the test: it accepts correct responses, and reports every
//! violation.

#![expect(clippy::unwrap_used, reason = "a failure to set up fails the test")]

#[expect(dead_code, reason = "other tests use the rest")]
#[path = "../../tests/fake/mod.rs"]
mod fake;

#[path = "../../../tests/src/extremes.rs"]
mod extremes;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use fake::{Data, Fake, Fault};
use forebay_client::{Cursor, Job, Prefetch, Timeouts};
use forebay_loadtest::{Length, Options, Pace, Phase, Report, run};
use tonic::Status;

/// Bound that only a hang exceeds.
const HANG: Duration = Duration::from_mins(5);

fn options(servers: &[&Fake], steps: u64) -> Options {
    let mut client = forebay_client::Options::new(servers.iter().map(|server| server.url()));
    client.retry.initial_backoff = Duration::from_millis(10);
    client.retry.give_up_after = HANG;
    // Only a failure makes a client try again, however busy the machine is.
    client.timeouts = Timeouts { connect: HANG, keepalive: HANG, idle: HANG, microbatch: HANG };
    Options::new(client, Job { seed: 5, ..Job::new("tiny", "a2") }, steps)
}

async fn clean(options: Options) -> Report {
    let report = run(options).await.unwrap();
    assert_eq!(report.violations, [""; 0]);
    report
}

#[tokio::test]
async fn every_world_receives_the_same_data_exactly_once() {
    let server = Fake::start(Data::default(), None);
    let mut checksums = Vec::new();
    for trainers in [1, 2, 4] {
        let report = clean(Options { trainers, ..options(&[&server], 12) }).await;
        assert_eq!((report.microbatches, report.images), (48, 48 * 6));
        assert_eq!(report.bytes, 48 * 6 * 8 * 8 * 3);
        let (stage, ms) = report.server_ms_per_image.0[3];
        assert!(stage == "decode" && (ms - 0.25).abs() < 1e-9, "{stage}: {ms}");
        checksums.push(report.checksum);
    }
    checksums.dedup();
    assert_eq!(checksums.len(), 1);
}

#[tokio::test]
async fn repeats_copies_and_epochs_are_accepted() {
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
async fn a_wrong_record_is_reported() {
    let server = Fake::start(Data::default(), Some((3, Fault::Record, false)));
    let report = run(options(&[&server], 5)).await.unwrap();
    let [violation] = report.violations.try_into().unwrap();
    assert!(
        violation.starts_with("epoch 0: 1 records were not received 1 times, such"),
        "{violation}"
    );
}

#[tokio::test]
async fn copies_that_differ_are_reported() {
    let server = Fake::start(Data::default(), Some((25, Fault::Record, false)));
    let report = run(Options { jobs: 2, ..options(&[&server], 5) }).await.unwrap();
    let differ =
        |violation: &String| violation.starts_with("jobs 0 and 1 received different bytes for ");
    assert!(report.violations.iter().any(differ), "{:?}", report.violations);
}

#[tokio::test]
async fn missing_microbatches_are_reported() {
    let server = Fake::start(Data::default(), Some((10, Fault::Corrupt, true)));
    let report = run(options(&[&server], 3)).await.unwrap();
    assert_eq!(report.microbatches, 10);
    assert!(report.violations[0].contains("corrupt payload"), "{:?}", report.violations);
    assert_eq!(report.violations[1], "job 0: epoch 0, step 2, microbatch 2 was not received");
    assert_eq!((report.violations.len(), report.violation_count), (3, 3));
}

#[tokio::test]
async fn phases_change_at_a_step_and_together_receive_everything_once() {
    let server = Fake::start(Data::default(), None);
    let time = |trainers| Phase { trainers, length: Length::Time(Duration::from_millis(150)) };
    let steps = |trainers, steps| Phase { trainers, length: Length::Steps(steps) };
    let plan = vec![time(1), steps(2, 7), time(4)];
    let report = clean(Options { plan, jobs: 2, ..options(&[&server], 0) }).await;
    assert_eq!(report.phases.iter().map(|phase| phase.trainers).collect::<Vec<_>>(), [1, 2, 4]);
    // A phase has at least one step.
    assert!(report.steps >= 9 && report.phases[1].images == 2 * 7 * 24, "{report}");
}

#[tokio::test]
async fn reconnect_storms_lose_and_repeat_nothing() {
    let server = Fake::start(Data::default(), None);
    let plan = vec![Phase { trainers: 4, length: Length::Time(Duration::from_millis(400)) }];
    let reconnect_every = Some(Duration::from_millis(50));
    let report = clean(Options { plan, reconnect_every, ..options(&[&server], 0) }).await;
    assert!(report.microbatches > 0);
}

#[tokio::test]
async fn a_steps_time_and_a_rate_are_kept() {
    let server = Fake::start(Data::default(), None);
    let pace = Pace::Step("20ms~10%".parse().unwrap());
    let report = clean(Options { pace, ..options(&[&server], 5) }).await;
    assert!(report.seconds >= 20.0 * 0.018, "{report}");
    // 20 microbatches of 6 images by the clock, the first at once.
    let pace = Pace::Rate(300.0);
    let report = clean(Options { pace, trainers: 2, ..options(&[&server], 5) }).await;
    assert!(report.seconds >= 19.0 * 0.02, "{report}");
}

#[tokio::test]
async fn with_a_rate_a_stall_counts_for_all_microbatches_that_it_delays() {
    // The third microbatch arrives only at the client's second request.
    let stall = || Fake::start(Data::default(), Some((2, Fault::Hang, false)));
    let waits = async |pace| {
        let server = stall();
        let mut options = Options { pace, ..options(&[&server], 5) };
        options.client.timeouts.idle = Duration::from_secs(2);
        options.client.prefetch = Prefetch::Bytes(1);
        clean(options).await.wait_ms
    };
    let closed = waits(Pace::Free).await;
    let open = waits(Pace::Rate(6.0 * 100.0)).await;
    // In a closed loop the stall is one wait of 20. At a rate it delays all that are due meanwhile.
    assert!(closed.max > 1900.0, "{closed:?}");
    assert!(open.p50 > 1000.0 && open.p50 > closed.p50, "{open:?}, {closed:?}");
}

#[tokio::test]
async fn slow_readers_are_checked_too() {
    // All readers begin with the same microbatch, and one of them receives another record in it. The
    // trainer reads for long enough that each of them has received its own.
    let server = Fake::start(Data::default(), Some((0, Fault::Record, false)));
    let plan = vec![Phase { trainers: 1, length: Length::Time(Duration::from_secs(3)) }];
    let pace = Pace::Step("20ms".parse().unwrap());
    let slow = Options { plan, pace, slow_readers: 3, ..options(&[&server], 0) };
    let report = run(slow).await.unwrap();
    let differ = |violation: &String| violation.contains("a slow reader received different bytes");
    assert!(report.violations.iter().any(differ), "{:?}", report.violations);
}

#[tokio::test]
async fn digests_of_an_undisturbed_run_are_saved_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("digests");
    let with_file = |server: &Fake, trainers| {
        let digests = Some(file.clone());
        Options { digests, trainers, ..options(&[server], 6) }
    };
    let server = Fake::start(Data::default(), None);
    assert_eq!(clean(with_file(&server, 1)).await.compared, None);
    assert_eq!(clean(with_file(&server, 4)).await.compared, Some(24));

    // The hash of the payload is right, and there is no other copy to compare with.
    let wrong = Fake::start(Data::default(), Some((9, Fault::Record, false)));
    let report = run(with_file(&wrong, 1)).await.unwrap();
    assert_eq!(report.compared, Some(23));
    let differs = |violation: &String| violation.ends_with("differs from an undisturbed run");
    assert_eq!(report.violations.iter().filter(|violation| differs(violation)).count(), 1);

    let other = Fake::start(Data { version: 2, ..Data::default() }, None);
    let error = run(with_file(&other, 1)).await.unwrap_err().to_string();
    assert!(error.contains("belongs to another job"), "{error}");
}

#[tokio::test]
async fn a_report_is_made_although_the_digests_cannot_be_saved() {
    let server = Fake::start(Data::default(), None);
    let folder = tempfile::tempdir().unwrap();
    let digests = folder.path().join("digests");
    let of = |digests| Options { digests: Some(digests), ..options(&[&server], 3) };
    // A folder that does not exist is known before the run.
    let error = run(of(folder.path().join("absent/digests"))).await.unwrap_err().to_string();
    assert!(error.contains("absent/digests"), "{error}");
    assert_eq!(server.begun(), 0);
    std::os::unix::fs::symlink("absent/digests", &digests).unwrap();
    let report = run(of(digests)).await.unwrap();
    assert_eq!((report.microbatches, report.violation_count), (12, 1));
    assert!(report.violations[0].contains("cannot be compared or saved: "), "{report:?}");
}

#[tokio::test]
async fn a_number_of_records_takes_no_memory() {
    let server = Fake::start(Data { records: 1 << 40, ..Data::default() }, None);
    assert_eq!(clean(options(&[&server], 3)).await.microbatches, 12);
}

#[test]
fn the_files_of_a_report_are_written_although_nobody_reads_the_output() {
    let server = Fake::start(Data::default(), None);
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report");
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay-loadtest"));
    command.args(["--endpoint", &server.url(), "--dataset", "tiny", "--steps", "2"]);
    let full = [full.try_clone().unwrap(), full];
    let [out, err] = full.map(Stdio::from);
    let status = command.arg("--report").arg(&report).stdout(out).stderr(err).status().unwrap();
    assert_eq!(status.code(), Some(4));
    for name in ["report.html", "report.json", "intervals.csv"] {
        assert!(report.join(name).is_file(), "{name}");
    }
}

#[test]
fn a_folder_of_a_report_that_cannot_be_created_is_refused_before_the_run() {
    let server = Fake::start(Data::default(), None);
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = command(&server, &["--report", file.path().to_str().unwrap()]);
    assert_eq!((output.status.code(), server.begun()), (Some(4), 0));
    let printed = String::from_utf8(output.stderr).unwrap();
    assert!(printed.contains("cannot create the folder of --report"), "{printed}");
}

fn command(server: &Fake, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_forebay-loadtest"))
        .args(["--endpoint", &server.url(), "--dataset", "tiny"])
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn the_command_prints_json_and_exits_with_the_result() {
    let server = Fake::start(Data::default(), None);
    let output = command(&server, &["--trainers", "4", "--steps", "5", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["images"], 120);
    assert!(report["wait_ms"]["p99"].is_number() && report["cpu_ms_per_image"].is_number());

    let by_variable = Command::new(env!("CARGO_BIN_EXE_forebay-loadtest"))
        .args(["--endpoint", &server.url(), "--dataset", "tiny", "--steps", "2"])
        .env("FOREBAY_JSON", "1")
        .output()
        .unwrap();
    serde_json::from_slice::<serde_json::Value>(&by_variable.stdout).unwrap();

    let table = String::from_utf8(command(&server, &["--steps", "2"]).stdout).unwrap();
    assert!(table.contains("images                  48 in 8 microbatches\n"), "{table}");
    assert!(table.ends_with("violations              none\n"), "{table}");

    let broken = Fake::start(Data::default(), Some((3, Fault::Order, true)));
    let output = command(&broken, &["--steps", "2"]);
    assert_eq!(output.status.code(), Some(1));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        printed.contains("violation               job 0, rank 0: http://127.0.0.1:"),
        "{printed}"
    );

    let output = command(&server, &["--trainers", "3"]);
    let printed = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(printed.contains("a world of 3 does not divide the 4 microbatches"), "{printed}");
}

#[test]
fn metrics_that_cannot_be_read_are_refused_instead_of_counted_as_nothing() {
    let server = Fake::start(Data::default(), None);
    let admin = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = admin.local_addr().unwrap().to_string();
    let serve = move || {
        // The load test reads twice: at the start and at the end.
        for cpu in ["1.0", "1.5"] {
            let (mut stream, _) = admin.accept().unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).unwrap();
            assert!(request[..length].starts_with(b"GET /metrics "));
            let text = format!(
                "HTTP/1.1 200 OK\r\n\r\nforebay_images_served_total 240\n\
                 process_cpu_seconds_total {cpu}\nprocess_resident_memory_bytes 1\n"
            );
            stream.write_all(text.as_bytes()).unwrap();
        }
    };
    let answer = std::thread::Builder::new().name("metrics".into()).spawn(serve).unwrap();
    let url = format!("http://{address}/metrics");
    let output = command(&server, &["--steps", "1", "--metrics", &url, "--json"]);
    assert!(output.status.success(), "{output:?}");
    answer.join().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["server"]["cpu_seconds"], 0.5, "{report}");
    let output = command(&server, &["--steps", "1", "--metrics", &address]);
    assert_eq!(output.status.code(), Some(4));
    let printed = String::from_utf8(output.stderr).unwrap();
    assert!(printed.contains(&address) && printed.contains("--metrics-listen"), "{printed}");
}

#[test]
fn exit_codes_and_files_are_as_documented() {
    let server = Fake::start(Data::default(), None);
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report");
    let code = |arguments: &[&str]| command(&server, arguments).status.code();
    let to = report.to_str().unwrap();
    assert_eq!(code(&["--plan", "1x3,2x100ms", "--slo-p99-wait", "5m", "--report", to]), Some(0));
    assert_eq!(code(&["--slo-images-per-second", "1e9"]), Some(3));
    assert_eq!(code(&["--steps", "2", "--plan", "1x3"]), Some(2));
    assert_eq!(code(&["--rate", "0"]), Some(2));
    let broken = Fake::start(Data::default(), Some((3, Fault::Record, false)));
    let violations = |allowed| {
        let arguments = ["--steps", "5", "--slo-violations", allowed];
        command(&broken, &arguments).status.code()
    };
    assert_eq!([violations("0"), violations("1")], [Some(1), Some(0)]);

    let read = |name| std::fs::read_to_string(report.join(name)).unwrap();
    let json: serde_json::Value = serde_json::from_str(&read("report.json")).unwrap();
    assert_eq!(json["phases"].as_array().unwrap().len(), 2);
    let csv = read("intervals.csv");
    let columns: Vec<usize> = csv.lines().map(|line| line.split(',').count()).collect();
    assert!(columns.len() >= 2 && columns.iter().all(|count| *count == 9), "{csv}");
    let page = read("report.html");
    assert!(page.contains("no violations") && page.contains("class=\"line\""));
    for foreign in ["<script", "http-equiv", "src=", "href=", "@import", "url("] {
        assert!(!page.contains(foreign), "{foreign}");
    }
}

#[test]
fn a_signal_ends_the_command_while_it_waits_for_a_server() {
    // A server that accepts connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let mut child = Command::new(env!("CARGO_BIN_EXE_forebay-loadtest"))
        .args(["--endpoint", &endpoint, "--dataset", "tiny"])
        .spawn()
        .unwrap();
    let (_connection, _) = silent.accept().unwrap();
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn a_load_test_without_a_server_says_so_and_ends_at_a_signal() {
    for (name, code) in [("-TERM", 143), ("-INT", 130)] {
        // Nothing listens there.
        let mut child = Command::new(env!("CARGO_BIN_EXE_forebay-loadtest"))
            .args(["--endpoint", "127.0.0.1:1", "--dataset", "tiny"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        for part in ["WARN", "retrying", "127.0.0.1:1", "Connection refused"] {
            assert!(first.contains(part), "{first}");
        }
        let killed = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        assert_eq!(child.wait().unwrap().code(), Some(code));
    }
}

#[test]
fn a_signal_ends_the_command_in_the_middle_of_a_step_with_a_report_of_the_steps_before() {
    // The seventh microbatch, the third of the second step, never arrives.
    let server = Fake::start(Data::default(), Some((6, Fault::Hang, true)));
    let child = Command::new(env!("CARGO_BIN_EXE_forebay-loadtest"))
        .args(["--endpoint", &server.url(), "--dataset", "tiny", "--steps", "5", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    while server.begun() < 7 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["steps"].as_u64().unwrap() <= 1, "{report}");
    assert_eq!(report["interrupted"], true, "{report}");
    assert_eq!(report["violation_count"], 0, "{report}");
}

#[test]
fn the_command_works_with_every_value_that_a_flag_accepts() {
    let server = Fake::start(Data::default(), None);
    let folder = tempfile::tempdir().unwrap();
    extremes::every_flag(|more| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay-loadtest"));
        command.current_dir(folder.path()).env("FOREBAY_DATASET", "tiny").args(more);
        command.env("FOREBAY_ENDPOINT", server.url());
        command
    });
}
