//! The options of a run.

use std::path::PathBuf;
use std::time::Duration;

use forebay_client::{Cursor, Job};

use crate::plan::{Length, Pace, Phase};
use crate::servers::Spawn;
use crate::sync::Interrupt;

/// The options of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Servers, and how to receive from them. The servers of `spawn` are added.
    pub client: forebay_client::Options,
    /// The job to request.
    pub job: Job,
    /// The first step.
    pub from: Cursor,
    /// Number of steps, unless there is a plan.
    pub steps: u64,
    /// Number of ranks of a world, unless there is a plan; must divide the microbatches of a step.
    pub trainers: u32,
    /// Phases with different numbers of trainers, one after another.
    pub plan: Vec<Phase>,
    /// Number of worlds that read the same job.
    pub jobs: u32,
    /// When trainers request the next microbatch.
    pub pace: Pace,
    /// Number of additional readers that take one microbatch every 2 s.
    pub slow_readers: u32,
    /// Interval at which all trainers drop their connections and make new ones.
    pub reconnect_every: Option<Duration>,
    /// Servers to start, and maybe to kill.
    pub spawn: Option<Spawn>,
    /// Metrics addresses of other servers, as `host:port`.
    pub metrics: Vec<String>,
    /// File with the digests of an undisturbed run, which is written if it does not exist.
    pub digests: Option<PathBuf>,
    /// Price of a core for an hour.
    pub core_hour_price: Option<f64>,
    /// Whether to check coverage; digests, names and order are always checked.
    pub coverage: bool,
    /// Whether to draw a progress bar on standard error.
    pub progress: bool,
    /// Ends the run after the steps in progress, once set.
    pub interrupt: Interrupt,
}

impl Options {
    /// One trainer that reads that number of steps from the start, checks them and draws nothing.
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
            interrupt: Interrupt::default(),
        }
    }

    /// The plan, or a single phase with the options' trainers and steps.
    pub(crate) fn phases(&self) -> Vec<Phase> {
        if self.plan.is_empty() {
            vec![Phase { trainers: self.trainers, length: Length::Steps(self.steps) }]
        } else {
            self.plan.clone()
        }
    }
}
