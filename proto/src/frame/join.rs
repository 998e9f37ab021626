//! Joins frames from an untrusted peer to microbatches.

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3Default;

use crate::frame::limits::FRAME_BYTES;
use crate::header::{self, HeaderError};
use crate::v1::{Frame, Header};

/// The reason why frames do not form a microbatch.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The first frame of a microbatch has no header.
    #[error("the first frame of a microbatch has no header (offset {offset})")]
    NoHeader {
        /// The frame's offset.
        offset: u64,
    },
    /// A header arrived before the previous microbatch was complete.
    #[error("second header at offset {offset}, after {received} of {payload_bytes} bytes")]
    SecondHeader {
        /// The frame's offset.
        offset: u64,
        /// Bytes of the microbatch received so far.
        received: u64,
        /// Bytes of the microbatch.
        payload_bytes: u64,
    },
    /// The header contradicts itself, or the microbatch exceeds the receiver's limit.
    #[error("invalid header of epoch {epoch}, step {step}, microbatch {microbatch}: {source}")]
    Header {
        /// `Header.epoch`.
        epoch: u64,
        /// `Header.step`.
        step: u64,
        /// `Header.microbatch`.
        microbatch: u32,
        /// The reason why the header is invalid.
        source: HeaderError,
    },
    /// Memory for the microbatch cannot be allocated.
    #[error("cannot allocate {payload_bytes} bytes for a microbatch")]
    NoMemory {
        /// Bytes of the microbatch.
        payload_bytes: u64,
    },
    /// Frames were lost, repeated or reordered.
    #[error("received a frame at offset {offset}, expected offset {expected}")]
    Gap {
        /// The frame's offset.
        offset: u64,
        /// The offset of the next byte.
        expected: u64,
    },
    /// The frame is empty, exceeds [`FRAME_BYTES`], or exceeds the rest of the microbatch.
    #[error(
        "frame of {bytes} bytes at offset {offset} of {payload_bytes}: expected 1 to {FRAME_BYTES} \
         bytes within the microbatch"
    )]
    FrameBytes {
        /// The frame's payload bytes.
        bytes: usize,
        /// The frame's offset.
        offset: u64,
        /// Bytes of the microbatch.
        payload_bytes: u64,
    },
    /// The frames ended before the microbatch was complete.
    #[error("the frames end after {received} of {payload_bytes} bytes")]
    Short {
        /// Bytes of the microbatch received so far.
        received: u64,
        /// Bytes of the microbatch.
        payload_bytes: u64,
    },
    /// The payload differs from what was sent.
    #[error(
        "epoch {epoch}, step {step}, microbatch {microbatch}: XXH3 of the payload is {computed:016x}, \
         the header states {stated:016x}"
    )]
    Digest {
        /// `Header.epoch`.
        epoch: u64,
        /// `Header.step`.
        step: u64,
        /// `Header.microbatch`.
        microbatch: u32,
        /// `Header.payload_xxh3`.
        stated: u64,
        /// The hash of what was received.
        computed: u64,
    },
}

/// Joins frames to microbatches, one after the other.
///
/// A microbatch is assembled in one buffer, which is allocated after the header has been checked and
/// filled as frames arrive, so that a peer costs memory for what it sent, not for what it claims.
pub struct Join {
    limit: u64,
    open: Option<Open>,
    spare: Vec<u8>,
}

/// A microbatch that is incomplete.
struct Open {
    header: Header,
    slab: Vec<u8>,
    digest: Xxh3Default,
}

impl Join {
    /// A join that accepts payloads of at most `limit` bytes.
    pub const fn new(limit: u64) -> Self {
        Self { limit, open: None, spare: Vec::new() }
    }

    /// Returns a buffer, so that the next microbatch reuses its memory.
    pub fn recycle(&mut self, slab: Vec<u8>) {
        self.spare = slab;
    }

    /// The incomplete microbatch: its header and the payload received so far.
    pub fn received(&self) -> Option<(&Header, &[u8])> {
        self.open.as_ref().map(|open| (&open.header, open.slab.as_slice()))
    }

    /// Adds the next frame. Returns the microbatch if this frame completes it.
    ///
    /// # Errors
    /// When the frame does not continue the microbatch, its header is invalid, or the payload's hash is
    /// wrong. The incomplete microbatch is then dropped, and the next frame starts another one.
    pub fn push(&mut self, frame: Frame) -> Result<Option<(Header, Vec<u8>)>, JoinError> {
        let mut open = match (self.open.take(), frame.header) {
            (None, Some(header)) => self.start(header)?,
            (Some(open), None) => open,
            (None, None) => return Err(JoinError::NoHeader { offset: frame.offset }),
            (Some(open), Some(_)) => {
                return Err(JoinError::SecondHeader {
                    offset: frame.offset,
                    received: open.slab.len() as u64,
                    payload_bytes: open.header.payload_bytes,
                });
            }
        };
        open.append(frame.offset, &frame.payload)?;
        if open.slab.len() as u64 == open.header.payload_bytes {
            open.finish().map(Some)
        } else {
            self.open = Some(open);
            Ok(None)
        }
    }

    /// Declares the end of the frames.
    ///
    /// # Errors
    /// When a microbatch is incomplete.
    pub fn end(&mut self) -> Result<(), JoinError> {
        self.open.take().map_or(Ok(()), |open| {
            Err(JoinError::Short {
                received: open.slab.len() as u64,
                payload_bytes: open.header.payload_bytes,
            })
        })
    }

    fn start(&mut self, header: Header) -> Result<Open, JoinError> {
        header::check(&header, self.limit).map_err(|source| JoinError::Header {
            epoch: header.epoch,
            step: header.step,
            microbatch: header.microbatch,
            source,
        })?;
        let payload_bytes = header.payload_bytes;
        let mut slab = std::mem::take(&mut self.spare);
        slab.clear();
        usize::try_from(payload_bytes)
            .ok()
            .and_then(|bytes| slab.try_reserve_exact(bytes).ok())
            .ok_or(JoinError::NoMemory { payload_bytes })?;
        Ok(Open { header, slab, digest: Xxh3Default::new() })
    }
}

impl Open {
    fn append(&mut self, offset: u64, payload: &Bytes) -> Result<(), JoinError> {
        let expected = self.slab.len() as u64;
        let payload_bytes = self.header.payload_bytes;
        if offset != expected {
            return Err(JoinError::Gap { offset, expected });
        }
        let max = (payload_bytes - expected).min(FRAME_BYTES as u64);
        if payload.is_empty() || payload.len() as u64 > max {
            return Err(JoinError::FrameBytes { bytes: payload.len(), offset, payload_bytes });
        }
        self.slab.extend_from_slice(payload);
        self.digest.update(payload);
        Ok(())
    }

    fn finish(self) -> Result<(Header, Vec<u8>), JoinError> {
        let computed = self.digest.digest();
        let Header { epoch, step, microbatch, payload_xxh3: stated, .. } = self.header;
        if computed == stated {
            Ok((self.header, self.slab))
        } else {
            Err(JoinError::Digest { epoch, step, microbatch, stated, computed })
        }
    }
}

impl std::fmt::Debug for Join {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let received = self.open.as_ref().map(|open| open.slab.len());
        f.debug_struct("Join")
            .field("limit", &self.limit)
            .field("received", &received)
            .finish_non_exhaustive()
    }
}
