//! The `forebay-trainer` command.

mod bench;
mod best;
mod cli;
mod config;
mod distributed;
mod eval;
mod gpu_selftest;
mod hook;
mod metrics;
mod output;
mod progress;
mod replay;
mod run_log;
mod setup;
mod source;
mod stop;
mod summary;
mod train;
mod training_stream;

use std::ffi::OsString;

use cli::Command;
use cli::run::LogFormat;
use config::Parsed;
use forebay_types::command::log_to_stderr;

/// Exit codes.
const SUCCESS: u8 = 0;
const FAILURE: u8 = 1;
const INVALID_ARGUMENTS: u8 = 2;

/// Runs the command line and prints warnings and errors to standard error. Returns exit code 0 on success,
/// 1 on failure, 2 when the arguments are wrong, and 85 when a signal stopped a training that then wrote a checkpoint.
/// Otherwise SIGINT and SIGTERM end the process with 130 and 143.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let parsed = match config::parse(arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Printing fails only when the output is closed, and then nobody reads the error.
            error.print().ok();
            return u8::try_from(error.exit_code()).unwrap_or(INVALID_ARGUMENTS);
        }
    };
    let json = matches!(
        &parsed.cli.command,
        Command::Train(args) if args.logs.log_format == LogFormat::Json
    );
    output::print_as_json(json);
    log_to_stderr("warn", json);
    match run(&parsed) {
        Ok(code) => code,
        Err(error) => {
            output::print_error(&error);
            FAILURE
        }
    }
}

#[cfg(test)]
#[path = "../../../../tests/src/walk.rs"]
mod walk;

#[cfg(test)]
#[test]
fn every_flag_accepts_the_ends_of_its_range_or_says_what_it_expects() {
    use clap::CommandFactory as _;
    walk::every_flag(cli::Cli::command());
}

fn run(Parsed { cli, settings }: &Parsed) -> anyhow::Result<u8> {
    stop::handle_signals(matches!(cli.command, Command::Train(_)))?;
    rayon::ThreadPoolBuilder::new().num_threads(cli.threads.count()).build_global()?;
    match &cli.command {
        Command::Bench(args) => bench::run(args)?,
        Command::Train(args) if args.dry_run => train::dry_run(args, settings)?,
        Command::Train(args) if train::run(args)?.is_break() => return Ok(stop::STOPPED),
        Command::Train(_) => {}
        Command::Eval(args) => eval::run(args)?,
        Command::GpuSelftest(args) => gpu_selftest::run(args)?,
    }
    Ok(SUCCESS)
}
