//! What a server lets its clients do.

use std::collections::BTreeMap;
use std::time::Duration;

/// Bounds, each with its default.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once; more wait to be accepted. Default 1024.
    pub connections: usize,
    /// Calls of Stream and Fetch at once; more are refused and told to try again. Default 64.
    pub streams: usize,
    /// Of them, those of one identity, unless it is among [`identities`](Self::identities). Default:
    /// all.
    pub identity: IdentityLimits,
    /// Identities with bounds of their own.
    pub identities: BTreeMap<String, IdentityLimits>,
    /// Calls at once on one connection. Default 128.
    pub calls: u32,
    /// Bytes of a call's headers. Default 16 KiB.
    pub header_bytes: u32,
    /// Microbatches that one client may have asked for and not got, over all of its streams; a stream
    /// that asks for more is told to slow down. Default 512: eight of each stream, more than a stream
    /// asks for at once.
    pub queued: usize,
    /// Bytes made ahead for one stream and not yet sent, at least one microbatch is; a stream begins
    /// with one, and has more as it is read. Default 96 MiB:
    /// two microbatches of 256 images of 224 x 224 in u8, one being made while the other is sent.
    pub ahead_bytes: u64,
    /// Bytes of a request. Default 64 KiB.
    pub request_bytes: usize,
    /// How long a connection may take for TLS's handshake, and again to begin HTTP/2. Default 10 s.
    pub handshake_timeout: Duration,
    /// How long a connection may go without a call of a caller who is known. Default 2 min.
    pub idle_timeout: Duration,
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
    /// A reader who takes longer for a microbatch is slow: slow ones together have half of the
    /// buffers. Default 5 s.
    pub slow: Duration,
    /// How long a stalled reader may take to fetch the status that says so, before its stream is
    /// reset. Default 5 s.
    pub stall_linger: Duration,
    /// How often a silent peer is asked whether it lives, and how long it may take to answer before
    /// its connection is closed. Default 20 s.
    pub keep_alive: Duration,
    /// How often files of certificates and tokens are looked at. Default 5 s.
    pub reload: Duration,
    /// How long streams may take to finish their microbatch when the server stops. Default 25 s:
    /// within the 30 s that Kubernetes gives.
    pub drain_grace: Duration,
}

/// Bounds of one identity; those not given are the server's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdentityLimits {
    /// Calls of Stream and Fetch at once.
    pub streams: Option<usize>,
    /// Bytes made ahead for one stream.
    pub ahead_bytes: Option<u64>,
    /// Microbatches asked for and not got.
    pub queued: Option<usize>,
}

/// The bounds that hold for an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) streams: usize,
    pub(crate) ahead_bytes: u64,
    pub(crate) queued: usize,
}

impl Limits {
    /// What an identity may have.
    pub(crate) fn of(&self, identity: &str) -> Bounds {
        let (own, all) =
            (self.identities.get(identity).copied().unwrap_or_default(), self.identity);
        let streams = own.streams.or(all.streams).unwrap_or(self.streams);
        let ahead_bytes = own.ahead_bytes.or(all.ahead_bytes).unwrap_or(self.ahead_bytes);
        let queued = own.queued.or(all.queued).unwrap_or(self.queued);
        Bounds {
            streams: streams.min(self.streams),
            ahead_bytes: ahead_bytes.min(self.ahead_bytes),
            queued: queued.min(self.queued),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            streams: 64,
            identity: IdentityLimits::default(),
            identities: BTreeMap::new(),
            calls: 128,
            header_bytes: 16 << 10,
            queued: 512,
            ahead_bytes: 96 << 20,
            request_bytes: 64 << 10,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_mins(2),
            request_timeout: Duration::from_secs(10),
            steps: 1 << 32,
            microbatches: 4096,
            stall_timeout: Duration::from_mins(1),
            slow: Duration::from_secs(5),
            stall_linger: Duration::from_secs(5),
            keep_alive: Duration::from_secs(20),
            reload: Duration::from_secs(5),
            drain_grace: Duration::from_secs(25),
        }
    }
}
