//! What a server lets its clients do.

use std::time::Duration;

/// Bounds, each with its default.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once; more wait to be accepted. Default 1024.
    pub connections: usize,
    /// Calls of Stream and Fetch at once; more are refused and told to try again. Default 64.
    pub streams: usize,
    /// Microbatches in the pipeline at once, of all streams, who take turns; the pipeline's queue
    /// must hold as many. Default 64.
    pub making: usize,
    /// Bytes made ahead for one stream and not yet sent, at least one microbatch is. Default 96 MiB:
    /// two microbatches of 256 images of 224 x 224 in u8, one being made while the other is sent.
    pub ahead_bytes: u64,
    /// Bytes of a request. Default 64 KiB.
    pub request_bytes: usize,
    /// How long a request may take to arrive. Default 10 s.
    pub request_timeout: Duration,
    /// Steps of one Stream. Default 2^32: the bound is against nonsense, steps cost nothing until
    /// they are made.
    pub steps: u64,
    /// Length of a Stream's list of microbatches. Default 4096.
    pub microbatches: usize,
    /// How long a reader may take nothing, before its stream ends and its buffers are used for
    /// others; and a connection, before it is closed. Default 60 s.
    pub stall_timeout: Duration,
    /// How long a stalled reader may take to fetch the status that says so, before its stream is
    /// reset. Default 5 s.
    pub stall_linger: Duration,
    /// How often a silent peer is asked whether it lives, and how long it may take to answer before
    /// its connection is closed. Default 20 s.
    pub keep_alive: Duration,
    /// How long streams may take to finish their microbatch when the server stops. Default 25 s:
    /// within the 30 s that Kubernetes gives.
    pub drain_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            streams: 64,
            making: 64,
            ahead_bytes: 96 << 20,
            request_bytes: 64 << 10,
            request_timeout: Duration::from_secs(10),
            steps: 1 << 32,
            microbatches: 4096,
            stall_timeout: Duration::from_mins(1),
            stall_linger: Duration::from_secs(5),
            keep_alive: Duration::from_secs(20),
            drain_grace: Duration::from_secs(25),
        }
    }
}
