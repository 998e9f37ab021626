//! The whole of forebay in one command, on data that it makes: `cargo run --release --bin quickstart`.
//!
//! Makes a procedural dataset, indexes it, serves it from a process of its own, streams A2
//! microbatches to two virtual trainers who check every byte, and draws what they got.
//!
//! Called as `quickstart forebay ...` it is the `forebay` command, so that one build is enough and
//! tests can start servers as processes.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use forebay_client::Job;

/// Small enough for a minute on two cores, large enough for two epochs of steps.
const CLASSES: u32 = 10;
const PER_CLASS: u32 = 52;
const RECIPE: &str = "a2";
const SET: [&str; 2] = ["batch = 128", "microbatches = 4"];
const STEPS: u64 = 12;
const TRAINERS: u32 = 2;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    match arguments.next() {
        Some(command) if command == "forebay" => {
            forebay_server::cli::main(std::iter::once(command).chain(arguments))
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
    let (data, train) = (folder.join("data"), folder.join("data/train"));
    let program = std::env::current_exe().unwrap_or_else(|_| program.to_owned());
    let forebay = Forebay { program };

    if train.is_dir() {
        say(format_args!("1. sample data is there already"));
    } else {
        say(format_args!("1. sample data: {CLASSES} classes"));
        let counts = [CLASSES, PER_CLASS, 0].map(|count| count.to_string());
        let [classes, train, val] = &counts;
        let data = path(&data)?;
        let numbers = ["--classes", classes, "--per-class", train, "--val-per-class", val];
        forebay.run(&[&["sample-data", data][..], &numbers].concat())?;
    }

    say(format_args!("2. index"));
    let dataset = path(&train)?;
    forebay.run(&["index", dataset])?;

    say(format_args!("3. serve, and stream {STEPS} steps of {RECIPE} to {TRAINERS} trainers"));
    let server = forebay.serve(dataset)?;
    let report = stream(&server.endpoint)?;
    say(format_args!("{report}"));
    let stopped = server.stop()?;
    ensure!(stopped, "the server did not stop cleanly");
    if !report.violations.is_empty() {
        bail!("the trainers received something wrong");
    }

    say(format_args!("4. draw the first microbatch"));
    let sheet = folder.join("contact-sheet.png");
    let mut preview = vec!["preview", "--dataset", dataset, "--recipe", RECIPE, "--samples", "12"];
    preview.extend(SET.iter().flat_map(|change| ["--set", change]));
    preview.extend(["--out", path(&sheet)?]);
    forebay.run(&preview)?;

    say(format_args!(
        "\nEvery microbatch arrived once, in order, with the right digest: {} images in {:.1} s.\n\
         data           {}\nindex          {}\ncontact sheet  {}",
        report.images,
        started.elapsed().as_secs_f64(),
        data.display(),
        forebay::dataset::index_path(&train, None).display(),
        sheet.display(),
    ));
    Ok(())
}

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

#[expect(clippy::print_stdout, reason = "it shows what it does")]
fn say(line: std::fmt::Arguments<'_>) {
    println!("{line}");
}

fn stream(endpoint: &str) -> anyhow::Result<forebay_loadtest::Report> {
    let client = forebay_client::Options::new([endpoint]);
    let job = Job { set: SET.map(String::from).to_vec(), ..Job::new("train", RECIPE) };
    let options = forebay_loadtest::Options {
        trainers: TRAINERS,
        progress: true,
        ..forebay_loadtest::Options::new(client, job, STEPS)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(forebay_loadtest::run(options))?)
}

/// The `forebay` command, as processes of this program.
struct Forebay {
    program: PathBuf,
}

impl Forebay {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("forebay").args(arguments.iter().map(OsString::from));
        command
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let status = self.command(arguments).status()?;
        ensure!(status.success(), "forebay {}: {status}", arguments.join(" "));
        Ok(())
    }

    fn serve(&self, dataset: &str) -> anyhow::Result<Server> {
        let named = format!("train={dataset}");
        let arguments = ["serve", "--dataset", &named, "--listen", "127.0.0.1:0"];
        let mut process = self
            .command(&arguments)
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
