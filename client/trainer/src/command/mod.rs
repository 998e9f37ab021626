//! The `forebay-trainer` command.

mod bench;
mod cli;
mod feed;
mod files;
mod gpu_selftest;
mod log;
mod place;
mod run;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;
use cli::{Cli, Command};

/// Runs the command line; errors go to standard error. Exit code 0: done; 1: it failed; 2: the
/// arguments are wrong.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // A closed standard output leaves nobody to tell.
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    rayon::ThreadPoolBuilder::new().num_threads(cli.threads).build_global()?;
    match &cli.command {
        Command::Bench(args) => bench::run(args),
        Command::Train(args) => run::run(args),
        Command::Eval(args) => run::eval(args),
        Command::GpuSelftest(args) => gpu_selftest::run(args),
    }
}

#[expect(clippy::print_stderr, reason = "the one place where the command tells its failure")]
fn complain(error: &anyhow::Error) {
    eprintln!("forebay-trainer: {error:#}");
}

/// Ends the process because another rank was lost. The main thread may be at work for long; if it waits
/// for the others it ends by itself, and tells the same.
fn abandon(error: &crate::Error) {
    std::thread::sleep(std::time::Duration::from_millis(500));
    complain(&anyhow::anyhow!("{error}"));
    std::process::exit(1)
}

/// A line for the user.
#[expect(clippy::print_stdout, reason = "the command's own output")]
fn print(text: &str) {
    println!("{text}");
}
