//! The command on microbatches in files: a run, a stop and a resume, what is left to look at.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::process::{Command, Output};

use safetensors::Dtype;
use safetensors::tensor::TensorView;

const SAMPLES: usize = 4;
const SIDE: usize = 8;

/// Two epochs of three steps of two microbatches, of ten classes.
fn dump(folder: &Path) {
    let about = serde_json::json!({
        "classes": 10, "steps": 3, "batch": 2 * SAMPLES, "microbatches": 2, "image_size": SIDE,
        "smoothing": 0.0, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25],
        "dataset_digest": "d", "recipe_digest": "r",
    });
    std::fs::write(folder.join("description.json"), about.to_string()).unwrap();
    for name in 0..12_u8 {
        let (epoch, step, index) = (name / 6, name / 2 % 3, name % 2);
        let pixels: Vec<u8> = (0..SAMPLES * SIDE * SIDE * 3)
            .map(|i| u8::try_from((i * 37 + usize::from(name) * 11) % 256).unwrap())
            .collect();
        let labels: Vec<u8> =
            (0..4).flat_map(|i| (u32::from(name + i) % 10).to_le_bytes()).collect();
        let lambda: Vec<u8> = [0.75_f32; SAMPLES].iter().flat_map(|l| l.to_le_bytes()).collect();
        let view = |dtype, shape: &[usize], bytes| TensorView::new(dtype, shape.to_vec(), bytes);
        let views = [
            ("pixels", view(Dtype::U8, &[SAMPLES, SIDE, SIDE, 3], &pixels).unwrap()),
            ("label_a", view(Dtype::U32, &[SAMPLES], &labels).unwrap()),
            ("label_b", view(Dtype::U32, &[SAMPLES], &labels).unwrap()),
            ("lambda", view(Dtype::F32, &[SAMPLES], &lambda).unwrap()),
        ];
        let file = folder.join(format!("{epoch:04}-{step:06}-{index:03}.safetensors"));
        safetensors::serialize_to_file(views, None, &file).unwrap();
    }
}

fn trainer(folder: &Path, out: &str, more: &[&str]) -> Output {
    let epochs: &[&str] = if more.contains(&"--epochs") { &[] } else { &["--epochs", "2"] };
    Command::new(env!("CARGO_BIN_EXE_forebay-trainer"))
        .current_dir(folder)
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
    std::fs::create_dir(at("dump")).unwrap();
    dump(&at("dump"));

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
    std::fs::create_dir(at("dump")).unwrap();
    dump(&at("dump"));
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
