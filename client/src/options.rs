//! Settings of a client.

use std::time::Duration;

use forebay_proto::types::PixelFormat;

use crate::error::Error;
use crate::wire::access::Access;
use crate::wire::network::Network;

/// Settings of a [`Client`](crate::Client).
#[derive(Clone, Debug)]
pub struct Options {
    /// Servers, as `http://host:port`, `https://host:port`, `host:port`, or `unix:PATH` for one on this host; or all
    /// addresses of a name, as `dns+http://name:port`. Any of them may serve any microbatch.
    pub endpoints: Vec<String>,
    /// Certificates and a token. Default: plain text, without a token.
    pub access: Access,
    /// Form of the pixels. Default: mixed u8 in NHWC.
    pub format: PixelFormat,
    /// The window of each stream: how much it receives ahead of the trainer. Servers are sent it as the
    /// bound on what they compute ahead. Default automatic.
    pub prefetch: Prefetch,
    /// Largest payload of a microbatch that is accepted, in bytes. Default 1 GiB.
    pub max_microbatch_bytes: u64,
    /// How long to wait for a server.
    pub timeouts: Timeouts,
    /// How to continue after a failure.
    pub retry: Retry,
    /// When to request a late microbatch from a second server.
    pub hedge: Hedge,
    /// How often names of `dns+` endpoints are resolved again. Default 30 s; after a failure they
    /// are resolved at once.
    pub resolve_interval: Duration,
    /// How long a server is not used for a job after it refused it: because its dataset or recipe is
    /// another one, or it does not know the dataset or the call. Default 1 min.
    pub readmit_after: Duration,
    /// Connections of a stream to each server that it uses. Default 1.
    pub connections: usize,
    /// Whether microbatches are read in the memory of a server on this host. Default: where that is possible, and
    /// verified.
    pub shared_memory: SharedMemory,
    /// Replacements for parts of the network, for tests. Default: the real network.
    pub network: Network,
}

/// The window of a stream: how much it receives ahead of the trainer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefetch {
    /// 128 MiB, and with several servers as much as keeps them all busy: two of the rank's steps per
    /// server, up to 2 GiB.
    #[default]
    Auto,
    /// Bytes of pixels. One microbatch is received ahead even if it is larger.
    Bytes(usize),
}

/// Whether microbatches are read in the memory of a server on this host, which saves copying them.
///
/// A server does so if it listens on a Unix socket, also for those who call it over TCP. Otherwise, and where the
/// system does not share memory, microbatches are received as they are from other hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SharedMemory {
    /// Read there, and compare each microbatch with its hash.
    #[default]
    Verify,
    /// Read there. What a server's memory does to bits after they were hashed remains unseen.
    Trust,
    /// Receive copies.
    Off,
}

/// How long to wait for a server before an attempt counts as failed.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a connection. Default 5 s.
    pub connect: Duration,
    /// For the answer to an HTTP/2 ping, and the interval of these pings: finds dead peers behind
    /// half-open connections. Default 10 s.
    pub keepalive: Duration,
    /// For any byte of a response, while one is expected. Default 60 s.
    pub idle: Duration,
    /// For a whole microbatch, from the moment in which it is next, or another whole answer, such as a
    /// description. Default 5 min.
    pub microbatch: Duration,
}

/// The policy after a failure: the failed server is not used for a backoff, which doubles with each
/// failure in a row and is shortened by a random factor. Other servers are used until it is over.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Longest backoff after the first failure. Default 100 ms.
    pub initial_backoff: Duration,
    /// Longest backoff after any failure. Default 5 s.
    pub max_backoff: Duration,
    /// Fail when nothing arrived for this long; 0 fails at the first error. Default 5 min.
    pub give_up_after: Duration,
}

/// The policy for requesting a late microbatch from a second server as well.
#[derive(Clone, Copy, Debug)]
pub struct Hedge {
    /// The quantile of the last 128 waits after which a second server is used; 0 turns hedging off.
    /// Until 16 waits are known, the delay is 10 s. Default 0.95.
    pub quantile: f64,
    /// Shortest delay. Default 100 ms.
    pub min_delay: Duration,
    /// Hedges per received microbatch, of which 4 can be saved up. A hedge against a server that is
    /// being probed after a failure is free. Default 0.05.
    pub budget: f64,
}

impl Options {
    /// The default settings, with these servers.
    pub fn new<I: IntoIterator<Item: Into<String>>>(endpoints: I) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            access: Access::default(),
            format: PixelFormat::default(),
            prefetch: Prefetch::default(),
            max_microbatch_bytes: 1 << 30,
            timeouts: Timeouts::default(),
            retry: Retry::default(),
            hedge: Hedge::default(),
            resolve_interval: Duration::from_secs(30),
            readmit_after: Duration::from_mins(1),
            connections: 1,
            shared_memory: SharedMemory::default(),
            network: Network::default(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.endpoints.is_empty() {
            return Err(Error::Options(
                "no endpoint: expected at least one server, such as http://localhost:50051".into(),
            ));
        }
        let Timeouts { connect, keepalive, idle, microbatch } = self.timeouts;
        let Retry { initial_backoff, max_backoff, .. } = self.retry;
        for (setting, duration) in [
            ("connect timeout", connect),
            ("keepalive timeout", keepalive),
            ("idle timeout", idle),
            ("microbatch timeout", microbatch),
            ("initial backoff", initial_backoff),
            ("resolve interval", self.resolve_interval),
            ("readmission time", self.readmit_after),
        ] {
            if duration.is_zero() {
                return Err(invalid(setting, "0", "a duration above 0, such as 5s"));
            }
        }
        if max_backoff < initial_backoff {
            let expected = format!("at least the initial backoff of {initial_backoff:?}");
            return Err(invalid("max backoff", &format!("{max_backoff:?}"), &expected));
        }
        for (setting, number) in [
            ("number of connections", self.connections as u64),
            ("largest microbatch", self.max_microbatch_bytes),
        ] {
            if number == 0 {
                return Err(invalid(setting, "0", "at least 1"));
            }
        }
        for (setting, part) in
            [("hedge quantile", self.hedge.quantile), ("hedge budget", self.hedge.budget)]
        {
            if !(0.0..=1.0).contains(&part) {
                return Err(invalid(setting, &part.to_string(), "a number from 0 to 1"));
            }
        }
        Ok(())
    }
}

fn invalid(setting: &str, value: &str, expected: &str) -> Error {
    Error::Options(format!("invalid {setting} {value}: expected {expected}"))
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            keepalive: Duration::from_secs(10),
            idle: Duration::from_mins(1),
            microbatch: Duration::from_mins(5),
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            initial_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(5),
            give_up_after: Duration::from_mins(5),
        }
    }
}

impl Default for Hedge {
    fn default() -> Self {
        Self { quantile: 0.95, min_delay: Duration::from_millis(100), budget: 0.05 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused_with_what_is_expected() {
        let refused = |change: fn(&mut Options)| {
            let mut options = Options::new(["a:1"]);
            options.check().unwrap();
            change(&mut options);
            options.check().unwrap_err().to_string()
        };
        assert!(refused(|options| options.endpoints.clear()).starts_with("no endpoint: expected"));
        assert_eq!(
            refused(|options| options.timeouts.idle = Duration::ZERO),
            "invalid idle timeout 0: expected a duration above 0, such as 5s"
        );
        assert_eq!(
            refused(|options| options.retry.max_backoff = Duration::from_millis(1)),
            "invalid max backoff 1ms: expected at least the initial backoff of 100ms"
        );
        assert_eq!(
            refused(|options| options.connections = 0),
            "invalid number of connections 0: expected at least 1"
        );
        assert_eq!(
            refused(|options| options.hedge.quantile = 1.5),
            "invalid hedge quantile 1.5: expected a number from 0 to 1"
        );
        assert!(refused(|options| options.hedge.budget = f64::NAN).contains("hedge budget NaN"));
    }
}
