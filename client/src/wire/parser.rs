//! Parses the bytes of an HTTP/2 body into pieces of frames, without an intermediate copy of pixels.
//!
//! A stock gRPC client assembles a whole message of 1 MiB before it decodes it, which costs one more
//! copy of every pixel, out of the cache. This parser assembles only the fields that are not pixels,
//! one at a time, and returns pixels as slices of the DATA frame in which they arrived.
//!
//! ```text
//! message = 0  length:u32be  field*        gRPC framing, uncompressed
//! field   = tag  varint                    `offset`, or unknown and skipped
//!         | tag  length  bytes             `header`, or unknown and skipped
//!         | tag  length  pixels            `payload`: the last one, to the end of the message
//! ```

use bytes::{Buf as _, Bytes};
use forebay_proto::frame::{FRAME_BYTES, HEADER_BYTES, MESSAGE_BYTES, PREFIX_BYTES};
use forebay_proto::v1::Header;
use prost::Message as _;

use crate::error::WireError;

/// A piece of a frame.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Everything of a frame before its payload.
    Head(Box<Head>),
    /// A part of the payload of the last head's frame.
    Payload(Bytes),
}

/// Everything of a frame before its payload.
#[derive(Debug, Default)]
pub(crate) struct Head {
    /// The header, in the first frame of a microbatch.
    pub(crate) header: Option<Header>,
    /// Offset of the frame's payload in the payload of the microbatch.
    pub(crate) offset: u64,
    /// Length of the payload in bytes, at most [`FRAME_BYTES`].
    pub(crate) payload: usize,
}

/// A parser that accepts a body in buffers of any length.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    state: State,
    /// The part of a prefix or field that arrived so far.
    part: Vec<u8>,
    head: Head,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Prefix,
    /// In the fields of a message, with this number of its bytes left from the start of `part`.
    Fields(usize),
    /// In the payload, with this number of bytes left.
    Payload(usize),
}

/// A field, without the payload itself.
enum Field<'a> {
    Header(&'a [u8]),
    Offset(u64),
    Payload(u64),
    Unknown,
}

/// The result of parsing a part of a message.
enum Parsed {
    /// Nothing, because a field is incomplete.
    Incomplete,
    /// A field.
    Field,
    /// The start of the last field, up to the payload, which has this length.
    StartOfPayload(usize),
}

/// The reason why no field was parsed.
enum Stop {
    /// At least this number of bytes is needed.
    Need(usize),
    Bad(WireError),
}

impl Parser {
    /// Removes the next piece from the front of `data`; `None` once `data` is empty.
    ///
    /// # Errors
    /// When the bytes are not frames, or a length exceeds its limit.
    pub(crate) fn next(&mut self, data: &mut Bytes) -> Result<Option<Piece>, WireError> {
        loop {
            match self.state {
                State::Payload(0) => self.state = State::Prefix,
                State::Payload(left) => {
                    if data.is_empty() {
                        return Ok(None);
                    }
                    let piece = data.split_to(left.min(data.len()));
                    self.state = State::Payload(left - piece.len());
                    return Ok(Some(Piece::Payload(piece)));
                }
                State::Prefix => {
                    if !self.gather(PREFIX_BYTES, data) {
                        return Ok(None);
                    }
                    self.state = State::Fields(message_length(&self.part)?);
                    self.part.clear();
                }
                State::Fields(0) => return Ok(Some(self.finish(0))),
                State::Fields(left) => match self.field(left, data)? {
                    Parsed::Incomplete => return Ok(None),
                    Parsed::Field => {}
                    Parsed::StartOfPayload(length) => return Ok(Some(self.finish(length))),
                },
            }
        }
    }

    /// Whether a body that ends here is complete.
    pub(crate) fn is_between_messages(&self) -> bool {
        matches!(self.state, State::Prefix | State::Payload(0)) && self.part.is_empty()
    }

    /// Ends the head, which is followed by a payload of that length.
    fn finish(&mut self, payload: usize) -> Piece {
        self.state = State::Payload(payload);
        Piece::Head(Box::new(Head { payload, ..std::mem::take(&mut self.head) }))
    }

    /// Moves bytes to `part` until it has `length`; returns whether it has.
    fn gather(&mut self, length: usize, data: &mut Bytes) -> bool {
        let take = length.saturating_sub(self.part.len()).min(data.len());
        self.part.extend_from_slice(&data[..take]);
        data.advance(take);
        self.part.len() >= length
    }

    /// Parses one field of a message with `left` bytes.
    fn field(&mut self, left: usize, data: &mut Bytes) -> Result<Parsed, WireError> {
        let field = loop {
            match field(&self.part) {
                Ok(field) => break field,
                Err(Stop::Bad(error)) => return Err(error),
                Err(Stop::Need(length)) if length > left => {
                    return Err(WireError::Malformed("a field that exceeds its message"));
                }
                Err(Stop::Need(length)) => {
                    if !self.gather(length, data) {
                        return Ok(Parsed::Incomplete);
                    }
                }
            }
        };
        let left = left - self.part.len();
        let mut taken = Parsed::Field;
        match field {
            Field::Header(_) if self.head.header.is_some() => {
                return Err(WireError::Malformed("two headers in a frame"));
            }
            Field::Header(bytes) => {
                let header = Header::decode(bytes)
                    .map_err(|_error| WireError::Malformed("the header does not decode"))?;
                self.head.header = Some(header);
            }
            Field::Offset(offset) => self.head.offset = offset,
            Field::Payload(length) => {
                taken = Parsed::StartOfPayload(payload_length(length, left)?);
            }
            Field::Unknown => {}
        }
        self.part.clear();
        self.state = State::Fields(left);
        Ok(taken)
    }
}

fn message_length(prefix: &[u8]) -> Result<usize, WireError> {
    let (flag, length) = prefix.split_at(1);
    if flag != [0] {
        return Err(WireError::Malformed("compressed, although the client accepts no compression"));
    }
    let length = length.iter().fold(0_u64, |length, byte| length << 8 | u64::from(*byte));
    bounded("message", length, MESSAGE_BYTES)
}

fn payload_length(length: u64, left: usize) -> Result<usize, WireError> {
    let length = bounded("payload of a frame", length, FRAME_BYTES)?;
    if length == left {
        Ok(length)
    } else {
        Err(WireError::Malformed("the payload is not the last field of its message"))
    }
}

fn bounded(what: &'static str, found: u64, limit: usize) -> Result<usize, WireError> {
    let within = usize::try_from(found).ok().filter(|length| *length <= limit);
    within.ok_or(WireError::TooLong { what, found, limit })
}

/// Parses the field at the start of `part`. It never requests more bytes than the field has.
fn field(part: &[u8]) -> Result<Field<'_>, Stop> {
    let mut at = 0;
    let tag = varint(part, &mut at)?;
    match (tag >> 3, tag & 7) {
        (2, 0) => Ok(Field::Offset(varint(part, &mut at)?)),
        (1000, 2) => Ok(Field::Payload(varint(part, &mut at)?)),
        (1, 2) => Ok(Field::Header(bytes(part, &mut at)?)),
        (0 | 1 | 2 | 1000, _) => {
            Err(Stop::Bad(WireError::Malformed("a field with the wrong wire type")))
        }
        (_, 0) => varint(part, &mut at).map(|_value| Field::Unknown),
        (_, 1) => need(part, at + 8).map(|()| Field::Unknown),
        (_, 2) => bytes(part, &mut at).map(|_value| Field::Unknown),
        (_, 5) => need(part, at + 4).map(|()| Field::Unknown),
        _ => Err(Stop::Bad(WireError::Malformed("a field with an unknown wire type"))),
    }
}

fn need(part: &[u8], length: usize) -> Result<(), Stop> {
    if part.len() < length { Err(Stop::Need(length)) } else { Ok(()) }
}

/// Parses a length and that number of bytes at `part[*at..]`.
fn bytes<'a>(part: &'a [u8], at: &mut usize) -> Result<&'a [u8], Stop> {
    let length = varint(part, at)?;
    // Unknown fields may be as long as a header, and no longer.
    let length = bounded("field", length, HEADER_BYTES).map_err(Stop::Bad)?;
    need(part, *at + length)?;
    Ok(&part[*at..*at + length])
}

/// Parses a base 128 varint at `part[*at..]`.
fn varint(part: &[u8], at: &mut usize) -> Result<u64, Stop> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        need(part, *at + 1)?;
        let byte = part[*at];
        *at += 1;
        if shift == 63 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Stop::Bad(WireError::Malformed("a varint of more than 64 bits")))
}

#[cfg(test)]
mod tests {
    use forebay_proto::v1::Frame;
    use proptest::prelude::*;

    use super::*;

    /// The frames as a gRPC body.
    fn body(frames: &[Frame]) -> Vec<u8> {
        let mut body = Vec::new();
        for frame in frames {
            body.push(0);
            body.extend(u32::try_from(frame.encoded_len()).unwrap().to_be_bytes());
            frame.encode(&mut body).unwrap();
        }
        body
    }

    /// Parses a body that arrives in buffers of the given lengths, repeated.
    fn parse(body: &[u8], cuts: &[usize]) -> Result<(Vec<Frame>, bool), WireError> {
        let mut parser = Parser::default();
        let mut frames: Vec<(Frame, usize)> = Vec::new();
        let mut rest = body;
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            rest = after;
            let mut data = Bytes::copy_from_slice(piece);
            while let Some(piece) = parser.next(&mut data)? {
                match piece {
                    Piece::Head(head) => {
                        let Head { header, offset, payload } = *head;
                        frames.push((Frame { header, offset, payload: Bytes::new() }, payload));
                    }
                    Piece::Payload(bytes) => {
                        let (frame, left) = frames.last_mut().expect("a head precedes its payload");
                        *left = left.checked_sub(bytes.len()).expect("as long as its head says");
                        frame.payload = [&frame.payload[..], &bytes].concat().into();
                    }
                }
            }
            assert!(data.is_empty(), "everything is parsed");
            assert!(parser.part.len() <= HEADER_BYTES + 16);
        }
        let whole = parser.is_between_messages();
        let open = frames.iter().any(|(_, left)| *left > 0);
        assert!(!(whole && open), "between messages, every payload is complete");
        Ok((frames.into_iter().map(|(frame, _)| frame).collect(), whole))
    }

    fn frames() -> impl Strategy<Value = Vec<Frame>> {
        let header =
            prop::option::of(prop::collection::vec(any::<u64>(), 0..40)).prop_map(|records| {
                records.map(|records| Header { records, epoch: 7, ..Header::default() })
            });
        let payload = prop::collection::vec(any::<u8>(), 0..200);
        let frame = (header, any::<u64>(), payload).prop_map(|(header, offset, payload)| Frame {
            header,
            offset,
            payload: payload.into(),
        });
        prop::collection::vec(frame, 0..6)
    }

    fn cuts() -> impl Strategy<Value = Vec<usize>> {
        prop::collection::vec(1..100_usize, 1..8)
    }

    proptest! {
        #[test]
        fn frames_are_parsed_whatever_the_buffer_lengths(frames in frames(), cuts in cuts()) {
            let (read, whole) = parse(&body(&frames), &cuts).unwrap();
            prop_assert!(whole);
            prop_assert_eq!(read, frames);
        }

        #[test]
        fn a_truncated_body_is_incomplete(frames in frames(), cuts in cuts(), at in any::<prop::sample::Index>()) {
            let bytes = body(&frames);
            let ends: Vec<usize> = (0..=frames.len()).map(|n| body(&frames[..n]).len()).collect();
            let at = at.index(bytes.len() + 1);
            let (_, whole) = parse(&bytes[..at], &cuts).unwrap();
            prop_assert_eq!(whole, ends.contains(&at));
        }

        #[test]
        fn arbitrary_bytes_are_parsed_or_rejected(bytes in prop::collection::vec(any::<u8>(), 0..400), cuts in cuts()) {
            parse(&bytes, &cuts).ok();
        }

        #[test]
        fn a_changed_byte_gives_the_same_result_whatever_the_buffer_lengths(
            frames in frames(), cuts in cuts(), at in any::<prop::sample::Index>(), flip in 1..=255_u8
        ) {
            let mut bytes = body(&frames);
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] ^= flip;
                let whole = parse(&bytes, &[bytes.len()]);
                prop_assert_eq!(parse(&bytes, &cuts), whole);
            }
        }
    }

    #[test]
    fn lengths_over_the_limit_are_rejected_before_their_bytes_arrive() {
        let refused = |bytes: &[u8]| parse(bytes, &[1]).unwrap_err();
        let message = u64::from(u32::MAX);
        assert_eq!(
            refused(&[0, 255, 255, 255, 255]),
            WireError::TooLong { what: "message", found: message, limit: MESSAGE_BYTES }
        );
        // A header of 2 MiB and a byte, and a payload of 2 MiB, in messages of 3 MiB.
        let prefix = [0, 0, 0x30, 0, 0];
        let header = refused(&[&prefix[..], &[0x0a, 0x81, 0x80, 0x80, 0x01]].concat());
        assert!(matches!(header, WireError::TooLong { what: "field", .. }), "{header}");
        let two = [0x80, 0x80, 0x80, 0x01];
        let payload = refused(&[&prefix[..], &[0xc2, 0x3e], &two].concat());
        assert!(matches!(payload, WireError::TooLong { what: "payload of a frame", .. }));
    }

    #[test]
    fn malformed_messages_are_rejected() {
        let refused = |message: &[u8]| {
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            parse(&[&[0][..], &length, message].concat(), &[3]).unwrap_err()
        };
        assert!(parse(&[1, 0, 0, 0, 0], &[5]).is_err(), "compressed");
        refused(&[0x10, 0x80]); // an incomplete varint
        refused(&[0x10, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2]); // 65 bits
        refused(&[0x0a, 5, 0]); // a header beyond the message
        refused(&[0xc2, 0x3e, 1, 0, 0]); // bytes after the payload
        refused(&[0xc2, 0x3e, 3, 0, 0]); // a payload beyond the message
        refused(&[0x0a, 0, 0x0a, 0]); // two headers
        refused(&[0x12, 0]); // an offset with the wrong wire type
        refused(&[0x0a, 1, 0xff]); // a header that does not decode
        refused(&[0x1b]); // a group
    }

    #[test]
    fn unknown_fields_are_skipped() {
        let fields: &[u8] = &[0x18, 0x96, 1, 0x22, 2, 7, 7, 0x29, 0, 1, 2, 3, 4, 5, 6, 7];
        let known: &[u8] = &[0x35, 1, 2, 3, 4, 0x10, 9, 0xc2, 0x3e, 1, 42];
        let length = u8::try_from(fields.len() + known.len()).unwrap();
        let (frames, whole) =
            parse(&[&[0, 0, 0, 0, length], fields, known].concat(), &[2]).unwrap();
        assert!(whole);
        let frame = Frame { header: None, offset: 9, payload: Bytes::from_static(&[42]) };
        assert_eq!(frames, [frame]);
    }
}
