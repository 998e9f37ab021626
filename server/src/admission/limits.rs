//! The limits of a server, as configured.

use std::collections::BTreeMap;
use std::time::Duration;

/// Limits with their defaults. The table in `admission/mod.rs` lists what a client gets at each.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Concurrent connections that have authenticated. One more takes the place of one that is idle, or
    /// its calls are refused. Default 1024.
    pub max_connections: usize,
    /// Concurrent connections that have not authenticated, half of them of one address. One more takes
    /// the place of the oldest. Default 128, or as many as half of `server_bytes` is enough for.
    pub max_unauthenticated: usize,
    /// Concurrent calls of Stream and Fetch; more are refused. Default 64.
    pub max_streams: usize,
    /// Limits of each identity, unless it is among [`identities`](Self::identities). Default: those of
    /// the server.
    pub identity: IdentityLimits,
    /// Identities with limits of their own.
    pub identities: BTreeMap<String, IdentityLimits>,
    /// Concurrent calls on one connection. Default 128.
    pub max_calls: u32,
    /// Size of a call's headers. Default 16 KiB.
    pub header_bytes: u32,
    /// Size of a request. Default 64 KiB.
    pub request_bytes: usize,
    /// Size of all requests of a call that needs no token: health and reflection. Default 4 KiB.
    pub public_request_bytes: usize,
    /// Bytes that a connection may hold, in requests that are not read and responses that are not sent.
    /// Default 4 MiB.
    pub connection_bytes: usize,
    /// The same for all connections together, and half of it for those of one address. Default 256 MiB.
    pub server_bytes: usize,
    /// The same for a connection that has not authenticated. Default 256 KiB.
    pub unauthenticated_bytes: usize,
    /// Steps of one Stream. Default 2^32: steps cost nothing until they are computed, so the limit
    /// only rejects obvious mistakes.
    pub max_steps: u64,
    /// Length of a Stream's list of microbatches. Default 4096.
    pub max_selection: usize,
    /// Outstanding microbatches of one client, over all of its streams. Default 512: eight for each
    /// stream, which is as many as a stream submits at once.
    pub max_queued: usize,
    /// Largest window of a stream: bytes computed ahead of its reader; one microbatch is always allowed.
    /// Default 96 MiB: two microbatches of 256 images of 224 x 224 in u8, one being computed while the
    /// other is sent.
    pub window_bytes: u64,
    /// A reader that takes longer for a microbatch counts as slow. Default 5 s.
    pub slow_after: Duration,
    /// Time that a reader may accept no data before its stream ends, and time that a peer may accept no
    /// data before its connection is closed. Default 60 s.
    pub stall_timeout: Duration,
    /// Time that a stalled reader has to fetch its status before its stream is reset. Default 5 s.
    pub stall_linger: Duration,
    /// Time that a connection may take for the TLS handshake, and again to begin HTTP/2. Default 10 s.
    pub handshake_timeout: Duration,
    /// Time that a request may take to arrive. Default 10 s.
    pub request_timeout: Duration,
    /// Time that a connection may take to authenticate, from when it is accepted. Default 20 s.
    pub authentication_timeout: Duration,
    /// Time that a connection may have no authenticated call. Default 2 min.
    pub idle_timeout: Duration,
    /// Interval of HTTP/2 pings to a silent peer, and time that it has to answer before its connection
    /// is closed. Default 20 s.
    pub keep_alive: Duration,
    /// Time that the head of a request to the admin port may take to arrive. Default 5 s.
    pub admin_head_timeout: Duration,
    /// Longest life of a connection to the admin port, so that slow readers cannot take every place
    /// forever. Default 1 min.
    pub admin_lifetime: Duration,
    /// Interval at which certificate and token files are checked for changes. Default 5 s.
    pub reload_interval: Duration,
    /// Time that streams have to finish their microbatch when the server shuts down. Default 25 s, which
    /// is within the 30 s that Kubernetes grants.
    pub drain_grace: Duration,
}

/// Limits of one identity; `None` stands for the server's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdentityLimits {
    /// Concurrent calls of Stream and Fetch.
    pub max_streams: Option<usize>,
    /// Largest window of a stream.
    pub window_bytes: Option<u64>,
    /// Outstanding microbatches.
    pub max_queued: Option<usize>,
}

/// The limits that apply to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamLimits {
    pub(crate) max_streams: usize,
    pub(crate) window_bytes: u64,
    pub(crate) max_queued: usize,
}

impl Limits {
    /// The limits of an identity: its own, else those of every identity, else the server's, which
    /// also bound the other two.
    pub(crate) fn for_identity(&self, identity: &str) -> StreamLimits {
        let own = self.identities.get(identity).copied().unwrap_or_default();
        let every = self.identity;
        let max_streams = own.max_streams.or(every.max_streams).unwrap_or(self.max_streams);
        let window_bytes = own.window_bytes.or(every.window_bytes).unwrap_or(self.window_bytes);
        let max_queued = own.max_queued.or(every.max_queued).unwrap_or(self.max_queued);
        StreamLimits {
            max_streams: max_streams.min(self.max_streams),
            window_bytes: window_bytes.min(self.window_bytes),
            max_queued: max_queued.min(self.max_queued),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_unauthenticated: 128,
            max_streams: 64,
            identity: IdentityLimits::default(),
            identities: BTreeMap::new(),
            max_calls: 128,
            header_bytes: 16 << 10,
            request_bytes: 64 << 10,
            public_request_bytes: 4 << 10,
            connection_bytes: 4 << 20,
            server_bytes: 256 << 20,
            unauthenticated_bytes: 256 << 10,
            max_steps: 1 << 32,
            max_selection: 4096,
            max_queued: 512,
            window_bytes: 96 << 20,
            slow_after: Duration::from_secs(5),
            stall_timeout: Duration::from_mins(1),
            stall_linger: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            authentication_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_mins(2),
            keep_alive: Duration::from_secs(20),
            admin_head_timeout: Duration::from_secs(5),
            admin_lifetime: Duration::from_mins(1),
            reload_interval: Duration::from_secs(5),
            drain_grace: Duration::from_secs(25),
        }
    }
}
