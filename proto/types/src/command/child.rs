//! Processes that do not outlive the one that started them.

use std::collections::BTreeSet;
use std::io;
use std::process::{Child, ChildStdout, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process};

/// The processes that have not been waited for.
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// A child process, which is killed when this is dropped, and when a signal stops this process.
#[derive(Debug)]
pub struct OwnedChild(Child);

impl OwnedChild {
    /// Starts a process.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        // Locked until the process is listed, so that a signal finds it.
        let mut running = running();
        let child = command.spawn()?;
        running.insert(child.id());
        Ok(Self(child))
    }

    /// The id of the process.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// The output of the process, if it is piped and was not taken before.
    pub const fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.0.stdout.take()
    }

    /// Sends SIGKILL. A process that has been waited for is left alone.
    ///
    /// # Errors
    /// If the signal cannot be sent.
    pub fn kill(&mut self) -> io::Result<()> {
        self.0.kill()
    }

    /// Waits until the process has ended.
    ///
    /// # Errors
    /// If the process cannot be waited for.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.0.wait()?;
        running().remove(&self.id());
        Ok(status)
    }

    /// Whether the process has ended, and how.
    ///
    /// # Errors
    /// If the process cannot be waited for.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let status = self.0.try_wait()?;
        if status.is_some() {
            running().remove(&self.id());
        }
        Ok(status)
    }
}

impl Drop for OwnedChild {
    fn drop(&mut self) {
        // The process may have ended already.
        self.kill().ok();
        self.wait().ok();
    }
}

/// Kills all running children, and exits.
pub(super) fn kill_all_and_exit(code: i32) -> ! {
    // Locked to the end, so that no other thread starts one meanwhile.
    let running = running();
    let pids = running.iter().filter_map(|id| Pid::from_raw(i32::try_from(*id).ok()?));
    for pid in pids {
        // It may have ended already.
        kill_process(pid, Signal::KILL).ok();
    }
    std::process::exit(code)
}

fn running() -> MutexGuard<'static, BTreeSet<u32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}
