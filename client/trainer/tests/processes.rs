//! Processes that train together over TCP: they write the files of a single process, and end with an error
//! that names the rank that was lost, failed, froze, never joined or had other settings.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "fixtures/dump.rs"]
mod dump;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use dump::dump;

/// Bound that only a hang exceeds.
const HANG: Duration = Duration::from_mins(5);

fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// The arguments of a rank that waits at the microbatch of [`Folder::block`].
const BLOCKED: [&str; 2] = ["--dump", "blocked"];

/// A folder with a dump, in which trainers run.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(microbatches: u8) -> Self {
        let folder = tempfile::tempdir().unwrap();
        dump(&folder.path().join("dump"), microbatches);
        Self(folder)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, out: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay-trainer"));
        command.current_dir(self.0.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for name in ["WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT", "JOB_COMPLETION_INDEX"] {
            command.env_remove(name);
        }
        command.args(["--threads", "1", "train", "--replay", "dump", "--recipe", "a3"]);
        command.args([
            "--model",
            "resnet20",
            "--epochs",
            "2",
            "--warmup-epochs",
            "1",
            "--drop-path",
            "0.2",
        ]);
        command.args(["--model-ema", "--model-ema-decay", "0.9", "--output", out]).args(more);
        // Tests may run on GPUs or their stand-in, one per rank.
        if std::env::var_os("FOREBAY_TEST_DEVICE").is_some() {
            command.args(["--device", "cuda"]);
            command.arg("--conv-plan-cache").arg(self.at("plans"));
        }
        command
    }

    /// Starts the ranks of a world, each with arguments of its own.
    fn world(&self, out: &str, more: &[&[&str]]) -> Vec<Trainer> {
        let (address, world) = (free_port(), more.len().to_string());
        let start = |(rank, more): (usize, &&[&str])| {
            let mut command = self.command(out, &["--rendezvous", &address, "--world", &world]);
            let rank = rank.to_string();
            command.env("LOCAL_RANK", &rank).args(["--rank", &rank]);
            Trainer(Some(command.args(*more).spawn().unwrap()))
        };
        more.iter().enumerate().map(start).collect()
    }

    /// Makes a rank with [`BLOCKED`] wait forever at a microbatch: it is to write the microbatch to a pipe that nobody
    /// reads.
    fn block(&self, name: &str) {
        let folder = self.at("blocked");
        std::fs::create_dir(&folder).unwrap();
        assert!(Command::new("mkfifo").arg(folder.join(name)).status().unwrap().success());
    }

    fn wait_for(&self, name: &str) {
        let begin = Instant::now();
        while !self.at(name).exists() {
            assert!(begin.elapsed() < HANG, "{name} is never written");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn same(&self, one: &str, other: &str) {
        for name in
            ["model.safetensors", "model_ema.safetensors", "step-00000006/optimizer.safetensors"]
        {
            let [one, other] =
                [one, other].map(|out| std::fs::read(self.at(out).join(name)).unwrap());
            assert!(one == other, "{name}");
        }
        assert_eq!(losses(&self.at(one)), losses(&self.at(other)));
    }
}

fn losses(out: &Path) -> Vec<String> {
    let log = std::fs::read_to_string(out.join("log.jsonl")).unwrap();
    let line = |line| serde_json::from_str::<serde_json::Value>(line).unwrap();
    log.lines().map(|text| format!("{} {}", line(text)["loss"], line(text)["grad_norm"])).collect()
}

/// A process that does not outlive its test.
struct Trainer(Option<Child>);

impl Trainer {
    fn signal(&self, signal: &str) {
        let id = self.0.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// Waits until the process ends.
    fn end(mut self) -> (bool, String) {
        let begin = Instant::now();
        while begin.elapsed() < HANG {
            if self.0.as_mut().unwrap().try_wait().unwrap().is_some() {
                let Output { status, stdout, stderr } =
                    self.0.take().unwrap().wait_with_output().unwrap();
                let text = String::from_utf8_lossy(&stderr) + String::from_utf8_lossy(&stdout);
                return (status.success(), text.into_owned());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut child = self.0.take().unwrap();
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        panic!("still running after {HANG:?}: {output:?}")
    }

    fn succeeds(self) -> String {
        let (success, text) = self.end();
        assert!(success, "{text}");
        text
    }

    /// Waits for the end, which must be an error with these words.
    fn fails(self, words: &[&str]) {
        let (success, text) = self.end();
        assert!(!success && words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
    }
}

impl Drop for Trainer {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

#[test]
fn two_and_four_processes_write_the_files_of_one() {
    let folder = Folder::new(4);
    let single = Trainer(Some(folder.command("one", &[]).spawn().unwrap()));
    single.succeeds();
    for (out, world) in [("two", 2), ("four", 4)] {
        for trainer in folder.world(out, &vec![&[][..]; world]) {
            trainer.succeeds();
        }
        folder.same("one", out);
    }
}

#[test]
fn ranks_are_read_from_torchrun_and_indexed_jobs() {
    let folder = Folder::new(2);
    let address = free_port();
    let (host, port) = address.split_once(':').unwrap();
    let start = |name: &str, rank: &str| {
        let mut command = folder.command("out", &[]);
        command.env("WORLD_SIZE", "2").env("MASTER_ADDR", host).env("MASTER_PORT", port);
        command.env("LOCAL_RANK", rank).env(name, rank);
        Trainer(Some(command.spawn().unwrap()))
    };
    let trainers = [start("RANK", "0"), start("JOB_COMPLETION_INDEX", "1")];
    for (trainer, said) in trainers.into_iter().zip(["rank 0 of 2", "rank 1 of 2"]) {
        assert!(trainer.succeeds().contains(said));
    }
}

#[test]
fn after_a_killed_rank_the_others_end_and_resume_in_another_world() {
    let folder = Folder::new(2);
    Trainer(Some(folder.command("one", &[]).spawn().unwrap())).succeeds();
    folder.block("0001-000001-001.safetensors");
    let more = [&["--checkpoint-steps", "1"][..], &BLOCKED].concat();
    let more: [&[&str]; 2] = [&more; 2];
    for (killed, left) in [(1, 0), (0, 1)] {
        let out = ["parts", "others"][killed];
        let mut trainers = folder.world(out, &more);
        folder.wait_for(&format!("{out}/step-00000004/run.json"));
        trainers[killed].signal("-KILL");
        // Rank 0 waits in an exchange, and rank 1 for data. A GPU in an exchange may fail before the closed connection
        // is noticed.
        trainers.remove(left).fails(&[&format!("rank {killed}: lost"), "killed"]);
    }
    let resumed = folder.command("parts", &["--resume"]).spawn().unwrap();
    Trainer(Some(resumed)).succeeds();
    folder.same("one", "parts");
    for trainer in folder.world("others", &[&["--resume"], &["--resume"]]) {
        trainer.succeeds();
    }
    folder.same("one", "others");
}

#[test]
fn frozen_and_stalled_ranks_are_named() {
    let folder = Folder::new(2);
    folder.block("0000-000001-001.safetensors");
    let more = [&["--heartbeat-timeout", "15s", "--checkpoint-steps", "1"][..], &BLOCKED].concat();
    let mut trainers = folder.world("frozen", &[&more[..]; 2]);
    folder.wait_for("frozen/step-00000001/run.json");
    trainers[1].signal("-STOP");
    trainers.remove(0).fails(&["rank 1: lost", "no heartbeat for 15s"]);
    drop(trainers);
    // Long enough that a busy machine stalls no rank that computes.
    let words = ["rank 1: stalled", "have waited 15s for it in exchange"];
    let more = [&["--stall-timeout", "15s"][..], &BLOCKED].concat();
    for trainer in folder.world("stalled", &[&more[..]; 2]) {
        trainer.fails(&words);
    }
}

#[test]
fn all_ranks_report_the_error_of_one() {
    let folder = Folder::new(2);
    std::fs::remove_file(folder.at("dump/0000-000002-001.safetensors")).unwrap();
    let mut trainers = folder.world("out", &[&[][..]; 2]);
    trainers.remove(0).fails(&["rank 1: epoch 0, step 2, microbatch 1", "ended before"]);
    trainers.remove(0).fails(&["epoch 0, step 2, microbatch 1"]);
    for trainer in folder.world("none", &[&["--resume"][..]; 2]) {
        trainer.fails(&["none has no checkpoint"]);
    }
}

#[test]
fn ranks_started_with_other_settings_are_refused_by_name() {
    let folder = Folder::new(2);
    let cases = [
        (&["--seed", "3"][..], ["config.seed is 3", "rank 0's is 0"]),
        (&["--lr", "1"], ["config.schedule.lr is 1.0", "rank 0's is 0.008"]),
        (&["--weight-decay", "1"], ["config.optimizer.weight_decay is 1.0", "rank 0's is 0.02"]),
        (&["--stop-after", "3"], ["stop_after is 3", "rank 0's is null"]),
    ];
    // Long enough that rank 1 joins on a busy machine.
    let start = |(other, _): &(&[&str], _)| {
        folder.world("out", &[&["--rendezvous-timeout", "20s"], *other])
    };
    let worlds: Vec<_> = cases.iter().map(start).collect();
    for (mut trainers, (_, words)) in worlds.into_iter().zip(cases) {
        let refused = ["rank 1: refused at the rendezvous: its"];
        trainers.remove(1).fails(&[&refused[..], &words].concat());
        // Rank 0 says at once whom it refused, and goes on until its time is up.
        let says = ["refused the process at 127.0.0.1", "join within 20s: 1 (one was refused: its"];
        trainers.remove(0).fails(&[&says[..], &words].concat());
    }
}

#[test]
fn ranks_of_another_world_and_duplicate_ranks_are_refused() {
    let folder = Folder::new(4);
    let start = |address: &str, world: &str, rank: &str| {
        let more = ["--rendezvous", address, "--world", world, "--rank", rank];
        Trainer(Some(folder.command(&format!("out-of-{world}"), &more).spawn().unwrap()))
    };
    let address = free_port();
    let zero = start(&address, "2", "0");
    start(&address, "4", "1")
        .fails(&["rank 1: refused", "started for a world of 4, but rank 0 for 2"]);
    for trainer in [zero, start(&address, "2", "1")] {
        trainer.succeeds();
    }
    let address = free_port();
    let mut trainers = ["0", "1", "1"].map(|rank| start(&address, "4", rank)).into_iter();
    let zero = trainers.next().unwrap();
    // The first of the two stays.
    let mut twice: Vec<Trainer> = trainers.collect();
    let at = loop {
        let ended =
            |trainer: &mut Trainer| trainer.0.as_mut().unwrap().try_wait().unwrap().is_some();
        if let Some(at) = twice.iter_mut().position(ended) {
            break at;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    twice.remove(at).fails(&["two processes have rank 1", "--rank"]);
    let others = ["2", "3"].map(|rank| start(&address, "4", rank));
    for trainer in [zero].into_iter().chain(twice).chain(others) {
        trainer.succeeds();
    }
    start(&address, "3", "0").fails(&["a world of 3 does not divide the 4 microbatches"]);
}

#[test]
fn a_rank_that_never_joins_is_named() {
    let folder = Folder::new(4);
    let address = free_port();
    let start = |rank: &str, timeout: &str| {
        let more = ["--rendezvous", &address, "--world", "4", "--rendezvous-timeout", timeout];
        let mut command = folder.command("out", &more);
        Trainer(Some(command.args(["--rank", rank]).spawn().unwrap()))
    };
    // Long enough that rank 2 joins on a busy machine.
    let late = "did not join within 20s: 1, 3";
    for trainer in [start("0", "20s"), start("2", "20s")] {
        trainer.fails(&[&address, late, "--rendezvous-timeout"]);
    }
    start("1", "2s").fails(&[&address, "rank 0 was not reachable within 2s"]);
    let taken = TcpListener::bind(&address).unwrap();
    start("0", "2s").fails(&[&address, "another program uses the port", "--rendezvous"]);
    drop(taken);
}
