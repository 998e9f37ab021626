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
//! Both ends check a header by the same function, [`header::check`](crate::header::check), before and
//! after the wire.

mod join;
mod split;

pub use join::{Join, JoinError};
pub use split::{SplitError, head, ranges, split};

/// Payload bytes of every frame but a microbatch's last one, which may have fewer.
pub const FRAME_BYTES: usize = 1 << 20;

/// The most bytes of an encoded header: some 30,000 samples with everything told of them.
pub const HEADER_BYTES: usize = 2 << 20;

/// What precedes a gRPC message: one byte that says whether it is compressed, four of its length.
pub const PREFIX_BYTES: usize = 5;

/// The most bytes of an encoded frame: header, payload, and 1 KiB for tags, lengths and the offset.
pub const MESSAGE_BYTES: usize = HEADER_BYTES + FRAME_BYTES + 1024;

/// The message size that gRPC clients accept if nobody sets another.
const GRPC_DEFAULT_LIMIT: usize = 4 << 20;

const _: () = assert!(MESSAGE_BYTES < GRPC_DEFAULT_LIMIT);
