//! The `forebay-trainer` command.

mod bench;
mod cli;
mod distributed;
mod eval;
mod gpu_selftest;
mod numbers;
mod output;
mod replay;
mod run_log;
mod setup;
mod source;
mod train;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;
use cli::{Cli, Command};

/// Runs the command line and prints errors to standard error. Returns exit code 0 on success, 1 on
/// failure, and 2 when the arguments are wrong.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Printing fails only when the output is closed, and then nobody reads the error.
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::print_error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    rayon::ThreadPoolBuilder::new().num_threads(cli.threads).build_global()?;
    match &cli.command {
        Command::Bench(args) => bench::run(args),
        Command::Train(args) => train::run(args),
        Command::Eval(args) => eval::run(args),
        Command::GpuSelftest(args) => gpu_selftest::run(args),
    }
}
