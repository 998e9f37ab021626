//! The command that runs after each checkpoint, while training goes on.

use std::io::Error as IoError;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use forebay_types::command::OwnedChild;

/// Runs a command for one checkpoint at a time. While it runs, only the newest of the others waits for its turn: what is to
/// be kept elsewhere is the newest state, and a slow command must not fall behind further and further.
pub(crate) struct CheckpointHook {
    shared: Arc<Shared>,
    /// `None` after [`finish`](Self::finish).
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    status: Mutex<Status>,
    changed: Condvar,
}

#[derive(Default)]
struct Status {
    running: Option<PathBuf>,
    next: Option<PathBuf>,
    finished: bool,
}

impl CheckpointHook {
    pub(crate) fn start(command: String) -> std::io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let of_thread = Arc::clone(&shared);
        let thread = Builder::new().name("checkpoint command".to_owned());
        let thread = thread.spawn(move || of_thread.run_all(&command))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Runs the command for a checkpoint, once it has its turn.
    pub(crate) fn run(&self, checkpoint: &Path) {
        let replaced = self.shared.lock().next.replace(checkpoint.to_owned());
        self.shared.changed.notify_all();
        if let Some(replaced) = replaced {
            tracing::warn!(
                "--checkpoint-command did not run for {}, because it still runs for an older checkpoint: set larger \
                 --checkpoint-steps",
                replaced.display()
            );
        }
    }

    /// Whether the command runs for a checkpoint, or will.
    pub(crate) fn uses(&self, checkpoint: &Path) -> bool {
        let status = self.shared.lock();
        [&status.running, &status.next].into_iter().flatten().any(|path| path == checkpoint)
    }

    /// Waits until the command has run for the newest checkpoint.
    pub(crate) fn finish(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.lock().finished = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // If it panicked, it has said so on standard error; training goes on or ends as it would without it.
            thread.join().ok();
        }
    }
}

/// A training that fails has checkpoints, too.
impl Drop for CheckpointHook {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run_all(&self, command: &str) {
        loop {
            let idle = |status: &mut Status| status.next.is_none() && !status.finished;
            let waited = self.changed.wait_while(self.lock(), idle);
            let mut status = waited.unwrap_or_else(PoisonError::into_inner);
            let Some(checkpoint) = status.next.take() else { return };
            status.running = Some(checkpoint.clone());
            drop(status);
            if let Err(problem) = run(command, &checkpoint) {
                tracing::warn!(
                    "--checkpoint-command failed for {}: {problem}",
                    checkpoint.display()
                );
            }
            self.lock().running = None;
        }
    }
}

/// Runs the command with the checkpoint as its first argument. A signal of the terminal does not reach it, because the
/// training that gets the signal still needs it.
fn run(command: &str, checkpoint: &Path) -> Result<(), String> {
    let text = |error: IoError| error.to_string();
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).arg("sh").arg(checkpoint);
    let started =
        OwnedChild::spawn(shell.stdin(Stdio::null()).stdout(std::io::stderr()).process_group(0));
    let status = started.and_then(|mut child| child.wait()).map_err(text)?;
    if status.success() { Ok(()) } else { Err(format!("it ended with {status}")) }
}
