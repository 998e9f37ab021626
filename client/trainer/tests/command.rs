//! The command, on microbatches in files: it stops, resumes, and writes the files of a run.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "fixtures/dump.rs"]
mod dump;
#[path = "../../../tests/src/extremes.rs"]
mod extremes;

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
        .env("FOREBAY_CONV_PLAN_CACHE", folder.join("plans"))
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
        !other.status.success() && said(&other).contains("config.schedule.lr is "),
        "{}",
        said(&other)
    );
    let log = || std::fs::read_to_string(at("parts/log.jsonl")).unwrap();
    let before = log();
    let same = trainer(folder.path(), "parts", &["--resume", "--stop-after", "2"]);
    assert!(same.status.success() && log() == before, "it was there already: {}", said(&same));
    // A log that is not one is refused, and stays as it is.
    let log_file = at("parts/log.jsonl");
    std::fs::write(&log_file, b"\xff").unwrap();
    let unread = trainer(folder.path(), "parts", &["--resume"]);
    assert!(!unread.status.success() && said(&unread).contains("log.jsonl"), "{}", said(&unread));
    assert_eq!(std::fs::read(&log_file).unwrap(), b"\xff");
    std::fs::write(&log_file, before).unwrap();
    let second = trainer(folder.path(), "parts", &["--resume"]);
    assert!(second.status.success(), "{}", said(&second));
    for line in ["hyperparameters of a3", "epoch 2 of 2", "trained all 2 epochs"] {
        assert!(said(&second).contains(line), "{line}: {}", said(&second));
    }
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
    let curves = std::fs::read_to_string(at("parts/curves.html")).unwrap();
    assert!(curves.contains("update 6 of 6") && curves.contains("class=\"line\""), "{curves}");
    assert!(said(&second).contains("curves: parts/curves.html"), "{}", said(&second));
}

/// A change of a file.
type Damage = fn(&mut Vec<u8>);

#[test]
fn a_run_resumes_from_an_older_checkpoint_if_the_newest_is_damaged_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    dump(&at("dump"), 2);
    let whole = trainer(folder.path(), "whole", &[]);
    assert!(whole.status.success(), "{}", said(&whole));
    let first = trainer(folder.path(), "parts", &["--stop-after", "2", "--checkpoint-steps", "1"]);
    assert!(first.status.success(), "{}", said(&first));
    // What a killed run leaves.
    std::fs::create_dir(at("parts/.step-folder")).unwrap();
    std::fs::write(at("parts/.step-folder/model.safetensors"), "").unwrap();
    std::fs::write(at("parts/.step-file"), "").unwrap();

    let damage: [(&str, Damage); 3] = [
        ("run.json", Vec::clear),
        ("optimizer.safetensors", |bytes| bytes.truncate(bytes.len() / 2)),
        ("model.safetensors", |bytes| *bytes.last_mut().unwrap() ^= 1),
    ];
    for (name, damage) in damage {
        let copied =
            Command::new("cp").args(["-r", "parts", name]).current_dir(folder.path()).status();
        assert!(copied.unwrap().success());
        let path = at(name).join("step-00000002").join(name);
        let mut contents = std::fs::read(&path).unwrap();
        damage(&mut contents);
        std::fs::write(&path, contents).unwrap();
        let second = trainer(folder.path(), name, &["--resume"]);
        let text = said(&second);
        assert!(second.status.success(), "{name}: {text}");
        let older = format!("resuming from {name}/step-00000001 instead");
        assert!(text.contains("WARN") && text.contains(&older), "{text}");
        assert!(text.contains(&format!("{name}/step-00000002/{name} is damaged")), "{text}");
        let [whole, resumed] =
            ["whole", name].map(|out| std::fs::read(at(out).join("model.safetensors")).unwrap());
        assert!(whole == resumed, "{name}");
        assert!(!at(name).join(".step-folder").exists() && !at(name).join(".step-file").exists());
    }
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
    refused(&["--opt", "adagrad"], &["--opt", "adagrad"]);
    refused(&["--opt-betas", "0.9", "1"], &["--opt-betas", "below 1"]);
    refused(
        &["--sched", "multistep", "--decay-milestones", "9,8"],
        &["--decay-milestones", "ascending"],
    );
    refused(&["--initial-checkpoint", "none.safetensors"], &["none.safetensors"]);
    refused(&["--resume"], &["out", "without --resume"]);
    refused(&["--memory-limit", "100KiB"], &["GiB", "100KiB", "--microbatches"]);
    // Enough for a microbatch, and not for 270,000 parameters with gradients and moments.
    refused(&["--memory-limit", "3MiB"], &["the model needs", "3MiB", "--model"]);
    refused(&["--epochs", "0"], &["--epochs"]);
    refused(&["--lr", "0"], &["--lr", "a number above 0"]);
    refused(&["--device", "cpu", "--norms", "fused"], &["--norms fused", "--device cuda:N"]);
    refused(&["--smoothing", "1"], &["--smoothing", "below 1"]);
    refused(&["--heartbeat-timeout", "1s"], &["--heartbeat-timeout", "at least 2s"]);
    refused(&["--stall-timeout", "5"], &["--stall-timeout", "a duration with a unit"]);
    std::fs::write(at("cut.safetensors"), [1, 2, 3]).unwrap();
    refused(&["--initial-checkpoint", "cut.safetensors"], &["cut.safetensors", "safetensors file"]);
    std::fs::remove_file(at("dump/0001-000001-000.safetensors")).unwrap();
    refused(&[], &["epoch 1, step 1, microbatch 0", "ended before"]);
}

#[test]
fn a_dry_run_prints_every_setting_with_where_it_comes_from_and_does_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = "opt = \"adamw\"\nlr = 0.25\nmodel = \"resnet50\"\nseed = 5\ndevice = \"cuda:7\"\n";
    std::fs::write(folder.path().join("run.toml"), file).unwrap();
    let run = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay-trainer"));
        command.current_dir(folder.path()).env("FOREBAY_DEVICE", "cpu");
        command.args(["train", "--replay", "dump", "--config", "run.toml", "--dry-run"]);
        command.args(more).output().unwrap()
    };
    let output = run(&["--model", "resnet20"]);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    for line in [
        "model = \"resnet20\"  # flag",
        "device = \"cpu\"  # FOREBAY_DEVICE",
        "lr = 0.25  # run.toml",
        "opt = \"adamw\"  # run.toml",
        "epochs = 300  # preset a2",
        "output = \"run\"  # default",
        "replay = \"dump\"  # flag",
        "# opt_betas is not set",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "it writes nothing");
    let output = run(&["--hyperparameters", "a4"]);
    assert!(
        !output.status.success() && said(&output).contains("unknown preset"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_description_of_a_dump_with_impossible_numbers_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    dump(&folder.path().join("dump"), 2);
    let path = folder.path().join("dump/description.json");
    let good: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (field, value) in [
        ("classes", u64::MAX.into()),
        ("classes", 0.into()),
        ("steps", u64::MAX.into()),
        ("batch", 0.into()),
        ("microbatches", 0.into()),
        ("microbatches", u32::MAX.into()),
        ("image_size", u32::MAX.into()),
        ("smoothing", (-5).into()),
        ("std", vec![0.0; 3].into()),
    ] {
        let mut changed = good.clone();
        changed[field] = value;
        std::fs::write(&path, changed.to_string()).unwrap();
        let output = trainer(folder.path(), "out", &[]);
        let text = said(&output);
        assert!(output.status.code() == Some(1) && text.contains(field), "{field}: {text}");
    }
    let output = trainer(folder.path(), "out", &["--eval-dataset", "val"]);
    assert!(
        said(&output).contains("cannot be used with '--eval-dataset <NAME>'"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_run_ends_well_although_nobody_reads_its_output() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    dump(&at("dump"), 2);
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let run = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay-trainer"));
        command.current_dir(folder.path()).stdout(full()).stderr(full());
        command.args(["train", "--replay", "dump", "--model", "resnet20", "--recipe", "a3"]);
        command.args(["--epochs", "2", "--output", "out"]).args(more).status().unwrap()
    };
    assert!(run(&[]).success());
    assert!(at("out/model.safetensors").is_file() && at("out/step-00000006").is_dir());
    assert_eq!(run(&[]).code(), Some(1), "an error, which nobody reads either");
}

#[test]
fn a_second_run_in_the_same_folder_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    dump(&at("dump"), 2);
    // A run that waits to write a microbatch, because nobody reads the pipe.
    std::fs::create_dir(at("blocked")).unwrap();
    let pipe = at("blocked/0001-000000-000.safetensors");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut first = Command::new(env!("CARGO_BIN_EXE_forebay-trainer"));
    first.current_dir(folder.path()).args(["train", "--replay", "dump", "--model", "resnet20"]);
    first.args(["--recipe", "a3", "--epochs", "2", "--output", "out", "--dump", "blocked"]);
    let mut first = first.spawn().unwrap();
    while !at("out/step-00000003").exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let log = || std::fs::read(at("out/log.jsonl")).unwrap();
    let before = log();
    std::fs::create_dir(at("out/.step-in-progress")).unwrap();
    let second = trainer(folder.path(), "out", &["--auto-resume"]);
    let text = said(&second);
    assert!(!second.status.success() && text.contains("in use by another run"), "{text}");
    assert!(log() == before && at("out/.step-in-progress").exists());
    first.kill().unwrap();
    first.wait().unwrap();
    let mut again = Command::new(env!("CARGO_BIN_EXE_forebay-trainer"));
    again.current_dir(folder.path()).args(["train", "--replay", "dump", "--model", "resnet20"]);
    again.args(["--recipe", "a3", "--epochs", "2", "--output", "out", "--resume"]);
    let again = again.output().unwrap();
    assert!(again.status.success(), "{}", said(&again));
}

#[test]
fn training_works_with_every_value_that_a_flag_accepts() {
    let folder = tempfile::tempdir().unwrap();
    dump(&folder.path().join("dump"), 2);
    let runs = std::sync::atomic::AtomicU32::new(0);
    extremes::every_flag(|more| {
        let run = runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay-trainer"));
        command.current_dir(folder.path()).env("FOREBAY_MODEL", "resnet20");
        command.env("FOREBAY_RECIPE", "a3").env("FOREBAY_OUTPUT", format!("out-{run}"));
        command.args(["train", "--replay", "dump"]).args(more);
        command
    });
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

    // Without a device, bench says so once, and not for each combination.
    let bench = Command::new(env!("CARGO_BIN_EXE_forebay-trainer"))
        .args(["bench", "--device", "cuda:99", "--batch", "1,2"])
        .output()
        .unwrap();
    assert_eq!(bench.status.code(), Some(1));
    assert_eq!(said(&bench).matches("--device cpu").count(), 1, "{}", said(&bench));
}

#[test]
fn what_only_a_gpu_does_is_refused_on_the_cpu_and_the_first_line_names_the_device() {
    let folder = tempfile::tempdir().unwrap();
    dump(&folder.path().join("dump"), 2);
    for (flag, value) in [("--norms", "fused"), ("--precision", "f16")] {
        let output = trainer(folder.path(), "out", &["--device", "cpu", flag, value]);
        assert_eq!(output.status.code(), Some(1));
        let refusal = format!("invalid {flag} {value}");
        assert!(said(&output).contains(&refusal), "{}", said(&output));
    }
    let output = trainer(folder.path(), "out", &["--device", "cpu", "--stop-after", "1"]);
    let text = said(&output);
    let first = text.lines().find(|line| line.contains("by the hyperparameters of"));
    assert!(first.is_some_and(|line| line.ends_with(", on the CPU in f32")), "{text}");
}

#[test]
fn bench_measures_every_combination_and_says_what_it_could_not_measure() {
    let folder = tempfile::tempdir().unwrap();
    let device = std::env::var_os("FOREBAY_TEST_DEVICE").unwrap_or_else(|| "cpu".into());
    let bench = |more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_forebay-trainer"))
            .current_dir(folder.path())
            .env("FOREBAY_DEVICE", &device)
            .args(["bench", "--model", "resnet20", "--size", "8,12", "--json", "bench.json"])
            .args(["--steps", "2", "--classes", "3"])
            .args(more)
            .output()
            .unwrap();
        let json = std::fs::read(folder.path().join("bench.json")).unwrap();
        (output, serde_json::from_slice::<serde_json::Value>(&json).unwrap())
    };
    let (output, json) = bench(&["--batch", "2,1"]);
    assert!(output.status.success(), "{}", said(&output));
    let runs = json["runs"].as_array().unwrap();
    let of = |run: &serde_json::Value| {
        [&run["image_size"], &run["batch"]].map(serde_json::Value::as_u64)
    };
    assert_eq!(
        runs.iter().map(of).collect::<Vec<_>>(),
        [[8, 2], [8, 1], [12, 2], [12, 1]].map(|numbers| numbers.map(Some))
    );
    for run in runs {
        let [lower, median, upper] =
            ["lower", "median", "upper"].map(|name| run["step_ms"][name].as_f64().unwrap());
        assert!(0.0 < lower && lower <= median && median <= upper, "{run}");
        let rate = run["images_per_s"].as_f64().unwrap() * median / 1e3;
        assert!((rate - run["batch"].as_f64().unwrap()).abs() < 1e-6, "{run}");
        assert_eq!(run["precision"], if device == "cpu" { "f32" } else { "bf16" });
    }
    assert_eq!(said(&output).matches("images/s").count(), 4, "{}", said(&output));

    let (output, json) = bench(&["--memory-limit", "1MiB"]);
    assert!(!output.status.success() && said(&output).contains("--memory-limit"));
    assert!(json["runs"][1]["error"].as_str().unwrap().contains("--memory-limit"), "{json}");
}
