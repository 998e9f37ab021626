//! Output of the command.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use forebay_types::command;
use serde_json::{Value, json};

pub(super) fn print_error(error: &anyhow::Error) {
    command::print_error("forebay-trainer", &**error);
}

/// Ends the process after another rank was lost. A main thread that waits for other ranks fails by itself
/// within the pause. One that computes or waits for data would notice only much later.
pub(super) fn exit_after_failure(error: &crate::Error) {
    std::thread::sleep(Duration::from_millis(500));
    print_error(&anyhow::anyhow!("{error}"));
    std::process::exit(1)
}

/// Prints a line of a result.
///
/// # Errors
/// When standard output is closed or full.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}").context("cannot write to standard output")
}

/// Whether lines about a run are JSON.
static PRINTS_JSON: AtomicBool = AtomicBool::new(false);

/// Prints lines about a run as JSON from now on, or as text.
pub(super) fn print_as_json(json: bool) {
    PRINTS_JSON.store(json, Ordering::Relaxed);
}

pub(super) fn prints_json() -> bool {
    PRINTS_JSON.load(Ordering::Relaxed)
}

/// Prints an event of a run as a line of JSON.
pub(super) fn print_event(event: &Value) {
    print(&event.to_string()).ok();
}

/// Prints a line about a run whose results are files: it continues when standard output is closed or full.
pub(super) fn print_progress(text: &str) {
    if prints_json() {
        return print_event(&json!({"event": "message", "text": text}));
    }
    print(text).ok();
}
