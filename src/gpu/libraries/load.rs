//! Loads the libraries that something needs.

use super::super::error::DeviceError;
use super::library::Library;
use super::places::{Variables, places};
use super::search::{Loaded, Missing, find, loaded};
use super::table::{notes, report};

/// Loads a library, after those that it needs.
///
/// # Errors
/// [`DeviceError::NoLibrary`] if it is not found or cannot be used. `device` is the number of the GPU that needs it.
pub fn load(device: u32, library: Library) -> Result<Loaded, DeviceError> {
    find(library).map_err(|missing| no_library(device, &[missing]))
}

/// Loads libraries, or returns one error about all that are missing.
///
/// # Errors
/// [`DeviceError::NoLibrary`].
pub fn require(device: u32, libraries: &[Library]) -> Result<(), DeviceError> {
    let found = libraries.iter().map(|library| find(*library));
    let missing: Vec<Missing> = found.filter_map(Result::err).collect();
    if missing.is_empty() { Ok(()) } else { Err(no_library(device, &missing)) }
}

/// The libraries that this process has loaded, with their versions, in one line for a log.
pub fn describe() -> String {
    let loaded = loaded();
    let list: Vec<String> = loaded.iter().map(ToString::to_string).collect();
    let notes = notes(&loaded.iter().collect::<Vec<_>>());
    let parts: Vec<String> = [list.join(", ")].into_iter().chain(notes).collect();
    parts.join("; ")
}

fn no_library(device: u32, missing: &[Missing]) -> DeviceError {
    let report = report(missing, &places(&Variables::of_process()));
    DeviceError::NoLibrary { device, report }
}
