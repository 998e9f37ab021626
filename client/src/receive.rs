//! The body of a Stream or Fetch call to microbatches: every length, name and digest is checked.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_proto::header;
use forebay_proto::v1::Header;
use http_body_util::BodyExt as _;
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Cause, WireError};
use crate::retry::cause_of;
use crate::slab::{Ahead, Pixels, Slabs};
use crate::wire::{Head, Parser, Piece};
use crate::{Description, Digest, Dtype, Layout, Microbatch, Name};

/// What every microbatch of a job is like.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) description: Arc<Description>,
    pub(crate) seed: u64,
    pub(crate) dtype: Dtype,
    pub(crate) layout: Layout,
    /// Bytes of the longest payload.
    pub(crate) limit: u64,
}

/// Reads microbatches off a body.
#[derive(Debug)]
pub(crate) struct Receiver {
    body: Body,
    parser: Parser,
    /// What came and is not parsed.
    data: Bytes,
    /// How long nothing may come.
    silence: Duration,
}

/// A microbatch of which the header came, and some of the payload.
struct Open {
    header: Header,
    pixels: Pixels,
    ahead: Ahead,
    hash: Xxh3,
}

impl Receiver {
    pub(crate) fn new(body: Body, silence: Duration) -> Self {
        Self { body, parser: Parser::default(), data: Bytes::new(), silence }
    }

    /// The microbatch of that name. It must come next.
    pub(crate) async fn microbatch(
        &mut self,
        name: Name,
        wanted: &Wanted,
        slabs: &Slabs,
    ) -> Result<(Microbatch, Ahead), Cause> {
        let head = self.head().await?;
        let header = head.header.ok_or(WireError::Malformed("no header where one comes next"))?;
        wanted.check(&header, name)?;
        let size = usize::try_from(header.payload_bytes)
            .expect("checked to be as long as pixels that fit in memory");
        let (pixels, ahead) = slabs.get(size).await;
        let mut open = Open { header, pixels, ahead, hash: Xxh3::new() };
        self.fill(&mut open, head.offset, head.payload).await?;
        while open.pixels.len() < size {
            let head = self.head().await?;
            if head.header.is_some() {
                return Err(WireError::Malformed("a header before the payload's end").into());
            }
            if head.payload == 0 {
                return Err(WireError::Malformed("a frame of nothing").into());
            }
            self.fill(&mut open, head.offset, head.payload).await?;
        }
        open.close(wanted)
    }

    /// The body's status, where nothing but its end is left.
    pub(crate) async fn end(&mut self) -> Result<(), Cause> {
        match self.piece().await? {
            None => Ok(()),
            Some(_) => Err(WireError::Malformed("more than was asked for").into()),
        }
    }

    /// The head of the next frame.
    async fn head(&mut self) -> Result<Head, Cause> {
        match self.piece().await? {
            Some(Piece::Head(head)) => Ok(*head),
            Some(Piece::Payload(_)) => Err(WireError::Malformed("payload without a head").into()),
            None => Err(Cause::Truncated),
        }
    }

    /// Takes the payload of a frame.
    async fn fill(&mut self, open: &mut Open, offset: u64, length: usize) -> Result<(), Cause> {
        let at = open.pixels.len() as u64;
        if offset != at {
            return Err(WireError::Gap { expected: at, found: offset }.into());
        }
        if at + length as u64 > open.header.payload_bytes {
            return Err(WireError::Malformed("frames beyond the payload's end").into());
        }
        let end = open.pixels.len() + length;
        while open.pixels.len() < end {
            let Some(Piece::Payload(bytes)) = self.piece().await? else {
                return Err(Cause::Truncated);
            };
            // Hashed and copied while it is in cache.
            open.hash.update(&bytes);
            open.pixels.push(&bytes);
        }
        Ok(())
    }

    /// The next piece; `None` at the end of a body with status OK.
    async fn piece(&mut self) -> Result<Option<Piece>, Cause> {
        loop {
            if let Some(piece) = self.parser.next(&mut self.data)? {
                return Ok(Some(piece));
            }
            let frame = timeout(self.silence, self.body.frame())
                .await
                .map_err(|_elapsed| Cause::Silence(self.silence))?;
            match frame {
                None => return Err(Cause::Truncated),
                Some(Err(error)) => return Err(cause_of(&error)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.data = data,
                    Err(frame) => {
                        let status = frame.trailers_ref().and_then(Status::from_header_map);
                        return self.ended(status);
                    }
                },
            }
        }
    }

    fn ended(&self, status: Option<Status>) -> Result<Option<Piece>, Cause> {
        match status {
            Some(status) if status.code() != tonic::Code::Ok => Err(cause_of(&status)),
            Some(_) if self.parser.is_between_messages() => Ok(None),
            _ => Err(Cause::Truncated),
        }
    }
}

impl Open {
    fn close(self, wanted: &Wanted) -> Result<(Microbatch, Ahead), Cause> {
        let (expected, found) = (self.header.payload_xxh3, self.hash.digest());
        if expected != found {
            return Err(WireError::Corrupt { expected, found }.into());
        }
        let Self { header, pixels, ahead, .. } = self;
        Ok((Microbatch::new(header, pixels, wanted.dtype, wanted.layout), ahead))
    }
}

impl Wanted {
    /// Accepts the header of the microbatch of that name of this job.
    fn check(&self, header: &Header, name: Name) -> Result<(), Cause> {
        header::check(header, self.limit).map_err(WireError::from)?;
        let found = Name { epoch: header.epoch, step: header.step, index: header.microbatch };
        if found != name {
            return Err(WireError::Order { expected: name, found }.into());
        }
        check_digest("dataset", self.description.dataset_digest, &header.dataset_digest)?;
        check_digest("recipe", self.description.recipe_digest, &header.recipe_digest)?;
        let side = u64::from(self.description.image_size);
        let shape = match self.layout {
            Layout::Nhwc => &header.shape[1..3],
            Layout::Nchw => &header.shape[2..4],
        };
        let enumeration = |value: i32| u64::try_from(value).unwrap_or(u64::MAX);
        let dtype = enumeration(self.dtype.to_wire().into());
        let layout = enumeration(self.layout.to_wire().into());
        let samples = self.description.samples(name.step, name.index);
        for (what, expected, found) in [
            ("the seed", self.seed, header.seed),
            ("the number of the dtype", dtype, enumeration(header.dtype)),
            ("the number of the layout", layout, enumeration(header.layout)),
            ("the number of samples", samples, header.records.len() as u64),
            ("the height", side, shape[0].into()),
            ("the width", side, shape[1].into()),
        ] {
            if expected != found {
                return Err(WireError::Unasked { what, expected, found }.into());
            }
        }
        Ok(())
    }
}

/// Accepts the digest that the job has.
pub(crate) fn check_digest(
    what: &'static str,
    expected: Digest,
    found: &[u8],
) -> Result<(), Cause> {
    let found = <[u8; 32]>::try_from(found)
        .map(Digest)
        .map_err(|_error| WireError::Malformed("a digest that is not 32 bytes long"))?;
    if found == expected { Ok(()) } else { Err(Cause::Mismatch { what, expected, found }) }
}
