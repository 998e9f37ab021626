//! What a training writes and says about itself: lines where there is no terminal, `summary.csv`, TensorBoard events,
//! metrics.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "fixtures/dump.rs"]
mod dump;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use dump::dump;
use serde_json::Value;

fn command(folder: &Path, out: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay-trainer"));
    let device = std::env::var_os("FOREBAY_TEST_DEVICE").unwrap_or_else(|| "cpu".into());
    command.current_dir(folder).env("FOREBAY_DEVICE", device);
    command.env("FOREBAY_CONV_PLAN_CACHE", folder.join("plans"));
    command.args(["train", "--replay", "dump", "--model", "resnet20", "--recipe", "a3"]);
    command.args(["--epochs", "2", "--warmup-epochs", "1", "--output", out]).args(more);
    command
}

/// Runs a training. Returns what it wrote to standard output.
fn train(folder: &Path, out: &str, more: &[&str]) -> String {
    let output = command(folder, out, more).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A run of two epochs of three steps that was killed after its fifth step, and resumed after its third.
fn interrupted(folder: &Path, out: &str) {
    train(folder, out, &["--stop-after", "5"]);
    std::fs::remove_dir_all(folder.join(out).join("step-00000005")).unwrap();
    train(folder, out, &["--resume"]);
}

#[test]
fn without_a_terminal_a_line_follows_each_interval_and_each_epoch() {
    let folder = tempfile::tempdir().unwrap();
    dump(&folder.path().join("dump"), 1);
    let said = train(folder.path(), "text", &["--log-interval", "2"]);
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("epoch ")).collect();
    for (line, (epoch, step)) in lines.iter().zip([(1, 2), (1, 3), (2, 2), (2, 3)]) {
        let begin = format!("epoch {epoch} of 2, step {step} of 3: loss 0.");
        assert!(line.starts_with(&begin), "{line}");
        for part in [", lr ", " images/s, ", " % data wait, ", " left"] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
    assert_eq!(lines.len(), 4, "{said}");
    assert!(said.contains("checkpoint: text/step-00000003\n"), "{said}");
    let said = train(folder.path(), "rare", &["--log-interval", "0"]);
    assert_eq!(said.matches("epoch 1 of 2").count(), 1, "{said}");
}

#[test]
fn with_log_format_json_every_line_is_an_event() {
    let folder = tempfile::tempdir().unwrap();
    dump(&folder.path().join("dump"), 1);
    let arguments =
        ["--log-format", "json", "--log-interval", "2", "--checkpoint-command", "exit 1"];
    let output = command(folder.path(), "out", &arguments).output().unwrap();
    let events = |bytes: &[u8]| -> Vec<Value> {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    };
    let said = events(&output.stdout);
    let of = |kind: &str| -> Vec<&Value> {
        said.iter().filter(|event| event["event"] == kind).collect()
    };
    let updates: Vec<u64> =
        of("progress").iter().map(|event| event["update"].as_u64().unwrap()).collect();
    assert_eq!(updates, [2, 3, 5, 6]);
    for name in ["loss", "lr", "images_per_second", "data_wait_share", "seconds_left"] {
        assert!(of("progress").iter().all(|event| event[name].is_number()), "{name}: {said:?}");
    }
    assert_eq!(of("checkpoint")[0]["path"], "out/step-00000003");
    assert!(of("message").iter().any(|event| event["text"] == "trained all 2 epochs"), "{said:?}");
    let logs = events(&output.stderr);
    assert!(logs.iter().any(|log| log["level"] == "WARN"), "{logs:?}");
}

#[test]
fn the_summary_of_an_interrupted_run_is_that_of_an_uninterrupted_one() {
    let folder = tempfile::tempdir().unwrap();
    dump(&folder.path().join("dump"), 1);
    train(folder.path(), "whole", &[]);
    interrupted(folder.path(), "parts");
    let [whole, parts] = ["whole", "parts"]
        .map(|out| std::fs::read_to_string(folder.path().join(out).join("summary.csv")).unwrap());
    assert_eq!(whole, parts);
    let rows: Vec<Vec<&str>> = whole.lines().map(|row| row.split(',').collect()).collect();
    assert_eq!(rows[0], ["epoch", "train_loss", "eval_loss", "eval_top1", "eval_top5", "lr"]);
    let log = std::fs::read_to_string(folder.path().join("whole/log.jsonl")).unwrap();
    let log: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let losses = log[3..].iter().map(|line| line["loss"].as_f64().unwrap());
    let mean = losses.sum::<f64>() / 3.0;
    assert_eq!(rows[2][0], "1");
    assert!((rows[2][1].parse::<f64>().unwrap() - mean).abs() < 1e-12, "{whole}");
    assert_eq!(rows[2][5], log[5]["lr"].as_f64().unwrap().to_string());
}

/// The points of a tag as TensorBoard shows them: in the order of the files, and without those from the step of each
/// later start of a session on.
fn points(folder: &Path, tag: &str) -> Vec<(u64, f32)> {
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut points = Vec::new();
    for file in files {
        let bytes = std::fs::read(file).unwrap();
        let mut rest = &bytes[..];
        while let Some((length, _)) = rest.split_first_chunk::<8>() {
            let length = usize::try_from(u64::from_le_bytes(*length)).unwrap();
            let event = fields(&rest[12..12 + length]);
            rest = &rest[12 + length + 4..];
            let step = event.get(&2).map_or(0, |step| step.0);
            if event.contains_key(&7) {
                points.retain(|(of, _)| *of < step);
            }
            let Some((_, summary)) = event.get(&5) else { continue };
            let value = fields(&fields(summary)[&1].1);
            if value[&1].1 == tag.as_bytes() {
                let bits = u32::try_from(value[&2].0).unwrap();
                points.push((step, f32::from_bits(bits)));
            }
        }
    }
    points
}

/// The fields of a protobuf message, of which each occurs once: a number, or bytes.
fn fields(mut message: &[u8]) -> BTreeMap<u64, (u64, Vec<u8>)> {
    let varint = |message: &mut &[u8]| {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = u64::from(message[0]);
            *message = &message[1..];
            value |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    };
    let mut found = BTreeMap::new();
    while !message.is_empty() {
        let key = varint(&mut message);
        let fixed = |message: &[u8], length: usize| {
            let mut bytes = [0; 8];
            bytes[..length].copy_from_slice(&message[..length]);
            (u64::from_le_bytes(bytes), Vec::new())
        };
        let (value, taken) = match key & 7 {
            0 => ((varint(&mut message), Vec::new()), 0),
            1 => (fixed(message, 8), 8),
            5 => (fixed(message, 4), 4),
            _ => {
                let length = usize::try_from(varint(&mut message)).unwrap();
                ((0, message[..length].to_vec()), length)
            }
        };
        message = &message[taken..];
        found.insert(key >> 3, value);
    }
    found
}

#[test]
fn tensorboard_shows_each_step_of_an_interrupted_run_once() {
    let folder = tempfile::tempdir().unwrap();
    dump(&folder.path().join("dump"), 1);
    train(folder.path(), "whole", &[]);
    interrupted(folder.path(), "parts");
    let [whole, parts] = ["whole", "parts"]
        .map(|out| points(&folder.path().join(out).join("tensorboard"), "train/loss"));
    assert_eq!(whole, parts);
    let steps: Vec<u64> = whole.iter().map(|point| point.0).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
}

/// The answer to a request of the metrics port.
fn request(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(format!("{request} HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn prometheus_finds_the_figures_of_a_run_at_its_address() {
    let folder = tempfile::tempdir().unwrap();
    dump(&folder.path().join("dump"), 1);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = command(folder.path(), "out", &["--metrics-address", &address]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("--metrics-address") && said.contains(&address), "{said}");
    assert_eq!(refused.status.code(), Some(1));
    // It waits to write its last microbatch, because nobody reads the pipe.
    std::fs::create_dir(folder.path().join("blocked")).unwrap();
    let pipe = folder.path().join("blocked/0001-000002-000.safetensors");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let arguments =
        ["--metrics-address", "127.0.0.1:0", "--dump", "blocked", "--log-interval", "1"];
    let mut trainer = command(folder.path(), "out", &arguments);
    let mut trainer = trainer.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(trainer.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first = lines.next().unwrap();
    let address = first.strip_prefix("metrics: http://").unwrap().strip_suffix("/metrics").unwrap();
    lines.find(|line| line.contains("epoch 2 of 2, step 2 of 3")).unwrap();
    let answer = request(address, "GET /metrics");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    for line in
        ["forebay_trainer_steps_total ", "forebay_trainer_loss 0.", "forebay_trainer_epoch 1"]
    {
        assert!(answer.lines().any(|found| found.starts_with(line)), "{line} in {answer}");
    }
    assert!(request(address, "POST /metrics").starts_with("HTTP/1.1 405 "));
    assert!(request(address, "GET /").starts_with("HTTP/1.1 404 "));
    trainer.kill().unwrap();
    trainer.wait().unwrap();
}
