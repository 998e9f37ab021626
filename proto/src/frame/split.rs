//! Splits a microbatch into frames.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use crate::frame::limits::{FRAME_BYTES, HEADER_BYTES};
use crate::header::{self, HeaderError};
use crate::v1::{Frame, Header};

/// The tag of `Frame.payload`.
const PAYLOAD_TAG: u32 = 1000;

/// The reason why a microbatch cannot be sent.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SplitError {
    /// The header contradicts itself.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The payload's length differs from what the header states.
    #[error("the payload has {payload} bytes, the header states {stated}")]
    Payload {
        /// Bytes of the payload.
        payload: usize,
        /// `Header.payload_bytes`.
        stated: u64,
    },
    /// There are too many samples for a gRPC client with default limits to read the first frame.
    #[error("the header has {bytes} bytes, the limit is {HEADER_BYTES}: use smaller microbatches")]
    HeaderTooLarge {
        /// Bytes of the encoded header.
        bytes: usize,
    },
}

impl SplitError {
    /// Checks that a microbatch can be sent.
    ///
    /// # Errors
    /// When the header is invalid or too large, or contradicts the payload.
    pub fn check(header: &Header, payload: usize) -> Result<(), Self> {
        header::check(header, u64::MAX)?;
        let stated = header.payload_bytes;
        let bytes = header.encoded_len();
        if stated != payload as u64 {
            Err(Self::Payload { payload, stated })
        } else if bytes > HEADER_BYTES {
            Err(Self::HeaderTooLarge { bytes })
        } else {
            Ok(())
        }
    }
}

/// The range of the payload that each frame contains, in order.
pub fn ranges(payload: usize) -> impl ExactSizeIterator<Item = Range<usize>> {
    let frames = payload.div_ceil(FRAME_BYTES);
    (0..frames).map(move |i| i * FRAME_BYTES..payload.min((i + 1) * FRAME_BYTES))
}

/// Writes the head of a frame: its whole encoding except the `payload` bytes that end it. The first
/// frame of a microbatch has the header.
pub fn head(header: Option<Header>, range: &Range<usize>, out: &mut BytesMut) {
    let frame = Frame { header, offset: range.start as u64, payload: Bytes::new() };
    out.reserve(frame.encoded_len() + key_len(PAYLOAD_TAG) + encoded_len_varint(u64::MAX));
    frame.encode_raw(out);
    if !range.is_empty() {
        encode_key(PAYLOAD_TAG, WireType::LengthDelimited, out);
        encode_varint(range.len() as u64, out);
    }
}

/// The frames of a microbatch, in order. Their payloads share the memory of `payload`.
///
/// # Errors
/// When the header is invalid or too large, or contradicts the payload.
pub fn split(header: Header, payload: Bytes) -> Result<impl Iterator<Item = Frame>, SplitError> {
    SplitError::check(&header, payload.len())?;
    let mut header = Some(header);
    Ok(ranges(payload.len()).map(move |range| Frame {
        header: header.take(),
        offset: range.start as u64,
        payload: payload.slice(range),
    }))
}
