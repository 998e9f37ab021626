//! The `forebay-trainer` command.

mod bench;
mod cli;
mod config;
mod distributed;
mod eval;
mod gpu_selftest;
mod output;
mod replay;
mod run_log;
mod setup;
mod source;
mod train;

use std::ffi::OsString;

use cli::Command;
use config::Parsed;
use forebay_types::command::log_to_stderr;

/// Exit codes.
const SUCCESS: u8 = 0;
const FAILURE: u8 = 1;
const INVALID_ARGUMENTS: u8 = 2;

/// Runs the command line and prints warnings and errors to standard error. Returns exit code 0 on success,
/// 1 on failure, and 2 when the arguments are wrong; SIGINT and SIGTERM end the process with 130 and 143.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let parsed = match config::parse(arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Printing fails only when the output is closed, and then nobody reads the error.
            error.print().ok();
            return u8::try_from(error.exit_code()).unwrap_or(INVALID_ARGUMENTS);
        }
    };
    log_to_stderr("warn", false);
    match run(&parsed) {
        Ok(()) => SUCCESS,
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

fn run(Parsed { cli, settings }: &Parsed) -> anyhow::Result<()> {
    output::exit_at_signals(matches!(cli.command, Command::Train(_)))?;
    rayon::ThreadPoolBuilder::new().num_threads(cli.threads.count()).build_global()?;
    match &cli.command {
        Command::Bench(args) => bench::run(args),
        Command::Train(args) if args.dry_run => train::dry_run(args, settings),
        Command::Train(args) => train::run(args),
        Command::Eval(args) => eval::run(args),
        Command::GpuSelftest(args) => gpu_selftest::run(args),
    }
}
