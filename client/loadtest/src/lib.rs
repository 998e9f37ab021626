//! Virtual trainers that load forebay servers and check what they receive.
//!
//! A run is `jobs` copies of one job, each read by a world of trainers, as a training run would:
//! rank r takes the microbatches g with `g % trainers == r`, and no rank begins a step before all have
//! had the one before. The client checks names, order and digests of each rank; [`check`] adds what
//! only all ranks together show: every microbatch of every step exactly once, every record as often
//! as the epoch has it, and the same bytes in all copies and in an undisturbed run.
//!
//! ```text
//! plan (phases, pace) -> trainer: client -> check, live --+--> report -> table, JSON, CSV, HTML
//! servers (start, kill)          watch (/metrics) --------+
//! ```

mod chart;
pub mod check;
mod digests;
mod live;
mod page;
mod plan;
mod report;
mod run;
mod servers;
mod slo;
mod table;
mod trainer;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use forebay_client::{Cursor, Job};

pub use crate::live::{Interval, Kill, ServerInterval};
pub use crate::plan::{Length, Pace, Phase, StepTime, duration};
pub use crate::report::{PhaseReport, Report, ServerCost, StageTimes, WaitMs};
pub use crate::run::run;
pub use crate::servers::Spawn;
pub use crate::slo::Slo;

use crate::run::Run;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Servers, and how to receive from them. Those of `spawn` are added.
    pub client: forebay_client::Options,
    /// What to ask for.
    pub job: Job,
    /// The first step.
    pub from: Cursor,
    /// How many steps, without a plan.
    pub steps: u64,
    /// Ranks of a world, without a plan; must divide the microbatches of a step.
    pub trainers: u32,
    /// How many trainers read for how long, one phase after another.
    pub plan: Vec<Phase>,
    /// Copies of the whole world, all asking for the same.
    pub jobs: u32,
    /// When trainers ask for the next microbatch.
    pub pace: Pace,
    /// Readers beside the trainers, who take a microbatch each 2 s.
    pub slow_readers: u32,
    /// All trainers drop their connections and make new ones each so often.
    pub reconnect_every: Option<Duration>,
    /// Servers to start, and maybe to kill.
    pub spawn: Option<Spawn>,
    /// Where other servers have their metrics, `host:port`.
    pub metrics: Vec<String>,
    /// Digests of an undisturbed run: compared with if the file is there, otherwise written.
    pub digests: Option<PathBuf>,
    /// What an hour of a core costs.
    pub core_hour_price: Option<f64>,
    /// Whether to check coverage; digests, names and order are always checked.
    pub coverage: bool,
    /// Whether to draw a progress bar on standard error.
    pub progress: bool,
    /// Set, it ends the run after the steps that are begun.
    pub interrupt: Arc<AtomicBool>,
}

impl Options {
    /// One trainer that reads so many steps from the start, checks them and draws nothing.
    pub fn new(client: forebay_client::Options, job: Job, steps: u64) -> Self {
        Self {
            client,
            job,
            from: Cursor::default(),
            steps,
            trainers: 1,
            plan: Vec::new(),
            jobs: 1,
            pace: Pace::Free,
            slow_readers: 0,
            reconnect_every: None,
            spawn: None,
            metrics: Vec::new(),
            digests: None,
            core_hour_price: None,
            coverage: true,
            progress: false,
            interrupt: Arc::default(),
        }
    }

    /// The plan, or the one phase that the other fields are.
    pub(crate) fn phases(&self) -> Vec<Phase> {
        if self.plan.is_empty() {
            vec![Phase { trainers: self.trainers, length: Length::Steps(self.steps) }]
        } else {
            self.plan.clone()
        }
    }
}

/// Why a run could not be made. What goes wrong in it is in its report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The client's setup.
    #[error(transparent)]
    Client(#[from] forebay_client::Error),
    /// A server that was to be started.
    #[error("server: {0}")]
    Server(String),
    /// A file.
    #[error("{}: {why}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    pub(crate) fn file(path: &Path, why: &dyn std::fmt::Display) -> Self {
        Self::File { path: path.to_owned(), why: why.to_string() }
    }
}

/// A panic elsewhere does not make what was noted before it wrong.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
