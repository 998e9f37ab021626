//! The three commands, which the package's console scripts run.

use std::ffi::OsString;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Runs a command with its arguments, of which the first is its name, and returns its exit code.
///
/// It handles signals itself, so that nothing else can be done in this process.
#[pyfunction]
pub(crate) fn run_command(py: Python<'_>, name: &str, arguments: Vec<OsString>) -> PyResult<u8> {
    let main: fn(Vec<OsString>) -> u8 = match name {
        "forebay" => forebay_server::main,
        "forebay-loadtest" => forebay_loadtest::main,
        "forebay-trainer" => forebay_trainer::main,
        _ => {
            return Err(PyValueError::new_err(format!(
                "invalid command {name:?}: expected \"forebay\", \"forebay-loadtest\" or \
                 \"forebay-trainer\""
            )));
        }
    };
    Ok(py.detach(|| main(arguments)))
}
