use std::time::Duration;

/// Longest waits of ranks for each other.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Until all ranks have joined.
    pub rendezvous: Duration,
    /// Without a heartbeat, of which a rank sends one per second, until the rank counts as lost.
    pub heartbeat: Duration,
    /// For a rank that sends heartbeats but does not join an exchange in which others wait; zero waits
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
