//! The `forebay` command line: one file per command.

mod bench;
mod dump;
mod explain;
mod gpu_selftest;
mod index;
mod options;
mod output;
mod preview;
mod recipe;
mod safetensors;
mod sample_data;
mod serve;

use std::ffi::OsString;
use std::io::Write as _;
use std::time::Duration;

use clap::{Parser, Subcommand};
use forebay_types::command::{StopSignal, on_stop, print_error};

use crate::descriptors;

/// Data loading and augmentation for image training: index a dataset, serve it, inspect it.
#[derive(Debug, Parser)]
#[command(name = "forebay", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check every image of a dataset and write its index.
    Index(index::IndexArgs),
    /// Summarize an indexed dataset: counts, sizes, formats, classes, bad records, digest.
    Inspect(index::InspectArgs),
    /// Serve indexed datasets over gRPC.
    Serve(Box<serve::ServeArgs>),
    /// Show a recipe, or the difference between two.
    Recipe(recipe::RecipeCommand),
    /// Print what happens to each sample of a microbatch, as JSON.
    Explain(explain::ExplainArgs),
    /// Write one microbatch as safetensors.
    Dump(dump::DumpArgs),
    /// Draw one microbatch as a contact sheet.
    Preview(preview::PreviewArgs),
    /// Measure CPU time per image by stage, without a network.
    Bench(bench::BenchArgs),
    /// Check that a GPU mixes to the same bytes as the CPU, and measure its speed.
    GpuSelftest(gpu_selftest::SelfTestArgs),
    /// Write a procedural dataset in the form of ImageNet, to try forebay without a download.
    SampleData(sample_data::SampleDataArgs),
    /// Print shell completions.
    Completions {
        /// Shell for which to print completions.
        shell: clap_complete::Shell,
    },
}

/// Exit codes.
const SUCCESS: u8 = 0;
const FAILURE: u8 = 1;
const INVALID_ARGUMENTS: u8 = 2;

/// Runs the command line and returns its exit code. Errors go to standard error. Exit codes: 0 for success,
/// 1 for failure, 2 for invalid arguments, 130 and 143 for SIGINT and SIGTERM.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    descriptors::raise();
    // A server drains at the first signal.
    if !matches!(cli.command, Command::Serve(_))
        && let Err(error) = on_stop(Some(Duration::ZERO), |signal: StopSignal| signal.exit())
    {
        print_error("forebay", &error);
        return FAILURE;
    }
    let result = match cli.command {
        Command::Index(args) => index::index(&args),
        Command::Inspect(args) => index::inspect(&args),
        Command::Serve(args) => serve::serve(*args),
        Command::Recipe(command) => recipe::run(&command),
        Command::Explain(args) => explain::explain(&args),
        Command::Dump(args) => dump::dump(&args),
        Command::Preview(args) => preview::preview(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::GpuSelftest(args) => gpu_selftest::selftest(&args),
        Command::SampleData(args) => sample_data::sample_data(&args),
        Command::Completions { shell } => {
            use clap::CommandFactory as _;
            // Into memory first: it panics if what it writes to fails.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "forebay", &mut script);
            std::io::stdout().write_all(&script).map_err(anyhow::Error::from)
        }
    };
    match result {
        Ok(()) => SUCCESS,
        Err(error) => {
            print_error("forebay", &*error);
            FAILURE
        }
    }
}

#[cfg(test)]
#[path = "../../../tests/src/walk.rs"]
mod walk;

#[cfg(test)]
#[test]
fn every_flag_accepts_the_ends_of_its_range_or_says_what_it_expects() {
    use clap::CommandFactory as _;
    walk::every_flag(Cli::command());
}

/// Prints help, version or a usage error. Help and version are successes.
fn usage(error: &clap::Error) -> u8 {
    if error.print().is_err() {
        return FAILURE;
    }
    u8::try_from(error.exit_code()).unwrap_or(INVALID_ARGUMENTS)
}
