//! The `forebay-trainer` command.

mod bench;
mod cli;
mod feed;
mod files;
mod log;
mod run;

use clap::Parser as _;
use cli::{Cli, Command};

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    rayon::ThreadPoolBuilder::new().num_threads(cli.threads).build_global()?;
    match cli.command {
        Command::Bench(args) => bench::run(&args),
        Command::Train(args) => run::run(&args),
        Command::Eval(args) => run::eval(&args),
    }
}

/// A line for the user.
#[expect(clippy::print_stdout, reason = "the command's own output")]
pub(crate) fn print(text: &str) {
    println!("{text}");
}
