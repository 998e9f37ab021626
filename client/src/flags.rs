//! The client's settings as flags, the same in every program.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use forebay_types::MixedBy;
use forebay_types::settings::{
    ByteSize, NonZeroByteSize, NonZeroTimeSpan, Number, duration, fraction,
};

use crate::error::Error;
use crate::options::{Options, Prefetch, SharedMemory};
use crate::wire::access::Access;

/// Settings for reaching servers and receiving from them.
///
/// Durations have a unit (`300ms`, `5m`), sizes may have one (`256MiB`).
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Servers")]
pub struct ClientFlags {
    /// Servers, as http://host:port, https://host:port or host:port, as unix:PATH for one on this host, or all
    /// addresses of a name, as dns+http://name:port. Separated by commas, or given several times.
    #[arg(long, value_name = "URL", env = "FOREBAY_ENDPOINT", value_delimiter = ',')]
    pub endpoint: Vec<String>,
    /// Certificates and token.
    #[command(flatten)]
    pub access: Access,
    /// The side that applies MixUp and CutMix to training images: server or trainer.
    #[arg(long, env = "FOREBAY_MIXED_BY", default_value_t = MixedBy::Server)]
    pub mixed_by: MixedBy,
    /// Window of a stream: bytes of pixels received ahead of the trainer, such as 256MiB; 0 receives one microbatch ahead.
    /// auto is 128MiB, or two steps per server where that is more, up to 2GiB.
    #[arg(long, value_name = "SIZE", env = "FOREBAY_PREFETCH", default_value_t = Prefetch::Auto)]
    pub prefetch: Prefetch,
    /// Largest microbatch that is accepted; at least 1.
    #[arg(long, value_name = "SIZE", env = "FOREBAY_MAX_MICROBATCH", default_value = "1GiB")]
    pub max_microbatch: NonZeroByteSize,
    /// Connections of a stream to each server that it uses, 1 to 256.
    #[arg(long, value_name = "N", env = "FOREBAY_CONNECTIONS", default_value = "1")]
    pub connections: Number<1, 256>,
    /// Microbatches of a server on this host: read them in its memory and verify them, trust them, or off to receive
    /// copies.
    #[arg(long, value_name = "verify|trust|off", env = "FOREBAY_SHARED_MEMORY", default_value_t = SharedMemory::Verify)]
    pub shared_memory: SharedMemory,
    /// Interval at which names of dns+ endpoints are resolved again; more than 0.
    #[arg(long, value_name = "TIME", env = "FOREBAY_RESOLVE_INTERVAL", default_value = "30s")]
    pub resolve_interval: NonZeroTimeSpan,
    /// Longest wait for a connection; more than 0.
    #[arg(long, value_name = "TIME", env = "FOREBAY_CONNECT_TIMEOUT", default_value = "5s")]
    pub connect_timeout: NonZeroTimeSpan,
    /// Longest wait for the answer to an HTTP/2 ping, and the interval of these pings; more than 0.
    #[arg(long, value_name = "TIME", env = "FOREBAY_KEEPALIVE_TIMEOUT", default_value = "10s")]
    pub keepalive_timeout: NonZeroTimeSpan,
    /// Longest wait for any byte of a response; more than 0.
    #[arg(long, value_name = "TIME", env = "FOREBAY_IDLE_TIMEOUT", default_value = "1m")]
    pub idle_timeout: NonZeroTimeSpan,
    /// Longest wait for a whole microbatch from one server; more than 0.
    #[arg(long, value_name = "TIME", env = "FOREBAY_MICROBATCH_TIMEOUT", default_value = "5m")]
    pub microbatch_timeout: NonZeroTimeSpan,
    /// Fail when nothing arrived from any server for this long; 0 fails at the first error.
    #[arg(long, value_name = "TIME", env = "FOREBAY_GIVE_UP_AFTER", default_value = "5m", value_parser = duration)]
    pub give_up_after: Duration,
    /// Time that a server is not used after its first failure; more than 0. It doubles with each
    /// failure in a row.
    #[arg(long, value_name = "TIME", env = "FOREBAY_INITIAL_BACKOFF", default_value = "100ms")]
    pub initial_backoff: NonZeroTimeSpan,
    /// Longest time that a server is not used after a failure; not below the initial backoff.
    #[arg(long, value_name = "TIME", env = "FOREBAY_MAX_BACKOFF", default_value = "5s")]
    pub max_backoff: NonZeroTimeSpan,
    /// Time that a server is not used for a job that it refused, because its dataset or recipe is another
    /// one, or it does not know the dataset or the call; more than 0. Then it is tried again, as it may have
    /// been rolled back.
    #[arg(long, value_name = "TIME", env = "FOREBAY_READMIT_AFTER", default_value = "1m")]
    pub readmit_after: NonZeroTimeSpan,
    /// Request a microbatch from a second server if it takes longer than this quantile of the recent
    /// ones, from 0 to 1; 0 turns hedging off.
    #[arg(long, value_name = "QUANTILE", env = "FOREBAY_HEDGE_QUANTILE", default_value_t = 0.95, value_parser = fraction)]
    pub hedge_quantile: f64,
    /// Most such second requests per received microbatch, from 0 to 1; 0 turns hedging off, except
    /// against servers that are being probed after a failure.
    #[arg(long, value_name = "FRACTION", env = "FOREBAY_HEDGE_BUDGET", default_value_t = 0.05, value_parser = fraction)]
    pub hedge_budget: f64,
    /// Send no second request earlier than this; 0 leaves it to the quantile.
    #[arg(long, value_name = "TIME", env = "FOREBAY_HEDGE_MIN_DELAY", default_value = "100ms", value_parser = duration)]
    pub hedge_min_delay: Duration,
}

/// Parses `auto` or a size.
impl FromStr for Prefetch {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let size: Result<ByteSize, _> = text.parse();
        let ByteSize(bytes) = size.map_err(|error| Error::Options(format!("{error}; or auto")))?;
        Ok(Self::Bytes(usize::try_from(bytes).unwrap_or(usize::MAX)))
    }
}

impl fmt::Display for Prefetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Bytes(bytes) => ByteSize(*bytes as u64).fmt(f),
        }
    }
}

/// Parses `verify`, `trust` or `off`.
impl FromStr for SharedMemory {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "verify" => Ok(Self::Verify),
            "trust" => Ok(Self::Trust),
            "off" => Ok(Self::Off),
            _ => {
                let invalid = format!("{text:?}: expected \"verify\", \"trust\" or \"off\"");
                Err(Error::Options(invalid))
            }
        }
    }
}

impl fmt::Display for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Verify => "verify",
            Self::Trust => "trust",
            Self::Off => "off",
        })
    }
}

impl ClientFlags {
    /// The options that the flags stand for.
    pub fn options(self) -> Options {
        let mut options = Options::new(self.endpoint);
        options.access = self.access;
        options.format.mixed_by = self.mixed_by;
        options.prefetch = self.prefetch;
        options.max_microbatch_bytes = self.max_microbatch.get();
        options.connections = self.connections.count();
        options.shared_memory = self.shared_memory;
        options.resolve_interval = self.resolve_interval.get();
        options.readmit_after = self.readmit_after.get();
        options.timeouts.connect = self.connect_timeout.get();
        options.timeouts.keepalive = self.keepalive_timeout.get();
        options.timeouts.idle = self.idle_timeout.get();
        options.timeouts.microbatch = self.microbatch_timeout.get();
        options.retry.give_up_after = self.give_up_after;
        options.retry.initial_backoff = self.initial_backoff.get();
        options.retry.max_backoff = self.max_backoff.get();
        options.hedge.quantile = self.hedge_quantile;
        options.hedge.budget = self.hedge_budget;
        options.hedge.min_delay = self.hedge_min_delay;
        options
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        client: ClientFlags,
    }

    fn options(arguments: &[&str]) -> Options {
        let program = ["program", "--endpoint", "a:1"].iter().chain(arguments);
        Program::parse_from(program).client.options()
    }

    #[test]
    fn flags_that_are_not_given_leave_the_defaults() {
        assert_eq!(format!("{:?}", options(&[])), format!("{:?}", Options::new(["a:1"])));
    }

    #[test]
    fn every_setting_has_a_flag() {
        let seconds = Duration::from_secs;
        let given = options(&[
            "--endpoint=b:2,c:3",
            "--mixed-by=trainer",
            "--prefetch=256MiB",
            "--max-microbatch=2GiB",
            "--connections=2",
            "--shared-memory=off",
            "--resolve-interval=1m",
            "--connect-timeout=1s",
            "--keepalive-timeout=2s",
            "--idle-timeout=3s",
            "--microbatch-timeout=4s",
            "--give-up-after=0",
            "--initial-backoff=5ms",
            "--max-backoff=6s",
            "--readmit-after=8s",
            "--hedge-quantile=0",
            "--hedge-budget=1",
            "--hedge-min-delay=7ms",
            "--tls-name=d",
        ]);
        assert_eq!(given.endpoints, ["a:1", "b:2", "c:3"]);
        assert_eq!(given.format.mixed_by, MixedBy::Trainer);
        assert_eq!(given.prefetch, Prefetch::Bytes(256 << 20));
        assert_eq!((given.max_microbatch_bytes, given.connections), (2 << 30, 2));
        assert_eq!(given.shared_memory, SharedMemory::Off);
        assert_eq!(given.resolve_interval, seconds(60));
        let timeouts = given.timeouts;
        assert_eq!([timeouts.connect, timeouts.keepalive], [seconds(1), seconds(2)]);
        assert_eq!([timeouts.idle, timeouts.microbatch], [seconds(3), seconds(4)]);
        assert_eq!(given.retry.give_up_after, Duration::ZERO);
        assert_eq!(given.retry.initial_backoff, Duration::from_millis(5));
        assert_eq!(given.retry.max_backoff, seconds(6));
        assert_eq!(given.readmit_after, seconds(8));
        assert!(given.hedge.quantile <= 0.0 && given.hedge.budget >= 1.0);
        assert_eq!(given.hedge.min_delay, Duration::from_millis(7));
        assert_eq!(given.access.tls_name.as_deref(), Some("d"));
    }

    #[test]
    fn values_without_a_unit_are_refused_with_an_example() {
        let refused = |argument| {
            let parsed = Program::try_parse_from(["program", argument]);
            parsed.map(|_program| ()).unwrap_err().to_string()
        };
        assert!(refused("--idle-timeout=60").contains("such as 300ms"));
        assert!(refused("--prefetch=large").contains("such as 256MiB; or auto"));
        let blue = refused("--mixed-by=blue");
        assert!(blue.contains(r#"expected "server" or "trainer""#), "{blue}");
        assert!(refused("--shared-memory=on").contains(r#"expected "verify", "trust" or "off""#));
    }
}
