//! The whole of forebay in one command, on data that it makes: `cargo run --release --bin quickstart`.
//!
//! Makes a procedural dataset, indexes it, serves it from two processes, streams A2 microbatches to
//! two virtual trainers who check every byte, trains a small ResNet while one of the servers is
//! killed, and draws what came of it.
//!
//! Called as `quickstart forebay ...` or `quickstart forebay-trainer ...` it is that command, so that
//! one build is enough and tests can start processes.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use forebay_client::Job;

/// Sizes that a machine of two cores works through in about two minutes.
const SAMPLE_DATA: [&str; 6] = ["--classes", "6", "--per-class", "120", "--val-per-class", "30"];
const RECIPE: &str = "a2";
const SET: [&str; 2] = ["batch = 128", "microbatches = 4"];
const STEPS: u64 = 10;
const TRAINERS: u32 = 2;
/// Each value but these is recipe a3's.
const TRAINING: [&str; 20] = [
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
    "--crop-scale",
    "0.35,1",
    "--epochs",
    "20",
    "--lr",
    "0.02",
    "--warmup-epochs",
    "2",
];
/// Lines of the trainer's log before a server is killed.
const KILL_AFTER: usize = 30;
/// Percent of right guesses by chance.
const CHANCE: f64 = 100.0 / 6.0;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    match arguments.next() {
        Some(command) if command == "forebay" => {
            forebay_server::cli::main(std::iter::once(command).chain(arguments))
        }
        Some(command) if command == "forebay-trainer" => {
            forebay_trainer::command::main(std::iter::once(command).chain(arguments))
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
    let started = Instant::now();
    let program = std::env::current_exe().unwrap_or_else(|_| program.to_owned());
    let tools = Tools { program };
    let data = folder.join("data");
    let [train, val] = ["train", "val"].map(|split| data.join(split));

    if train.is_dir() && val.is_dir() {
        say(format_args!("1. sample data is there already"));
    } else {
        say(format_args!("1. sample data: pictures of shapes, six classes"));
        tools.run("forebay", &[&["sample-data", path(&data)?], &SAMPLE_DATA[..]].concat())?;
    }

    say(format_args!("2. index"));
    for split in [&train, &val] {
        tools.run("forebay", &["index", path(split)?])?;
    }

    say(format_args!("3. serve from two processes, and stream {RECIPE} to {TRAINERS} trainers"));
    let datasets = [format!("train={}", path(&train)?), format!("val={}", path(&val)?)];
    let [mut one, two] = [tools.serve(&datasets)?, tools.serve(&datasets)?];
    let report = stream(&[&one.endpoint, &two.endpoint])?;
    say(format_args!("{report}"));
    ensure!(report.violations.is_empty(), "the trainers received something wrong");

    let run = folder.join("run");
    if run.exists() {
        std::fs::remove_dir_all(&run).with_context(|| format!("cannot empty {}", run.display()))?;
    }
    let accuracy = train_through_a_crash(&tools, &mut one, &two, &run)?;
    ensure!(two.stop()?, "the server left did not stop cleanly");

    say(format_args!("5. draw the first microbatch"));
    let sheet = folder.join("contact-sheet.png");
    let dataset = path(&train)?;
    let mut preview = vec!["preview", "--dataset", dataset, "--recipe", RECIPE, "--samples", "12"];
    preview.extend(SET.iter().flat_map(|change| ["--set", change]));
    preview.extend(["--out", path(&sheet)?]);
    tools.run("forebay", &preview)?;

    say(format_args!(
        "\nEvery microbatch arrived once, in order, with the right digest, although a server was \
         killed.\nA small ResNet reached {accuracy:.1} % top-1, where guessing gives {CHANCE:.1} %. \
         All of it in {:.0} s.\n\n\
         data           {}\nindexes        {}\n               {}\ncontact sheet  {}\n\
         curves         {}\nmodel          {}\nlog            {}",
        started.elapsed().as_secs_f64(),
        data.display(),
        forebay::dataset::index_path(&train, None).display(),
        forebay::dataset::index_path(&val, None).display(),
        sheet.display(),
        run.join("curves.png").display(),
        run.join("model.safetensors").display(),
        run.join("log.jsonl").display(),
    ));
    ensure!(accuracy > 2.0 * CHANCE, "the ResNet learned too little");
    Ok(())
}

/// Trains while a server dies; the top-1 accuracy in percent at the end.
fn train_through_a_crash(
    tools: &Tools,
    victim: &mut Server,
    other: &Server,
    run: &Path,
) -> anyhow::Result<f64> {
    say(format_args!("4. train resnet20 with recipe a3, and kill a server on the way"));
    let servers = format!("{},{}", victim.endpoint, other.endpoint);
    let arguments = ["train", "--server", &servers, "--dataset", "train", "--eval-dataset", "val"];
    let out = ["--out", path(run)?];
    let mut trainer = tools
        .command("forebay-trainer", &[&arguments[..], &TRAINING, &out].concat())
        .env("RUST_LOG", "error")
        .spawn()
        .context("cannot start the trainer")?;
    let log = run.join("log.jsonl");
    let lines = || std::fs::read_to_string(&log).map_or(0, |text| text.lines().count());
    let status = loop {
        if let Some(status) = trainer.try_wait()? {
            break status;
        }
        if victim.alive()? && lines() > KILL_AFTER {
            victim.process.kill()?;
            say(format_args!("   killed the server at {}", victim.endpoint));
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    ensure!(status.success(), "forebay-trainer: {status}");
    ensure!(!victim.alive()?, "the training ended before a server could be killed");
    let text = std::fs::read_to_string(&log).context("the trainer's log")?;
    let last = text.lines().rev().find_map(|line| {
        let entry: serde_json::Value = serde_json::from_str(line).ok()?;
        entry["top1"].as_f64()
    });
    let accuracy = last.context("the trainer's log holds no accuracy")?;
    Ok(100.0 * accuracy)
}

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

#[expect(clippy::print_stdout, reason = "it shows what it does")]
fn say(line: std::fmt::Arguments<'_>) {
    println!("{line}");
}

fn stream(endpoints: &[&str]) -> anyhow::Result<forebay_loadtest::Report> {
    let client = forebay_client::Options::new(endpoints.iter().copied());
    let job = Job { set: SET.map(String::from).to_vec(), ..Job::new("train", RECIPE) };
    let options = forebay_loadtest::Options {
        trainers: TRAINERS,
        progress: true,
        ..forebay_loadtest::Options::new(client, job, STEPS)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(forebay_loadtest::run(options))?)
}

/// The commands of forebay, as processes of this program.
struct Tools {
    program: PathBuf,
}

impl Tools {
    fn command(&self, tool: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(tool).args(arguments);
        command
    }

    fn run(&self, tool: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let status = self.command(tool, arguments).status()?;
        ensure!(status.success(), "{tool} {}: {status}", arguments.join(" "));
        Ok(())
    }

    fn serve(&self, datasets: &[String]) -> anyhow::Result<Server> {
        let mut arguments = vec!["serve", "--listen", "127.0.0.1:0"];
        arguments.extend(datasets.iter().flat_map(|dataset| ["--dataset", dataset]));
        let mut process = self
            .command("forebay", &arguments)
            .env("RUST_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the server")?;
        let mut line = String::new();
        let stdout = process.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line)?;
        let address =
            line.trim().strip_prefix("listening on ").context("the server did not start")?;
        Ok(Server { endpoint: format!("http://{address}"), process })
    }
}

/// A server process, ended when dropped.
struct Server {
    endpoint: String,
    process: Child,
}

impl Server {
    fn alive(&mut self) -> anyhow::Result<bool> {
        Ok(self.process.try_wait()?.is_none())
    }

    /// Asks it to drain and stop; whether it did so without an error.
    fn stop(mut self) -> anyhow::Result<bool> {
        let pid = self.process.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().context("cannot signal the server")?;
        Ok(self.process.wait()?.success())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already ended, unless something failed before.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
