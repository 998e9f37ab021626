//! The device for which a graph is planned: that of a handle, or a description.

use super::descriptor::{Value, Values};
use super::names as n;
use super::values::handle;
use crate::dnn::handle::context_of;
use crate::dnn::{Answer, Status, wrong};
use crate::machine::inside;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) capability: (i32, i32),
    /// The context of the handle. `None` for a described device, on which nothing can run.
    pub(super) context: Option<usize>,
}

impl Device {
    /// A description: the properties as JSON, or the device of a handle.
    pub(super) fn new(values: &Values) -> Answer<Self> {
        if let Some(Value::Plain(_, text)) = values.get(&n::DEVICEPROP_JSON_REPRESENTATION) {
            let text: Vec<u8> = text.iter().filter_map(|byte| u8::try_from(*byte).ok()).collect();
            let text = String::from_utf8_lossy(&text);
            let Some(version) = number_after(&text, "\"deviceVer\"") else {
                return wrong(Status::BAD_PARAM, "a description without deviceVer");
            };
            let capability = (version / 100, version / 10 % 10);
            return Ok(Self { capability, context: None });
        }
        match handle(values, n::DEVICEPROP_HANDLE) {
            0 => wrong(Status::NOT_INITIALIZED, "a description of no device"),
            found => Self::of_handle(found),
        }
    }

    pub(super) fn of_handle(handle: usize) -> Answer<Self> {
        let context = context_of(handle)?;
        inside(|machine| Ok(Self { capability: machine.config.capability, context: Some(context) }))
    }
}

/// The integer after a key of a JSON object.
fn number_after(text: &str, key: &str) -> Option<i32> {
    let rest = text.split_once(key)?.1.trim_start().strip_prefix(':')?.trim_start();
    let digits = rest.find(|c: char| !c.is_ascii_digit()).map_or(rest, |end| &rest[..end]);
    digits.parse().ok()
}
