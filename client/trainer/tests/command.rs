//! The command, on microbatches in files: it stops, resumes, and writes the files of a run.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "fixtures/dump.rs"]
mod dump;

use std::path::Path;
use std::process::{Command, Output};

use dump::dump;

fn trainer(folder: &Path, out: &str, more: &[&str]) -> Output {
    let epochs: &[&str] = if more.contains(&"--epochs") { &[] } else { &["--epochs", "2"] };
    // Tests may run on a GPU or its stand-in.
    let device = std::env::var_os("FOREBAY_TEST_DEVICE").unwrap_or_else(|| "cpu".into());
    Command::new(env!("CARGO_BIN_EXE_forebay-trainer"))
        .current_dir(folder)
        .env("FOREBAY_DEVICE", device)
        .env("LOCAL_RANK", "99")
        .args(["train", "--replay", "dump", "--model", "resnet20", "--recipe", "a3"])
        .args(epochs)
        .args([
            "--warmup-epochs",
            "1",
            "--drop-path",
            "0.2",
            "--model-ema",
            "--model-ema-decay",
            "0.9",
            "--output",
            out,
        ])
        .args(more)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

#[test]
fn a_stopped_and_resumed_run_writes_the_files_of_an_uninterrupted_run() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    dump(&at("dump"), 2);

    let whole = trainer(folder.path(), "whole", &[]);
    assert!(whole.status.success(), "{}", said(&whole));
    let first = trainer(folder.path(), "parts", &["--stop-after", "2"]);
    assert!(first.status.success(), "{}", said(&first));
    let again = trainer(folder.path(), "parts", &[]);
    assert!(!again.status.success() && said(&again).contains("--resume"), "{}", said(&again));
    let other = trainer(folder.path(), "parts", &["--resume", "--lr", "1"]);
    assert!(
        !other.status.success() && said(&other).contains("training config"),
        "{}",
        said(&other)
    );
    let second = trainer(folder.path(), "parts", &["--resume"]);
    assert!(second.status.success(), "{}", said(&second));
    for more in [&["--stop-after", "4"][..], &[], &[]] {
        let job = trainer(folder.path(), "job", &[&["--auto-resume"], more].concat());
        assert!(job.status.success(), "{}", said(&job));
    }

    for name in
        ["model.safetensors", "model_ema.safetensors", "step-00000006/optimizer.safetensors"]
    {
        let [whole, parts, job] =
            ["whole", "parts", "job"].map(|out| std::fs::read(at(out).join(name)).unwrap());
        assert!(whole == parts, "{name}");
        assert!(
            whole == job,
            "{name}, of a job that started, resumed, and was restarted after its end"
        );
    }
    let log = std::fs::read_to_string(at("parts/log.jsonl")).unwrap();
    let updates: Vec<u64> = log
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["update"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(updates, [1, 2, 3, 4, 5, 6]);
    assert!(image::open(at("parts/curves.png")).is_ok());
    assert!(said(&second).contains("curves: parts/curves.png"), "{}", said(&second));
}

#[test]
fn invalid_options_are_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    dump(&at("dump"), 2);
    let refused = |more: &[&str], words: &[&str]| {
        let output = trainer(folder.path(), "out", more);
        let text = said(&output);
        assert!(!output.status.success(), "{more:?}");
        assert!(words.iter().all(|word| text.contains(word)), "{more:?}: {text}");
    };
    refused(&["--hyperparameters", "a4"], &["a4", "\"a1\", \"a2\" or \"a3\""]);
    refused(&["--initial-checkpoint", "none.safetensors"], &["none.safetensors"]);
    refused(&["--resume"], &["out", "without --resume"]);
    refused(&["--memory-limit", "100KiB"], &["GiB", "100KiB", "--microbatches"]);
    refused(&["--epochs", "0"], &["--epochs"]);
    refused(&["--lr", "0"], &["--lr", "a number above 0"]);
    refused(&["--smoothing", "1"], &["--smoothing", "below 1"]);
    refused(&["--heartbeat-timeout", "1s"], &["--heartbeat-timeout", "at least 2s"]);
    refused(&["--stall-timeout", "5"], &["--stall-timeout", "a duration with a unit"]);
    std::fs::write(at("cut.safetensors"), [1, 2, 3]).unwrap();
    refused(&["--initial-checkpoint", "cut.safetensors"], &["cut.safetensors", "safetensors file"]);
    std::fs::remove_file(at("dump/0001-000001-000.safetensors")).unwrap();
    refused(&[], &["epoch 1, step 1, microbatch 0", "ended before"]);
}

#[test]
fn a_gpu_that_cannot_be_used_is_an_error_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    dump(&folder.path().join("dump"), 2);
    // No machine has a GPU with this number.
    for device in ["cuda", "cuda:99"] {
        let output = trainer(folder.path(), "out", &["--device", device]);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("cuda:99: ") && text.contains("--device cpu"), "{text}");
    }
    let output = trainer(folder.path(), "out", &["--device", "gpu"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("expected cpu, cuda or cuda:N"), "{}", said(&output));
}
