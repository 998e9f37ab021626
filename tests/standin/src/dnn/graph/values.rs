//! Typed access to the values of a descriptor that is being finalized.

use std::any::Any;
use std::sync::Arc;

use super::descriptor::{Descriptor, Value, Values};
use super::names::{Type, attribute};
use crate::dnn::{Answer, Status, wrong};

pub(super) fn ints(values: &Values, number: u32) -> Vec<i64> {
    match values.get(&number) {
        Some(Value::Plain(_, raw)) => raw.iter().map(|bits| bits.cast_signed()).collect(),
        _ => Vec::new(),
    }
}

pub(super) fn int(values: &Values, number: u32) -> Option<i64> {
    ints(values, number).first().copied()
}

/// An enumerator, or 0 if the attribute was not set.
pub(super) fn enumerator(values: &Values, number: u32) -> u32 {
    int(values, number).and_then(|value| u32::try_from(value).ok()).unwrap_or(0)
}

/// A handle, which is 0 if the attribute was not set.
pub(super) fn handle(values: &Values, number: u32) -> usize {
    int(values, number).and_then(|value| usize::try_from(value).ok()).unwrap_or(0)
}

pub(super) fn flag(values: &Values, number: u32) -> bool {
    int(values, number).is_some_and(|value| value != 0)
}

/// A FLOAT or a DOUBLE.
#[expect(clippy::cast_possible_truncation, reason = "scales are f32 in all arithmetic")]
pub(super) fn float(values: &Values, number: u32) -> Option<f32> {
    match values.get(&number) {
        Some(Value::Plain(Type::DOUBLE, raw)) => {
            raw.first().map(|bits| f64::from_bits(*bits) as f32)
        }
        Some(Value::Plain(Type::FLOAT, raw)) => {
            raw.first().and_then(|bits| u32::try_from(*bits).ok()).map(f32::from_bits)
        }
        _ => None,
    }
}

pub(super) fn children(values: &Values, number: u32) -> &[Descriptor] {
    match values.get(&number) {
        Some(Value::Children(children)) => children,
        _ => &[],
    }
}

/// The child of an attribute, if it was set, which must be a `T`.
pub(super) fn child<T: Any + Send + Sync>(values: &Values, number: u32) -> Answer<Option<Arc<T>>> {
    let Some(found) = children(values, number).first() else { return Ok(None) };
    if let Some(meaning) = found.is() {
        return Ok(Some(meaning));
    }
    let what = format!("{} is a descriptor of kind {}", attribute(number), found.kind);
    wrong(Status::BAD_PARAM, what)
}

/// As [`child`], for a required attribute.
pub(super) fn required<T: Any + Send + Sync>(values: &Values, number: u32) -> Answer<Arc<T>> {
    match child(values, number)? {
        Some(found) => Ok(found),
        None => wrong(Status::BAD_PARAM, format!("{} was not set", attribute(number))),
    }
}
