//! Errors as the exceptions of `forebay._errors`.

use forebay_client::Error;
use pyo3::PyErr;
use pyo3::prelude::*;

/// An exception of `forebay._errors`.
fn exception(class: &str, message: String) -> PyErr {
    Python::attach(|py| {
        let raised = py
            .import("forebay._errors")
            .and_then(|module| module.getattr(class))
            .and_then(|class| class.call1((message,)));
        raised.map_or_else(|error| error, PyErr::from_value)
    })
}

/// The exception for an error of the client.
pub(crate) fn client_error(error: &Error) -> PyErr {
    let class = match error {
        Error::Options(_) => "OptionsError",
        // Only the server knows its recipes.
        error if error.is_invalid_argument() => "OptionsError",
        Error::Refused { .. } => "RefusedError",
        Error::NoServer { .. } => "NoServerError",
        Error::GaveUp { .. } => "GaveUpError",
        _ => "InternalError",
    };
    exception(class, error.to_string())
}

/// The exception for an error of a dataset.
pub(crate) fn dataset_error(message: String) -> PyErr {
    exception("DatasetError", message)
}

/// The exception for invalid settings.
pub(crate) fn options_error(message: String) -> PyErr {
    exception("OptionsError", message)
}

/// The exception for an object that is used after a fork.
pub(crate) fn fork_error(message: String) -> PyErr {
    exception("ForkError", message)
}

/// The exception for a fault of forebay itself.
pub(crate) fn internal(message: String) -> PyErr {
    exception("InternalError", message)
}
