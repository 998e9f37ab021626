//! How a run keeps and reports what it has done.

use std::time::Duration;

use clap::{Args, ValueEnum};
use forebay_types::settings::{Number, duration};

/// Checkpoints, and the end of a run.
#[derive(Args, Debug)]
#[command(next_help_heading = "Checkpoints")]
pub(crate) struct CheckpointArgs {
    /// Number of checkpoints to keep: the newest ones.
    #[arg(long, env = "FOREBAY_CHECKPOINT_HIST", value_name = "N", default_value = "2")]
    pub(crate) checkpoint_hist: Number<1, 1_000_000>,
    /// Metric of the evaluations that decides which model is the best, which `model_best.safetensors` is.
    #[arg(
        long,
        env = "FOREBAY_EVAL_METRIC",
        value_name = "top1|top5|loss",
        value_enum,
        hide_possible_values = true,
        default_value = "top1"
    )]
    pub(crate) eval_metric: EvalMetric,
    /// Command that `sh` runs after each checkpoint, for example to upload it. Its first argument is the folder of the
    /// checkpoint, which is not removed meanwhile. Training goes on; a command that fails is a warning.
    #[arg(long, env = "FOREBAY_CHECKPOINT_COMMAND", value_name = "CMD")]
    pub(crate) checkpoint_command: Option<String>,
    /// Time after SIGTERM or SIGINT in which the step in progress may end and its checkpoint may be written, before the
    /// process ends without; 0 ends it at once.
    #[arg(long, env = "FOREBAY_STOP_GRACE", value_name = "TIME", default_value = "25s", value_parser = duration)]
    pub(crate) stop_grace: Duration,
}

/// A figure of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EvalMetric {
    /// The share of images whose class has the highest logit.
    Top1,
    /// The share of images whose class has one of the five highest logits.
    Top5,
    /// The mean cross-entropy. The lowest is the best.
    Loss,
}

/// What a run says while it trains.
#[derive(Args, Debug)]
#[command(next_help_heading = "Logs")]
pub(crate) struct LogArgs {
    /// Steps between two lines about progress where there is no terminal for a bar. Each epoch ends with one; 0 prints no
    /// others.
    #[arg(long, env = "FOREBAY_LOG_INTERVAL", value_name = "N", default_value = "50")]
    pub(crate) log_interval: Number<0, 1_000_000>,
    /// Form of the lines about progress on standard output and of the log on standard error.
    #[arg(
        long,
        env = "FOREBAY_LOG_FORMAT",
        value_name = "text|json",
        value_enum,
        hide_possible_values = true,
        default_value = "text"
    )]
    pub(crate) log_format: LogFormat,
    /// Serve figures of the run for Prometheus at this address, under /metrics. Port 0 is any free one. Each rank serves
    /// its own.
    #[arg(long, env = "FOREBAY_METRICS_ADDRESS", value_name = "HOST:PORT")]
    pub(crate) metrics_address: Option<String>,
}

/// The form of logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line, for machines.
    Json,
}
