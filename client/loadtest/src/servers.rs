//! Servers that the load test starts, kills and restarts.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use forebay_types::command::OwnedChild;
use forebay_types::process;

use crate::error::Error;
use crate::random;
use crate::sync::locked;
use crate::telemetry::Telemetry;

/// Servers to start, of the `forebay` command.
#[derive(Clone, Debug)]
pub struct Spawn {
    /// Number of servers.
    pub servers: usize,
    /// The program.
    pub forebay: PathBuf,
    /// Arguments before `serve`.
    pub before: Vec<OsString>,
    /// Arguments after `serve`, such as `--dataset NAME=PATH`.
    pub arguments: Vec<OsString>,
    /// Environment variables that the servers must not see.
    pub hidden_variables: Vec<OsString>,
    /// Mean interval at which one of them is killed; it is restarted shortly afterward.
    pub kill_every: Option<Duration>,
    /// Seed that decides which server is killed, and when.
    pub seed: u64,
}

/// Running servers, which are killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Fleet {
    spawn: Spawn,
    servers: Vec<Server>,
}

#[derive(Debug)]
struct Server {
    child: OwnedChild,
    /// The output of the server, kept open so that it can print more.
    _stdout: ChildStdout,
    listen: String,
    metrics: String,
    /// CPU time of its killed predecessors.
    spent: Duration,
}

impl Fleet {
    /// Starts the servers on free ports.
    pub(crate) fn start(spawn: &Spawn) -> Result<Self, Error> {
        let start = |_| Server::start(spawn, "127.0.0.1:0", "127.0.0.1:0", Duration::ZERO);
        let servers = (0..spawn.servers).map(start).collect::<Result<_, _>>()?;
        Ok(Self { spawn: spawn.clone(), servers })
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.servers.iter().map(|server| format!("http://{}", server.listen)).collect()
    }

    pub(crate) fn metrics(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.metrics.clone()).collect()
    }

    /// CPU time of all servers, including killed ones.
    pub(crate) fn cpu(&self) -> Duration {
        self.servers.iter().map(|server| server.spent + server.cpu()).sum()
    }

    /// Kills a server by SIGKILL.
    fn kill(&mut self, at: usize) -> Result<(), Error> {
        let server = &mut self.servers[at];
        let failed = |error: std::io::Error| {
            Error::Server(format!("cannot kill {}: {error}", server.listen))
        };
        server.child.kill().map_err(failed)?;
        // The CPU time of a process can be read until the process is waited for.
        server.spent += server.cpu();
        server.child.wait().map_err(|error| {
            Error::Server(format!("cannot wait for {} to end: {error}", server.listen))
        })?;
        Ok(())
    }

    /// Restarts a killed server on its previous ports.
    fn restart(&mut self, at: usize) -> Result<(), Error> {
        let server = &self.servers[at];
        let started = Server::start(&self.spawn, &server.listen, &server.metrics, server.spent)?;
        self.servers[at] = started;
        Ok(())
    }
}

impl Server {
    fn start(spawn: &Spawn, listen: &str, metrics: &str, spent: Duration) -> Result<Self, Error> {
        let name = spawn.forebay.display();
        let failed = |why: String| Error::Server(format!("cannot start `{name} serve`: {why}"));
        let mut command = Command::new(&spawn.forebay);
        for name in &spawn.hidden_variables {
            command.env_remove(name);
        }
        command
            .args(&spawn.before)
            .args(["serve", "--listen", listen, "--metrics-listen", metrics])
            .args(&spawn.arguments)
            .env("RUST_LOG", "error")
            .stdout(Stdio::piped())
            // Ctrl-C must reach only the load test, which ends its servers itself.
            .process_group(0);
        let mut child = OwnedChild::spawn(&mut command).map_err(|error| {
            failed(format!("{error}; set --forebay to the path of the program"))
        })?;
        let mut lines = BufReader::new(child.take_stdout().expect("piped"));
        let mut address = |prefix: &str| {
            let mut line = String::new();
            let read = lines.read_line(&mut line);
            let found = line.trim_end().strip_prefix(prefix);
            found.filter(|_| read.is_ok()).map(|rest| rest.trim_end_matches('/').to_owned())
        };
        let listen = address("listening on ");
        let metrics = address("metrics and status on http://");
        let (Some(listen), Some(metrics)) = (listen, metrics) else {
            child.kill().ok();
            let ended = child.wait().map_or_else(|error| error.to_string(), |s| s.to_string());
            return Err(failed(format!("it ended ({ended}); see its message above")));
        };
        Ok(Self { child, _stdout: lines.into_inner(), listen, metrics, spent })
    }

    /// CPU time of the running process.
    fn cpu(&self) -> Duration {
        process::cpu_time_of(self.child.id()).unwrap_or_default()
    }
}

/// A thread that kills servers until it is stopped.
#[derive(Debug)]
pub(crate) struct Chaos {
    stop: SyncSender<()>,
    thread: JoinHandle<Result<(), Error>>,
}

impl Chaos {
    pub(crate) fn start(
        fleet: &Arc<Mutex<Fleet>>,
        telemetry: &Arc<Telemetry>,
        every: Duration,
        seed: u64,
    ) -> Result<Self, Error> {
        let (stop, stopped) = sync_channel(1);
        let (fleet, telemetry) = (Arc::clone(fleet), Arc::clone(telemetry));
        let run = move || kill_servers(&fleet, &telemetry, every, seed, &stopped);
        let thread = std::thread::Builder::new().name("chaos".into()).spawn(run);
        let failed = |error: std::io::Error| {
            Error::Server(format!("cannot start a thread that kills: {error}"))
        };
        Ok(Self { stop, thread: thread.map_err(failed)? })
    }

    /// Stops the thread, with all servers running.
    pub(crate) fn stop(self) -> Result<(), Error> {
        // The thread may have failed already.
        self.stop.send(()).ok();
        self.thread.join().unwrap_or_else(|_panic| {
            Err(Error::Server("the thread that kills servers panicked".into()))
        })
    }
}

/// How often, at most, it is checked whether the trainers have recovered from a kill.
const CHECK: Duration = Duration::from_millis(20);

/// Kills a server that the seed chooses every 0.5 to 1.5 times `every`, and restarts it after up to a
/// quarter of `every`. A kill waits until every trainer has recovered from the one before, and then twice as long as
/// that took: on a machine that is so busy that a server needs longer than `every` to start and serve, little or
/// nothing would be received otherwise. Kills that were delayed are not made up for.
fn kill_servers(
    fleet: &Mutex<Fleet>,
    telemetry: &Telemetry,
    every: Duration,
    seed: u64,
    stopped: &Receiver<()>,
) -> Result<(), Error> {
    for kill in 0_u64.. {
        let purpose = |what| [seed, 3 * kill + what];
        let is_stopped = |wait| stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout);
        if is_stopped(every.mul_f64(0.5 + random::fraction(purpose(0)))) {
            break;
        }
        while let Some(left) = telemetry.until_next_kill() {
            if is_stopped(left.max(CHECK)) {
                return Ok(());
            }
        }
        let servers = locked(fleet).servers.len() as u64;
        let victim =
            usize::try_from(random::number(purpose(1)) % servers).expect("one of the servers");
        locked(fleet).kill(victim)?;
        let kill = telemetry.killed(victim);
        let pause = every.mul_f64(random::fraction(purpose(2)) / 4.0);
        let is_over = is_stopped(pause);
        locked(fleet).restart(victim)?;
        telemetry.restarted(kill);
        if is_over {
            break;
        }
    }
    Ok(())
}
