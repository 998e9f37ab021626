//! The whole of forebay in one command, on data that it generates: `cargo quickstart`.
//!
//! Generates a dataset, indexes it, serves it from two processes, streams A2 microbatches to two virtual trainers
//! that check every byte, trains a small ResNet while one of the servers is killed, and draws a microbatch.
//!
//! `quickstart forebay ...` and `quickstart forebay-trainer ...` run these commands, so that one build has everything,
//! and tests can start processes.

mod progress;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use forebay_client::Job;
use forebay_types::command::{OwnedChild, StopSignal, log_to_stderr, on_stop};

use progress::{Progress, say};
use tools::{Server, Tools, path};

const SAMPLE_DATA: [&str; 6] = ["--classes", "6", "--per-class", "120", "--val-per-class", "30"];
const RECIPE: &str = "a2";
const SET: [&str; 2] = ["batch = 128", "microbatches = 4"];
/// Steps that the trainers of step 3 read.
const STREAMED_STEPS: u64 = 10;
/// Trainers of step 3.
const TRAINERS: u32 = 2;
/// Flags that differ from the values of recipe a3.
const TRAINING: [&str; 21] = [
    "--recipe",
    "a3",
    "--model",
    "resnet20",
    "--image-size",
    "32",
    "--eval-image-size",
    "32",
    "--batch",
    "72",
    "--microbatches",
    "2",
    "--scale",
    "0.35",
    "1",
    "--epochs",
    "10",
    "--lr",
    "0.02",
    "--warmup-epochs",
    "1",
];
/// A server is killed when the trainer's log has more lines than this.
const KILL_AFTER: usize = 30;
/// Top-1 accuracy in percent of a random guess.
const CHANCE: f64 = 100.0 / 6.0;
/// The steps, as the overview lists them.
const STEPS: [&str; 5] = [
    "generate a dataset",
    "index it",
    "serve it from two processes, and stream augmented batches to two trainers",
    "train a small ResNet while one of the servers is killed",
    "draw a batch as a contact sheet",
];

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    match arguments.next() {
        Some(command) if command == "forebay" => {
            forebay_server::main(std::iter::once(command).chain(arguments)).into()
        }
        Some(command) if command == "forebay-trainer" => {
            forebay_trainer::main(std::iter::once(command).chain(arguments)).into()
        }
        Some(flag) if flag.as_encoded_bytes().starts_with(b"-") => {
            say(format_args!(
                "usage: cargo quickstart [FOLDER]: writes to FOLDER, by default quickstart"
            ));
            if flag == "--help" || flag == "-h" { ExitCode::SUCCESS } else { ExitCode::from(2) }
        }
        folder => {
            let folder = folder.map_or_else(|| PathBuf::from("quickstart"), PathBuf::from);
            match quickstart(Path::new(&program), &folder) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    say(format_args!("quickstart failed: {error:#}"));
                    ExitCode::FAILURE
                }
            }
        }
    }
}

fn quickstart(program: &Path, folder: &Path) -> anyhow::Result<()> {
    log_to_stderr("warn", false);
    on_stop(Some(Duration::ZERO), |signal: StopSignal| signal.exit())?;
    let mut progress = Progress::begin(&STEPS, folder);
    let program = std::env::current_exe().unwrap_or_else(|_| program.to_owned());
    let tools = Tools { program };
    let data = folder.join("data");
    let [train, val] = ["train", "val"].map(|split| data.join(split));

    progress.step("Images of shapes in six classes, as an ImageFolder.");
    if train.is_dir() && val.is_dir() {
        say(format_args!("{} has the dataset of an earlier run", data.display()));
    } else {
        tools.run("forebay", &[&["sample-data", path(&data)?], &SAMPLE_DATA[..]].concat())?;
    }

    progress.step(
        "Every image is checked once. Look at the digest: it names the content of the dataset.",
    );
    for split in [&train, &val] {
        tools.run("forebay", &["index", path(split)?])?;
    }

    progress.step(
        "The trainers check every byte. Look at images/s, at the CPU time per image of each stage, and at \
         `violations none`.",
    );
    let datasets = [format!("train={}", path(&train)?), format!("val={}", path(&val)?)];
    let [mut one, two] = [tools.serve(&datasets)?, tools.serve(&datasets)?];
    let report = stream(&[&one.endpoint, &two.endpoint])?;
    say(format_args!("{report}"));
    ensure!(
        report.violations.is_empty(),
        "the trainers received wrong microbatches: see the violations above"
    );

    progress.step(
        "The longest step. Look at top-1, which is 17 % for a random guess, and at how the training continues \
         after the kill.",
    );
    let run = folder.join("run");
    if run.exists() {
        std::fs::remove_dir_all(&run)
            .with_context(|| format!("cannot remove {}", run.display()))?;
    }
    let accuracy = train_through_a_crash(&tools, &mut one, &two, &run)?;
    ensure!(two.stop()?, "the remaining server exited with an error: see its message above");

    progress.step("Look at the crops, the RandAugment operations and the mixed pairs.");
    let sheet = folder.join("contact-sheet.png");
    let dataset = path(&train)?;
    let mut preview = vec!["preview", "--dataset", dataset, "--recipe", RECIPE, "--samples", "12"];
    preview.extend(SET.iter().flat_map(|change| ["--set", change]));
    preview.extend(["--out", path(&sheet)?]);
    tools.run("forebay", &preview)?;

    say(format_args!(
        "\nDone in {:.0} s. Every microbatch arrived once, in order and with the right digest, although a server \
         was killed.\nA small ResNet reached {accuracy:.1} % top-1, where a random guess has {CHANCE:.1} %.\n\n\
         Look at\n\
         contact sheet  {}\ncurves         {}\n\
         data           {}\nindexes        {}\n               {}\n\
         model          {}\nlog            {}",
        progress.seconds(),
        sheet.display(),
        run.join("curves.html").display(),
        data.display(),
        forebay::dataset::index_path(&train, None).display(),
        forebay::dataset::index_path(&val, None).display(),
        run.join("model.safetensors").display(),
        run.join("log.jsonl").display(),
    ));
    ensure!(
        accuracy > 2.0 * CHANCE,
        "the ResNet reached only {accuracy:.1} % top-1: expected more than {:.1} %",
        2.0 * CHANCE
    );
    Ok(())
}

/// Trains while a server is killed. Returns the final top-1 accuracy in percent.
fn train_through_a_crash(
    tools: &Tools,
    victim: &mut Server,
    other: &Server,
    run: &Path,
) -> anyhow::Result<f64> {
    let servers = format!("{},{}", victim.endpoint, other.endpoint);
    let arguments =
        ["train", "--endpoint", &servers, "--dataset", "train", "--eval-dataset", "val"];
    let out = ["--output", path(run)?];
    let mut trainer = tools.command("forebay-trainer", &[&arguments[..], &TRAINING, &out].concat());
    trainer.env("RUST_LOG", "error");
    let mut trainer = OwnedChild::spawn(&mut trainer).context("cannot start the trainer")?;
    let log = run.join("log.jsonl");
    let lines = || std::fs::read_to_string(&log).map_or(0, |text| text.lines().count());
    let status = loop {
        if let Some(status) = trainer.try_wait()? {
            break status;
        }
        if victim.alive()? && lines() > KILL_AFTER {
            victim.kill()?;
            say(format_args!("killed the server at {}", victim.endpoint));
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    ensure!(status.success(), "forebay-trainer failed ({status}): see its message above");
    ensure!(
        !victim.alive()?,
        "the training ended before a server was killed, which needs more than {KILL_AFTER} steps"
    );
    let text = std::fs::read_to_string(&log).context("cannot read the trainer's log")?;
    let last = text.lines().rev().find_map(|line| {
        let entry: serde_json::Value = serde_json::from_str(line).ok()?;
        entry["top1"].as_f64()
    });
    let accuracy = last.context("the trainer's log has no accuracy")?;
    Ok(100.0 * accuracy)
}

/// Streams to virtual trainers from both servers.
fn stream(endpoints: &[&str]) -> anyhow::Result<forebay_loadtest::Report> {
    let client = forebay_client::Options::new(endpoints.iter().copied());
    let job = Job { set: SET.map(String::from).to_vec(), ..Job::new("train", RECIPE) };
    let options = forebay_loadtest::Options {
        trainers: TRAINERS,
        progress: true,
        ..forebay_loadtest::Options::new(client, job, STREAMED_STEPS)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(forebay_loadtest::run(options))?)
}
