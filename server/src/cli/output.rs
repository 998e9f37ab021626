//! Output of commands: results, on standard output. Names may contain any character, so everything is escaped
//! here.

use std::fmt::Display;
use std::io::Write as _;

use forebay_types::text::{Escaped, EscapedLines};

/// Writes a line to standard output.
///
/// # Errors
/// When standard output is closed, such as a pipe whose reader has ended.
pub(super) fn say(line: impl Display) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{}", Escaped(line))?;
    Ok(())
}

/// Writes a text of several lines to standard output.
///
/// # Errors
/// When standard output is closed, such as a pipe whose reader has ended.
pub(super) fn say_lines(text: impl Display) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{}", EscapedLines(text))?;
    Ok(())
}
