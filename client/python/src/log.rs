//! What the client logs, kept until a thread of Python passes it on: `forebay._log` warns and logs. The threads
//! that receive never call Python, which may be about to exit.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use pyo3::prelude::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Number of entries that are kept. The oldest are dropped.
const MAX_ENTRIES: usize = 1000;

/// Level as `logging` numbers it, target and message.
type Entry = (u8, String, String);

static ENTRIES: Mutex<VecDeque<Entry>> = Mutex::new(VecDeque::new());
static HAS_ENTRIES: AtomicBool = AtomicBool::new(false);

/// Keeps what the client logs from now on.
pub(crate) fn keep() {
    static ONCE: Once = Once::new();
    // Another subscriber exists if this process runs a command, which logs to standard error.
    ONCE.call_once(|| drop(tracing::subscriber::set_global_default(Keeper)));
}

/// Has Python pass on what was logged.
///
/// # Errors
/// When a filter of `warnings` turns a warning into an error.
pub(crate) fn flush(py: Python<'_>) -> PyResult<()> {
    if HAS_ENTRIES.load(Ordering::Relaxed) {
        py.import("forebay._log")?.call_method0("flush")?;
    }
    Ok(())
}

/// Takes what was logged, the oldest first: level, target and message.
#[pyfunction]
pub(crate) fn take_log() -> Vec<Entry> {
    let mut entries = entries();
    HAS_ENTRIES.store(false, Ordering::Relaxed);
    entries.drain(..).collect()
}

fn entries() -> MutexGuard<'static, VecDeque<Entry>> {
    ENTRIES.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Keeper;

impl Subscriber for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::DEBUG && metadata.target().starts_with("forebay")
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let level = match *event.metadata().level() {
            Level::ERROR => 40,
            Level::WARN => 30,
            Level::INFO => 20,
            _ => 10,
        };
        let mut text = Text::default();
        event.record(&mut text);
        let target = event.metadata().target().replace("::", ".");
        let mut entries = entries();
        if entries.len() == MAX_ENTRIES {
            entries.pop_front();
        }
        entries.push_back((level, target, text.message + &text.fields));
        HAS_ENTRIES.store(true, Ordering::Relaxed);
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

/// The message of an event, and its fields as ` name=value`.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        if field.name() == "message" {
            write!(self.message, "{value:?}").ok();
        } else {
            write!(self.fields, " {}={value:?}", field.name()).ok();
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            write!(self.fields, " {}={value}", field.name()).ok();
        }
    }
}
