//! Statistics of a client's servers.

use std::fmt;
use std::ops::Deref;

use crate::fleet::breaker::Circuit;

/// The counts of one server's microbatches, failures and hedges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Counts {
    /// Steps of which microbatches were received from it, counted per stream.
    pub steps: u64,
    /// Microbatches that were received from it and delivered.
    pub microbatches: u64,
    /// Bytes of these microbatches.
    pub bytes: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Hedges that were sent to it because another server was late.
    pub hedges_sent: u64,
    /// Hedges sent to it that arrived first.
    pub hedges_won: u64,
    /// Times that it was late, and a hedge to another server arrived first.
    pub overtaken: u64,
    /// Bytes received from it and discarded, because the same microbatch arrived first from another server.
    pub wasted_bytes: u64,
}

/// A server as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ServerStats {
    /// The server's URL.
    pub name: String,
    /// Whether an endpoint currently resolves to it.
    pub present: bool,
    /// State of its circuit breaker.
    pub circuit: Circuit,
    /// The reason for its exclusion from a job, if it is excluded.
    pub excluded: Option<String>,
    /// Counts since the client was created.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub counts: Counts,
}

impl Deref for ServerStats {
    type Target = Counts;

    fn deref(&self) -> &Counts {
        &self.counts
    }
}

impl fmt::Display for ServerStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, present, circuit, excluded, counts } = self;
        let Counts { steps, microbatches, failures, hedges_sent, hedges_won, .. } = counts;
        write!(
            f,
            "{name}: {steps} steps, {microbatches} microbatches, {failures} failures, {hedges_won} of \
             {hedges_sent} hedges won, circuit {circuit}"
        )?;
        if !present {
            f.write_str(", gone")?;
        }
        excluded.as_ref().map_or(Ok(()), |why| write!(f, ", excluded: {why}"))
    }
}
