//! The command on microbatches in files: a run, a stop and a resume, what is left to look at.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "made/dump.rs"]
mod dump;

use std::path::Path;
use std::process::{Command, Output};

use dump::dump;

fn trainer(folder: &Path, out: &str, more: &[&str]) -> Output {
    let epochs: &[&str] = if more.contains(&"--epochs") { &[] } else { &["--epochs", "2"] };
    // On a GPU or its stand-in, if one is given.
    let device = std::env::var_os("FOREBAY_TEST_DEVICE").unwrap_or_else(|| "cpu".into());
    Command::new(env!("CARGO_BIN_EXE_forebay-trainer"))
        .current_dir(folder)
        .env("FOREBAY_DEVICE", device)
        .env("LOCAL_RANK", "99")
        .args(["train", "--replay", "dump", "--model", "resnet20"])
        .args(epochs)
        .args(["--warmup-epochs", "1", "--drop-path", "0.2", "--average", "0.9", "--out", out])
        .args(more)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

#[test]
fn a_stop_and_a_resume_leave_the_files_of_a_run_without_a_stop() {
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
    assert!(!other.status.success() && said(&other).contains("training"), "{}", said(&other));
    let second = trainer(folder.path(), "parts", &["--resume"]);
    assert!(second.status.success(), "{}", said(&second));
    for more in [&["--stop-after", "4"][..], &[], &[]] {
        let job = trainer(folder.path(), "job", &[&["--auto-resume"], more].concat());
        assert!(job.status.success(), "{}", said(&job));
    }

    for name in ["model.safetensors", "average.safetensors", "step-00000006/optimizer.safetensors"]
    {
        let [whole, parts, job] =
            ["whole", "parts", "job"].map(|out| std::fs::read(at(out).join(name)).unwrap());
        assert!(whole == parts, "{name}");
        assert!(whole == job, "{name}, of a job that began, went on, and was started when done");
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
fn what_cannot_work_is_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    dump(&at("dump"), 2);
    let refused = |more: &[&str], words: &[&str]| {
        let output = trainer(folder.path(), "out", more);
        let text = said(&output);
        assert!(!output.status.success(), "{more:?}");
        assert!(words.iter().all(|word| text.contains(word)), "{more:?}: {text}");
    };
    refused(&["--recipe", "a4"], &["a4", "a1, a2 and a3"]);
    refused(&["--init", "none.safetensors"], &["none.safetensors"]);
    refused(&["--resume"], &["out", "without --resume"]);
    refused(&["--memory-limit", "0.0001"], &["GiB", "--microbatches"]);
    refused(&["--epochs", "0"], &["nothing to do"]);
    std::fs::write(at("cut.safetensors"), [1, 2, 3]).unwrap();
    refused(&["--init", "cut.safetensors"], &["cut.safetensors", "safetensors file"]);
    std::fs::remove_file(at("dump/0001-000001-000.safetensors")).unwrap();
    refused(&[], &["epoch 1, step 1, microbatch 0", "ended before"]);
}

#[test]
fn a_gpu_that_cannot_be_used_is_an_error_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    dump(&folder.path().join("dump"), 2);
    // No machine has so many.
    for device in ["cuda", "cuda:99"] {
        let output = trainer(folder.path(), "out", &["--device", device]);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("cuda:99: ") && text.contains("--device cpu"), "{text}");
    }
    let output = trainer(folder.path(), "out", &["--device", "gpu"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("use cpu, cuda or cuda:N"), "{}", said(&output));
}
