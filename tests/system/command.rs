//! The `forebay` command as a person uses it: output, errors and exit codes.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use forebay_tests::process::ServerProcess;
use forebay_tests::world::WORLD;

fn forebay_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quickstart"));
    // A stand-in for a GPU is loaded through this variable. These tests are about the command alone.
    command.arg("forebay").args(arguments).env_remove("LD_LIBRARY_PATH");
    command
}

fn forebay(arguments: &[&str]) -> Output {
    forebay_command(arguments).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs the command, which must succeed. Returns its output.
fn succeeds(arguments: &[&str]) -> String {
    let output = forebay(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs the command, which must fail with exit code 1. Returns its error output.
fn fails(arguments: &[&str]) -> String {
    let output = forebay(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("forebay: "), "{error}");
    error
}

const SIZES: [&str; 4] = ["--batch", "8", "--microbatches", "2"];

#[test]
fn index_and_inspect_describe_a_dataset() {
    let folder = tempfile::tempdir().unwrap();
    let train = WORLD.train();
    let index_dir = ["--index-dir", text(folder.path())];
    let output = succeeds(&[&["index", text(&train)], &index_dir[..]].concat());
    assert!(output.contains("60 records, 1 bad") && output.contains("truncated"), "{output}");
    let output = succeeds(&[&["inspect", text(&train), "--json"], &index_dir[..]].concat());
    let summary: Value = serde_json::from_str(&output).unwrap();
    assert_eq!((&summary["records"], &summary["good"]), (&60.into(), &59.into()));
    assert_eq!(summary["digest"], WORLD.dataset.digest().to_string());
    assert_eq!(summary["classes"].as_array().unwrap().len(), 4);
}

#[test]
fn names_of_files_are_printed_without_control_characters() {
    let folder = tempfile::tempdir().unwrap();
    let class = folder.path().join("set/a\nclass");
    std::fs::create_dir_all(&class).unwrap();
    let world = &WORLD.dataset;
    let good = WORLD.train().join(world.name(world.good_or_next(0)));
    std::fs::copy(&good, class.join("good.jpg")).unwrap();
    std::fs::write(class.join("bad\nforebay: forged \u{1b}[2J\u{9b}.jpg"), "no image").unwrap();
    let set = folder.path().join("set");
    let escaped = "bad\\nforebay: forged \\u{1b}[2J\\u{9b}.jpg";
    for output in [succeeds(&["index", text(&set)]), succeeds(&["inspect", text(&set)])] {
        assert!(output.contains(escaped), "{output:?}");
        assert!(!output.contains(|c: char| c.is_control() && c != '\n'), "{output:?}");
        assert!(!output.lines().any(|line| line.starts_with("forebay: forged")), "{output:?}");
    }
    let error = fails(&["index", text(&folder.path().join("no\nforebay: forged \u{1b}[2J"))]);
    assert!(!error.contains(|c: char| c.is_control() && c != '\n'), "{error:?}");
    assert_eq!(error.matches("\nforebay: ").count(), 0, "{error:?}");
}

#[test]
fn what_cannot_be_used_is_skipped_and_named_and_refused_by_a_strict_index() {
    let folder = tempfile::tempdir().unwrap();
    let (set, world) = (folder.path().join("set"), &WORLD.dataset);
    std::fs::create_dir_all(set.join("a")).unwrap();
    let good = WORLD.train().join(world.name(world.good_or_next(0)));
    std::fs::copy(&good, set.join("a/good.jpg")).unwrap();
    std::os::unix::fs::symlink("nowhere", set.join("a/link.jpg")).unwrap();
    let skipped = "1 sample with a symbolic link whose target does not exist";
    for output in [succeeds(&["index", text(&set)]), succeeds(&["inspect", text(&set)])] {
        assert!(output.contains(skipped) && output.contains("a/link.jpg"), "{output}");
    }
    for strict in [&["--strict"][..], &["--max-skipped", "0"]] {
        let error = fails(&[&["index", text(&set)], strict].concat());
        assert!(error.contains(skipped) && error.contains("a/link.jpg"), "{error}");
    }
}

#[test]
fn logs_have_colors_only_on_a_terminal() {
    let train = format!("train={}", WORLD.train().display());
    // The address cannot be listened on, so that the server ends after its first lines.
    let error = fails(&["serve", "--dataset", &train, "--listen", "192.0.2.1:1"]);
    assert!(error.contains("dataset opened") && !error.contains('\u{1b}'), "{error:?}");
}

#[test]
fn paths_without_a_dataset_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent");
    assert!(fails(&["index", text(&absent)]).contains("absent"));
    let output = fails(&["inspect", text(folder.path())]);
    assert!(output.contains("forebay index"), "{output}");
    let output = fails(&["index", text(folder.path())]);
    assert!(output.contains(text(folder.path())), "{output}");
}

#[test]
fn recipes_are_shown_and_compared_and_unknown_ones_are_refused() {
    let shown = succeeds(&["recipe", "show", "a1", "--batch", "64"]);
    assert!(shown.starts_with("# digest ") && shown.contains("\nbatch = 64\n"), "{shown}");
    let difference = succeeds(&["recipe", "diff", "a1", "a2"]);
    let fields: Vec<&str> = difference.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(fields, ["mix.mixup", "smoothing"]);
    assert!(fails(&["recipe", "show", "a7"]).contains("a1, a2, a3, eval"));
    assert!(fails(&["recipe", "show", "none.toml"]).contains("none.toml"));
}

#[test]
fn a_recipe_of_a_configuration_is_known_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let (config, mine) = (folder.path().join("forebay.toml"), folder.path().join("mine.toml"));
    std::fs::write(&mine, "base = \"a3\"\nimage_size = 96\n").unwrap();
    std::fs::write(&config, format!("[recipes]\nmine = {:?}\n", text(&mine))).unwrap();
    let config = ["--config", text(&config)];
    let by_name = succeeds(&[&["recipe", "show", "mine"], &config[..]].concat());
    assert_eq!(by_name, succeeds(&["recipe", "show", text(&mine)]));
    let unknown = fails(&[&["recipe", "show", "other"], &config[..]].concat());
    assert!(unknown.contains("a1, a2, a3, eval, mine"), "{unknown}");
    let train = WORLD.train();
    let explain = ["explain", "--dataset", text(&train), "--recipe", "mine"];
    let explained: Value =
        serde_json::from_str(&succeeds(&[&explain, &SIZES[..], &config].concat())).unwrap();
    assert_eq!(explained["samples"].as_array().unwrap().len(), 4);
}

#[test]
fn booleans_of_the_environment_have_all_their_spellings() {
    for (value, code) in [("1", 1), ("yes", 1), ("on", 1), ("false", 1), ("", 1), ("maybe", 2)] {
        let output = forebay_command(&["serve"]).env("FOREBAY_JSON", value).output().unwrap();
        // Without a dataset it fails, but only after it has parsed its settings.
        assert_eq!(output.status.code(), Some(code), "{value:?}");
    }
}

#[test]
fn explain_prints_the_documented_json() {
    let train = WORLD.train();
    let dataset = ["--dataset", text(&train), "--recipe", "a2", "--step", "1"];
    let output = succeeds(&[&["explain"], &dataset[..], &SIZES[..]].concat());
    let explained: Value = serde_json::from_str(&output).unwrap();
    assert_eq!((&explained["step"], &explained["index"]), (&1.into(), &0.into()));
    assert!(["mixup", "cutmix", "none"].contains(&explained["mix"]["mode"].as_str().unwrap()));
    let samples = explained["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 4);
    for sample in samples {
        for key in ["slot", "position", "record", "file", "label", "size", "box", "flip", "ops"] {
            assert!(!sample[key].is_null(), "{key}");
        }
        assert_eq!(sample["interpolation"], "bicubic");
    }
    let past = [&["explain"], &dataset[..4], &SIZES[..], &["--step", "99"]].concat();
    assert!(fails(&past).contains("step 99"));
}

#[test]
fn datasets_are_mixed_by_commas_and_weights() {
    let root = tempfile::tempdir().unwrap();
    let train = WORLD.train();
    let path = |name: &str| root.path().join(name).display().to_string();
    for (class, to) in ["first", "second", "first"].into_iter().zip(["a/x", "b/x", "b/y"]) {
        std::fs::create_dir_all(path(to)).unwrap();
        let label = u32::from(class == "second");
        let world = &WORLD.dataset;
        let of_class = (0..world.len())
            .filter(|id| world.record(*id).label == label && world.record(*id).good);
        for id in of_class.take(8) {
            std::fs::copy(train.join(world.name(id)), format!("{}/{id}.jpg", path(to))).unwrap();
        }
    }
    let (a, b) = (path("a"), path("b"));
    let mix = format!("{a},{b}:0.5");
    succeeds(&["index", &a]);
    let explain = ["explain", "--recipe", "a2", "--set", "repeats = 1", "--dataset", &mix];
    let error = fails(&[&explain[..], &SIZES].concat());
    assert!(error.contains(&format!("no index at {b}.forebay")), "{error}");
    succeeds(&["index", &b]);
    let explained = |step: &str| -> Value {
        let output = succeeds(&[&explain[..], &SIZES, &["--step", step]].concat());
        serde_json::from_str(&output).unwrap()
    };
    // 8 records of the first and half of the 16 of the second are two steps of 8, in two microbatches of 4 each.
    let records = |value: &Value| -> Vec<u64> {
        value["samples"].as_array().unwrap().iter().map(|s| s["record"].as_u64().unwrap()).collect()
    };
    assert_eq!(records(&explained("1")).len(), 4);
    let error = fails(&[&explain[..], &SIZES, &["--step", "2"]].concat());
    assert!(error.contains("step 2"), "{error}");
    let wrong = format!("{a}:0");
    let output = forebay(&["explain", "--dataset", &wrong]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("is 0; expected more than 0"), "{error}");
}

#[test]
fn dump_writes_the_documented_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let (train, file) = (WORLD.train(), folder.path().join("one.safetensors"));
    let dataset = ["--dataset", text(&train), "--recipe", "a3"];
    succeeds(&[&["dump", "--out", text(&file)], &dataset[..], &SIZES[..]].concat());
    let bytes = std::fs::read(&file).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("pixels").unwrap().shape(), [4, 160, 160, 3]);
    for (name, bytes) in [("label_a", 32), ("label_b", 32), ("record", 32), ("lambda", 16)] {
        assert_eq!(tensors.tensor(name).unwrap().data().len(), bytes, "{name}");
    }
    let again = folder.path().join("again.safetensors");
    succeeds(&[&["dump", "--out", text(&again)], &dataset[..], &SIZES[..]].concat());
    assert!(std::fs::read(&again).unwrap() == bytes, "the same microbatch, the same bytes");
    let no_folder = folder.path().join("none/one.safetensors");
    let output = fails(&[&["dump", "--out", text(&no_folder)], &dataset[..], &SIZES[..]].concat());
    assert!(output.contains(text(&no_folder)), "{output}");
}

#[test]
fn bench_prints_the_documented_json() {
    let train = WORLD.train();
    let dataset = ["--dataset", text(&train), "--images", "60", "--threads", "2", "--json"];
    let report: Value =
        serde_json::from_str(&succeeds(&[&["bench"], &dataset[..]].concat())).unwrap();
    assert_eq!((&report["images"], &report["threads"]), (&60.into(), &2.into()));
    assert!(report["images_per_s"].as_f64().unwrap() > 0.0);
    let total = report["cpu_ms_per_image"].as_f64().unwrap();
    let stages = report["stages"].as_object().unwrap();
    let sum: f64 = stages.values().map(|time| time.as_f64().unwrap()).sum();
    assert!(stages.contains_key("decode") && sum > 0.0 && sum < total, "{report}");
}

#[test]
fn bench_measures_microbatches_of_the_requested_size() {
    let train = WORLD.train();
    let dataset = ["bench", "--dataset", text(&train), "--images", "20", "--json"];
    let bench = |sizes: &[&str]| -> Value {
        serde_json::from_str(&succeeds(&[&dataset[..], sizes].concat())).unwrap()
    };
    let report = bench(&["--batch", "16", "--microbatches", "2"]);
    assert_eq!(report["images"], 24, "three microbatches of 8");
}

#[test]
fn a_contact_sheet_of_another_format_is_refused_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let (train, file) = (WORLD.train(), folder.path().join("sheet.jpg"));
    let output = fails(&["preview", "--dataset", text(&train), "--out", text(&file)]);
    assert!(output.contains("sheet.jpg") && output.contains(".png"), "{output}");
    assert!(!file.exists());
}

#[test]
fn preview_draws_a_contact_sheet() {
    let folder = tempfile::tempdir().unwrap();
    let (train, file) = (WORLD.train(), folder.path().join("sheet.png"));
    let dataset = ["--dataset", text(&train), "--out", text(&file), "--samples", "4"];
    succeeds(&[&["preview"], &dataset[..], &SIZES[..]].concat());
    let (width, height, _) = forebay_tests::png(&file);
    assert!(width > 2 * 224 && height > 224, "{width}x{height}");
}

#[test]
fn a_server_prints_its_address_and_drains_on_sigterm() {
    let train = WORLD.train();
    let named = format!("train={}", text(&train));
    let mut server = Command::new(env!("CARGO_BIN_EXE_quickstart"))
        .args(["forebay", "serve", "--listen", "127.0.0.1:0", "--dataset", &named])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("listening on 127.0.0.1:"), "{line}");
    let pid = server.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert!(server.wait().unwrap().success());
}

#[test]
fn a_server_ends_when_the_last_of_its_users_releases_the_lock() {
    let folder = tempfile::tempdir().unwrap();
    let lock = folder.path().join("users");
    let users = [(); 2].map(|()| {
        let user = std::fs::File::options().create(true).append(true).open(&lock).unwrap();
        user.lock_shared().unwrap();
        user
    });
    let named = format!("train={}", text(&WORLD.train()));
    let arguments = ["--dataset", &named, "--while-locked", text(&lock)];
    let mut program = Command::new(env!("CARGO_BIN_EXE_quickstart"));
    let mut server = ServerProcess::start(program.arg("forebay"), None, &arguments);
    let [first, last] = users;
    drop(first);
    // It answers while there is a user.
    TcpStream::connect(server.address()).unwrap();
    assert!(server.try_wait().is_none());
    drop(last);
    assert!(server.wait().success());
    // Who locks the file then knows that the server has ended.
    let absent = folder.path().join("absent");
    let serve = ["serve", "--listen", "127.0.0.1:0", "--dataset", &named];
    let output = forebay(&[&serve[..], &["--while-locked", text(&absent)]].concat());
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("--while-locked") && error.contains("absent"), "{error}");
    assert!(output.stdout.is_empty(), "nobody was told that it serves");
}

#[test]
fn a_server_that_cannot_start_says_why() {
    assert!(fails(&["serve"]).contains("--dataset NAME=PATH"));
    let folder = tempfile::tempdir().unwrap();
    let absent = format!("train={}", text(&folder.path().join("absent")));
    let output = fails(&["serve", "--dataset", &absent]);
    assert!(output.contains("dataset train") && output.contains("absent"), "{output}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let train = WORLD.train();
    let named = format!("train={}", text(&train));
    let output = fails(&["serve", "--dataset", &named, "--listen", &address]);
    assert!(output.contains(&address), "{output}");
}

#[test]
fn a_missing_gpu_is_refused() {
    let train = WORLD.train();
    let named = format!("train={}", text(&train));
    // No machine has a hundred GPUs, and the command runs without a stand-in's libraries.
    let device = ["--device", "cuda:99"];
    let serve = ["serve", "--listen", "127.0.0.1:0", "--dataset", &named];
    let bench = ["bench", "--dataset", text(&train), "--images", "1"];
    for command in [&serve[..], &bench[..], &["gpu-selftest"][..]] {
        let output = fails(&[command, &device[..]].concat());
        assert!(output.contains("cuda:99") && output.contains("--device cpu"), "{output}");
        assert!(!output.contains("panicked"), "{output}");
        assert_eq!(output.contains("--features cuda"), !cfg!(feature = "cuda"), "{output}");
    }
    assert!(fails(&["gpu-selftest", "--device", "cpu"]).contains("--device cuda:N"));
}

#[test]
fn without_a_gpu_auto_mixes_on_the_cpu_and_logs_it() {
    let train = WORLD.train();
    let named = format!("train={}", text(&train));
    let mut server = forebay_command(&["serve", "--listen", "127.0.0.1:0", "--dataset", &named])
        // This hides a GPU that the machine may have.
        .env("CUDA_VISIBLE_DEVICES", "")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = BufReader::new(server.stderr.take().unwrap());
    let output: Vec<String> =
        log.lines().map(|line| line.unwrap()).take_while(|line| !line.contains("opened")).collect();
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(output[0].contains("no usable GPU") && output[0].contains("cuda:0"), "{output:?}");
    assert!(output[1].contains("mixing") && output[1].contains("cpu"), "{output:?}");
}

#[test]
fn wrong_arguments_exit_with_2() {
    assert_eq!(forebay(&["serve", "--dataset", "no-equals-sign"]).status.code(), Some(2));
    assert_eq!(forebay(&["frobnicate"]).status.code(), Some(2));
    assert_eq!(forebay(&["--version"]).status.code(), Some(0));
}
