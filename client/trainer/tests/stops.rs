//! What a training does when it is asked to stop, by a signal to one of its ranks.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "fixtures/dump.rs"]
mod dump;

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

use dump::dump;

/// Bound that only a hang exceeds.
const HANG: Duration = Duration::from_mins(5);

/// The exit code of a training that was asked to stop and has written a checkpoint.
const STOPPED: Option<i32> = Some(85);

/// A folder with a dump of two microbatches a step, in which trainers run.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        dump(&folder.path().join("dump"), 2);
        Self(folder)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn start(&self, out: &str, more: &[&str]) -> Trainer {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay-trainer"));
        command.current_dir(self.0.path()).stdout(Stdio::null()).stderr(Stdio::piped());
        // Tests may run on a GPU or its stand-in.
        let device = std::env::var_os("FOREBAY_TEST_DEVICE").unwrap_or_else(|| "cpu".into());
        command.env("FOREBAY_DEVICE", device).arg("--threads=1");
        command.env("FOREBAY_CONV_PLAN_CACHE", self.at("plans"));
        command.args(["train", "--replay", "dump", "--model", "resnet20", "--recipe", "a3"]);
        command.args(["--epochs", "2", "--warmup-epochs", "1", "--output", out]).args(more);
        let mut child = command.spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        Trainer { child, stderr: BufReader::new(stderr) }
    }

    /// Makes a trainer with `--dump blocked` wait at a microbatch: it is to write it to a pipe.
    fn block(&self, name: &str) -> PathBuf {
        let pipe = self.at("blocked").join(name);
        std::fs::create_dir_all(self.at("blocked")).unwrap();
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        pipe
    }

    fn wait_for(&self, name: &str) {
        let begin = Instant::now();
        while !self.at(name).exists() {
            assert!(begin.elapsed() < HANG, "{name} is never written");
            sleep(Duration::from_millis(20));
        }
    }

    fn model(&self, out: &str) -> Vec<u8> {
        std::fs::read(self.at(out).join("model.safetensors")).unwrap()
    }
}

/// Reads what is written to a pipe, so that its writer goes on.
fn unblock(pipe: PathBuf) -> JoinHandle<usize> {
    Builder::new().spawn(move || std::fs::read(pipe).unwrap().len()).unwrap()
}

/// A process that does not outlive its test.
struct Trainer {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Trainer {
    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// Reads standard error up to the line with these words.
    fn says(&mut self, words: &str) {
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            assert_ne!(self.stderr.read_line(&mut line).unwrap(), 0, "it never says {words:?}");
        }
    }

    /// Waits for the end. Returns what it said last.
    fn end(&mut self) -> (ExitStatus, String) {
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap(), said)
    }
}

impl Drop for Trainer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn a_signal_ends_a_run_with_a_checkpoint_after_the_step_in_progress_and_it_resumes_bit_for_bit() {
    let folder = Folder::new();
    assert!(folder.start("whole", &[]).end().0.success());
    for (name, signal) in [("term", "-TERM"), ("int", "-INT")] {
        let pipe = folder.block("0000-000001-001.safetensors");
        let mut trainer = folder.start(name, &["--dump", "blocked", "--stop-grace", "5m"]);
        // Its second step is in progress.
        folder.wait_for("blocked/0000-000001-000.safetensors");
        trainer.signal(signal);
        trainer.says("a checkpoint follows the step in progress");
        let reader = unblock(pipe.clone());
        assert_eq!(trainer.end().0.code(), STOPPED);
        assert!(reader.join().unwrap() > 0);
        assert!(folder.at(name).join("step-00000002/run.json").exists());
        // It has no time for more.
        assert!(!folder.at(name).join("model.safetensors").exists());
        let (status, said) = folder.start(name, &["--resume"]).end();
        assert!(status.success(), "{said}");
        assert!(folder.model(name) == folder.model("whole"), "{name}");
        std::fs::remove_dir_all(folder.at("blocked")).unwrap();
    }
}

#[test]
fn a_second_signal_and_the_end_of_the_grace_end_a_run_at_once() {
    let folder = Folder::new();
    folder.block("0000-000001-000.safetensors");
    let blocked = ["--dump", "blocked", "--checkpoint-steps", "1", "--stop-grace"];
    let start = |out: &str, grace: &str| {
        let trainer = folder.start(out, &[&blocked[..], &[grace]].concat());
        folder.wait_for(&format!("{out}/step-00000001/run.json"));
        trainer
    };
    let mut trainer = start("twice", "5m");
    trainer.signal("-INT");
    trainer.says("a second signal ends it at once");
    // Signals within a second of the first one are the same.
    while trainer.child.try_wait().unwrap().is_none() {
        trainer.signal("-TERM");
        sleep(Duration::from_millis(100));
    }
    assert_eq!(trainer.end().0.code(), Some(143));

    for grace in ["0", "2s"] {
        let mut trainer = start(grace, grace);
        trainer.signal("-TERM");
        let (status, said) = trainer.end();
        assert_eq!(status.code(), Some(143), "{said}");
        let why = format!("not done within --stop-grace {grace}");
        assert!(said.contains(&why) && said.contains("--resume"), "{said}");
        let left: Vec<_> = std::fs::read_dir(folder.at(grace)).unwrap().collect();
        let left: Vec<_> = left.into_iter().map(|entry| entry.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| *name == "step-00000002"), "{left:?}");
    }
}

#[test]
fn a_signal_to_one_rank_ends_all_ranks_at_the_same_step() {
    let folder = Folder::new();
    assert!(folder.start("whole", &[]).end().0.success());
    for asked in [0, 1] {
        let out = format!("rank-{asked}");
        let pipe = folder.block("0000-000001-001.safetensors");
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let mut ranks = ["0", "1"].map(|rank| {
            let world = ["--world", "2", "--rank", rank, "--rendezvous", &address];
            folder.start(&out, &[&world[..], &["--dump", "blocked", "--stop-grace", "5m"]].concat())
        });
        folder.wait_for("blocked/0000-000001-000.safetensors");
        ranks[asked].signal("-TERM");
        ranks[asked].says("a checkpoint follows the step in progress");
        let reader = unblock(pipe);
        for rank in &mut ranks {
            let (status, said) = rank.end();
            assert_eq!(status.code(), STOPPED, "{said}");
        }
        assert!(reader.join().unwrap() > 0);
        assert!(folder.at(&out).join("step-00000002/run.json").exists());
        let (status, said) = folder.start(&out, &["--resume"]).end();
        assert!(status.success(), "{said}");
        assert!(folder.model(&out) == folder.model("whole"), "{out}");
        std::fs::remove_dir_all(folder.at("blocked")).unwrap();
    }
}

#[test]
fn a_command_runs_for_each_checkpoint_and_for_that_of_a_signal() {
    let folder = Folder::new();
    let pipe = folder.block("0000-000001-001.safetensors");
    let command = "test -f \"$1/run.json\" && echo \"$1\" >> done";
    let with_command = ["--checkpoint-command", command, "--checkpoint-hist", "1"];
    let blocked = ["--dump", "blocked", "--stop-grace", "5m"];
    let mut trainer = folder.start("out", &[&with_command[..], &blocked].concat());
    folder.wait_for("blocked/0000-000001-000.safetensors");
    trainer.signal("-TERM");
    trainer.says("a checkpoint follows");
    unblock(pipe).join().unwrap();
    assert_eq!(trainer.end().0.code(), STOPPED);
    let done = || std::fs::read_to_string(folder.at("done")).unwrap();
    assert_eq!(done(), "out/step-00000002\n");
    let (status, said) = folder.start("out", &[&with_command[..], &["--resume"]].concat()).end();
    assert!(status.success(), "{said}");
    // That of the last one always runs; an older one may be left out for it.
    assert_eq!(done().lines().last(), Some("out/step-00000006"), "{}", done());

    let (status, said) = folder.start("failing", &["--checkpoint-command", "exit 7"]).end();
    assert!(status.success(), "a command that fails ends no training: {said}");
    assert!(said.contains("--checkpoint-command failed") && said.contains("status: 7"), "{said}");
}
