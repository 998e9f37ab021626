//! From the bytes of a record to the pixels of a box.

pub mod jpeg;

/// Why the bytes of a record are not an image that can be decoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {}
