//! What a client tells of its servers.

use std::fmt;
use std::ops::Deref;

use crate::breaker::Circuit;

/// What came from one server, and what did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Counts {
    /// Steps of which microbatches came from it, counted for each stream.
    pub steps: u64,
    /// Microbatches that came from it, and were delivered.
    pub microbatches: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Attempts that failed, or were overtaken.
    pub failures: u64,
    /// Times that it was asked because another one was late.
    pub hedges_sent: u64,
    /// Of them, those that arrived first.
    pub hedges_won: u64,
    /// Times that it was late, and another one was first.
    pub overtaken: u64,
    /// Bytes of microbatches that came from it in vain, because another one had them first.
    pub duplicate_bytes: u64,
}

/// A server as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ServerStats {
    /// Its URL.
    pub name: String,
    /// Whether it is among the endpoints now.
    pub present: bool,
    /// Whether it is asked.
    pub circuit: Circuit,
    /// Why it is not asked again for a job.
    pub excluded: Option<String>,
    /// What came from it.
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
