//! Flags of programs that use many servers.

use std::time::Duration;

use clap::Args;

use crate::Options;

/// How to use several servers.
#[derive(Clone, Copy, Debug, Args)]
pub struct ServerFlags {
    /// Ask a second server for a microbatch later than this quantile of the recent ones; 0: never.
    #[arg(long, value_name = "PART", env = "FOREBAY_HEDGE_QUANTILE", default_value_t = 0.95)]
    hedge_quantile: f64,
    /// Second requests a microbatch, at most.
    #[arg(long, value_name = "PART", env = "FOREBAY_HEDGE_BUDGET", default_value_t = 0.05)]
    hedge_budget: f64,
    /// How often names of dns+http:// endpoints are resolved again, in seconds.
    #[arg(long, value_name = "SECONDS", env = "FOREBAY_RESOLVE_S", default_value_t = 30)]
    resolve_s: u64,
    /// Connections of a stream to each server that it asks.
    #[arg(long, value_name = "N", env = "FOREBAY_CONNECTIONS", default_value_t = 1)]
    connections: usize,
}

impl ServerFlags {
    /// The options with these flags.
    #[must_use]
    pub fn apply(self, mut options: Options) -> Options {
        options.hedge.quantile = self.hedge_quantile;
        options.hedge.budget = self.hedge_budget;
        options.resolve_every = Duration::from_secs(self.resolve_s);
        options.connections = self.connections;
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
        servers: ServerFlags,
    }

    #[test]
    fn flags_that_are_not_given_leave_the_defaults() {
        let plain = Options::new(["a:1"]);
        let options = Program::parse_from(["program"]).servers.apply(plain.clone());
        assert_eq!(format!("{options:?}"), format!("{plain:?}"));
        let given = Program::parse_from(["program", "--hedge-quantile", "0", "--connections", "2"]);
        let options = given.servers.apply(plain);
        assert!(options.hedge.quantile <= 0.0 && options.connections == 2);
    }
}
