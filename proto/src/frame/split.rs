//! Splits a microbatch into frames.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use crate::frame::limits::{FRAME_BYTES, HEADER_BYTES};
use crate::header::{self, HeaderError};
use crate::v1::mix_parameters::Kind;
use crate::v1::{Frame, Header, MixParameters, Rect, TrainerMix};

/// The tag of `Frame.payload`.
const PAYLOAD_TAG: u32 = 1000;

/// Bytes of a header besides those that each sample adds, at most: names, digests, sizes and times.
const FIXED_BYTES: usize = 512;

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
    #[error(
        "the header has up to {bytes} bytes, the limit is {HEADER_BYTES}: use smaller microbatches"
    )]
    HeaderTooLarge {
        /// Bytes of the encoded header, at most.
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

/// What is known about the microbatches of a job before any of them is made.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Maximum number of samples of a microbatch.
    pub samples: u64,
    /// Records of the dataset.
    pub records: u64,
    /// Classes of the dataset.
    pub classes: u64,
    /// Height and width of the images, if the header has the plan to mix them by.
    pub mixed_size: Option<u32>,
}

impl Bounds {
    /// Checks that every microbatch of the job can be sent.
    ///
    /// # Errors
    /// [`SplitError::HeaderTooLarge`] with [`max_header_bytes`](Self::max_header_bytes).
    pub fn check(&self) -> Result<(), SplitError> {
        let bytes = self.max_header_bytes();
        if bytes > HEADER_BYTES { Err(SplitError::HeaderTooLarge { bytes }) } else { Ok(()) }
    }

    /// Bytes that no header of the job exceeds, and few headers are far from.
    pub fn max_header_bytes(&self) -> usize {
        let samples = usize::try_from(self.samples).unwrap_or(usize::MAX);
        let record = encoded_len_varint(self.records.saturating_sub(1));
        let label = encoded_len_varint(self.classes.saturating_sub(1));
        let plan = self.mixed_size.map_or(0, |side| {
            let rect = Rect { top: side, left: side, height: side, width: side };
            let (kind, lambda) = (Kind::Cutmix.into(), 1.0);
            let sample = MixParameters { kind, lambda, partner_lambda: lambda, rect: Some(rect) };
            TrainerMix { samples: vec![sample] }.encoded_len()
        });
        let each = record + 2 * label + size_of::<f32>() + plan;
        samples.saturating_mul(each).saturating_add(FIXED_BYTES)
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
