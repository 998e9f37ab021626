//! Text for people: names and errors as they may be printed.
//!
//! A file, a class or a server may have any name. A newline in it would forge a line of a log, and an
//! escape sequence would control the terminal that shows it. So whatever prints text that is not its own
//! prints it as [`Escaped`].

use std::error::Error;
use std::fmt::{self, Display, Formatter, Write};

/// A value whose text is displayed in one line, without characters that control a terminal or the
/// direction of text.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<T>(pub T);

/// A text of several lines, each displayed as [`Escaped`].
#[derive(Clone, Copy, Debug)]
pub struct EscapedLines<T>(pub T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(Escaping { to: f, newline: "\\n" }, "{}", self.0)
    }
}

impl<T: Display> Display for EscapedLines<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(Escaping { to: f, newline: "\n" }, "{}", self.0)
    }
}

/// The message of an error with its causes, for a report on standard error. Causes that a message already
/// contains are left out, and further lines are indented, so that they cannot look like other messages.
pub fn report(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    let mut report = String::new();
    write!(Escaping { to: &mut report, newline: "\n  " }, "{text}")
        .expect("writing to a string cannot fail");
    report
}

/// Writes text with control characters escaped.
struct Escaping<'a, W> {
    to: &'a mut W,
    newline: &'static str,
}

impl<W: Write> Write for Escaping<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(controls) {
            let end = part.char_indices().next_back().filter(|(_, last)| controls(*last));
            let (plain, control) = part.split_at(end.map_or(part.len(), |(at, _)| at));
            self.to.write_str(plain)?;
            match control {
                "" => {}
                "\n" => self.to.write_str(self.newline)?,
                control => write!(self.to, "{}", control.escape_default())?,
            }
        }
        Ok(())
    }
}

/// Whether a character controls a terminal, ends a line, or changes the direction of text.
fn controls(c: char) -> bool {
    let separates = matches!(c, '\u{2028}' | '\u{2029}');
    let directs =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || separates || directs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_letters_of_all_languages_are_not() {
        for (text, escaped) in [
            ("plain", "plain"),
            ("Zoë 猫 \u{1f408}", "Zoë 猫 \u{1f408}"),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{1b}[31mred\u{7f}", "\\u{1b}[31mred\\u{7f}"),
            ("\u{9b}2J", "\\u{9b}2J"),
            ("a\u{202e}b\u{2028}", "a\\u{202e}b\\u{2028}"),
            ("\n\n", "\\n\\n"),
        ] {
            assert_eq!(Escaped(text).to_string(), escaped);
        }
        assert_eq!(EscapedLines("a\u{1b}\nb\n").to_string(), "a\\u{1b}\nb\n");
    }

    #[derive(Debug)]
    struct Failure(&'static str, Option<Box<Failure>>);

    impl Display for Failure {
        fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Failure {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as &(dyn Error + 'static))
        }
    }

    #[test]
    fn a_report_has_each_cause_once_and_indents_its_lines() {
        let denied = || Some(Box::new(Failure("Permission denied", None)));
        let wrapped = Failure("cannot read x: Permission denied (os error 13)", denied());
        assert_eq!(report(&wrapped), "cannot read x: Permission denied (os error 13)");
        let outer = Failure("cannot open a\nforebay: forged", denied());
        assert_eq!(report(&outer), "cannot open a\n  forebay: forged: Permission denied");
    }
}
