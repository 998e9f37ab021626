//! A microbatch as frames, and back: pure, no IO.
//!
//! ```text
//! split: (Header, payload) -> Frame { header, offset 0, 1 MiB }  Frame { offset 1 MiB, 1 MiB } ...
//! join:  the same frames, in order and without a gap -> (Header, payload)
//! ```
//!
//! A frame's payload is its last field, so an encoded frame is a *head* ([`head`]: everything up to
//! the payload's length) and then the payload's own bytes, which a sender takes from where they lie.
//!
//! Both ends check a header by the same function, [`payload_bytes`], before and after the wire.

mod join;
mod split;

pub use join::{Join, JoinError};
pub use split::{SplitError, head, ranges, split};

use crate::v1::{DType, Header, Layout};

/// Payload bytes of every frame but a microbatch's last one, which may have fewer.
pub const FRAME_BYTES: usize = 1 << 20;

/// The most bytes of an encoded header: some 30,000 samples with everything told of them.
pub const HEADER_BYTES: usize = 2 << 20;

/// The most bytes that a frame has around its header and payload: tags, lengths, the offset.
const FRAME_EXTRA_BYTES: usize = 64;

/// The message size that gRPC clients accept if nobody sets another.
const GRPC_DEFAULT_LIMIT: usize = 4 << 20;

const _: () = assert!(FRAME_BYTES + HEADER_BYTES + FRAME_EXTRA_BYTES < GRPC_DEFAULT_LIMIT);

/// What is wrong with a header: its parts contradict each other.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Not four positive numbers, or their product is beyond any memory.
    #[error("shape {shape:?} is not four positive numbers of a sensible product")]
    Shape {
        /// The shape, cut after five numbers.
        shape: Vec<u32>,
    },
    /// No type of a channel value, or one of a later version.
    #[error("dtype {dtype} is none that this version knows")]
    DType {
        /// Its number.
        dtype: i32,
    },
    /// No order of dimensions, or one of a later version.
    #[error("layout {layout} is none that this version knows")]
    Layout {
        /// Its number.
        layout: i32,
    },
    /// Shape and dtype amount to another size than the header states.
    #[error("payload_bytes is {stated}, but shape and dtype amount to {computed}")]
    PayloadBytes {
        /// The field.
        stated: u64,
        /// Product of shape and bytes of dtype.
        computed: u64,
    },
    /// A field with one entry a sample has another number of entries.
    #[error("{field} has {entries} entries for {samples} samples")]
    Entries {
        /// The field.
        field: &'static str,
        /// Entries of the field.
        entries: usize,
        /// `shape[0]`.
        samples: u32,
    },
}

/// Bytes of one channel value; `None` of `DTYPE_UNSPECIFIED`.
pub const fn value_bytes(dtype: DType) -> Option<u64> {
    match dtype {
        DType::DtypeUnspecified => None,
        DType::DtypeU8 => Some(1),
        DType::DtypeF16 | DType::DtypeBf16 => Some(2),
        DType::DtypeF32 => Some(4),
    }
}

/// Checks that a header agrees with itself, and gives the size of its payload in bytes.
pub fn payload_bytes(header: &Header) -> Result<u64, HeaderError> {
    let value = DType::try_from(header.dtype).ok().and_then(value_bytes);
    let value = value.ok_or(HeaderError::DType { dtype: header.dtype })?;
    if !matches!(Layout::try_from(header.layout), Ok(Layout::Nhwc | Layout::Nchw)) {
        return Err(HeaderError::Layout { layout: header.layout });
    }
    let shape = || HeaderError::Shape { shape: header.shape.iter().copied().take(5).collect() };
    if header.shape.len() != 4 || header.shape.contains(&0) {
        return Err(shape());
    }
    let product = header.shape.iter().try_fold(value, |bytes, n| bytes.checked_mul(u64::from(*n)));
    let computed = product.ok_or_else(shape)?;
    if computed != header.payload_bytes {
        return Err(HeaderError::PayloadBytes { stated: header.payload_bytes, computed });
    }
    let samples = header.shape[0];
    let mixed = header.mix.as_ref().map(|mix| ("mix.samples", mix.samples.len()));
    let fields = [
        ("records", header.records.len()),
        ("label_a", header.label_a.len()),
        ("label_b", header.label_b.len()),
        ("lambda", header.lambda.len()),
    ];
    match fields.into_iter().chain(mixed).find(|(_, entries)| *entries as u64 != samples.into()) {
        Some((field, entries)) => Err(HeaderError::Entries { field, entries, samples }),
        None => Ok(computed),
    }
}
