//! Splits a microbatch into frames and joins frames to a microbatch: pure, no IO.
//!
//! ```text
//! split: (Header, payload) -> Frame { header, offset 0, 1 MiB }  Frame { offset 1 MiB, 1 MiB } ...
//! join:  the same frames, in order and without a gap -> (Header, payload)
//! ```
//!
//! The payload is the last field of a frame, so an encoded frame is a *head* ([`head`]: everything up to
//! the payload's length) followed by the payload's own bytes, which a sender appends without copying.
//!
//! Both ends validate a header by the same function, [`header::check`](crate::header::check).

mod join;
mod limits;
mod split;

pub use join::{Join, JoinError};
pub use limits::{FRAME_BYTES, HEADER_BYTES, MESSAGE_BYTES, PREFIX_BYTES};
pub use split::{Bounds, SplitError, head, ranges, split};
