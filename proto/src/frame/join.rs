//! Frames to a microbatch, from a peer that need not mean well.

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3Default;

use super::FRAME_BYTES;
use crate::header::{self, HeaderError};
use crate::v1::{Frame, Header};

/// Why frames do not make a microbatch: what is wrong, and where.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// A microbatch starts with a frame without header.
    #[error("the first frame of a microbatch has no header (offset {offset})")]
    NoHeader {
        /// The frame's offset.
        offset: u64,
    },
    /// A header comes before the last microbatch is complete.
    #[error("a second header at offset {offset}, after {received} bytes of {payload_bytes}")]
    SecondHeader {
        /// The frame's offset.
        offset: u64,
        /// Bytes received of the microbatch.
        received: u64,
        /// Bytes of the microbatch.
        payload_bytes: u64,
    },
    /// The header contradicts itself, or the microbatch is larger than the receiver takes.
    #[error("header of epoch {epoch}, step {step}, microbatch {microbatch}: {source}")]
    Header {
        /// Of the header.
        epoch: u64,
        /// Of the header.
        step: u64,
        /// Of the header.
        microbatch: u32,
        /// What is wrong.
        source: HeaderError,
    },
    /// There is no memory for the microbatch.
    #[error("no memory for a microbatch of {payload_bytes} bytes")]
    NoMemory {
        /// Bytes of the microbatch.
        payload_bytes: u64,
    },
    /// Frames were lost, repeated or reordered.
    #[error("a frame at offset {offset} where {expected} was next")]
    Gap {
        /// The frame's offset.
        offset: u64,
        /// The offset that was next.
        expected: u64,
    },
    /// A frame of no payload, or of more than a frame may have or the microbatch still lacks.
    #[error(
        "a frame of {bytes} bytes at offset {offset} of {payload_bytes}; a frame has 1 to {FRAME_BYTES}"
    )]
    FrameBytes {
        /// The frame's payload bytes.
        bytes: usize,
        /// The frame's offset.
        offset: u64,
        /// Bytes of the microbatch.
        payload_bytes: u64,
    },
    /// The frames ended before the microbatch did.
    #[error("the frames end after {received} bytes of {payload_bytes}")]
    Short {
        /// Bytes received of the microbatch.
        received: u64,
        /// Bytes of the microbatch.
        payload_bytes: u64,
    },
    /// The payload is not the one that was sent.
    #[error(
        "epoch {epoch}, step {step}, microbatch {microbatch}: the payload's XXH3 is {computed:016x}, \
         its header states {stated:016x}"
    )]
    Digest {
        /// Of the header.
        epoch: u64,
        /// Of the header.
        step: u64,
        /// Of the header.
        microbatch: u32,
        /// `Header.payload_xxh3`.
        stated: u64,
        /// The digest of what was received.
        computed: u64,
    },
}

/// Joins frames to microbatches, one after the other.
///
/// A microbatch is gathered in one slab, whose memory is taken when its header has been checked and
/// filled as frames come, so that a peer costs memory for what it sent and not for what it claims.
pub struct Join {
    limit: u64,
    open: Option<Open>,
    spare: Vec<u8>,
}

/// The microbatch under way.
struct Open {
    header: Header,
    slab: Vec<u8>,
    digest: Xxh3Default,
}

impl Join {
    /// A join that takes payloads of at most `limit` bytes.
    pub const fn new(limit: u64) -> Self {
        Self { limit, open: None, spare: Vec::new() }
    }

    /// Gives back a slab, whose memory the next microbatch then uses.
    pub fn recycle(&mut self, slab: Vec<u8>) {
        self.spare = slab;
    }

    /// The microbatch under way, as far as it was received.
    pub fn received(&self) -> Option<(&Header, &[u8])> {
        self.open.as_ref().map(|open| (&open.header, open.slab.as_slice()))
    }

    /// Takes the next frame: the microbatch, if this frame completes it. After an error the
    /// microbatch under way is gone, and a new one may start.
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

    /// Says that no frame follows: an error if one had to.
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
        let most = (payload_bytes - expected).min(FRAME_BYTES as u64);
        if payload.is_empty() || payload.len() as u64 > most {
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
