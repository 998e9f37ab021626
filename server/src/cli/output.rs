//! Output of commands: results to standard output, errors to standard error.

use std::io::Write as _;

/// Writes a line to standard output.
///
/// # Errors
/// When standard output is closed, such as a pipe whose reader has ended.
pub(super) fn say(line: impl std::fmt::Display) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

/// Writes an error to standard error.
#[expect(clippy::print_stderr, reason = "the one place where the command line prints errors")]
pub(super) fn print_error(error: &anyhow::Error) {
    eprintln!("forebay: {error:#}");
}
