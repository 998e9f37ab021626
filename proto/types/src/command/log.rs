//! Logs on standard error. Names may contain any character, so everything is escaped here.

use std::error::Error;
use std::fmt::Debug;
use std::io::{self, IsTerminal as _, Write as _};

use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

use crate::text::{Escaped, report};

/// Clears the line of a terminal, on which a progress bar may be. The bar is drawn again below.
const CLEAR_LINE: &[u8] = b"\r\x1b[2K";

/// Writes logs to standard error, with colors if that is a terminal. `RUST_LOG` overrides the `levels`.
pub fn log_to_stderr(levels: &str, json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(levels));
    let colorless = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_terminal = io::stderr().is_terminal();
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(is_terminal && !colorless)
        // It would report a line that cannot be written with `eprintln`, which panics then: a full disk or a
        // log collector that has ended must not end calls.
        .log_internal_errors(false)
        .with_writer(move || Line { is_terminal });
    // Fails if there is a subscriber already: a program that embeds the command has its own.
    let result = if json {
        logs.json().try_init()
    } else {
        logs.fmt_fields(debug_fn(log_field).delimited(" ")).try_init()
    };
    drop(result);
}

/// Writes the error that ends a program to standard error. If that fails, nobody can be told.
pub fn print_error(program: &str, error: &(dyn Error + 'static)) {
    writeln!(io::stderr(), "{program}: {}", report(error)).ok();
}

/// Standard error, on which each write is a line.
struct Line {
    is_terminal: bool,
}

impl io::Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut stderr = io::stderr().lock();
        if self.is_terminal {
            stderr.write_all(CLEAR_LINE)?;
        }
        stderr.write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Writes a field of a log line. JSON escapes fields itself.
fn log_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> std::fmt::Result {
    let value = Escaped(format_args!("{value:?}"));
    match field.name() {
        "message" => write!(writer, "{value}"),
        name => write!(writer, "{name}={value}"),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A log in memory.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_name_cannot_forge_a_line_of_the_log_or_control_a_terminal() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .fmt_fields(debug_fn(log_field).delimited(" "))
            .with_writer(move || writer.clone())
            .finish();
        let name = "a\n2026-01-01 ERROR forged \u{1b}[2J";
        tracing::subscriber::with_default(subscriber, || {
            tracing::info_span!("call", identity = %name).in_scope(|| {
                tracing::warn!(error = %name, path = ?name, "cannot read {name}");
            });
        });
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(!log.trim_end().contains(char::is_control), "{log:?}");
        for part in ["cannot read a\\n2026", "error=a\\n2026", "identity=a\\n2026", "\\u{1b}[2J"] {
            assert!(log.contains(part), "{part} in {log}");
        }
    }
}
