//! SIGINT and SIGTERM. A process that handles neither ignores them where it is the first of a container.

use std::fmt;
use std::io;
use std::thread::Builder;
use std::time::Duration;

use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::child;

/// A signal that asks a process to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGINT, as Ctrl-C sends it.
    Interrupt,
    /// SIGTERM, as supervisors send it.
    Terminate,
}

impl StopSignal {
    /// The exit code of a process that was stopped by the signal, as shells report it.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 128 + 2,
            Self::Terminate => 128 + 15,
        }
    }

    /// Kills the processes that this one started, and exits with the signal's exit code.
    pub fn exit(self) -> ! {
        child::kill_all_and_exit(self.exit_code().into())
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        })
    }
}

/// Handles SIGINT and SIGTERM from now on. The first one calls a function, on a thread of its own. The
/// process exits at the second one, or when it still runs after `grace`; `None` sets no limit.
///
/// # Errors
/// If the handlers or the threads cannot be created.
pub fn on_stop(
    grace: Option<Duration>,
    first: impl FnOnce(StopSignal) + Send + 'static,
) -> io::Result<()> {
    on_stop_after(Duration::ZERO, grace, first)
}

/// As [`on_stop`], where the signals that arrive within `same` of the first one count as the same. For a process that a
/// launcher starts: a terminal or a supervisor sends a signal to both, and the launcher passes its own on.
///
/// # Errors
/// If the handlers or the threads cannot be created.
pub fn on_stop_after(
    same: Duration,
    grace: Option<Duration>,
    first: impl FnOnce(StopSignal) + Send + 'static,
) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = {
        let _inside = runtime.enter();
        Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        }
    };
    let wait = async move {
        let received = signals.next().await;
        let called = Builder::new().name("stop".to_owned()).spawn(move || first(received));
        if called.is_ok() {
            signals.ignore_for(same).await;
        }
        let last = match (called, grace) {
            (Err(_), _) => received,
            (Ok(_), None) => signals.next().await,
            (Ok(_), Some(grace)) => tokio::select! {
                again = signals.next() => again,
                () = tokio::time::sleep(grace) => received,
            },
        };
        last.exit()
    };
    Builder::new().name("signals".to_owned()).spawn(move || runtime.block_on(wait)).map(drop)
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Takes the signals of a time. Several of a kind that arrive before one of them is taken are one.
    async fn ignore_for(&mut self, time: Duration) {
        let end = tokio::time::sleep(time);
        let mut end = std::pin::pin!(end);
        while !time.is_zero() {
            tokio::select! {
                () = &mut end => return,
                _ = self.next() => {}
            }
        }
    }

    async fn next(&mut self) -> StopSignal {
        tokio::select! {
            _ = self.interrupt.recv() => StopSignal::Interrupt,
            _ = self.terminate.recv() => StopSignal::Terminate,
        }
    }
}
