//! What a user sets once for a client.

use std::time::Duration;

use crate::{Access, DType, Error, Hedge, Layout, MixedBy, Network};

/// Settings of a [`Client`](crate::Client).
#[derive(Clone, Debug)]
pub struct Options {
    /// Servers, as `http://host:port`, `https://host:port` or `host:port`; or every address of a name,
    /// as `dns+http://name:port`. Each may serve any microbatch.
    pub endpoints: Vec<String>,
    /// Certificates and a token. Default none: plain text, and no word of who calls.
    pub access: Access,
    /// Bytes of pixels received ahead of the trainer, for each stream; at least one microbatch is.
    /// Also asked of the server as its bound on what it makes ahead. Default 128 MiB.
    pub prefetch_bytes: usize,
    /// Longest payload of a microbatch that is accepted, in bytes. Default 1 GiB.
    pub max_microbatch_bytes: u64,
    /// Type of the pixels. Default u8.
    pub dtype: DType,
    /// Order of their dimensions. Default NHWC.
    pub layout: Layout,
    /// Who mixes. Default the server.
    pub mixed_by: MixedBy,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// How to go on after a failure.
    pub retry: Retry,
    /// When to ask a second server for a microbatch that is late.
    pub hedge: Hedge,
    /// How often names of `dns+` endpoints are resolved again; after a failure at once. Default 30 s.
    pub resolve_every: Duration,
    /// Connections of a stream to each server that it asks. Default 1.
    pub connections: usize,
    /// What stands in for the network. Default nothing does.
    pub network: Network,
}

impl Options {
    /// The defaults, with these servers.
    pub fn new<I: IntoIterator<Item: Into<String>>>(endpoints: I) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            access: Access::default(),
            prefetch_bytes: 128 << 20,
            max_microbatch_bytes: 1 << 30,
            dtype: DType::default(),
            layout: Layout::default(),
            mixed_by: MixedBy::default(),
            timeouts: Timeouts::default(),
            retry: Retry::default(),
            hedge: Hedge::default(),
            resolve_every: Duration::from_secs(30),
            connections: 1,
            network: Network::default(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = if self.endpoints.is_empty() {
            "no endpoint: name at least one server, such as http://localhost:7070"
        } else if self.retry.first.is_zero() {
            "retry.first is zero: give the wait after a first failure, such as 100 ms"
        } else if [self.timeouts.connect, self.timeouts.silence, self.timeouts.deadline]
            .contains(&Duration::ZERO)
        {
            "a timeout is zero: nothing could ever be received"
        } else if self.connections == 0 {
            "no connection to a server: give at least 1"
        } else if !(0.0..=1.0).contains(&self.hedge.quantile)
            || !(0.0..=1.0).contains(&self.hedge.budget)
        {
            "hedge.quantile and hedge.budget are parts: give numbers from 0 to 1"
        } else {
            return self.access.check(self);
        };
        Err(Error::Options(wrong.into()))
    }
}

/// How long to wait for a server before it counts as failed.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a connection. Default 5 s.
    pub connect: Duration,
    /// For the answer to a ping, sent every `ping` on a busy connection: finds dead peers behind
    /// half-open connections. Default 10 s and 10 s.
    pub ping: Duration,
    /// For any byte of an answer, while one is wanted. Default 60 s.
    pub silence: Duration,
    /// For a whole microbatch, from when it is wanted. Default 5 min.
    pub deadline: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            ping: Duration::from_secs(10),
            silence: Duration::from_mins(1),
            deadline: Duration::from_mins(5),
        }
    }
}

/// How to go on after a failure: the server is left alone for a wait that doubles with each failure in
/// a row, and of which a random part is taken; meanwhile the others are asked.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// The most to wait after the first failure. Default 100 ms.
    pub first: Duration,
    /// The most to wait after any failure. Default 5 s.
    pub most: Duration,
    /// Give up when nothing arrived for so long. Default 5 min.
    pub give_up: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            most: Duration::from_secs(5),
            give_up: Duration::from_mins(5),
        }
    }
}
