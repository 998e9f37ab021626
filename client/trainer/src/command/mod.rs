//! The `forebay-trainer` command.

mod bench;
mod cli;
mod distributed;
mod eval;
mod gpu_selftest;
mod numbers;
mod replay;
mod run_log;
mod setup;
mod source;
mod train;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

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
            print_error(&error);
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

#[expect(clippy::print_stderr, reason = "the only place where the command reports its failure")]
fn print_error(error: &anyhow::Error) {
    eprintln!("forebay-trainer: {error:#}");
}

/// Ends the process after another rank was lost. If the main thread waits for other ranks, it fails by
/// itself with the same error; if it computes or waits for data, that could take long.
fn exit_after_failure(error: &crate::Error) {
    std::thread::sleep(Duration::from_millis(500));
    print_error(&anyhow::anyhow!("{error}"));
    std::process::exit(1)
}

/// Prints a line of output.
#[expect(clippy::print_stdout, reason = "the output of the command")]
fn print(text: &str) {
    println!("{text}");
}
