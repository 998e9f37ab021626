//! Walks a `tf.train.Example` in a file: the features of a record, without reading those that are large.
//!
//! ```text
//! Example   { Features features = 1 }
//! Features  { map<string, Feature> feature = 1 }
//! Feature   { BytesList bytes = 1 | FloatList floats = 2 | Int64List ints = 3 }
//! BytesList { repeated bytes value = 1 }, Int64List { repeated int64 value = 1, packed or not }
//! ```
//!
//! No generated code is used, because it copies the images.

use std::ops::Range;

use super::super::error::DatasetError;
use super::window::Window;

/// Longest name of a feature.
const MAX_KEY: u64 = 1024;

/// Most features of a record. Those of ImageNet have 13.
const MAX_FEATURES: usize = 1024;

/// A feature of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Feature {
    pub(super) key: String,
    pub(super) value: Value,
}

/// The values of a feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// A single byte string, as a range of the file.
    Bytes(Range<u64>),
    /// A single integer.
    Int(i64),
    /// Floats, or none or several values.
    Other,
}

/// The features of the example in a range of a file, in their order. A later one of the same name
/// replaces an earlier one, as in every map of Protocol Buffers.
///
/// # Errors
/// When the file cannot be read, or the range is not an example.
pub(super) fn features(
    window: &mut Window<'_>,
    range: Range<u64>,
) -> Result<Vec<Feature>, DatasetError> {
    let mut features: Vec<Feature> = Vec::with_capacity(16);
    let mut example = Fields { window, at: range.start, end: range.end };
    while let Some((number, payload)) = example.next_field()? {
        let (1, Payload::Bytes(map)) = (number, payload) else { continue };
        let mut map = example.within(map);
        while let Some((number, payload)) = map.next_field()? {
            let (1, Payload::Bytes(entry)) = (number, payload) else { continue };
            let feature = map.within(entry).entry()?;
            features.retain(|earlier| earlier.key != feature.key);
            if features.len() == MAX_FEATURES {
                return Err(map.error("this record has more than 1024 features"));
            }
            features.push(feature);
        }
    }
    Ok(features)
}

/// The content of a field.
enum Payload {
    Varint(u64),
    /// A string, or another message.
    Bytes(Range<u64>),
    Fixed,
}

/// The fields of a message.
struct Fields<'w, 'a> {
    window: &'w mut Window<'a>,
    at: u64,
    end: u64,
}

impl<'a> Fields<'_, 'a> {
    /// The fields of a message that is a field of this one.
    fn within(&mut self, range: Range<u64>) -> Fields<'_, 'a> {
        Fields { window: &mut *self.window, at: range.start, end: range.end }
    }

    fn next_field(&mut self) -> Result<Option<(u64, Payload)>, DatasetError> {
        if self.at == self.end {
            return Ok(None);
        }
        let tag = self.varint()?;
        let payload = match tag & 7 {
            0 => Payload::Varint(self.varint()?),
            1 => self.take(8).map(|_| Payload::Fixed)?,
            2 => {
                let length = self.varint()?;
                Payload::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Payload::Fixed)?,
            _ => return Err(self.error("this record is not a tf.train.Example")),
        };
        Ok(Some((tag >> 3, payload)))
    }

    /// Passes over bytes, which must be within the message.
    fn take(&mut self, length: u64) -> Result<Range<u64>, DatasetError> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.end);
        let end = end.ok_or_else(|| {
            self.error("this record is not a tf.train.Example: a field is longer than the record")
        })?;
        Ok(std::mem::replace(&mut self.at, end)..end)
    }

    fn varint(&mut self) -> Result<u64, DatasetError> {
        let bytes = self.window.read(self.at, (self.end - self.at).min(10))?;
        let mut value = 0;
        for (index, &byte) in bytes.iter().enumerate() {
            value |= u64::from(byte & 0x7F) << (7 * index);
            if byte & 0x80 == 0 {
                self.at += index as u64 + 1;
                return Ok(value);
            }
        }
        Err(self.error("this record is not a tf.train.Example: a number does not end"))
    }

    /// An entry of the map of features.
    fn entry(mut self) -> Result<Feature, DatasetError> {
        let mut feature = Feature { key: String::new(), value: Value::Other };
        while let Some((number, payload)) = self.next_field()? {
            match (number, payload) {
                (1, Payload::Bytes(key)) if key.end - key.start > MAX_KEY => {
                    return Err(
                        self.error("this record has a feature with a name of over 1024 bytes")
                    );
                }
                (1, Payload::Bytes(key)) => {
                    let bytes = self.window.read(key.start, key.end - key.start)?;
                    feature.key = String::from_utf8_lossy(bytes).into_owned();
                }
                (2, Payload::Bytes(value)) => feature.value = self.within(value).value()?,
                _ => {}
            }
        }
        Ok(feature)
    }

    fn value(mut self) -> Result<Value, DatasetError> {
        let mut value = Value::Other;
        while let Some((number, payload)) = self.next_field()? {
            value = match (number, payload) {
                (1, Payload::Bytes(list)) => self.within(list).single_bytes()?,
                (3, Payload::Bytes(list)) => self.within(list).single_int()?,
                _ => Value::Other,
            };
        }
        Ok(value)
    }

    fn single_bytes(mut self) -> Result<Value, DatasetError> {
        let mut found = Value::Other;
        while let Some((number, payload)) = self.next_field()? {
            match (number, payload, &found) {
                (1, Payload::Bytes(value), Value::Other) => found = Value::Bytes(value),
                (1, ..) => return Ok(Value::Other),
                _ => {}
            }
        }
        Ok(found)
    }

    fn single_int(mut self) -> Result<Value, DatasetError> {
        let mut found = Value::Other;
        while let Some((number, payload)) = self.next_field()? {
            let value = match (number, payload) {
                (1, Payload::Varint(value)) => value,
                (1, Payload::Bytes(packed)) if packed.is_empty() => continue,
                (1, Payload::Bytes(packed)) => {
                    let mut packed = self.within(packed);
                    let value = packed.varint()?;
                    if packed.at < packed.end {
                        return Ok(Value::Other);
                    }
                    value
                }
                _ => continue,
            };
            if found != Value::Other {
                return Ok(Value::Other);
            }
            found = Value::Int(value.cast_signed());
        }
        Ok(found)
    }

    fn error(&self, what: &str) -> DatasetError {
        DatasetError::Shard {
            path: self.window.path().into(),
            offset: self.at,
            what: format!("{what}; expected records of tf.train.Example"),
        }
    }
}
