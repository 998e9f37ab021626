//! How long ranks wait for each other.

use std::time::Duration;

/// Longest waits of ranks for each other.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Time until all ranks have joined.
    pub rendezvous: Duration,
    /// Time without a heartbeat after which a rank counts as lost. A rank sends one heartbeat per second.
    pub heartbeat: Duration,
    /// Time that a rank may keep others waiting in an exchange while it sends heartbeats; zero waits
    /// forever.
    pub stall: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            rendezvous: Duration::from_mins(5),
            heartbeat: Duration::from_secs(15),
            stall: Duration::from_mins(10),
        }
    }
}
