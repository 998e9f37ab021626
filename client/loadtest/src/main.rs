//! The `forebay-loadtest` command.

mod arguments;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use forebay_loadtest::{Error, Interrupt, Options, Slo};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::arguments::Arguments;

/// Exit codes, documented in `--help`.
const SUCCESS: u8 = 0;
const VIOLATIONS: u8 = 1;
const INVALID_ARGUMENTS: u8 = 2;
const OBJECTIVE_MISSED: u8 = 3;
const NOT_RUN: u8 = 4;
/// The exit code that shells use for SIGINT.
const INTERRUPTED: u8 = 130;

/// The options of the output.
struct Output {
    json: bool,
    folder: Option<std::path::PathBuf>,
    slo: Slo,
    allowed_violations: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter.unwrap_or_else(|_unset| "warn".into()))
        .init();
    let arguments = Arguments::parse();
    let output = Output {
        json: arguments.json,
        folder: arguments.report.clone(),
        slo: arguments.slo(),
        allowed_violations: arguments.slo_violations,
    };
    let options = match arguments.options() {
        Ok(options) => options,
        Err(error) => {
            print_error(&error);
            return ExitCode::from(INVALID_ARGUMENTS);
        }
    };
    match run(options, output).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            print_error(&error);
            let is_interrupted = matches!(error.downcast_ref(), Some(Error::Interrupted));
            ExitCode::from(if is_interrupted { INTERRUPTED } else { NOT_RUN })
        }
    }
}

async fn run(options: Options, output: Output) -> anyhow::Result<u8> {
    // Registered before the first request, so that a signal is honored from then on.
    let signals = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
    tokio::spawn(handle_signals(signals, options.interrupt.clone()));
    let mut report = forebay_loadtest::run(options).await?;
    report.judge(&output.slo);
    let text =
        if output.json { serde_json::to_string(&report)? + "\n" } else { report.to_string() };
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")?;
    if let Some(folder) = output.folder {
        report.write(&folder)?;
    }
    Ok(if report.violation_count > output.allowed_violations {
        VIOLATIONS
    } else if report.slo_missed.is_empty() {
        SUCCESS
    } else {
        OBJECTIVE_MISSED
    })
}

/// Ends the run after the steps in progress at the first signal, and the process at the second one.
async fn handle_signals([mut sigint, mut sigterm]: [Signal; 2], interrupt: Interrupt) {
    for is_second in [false, true] {
        tokio::select! { _ = sigint.recv() => {}, _ = sigterm.recv() => {} }
        interrupt.set();
        if is_second {
            std::process::exit(INTERRUPTED.into());
        }
    }
}

#[expect(clippy::print_stderr, reason = "the one place where the command prints its error")]
fn print_error(error: &anyhow::Error) {
    eprintln!("forebay-loadtest: {error:#}");
}
