//! Options of several processes that train together.

use std::time::Duration;

use clap::Args;
use forebay_types::settings::{NonZeroTimeSpan, Number, duration};

/// Several processes that train together.
#[derive(Args, Debug)]
#[command(next_help_heading = "Distributed training")]
pub(crate) struct Distributed {
    /// Number of processes, which must divide the microbatches of a step. Any number trains the same
    /// model, bit for bit. Also read from `WORLD_SIZE`.
    #[arg(long, env = "FOREBAY_WORLD", value_name = "N")]
    pub(crate) world: Option<Number<1, 1024>>,
    /// Rank of this process, from 0. Rank 0 writes the files. Also read from `RANK` or
    /// `JOB_COMPLETION_INDEX`.
    #[arg(long, env = "FOREBAY_RANK", value_name = "N")]
    pub(crate) rank: Option<Number<0, 1023>>,
    /// Address at which rank 0 listens for the others. Also read from `MASTER_ADDR` and `MASTER_PORT`.
    #[arg(long, env = "FOREBAY_RENDEZVOUS", value_name = "HOST:PORT")]
    pub(crate) rendezvous: Option<String>,
    /// Maximum time to wait until all ranks have joined; more than 0.
    #[arg(long, env = "FOREBAY_RENDEZVOUS_TIMEOUT", value_name = "TIME", default_value = "5m")]
    pub(crate) rendezvous_timeout: NonZeroTimeSpan,
    /// Time of silence after which a rank counts as lost; at least 2s. A rank sends one heartbeat per
    /// second.
    #[arg(long, env = "FOREBAY_HEARTBEAT_TIMEOUT", value_name = "TIME", default_value = "15s", value_parser = heartbeat_timeout)]
    pub(crate) heartbeat_timeout: Duration,
    /// Maximum time that a rank which sends heartbeats may keep the others waiting; 0 waits forever.
    #[arg(long, env = "FOREBAY_STALL_TIMEOUT", value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub(crate) stall_timeout: Duration,
    #[command(flatten)]
    pub(crate) launcher: LauncherEnv,
}

/// Parses a duration in which at least one heartbeat can arrive.
fn heartbeat_timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration(text).map_err(|error| error.to_string())?;
    if timeout < Duration::from_secs(2) {
        return Err(
            "expected at least 2s, because a rank sends one heartbeat per second".to_owned()
        );
    }
    Ok(timeout)
}

/// Environment variables that torchrun and Kubernetes Indexed Jobs set. An empty one counts as unset.
#[derive(Args, Debug)]
pub(crate) struct LauncherEnv {
    #[arg(long, env = "WORLD_SIZE", hide = true)]
    pub(crate) world_size: Option<String>,
    #[arg(long, env = "RANK", hide = true)]
    pub(crate) global_rank: Option<String>,
    #[arg(long, env = "JOB_COMPLETION_INDEX", hide = true)]
    pub(crate) job_completion_index: Option<String>,
    #[arg(long, env = "MASTER_ADDR", hide = true)]
    pub(crate) master_addr: Option<String>,
    #[arg(long, env = "MASTER_PORT", hide = true)]
    pub(crate) master_port: Option<String>,
}
