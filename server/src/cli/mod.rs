//! The `forebay` command line: one file a command.

mod bench;
mod dump;
mod explain;
mod index;
mod options;
mod preview;
mod recipe;
mod sample_data;
mod serve;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Data loading and augmentation for image training: index a dataset, serve it, look into it.
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
    /// Say what is in an indexed dataset: counts, sizes, formats, classes, bad records, digest.
    Inspect(index::InspectArgs),
    /// Serve indexed datasets over gRPC.
    Serve(Box<serve::ServeArgs>),
    /// Show a recipe, or the difference of two.
    Recipe(recipe::RecipeCommand),
    /// Print what happens to each sample of a microbatch, as JSON.
    Explain(explain::ExplainArgs),
    /// Write one microbatch as safetensors.
    Dump(dump::DumpArgs),
    /// Draw one microbatch as a contact sheet.
    Preview(preview::PreviewArgs),
    /// Measure CPU time per image, stage by stage, without a network.
    Bench(bench::BenchArgs),
    /// Write a procedural dataset like ImageNet, so that nothing need be downloaded.
    SampleData(sample_data::SampleDataArgs),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Runs the command line; errors go to standard error. Exit code 0: done; 1: it failed; 2: the
/// arguments are wrong.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let result = match cli.command {
        Command::Index(args) => index::index(&args),
        Command::Inspect(args) => index::inspect(&args),
        Command::Serve(args) => serve::serve(*args),
        Command::Recipe(command) => recipe::run(&command),
        Command::Explain(args) => explain::explain(&args),
        Command::Dump(args) => dump::dump(&args),
        Command::Preview(args) => preview::preview(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::SampleData(args) => sample_data::sample_data(&args),
        Command::Completions { shell } => {
            use clap::CommandFactory as _;
            clap_complete::generate(shell, &mut Cli::command(), "forebay", &mut std::io::stdout());
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Help and version are no failure.
fn usage(error: &clap::Error) -> ExitCode {
    if error.print().is_err() {
        return ExitCode::FAILURE;
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

#[expect(clippy::print_stderr, reason = "the one place where the command line tells its failure")]
fn complain(error: &anyhow::Error) {
    eprintln!("forebay: {error:#}");
}

/// Writes a line to standard output, which may be a closed pipe.
fn say(line: impl std::fmt::Display) -> anyhow::Result<()> {
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}
