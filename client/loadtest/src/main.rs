//! The `forebay-loadtest` command.

mod arguments;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::arguments::Arguments;

/// Exit codes, as `--help` has them; 2 is clap's.
const GOOD: u8 = 0;
const WRONG: u8 = 1;
const MISSED: u8 = 3;
const FAILED: u8 = 4;
/// As shells have it of who was interrupted.
const INTERRUPTED: i32 = 130;

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter.unwrap_or_else(|_unset| "warn".into()))
        .init();
    match run(Arguments::parse()).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            complain(&error);
            ExitCode::from(FAILED)
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<u8> {
    let (json, folder, slo) = (arguments.json, arguments.report.clone(), arguments.slo());
    let allowed = arguments.slo_violations;
    let options = arguments.options()?;
    tokio::spawn(heed_signals(Arc::clone(&options.interrupt)));
    let mut report = forebay_loadtest::run(options).await?;
    report.judge(&slo);
    let text = if json { serde_json::to_string(&report)? + "\n" } else { report.to_string() };
    std::io::stdout().write_all(text.as_bytes()).context("standard output")?;
    if let Some(folder) = folder {
        report.write(&folder)?;
    }
    Ok(if report.violation_count > allowed {
        WRONG
    } else if report.slo_missed.is_empty() {
        GOOD
    } else {
        MISSED
    })
}

/// At the first signal trainers finish the steps that are begun, at the second nothing is finished.
async fn heed_signals(interrupt: Arc<AtomicBool>) {
    let (Ok(mut by_hand), Ok(mut by_others)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    for again in [false, true] {
        tokio::select! { _ = by_hand.recv() => {}, _ = by_others.recv() => {} }
        interrupt.store(true, Ordering::Relaxed);
        if again {
            std::process::exit(INTERRUPTED);
        }
    }
}

#[expect(clippy::print_stderr, reason = "the one place where the command tells its failure")]
fn complain(error: &anyhow::Error) {
    eprintln!("forebay-loadtest: {error:#}");
}
