//! State that the trainers of a run share.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use forebay_client::{Cursor, Description, Job};
use indicatif::ProgressBar;

use crate::check::Coverage;
use crate::plan::Pace;
use crate::sync::Interrupt;
use crate::telemetry::Telemetry;

/// The state that the trainers of a run share.
#[derive(Debug)]
pub(crate) struct RunState {
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) job: Job,
    pub(crate) from: Cursor,
    pub(crate) description: Arc<Description>,
    pub(crate) pace: Pace,
    pub(crate) reconnect_every: Option<Duration>,
    pub(crate) bar: ProgressBar,
    pub(crate) coverage: Option<Mutex<Coverage>>,
    pub(crate) interrupt: Interrupt,
}

impl RunState {
    /// Number of times that all trainers should have made new connections so far.
    pub(crate) fn reconnects(&self) -> u128 {
        let elapsed = self.telemetry.start.elapsed().as_nanos();
        self.reconnect_every.map_or(0, |every| elapsed / every.as_nanos().max(1))
    }
}
