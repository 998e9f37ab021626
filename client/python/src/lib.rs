//! The native part of the Python package `forebay`: the client, memory that Python reads zero-copy, and the
//! commands. What users call is written in Python, in `python/forebay/`.
//!
//! ```text
//! client      Client, Stream: calls that wait without the GIL   index     Datasets; Indexing, in the background
//! microbatch  Microbatch -> array: Array -> element, dlpack   command   forebay, -loadtest, -trainer
//! targets     dense targets, as timm's mixup_target makes them  log       what the client logs, kept for Python
//! wait        waits that end at signals; process: after a fork  error     exceptions
//! ```

mod array;
mod client;
mod command;
mod dlpack;
mod element;
mod error;
mod index;
mod log;
mod memory;
mod microbatch;
mod process;
mod settings;
mod targets;
mod wait;

/// The module that Python imports.
#[pyo3::pymodule(gil_used = false)]
mod _forebay {
    #[pymodule_export]
    use crate::array::{Array, Joined};
    #[pymodule_export]
    use crate::client::{Client, Stream};
    #[pymodule_export]
    use crate::command::run_command;
    #[pymodule_export]
    use crate::index::{Datasets, Indexing};
    #[pymodule_export]
    use crate::log::take_log;
    #[pymodule_export]
    use crate::microbatch::Microbatch;
    #[pymodule_export]
    use crate::targets::dense_targets;

    /// Version of the package.
    #[pymodule_export]
    #[expect(non_upper_case_globals, reason = "Python's name for it")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
