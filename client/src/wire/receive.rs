//! Turns the body of a Stream or Fetch call into microbatches, and checks every length, name and digest.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use forebay_proto::types::MicrobatchName;
use forebay_proto::v1::Header;
use http_body_util::BodyExt as _;
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::error::{Cause, WireError};
use crate::microbatch::Microbatch;
use crate::options::Timeouts;
use crate::wire::buffers::{Buffers, Filling, Pixels};
use crate::wire::demand::Demand;
use crate::wire::expected::Expected;
use crate::wire::memory::LeaseCall;
use crate::wire::parser::{Head, Parser, Piece};
use crate::wire::status::cause_of;

/// Bytes that are copied right after they are hashed, while they are in the fastest cache of a CPU.
const HASHED_AT_ONCE: usize = 16 << 10;

/// Reads microbatches from a body.
#[derive(Debug)]
pub(crate) struct Receiver {
    body: Body,
    parser: Parser,
    /// Received bytes that are not parsed yet.
    data: Bytes,
    timeouts: Timeouts,
    received: Arc<AtomicU64>,
    leasing: Option<Leasing>,
}

/// What a call needs whose microbatches can be leased.
#[derive(Debug)]
pub(crate) struct Leasing {
    pub(crate) call: LeaseCall,
    pub(crate) demand: Arc<Demand>,
    /// Whether leased pixels are hashed.
    pub(crate) verify: bool,
    /// Whether the server knows that the next microbatch is needed, or need not know.
    asked: bool,
}

impl Leasing {
    pub(crate) const fn new(call: LeaseCall, demand: Arc<Demand>, verify: bool) -> Self {
        Self { call, demand, verify, asked: true }
    }
}

/// A microbatch that is being received: its header, and a part of its payload.
struct Open {
    header: Header,
    pixels: Filling,
    hash: Xxh3,
}

impl Receiver {
    /// `received` counts the bytes of the current microbatch's payload as they arrive.
    pub(crate) fn new(
        body: Body,
        timeouts: Timeouts,
        received: Arc<AtomicU64>,
        leasing: Option<Leasing>,
    ) -> Self {
        Self { body, parser: Parser::default(), data: Bytes::new(), timeouts, received, leasing }
    }

    /// The number of payload bytes received of the current, or else the last microbatch.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Receives the microbatch of that name, which must be the next one.
    ///
    /// # Errors
    /// When the bytes are not this microbatch, do not arrive in time, or the call ends.
    pub(crate) async fn microbatch(
        &mut self,
        name: MicrobatchName,
        expected: &Expected,
        buffers: &Buffers,
    ) -> Result<Microbatch, Cause> {
        self.received.store(0, Ordering::Relaxed);
        self.ask_when_needed(true);
        let head = self.head().await?;
        self.ask_when_needed(false);
        let header = head.header.ok_or(WireError::Malformed("a first frame without a header"))?;
        expected.check(&header, name)?;
        let size = usize::try_from(header.payload_bytes).expect("a checked payload fits in memory");
        if header.lease != 0 {
            return self.leased(header, size, expected).await;
        }
        let mut open = Open { header, pixels: buffers.get(size)?, hash: Xxh3::new() };
        self.fill(&mut open, head.offset, head.payload).await?;
        while open.pixels.len() < size {
            let head = self.head().await?;
            if head.header.is_some() {
                return Err(WireError::Malformed("a header before the end of the payload").into());
            }
            if head.payload == 0 {
                return Err(WireError::Malformed("an empty frame").into());
            }
            self.fill(&mut open, head.offset, head.payload).await?;
        }
        open.finish(expected)
    }

    /// Takes a microbatch whose payload is in shared memory.
    async fn leased(
        &mut self,
        header: Header,
        size: usize,
        job: &Expected,
    ) -> Result<Microbatch, Cause> {
        let Some(leasing) = &self.leasing else {
            return Err(WireError::Malformed("a lease that was not requested").into());
        };
        let idle = self.timeouts.idle;
        let pixels = async {
            let taken = timeout(idle, leasing.call.take(header.lease, size)).await;
            let pixels = Pixels::from(taken.map_err(|_elapsed| Cause::IdleTimeout(idle))??);
            if leasing.verify {
                check_hash(header.payload_xxh3, xxh3_64(&pixels))?;
            }
            Ok::<_, Cause>(pixels)
        };
        // What makes one unusable, such as a rule of the system, does so for the next, which can come as frames.
        let pixels = pixels.await.inspect_err(|_cause| leasing.call.distrust())?;
        self.received.store(size as u64, Ordering::Relaxed);
        Ok(Microbatch::new(header, pixels, job.format.dtype, job.format.layout))
    }

    /// Whether the server is told when the trainer waits for the next microbatch, which it may not get as long as it
    /// keeps others.
    fn ask_when_needed(&mut self, ask: bool) {
        if let Some(leasing) = &mut self.leasing {
            leasing.asked = !ask;
        }
    }

    /// Reads the end of the body, with its status.
    ///
    /// # Errors
    /// When the body does not end here, or its status is an error.
    pub(crate) async fn end(&mut self) -> Result<(), Cause> {
        match self.piece().await? {
            None => Ok(()),
            Some(_) => Err(WireError::Malformed("more than the requested microbatch").into()),
        }
    }

    /// Reads the head of the next frame.
    async fn head(&mut self) -> Result<Head, Cause> {
        match self.piece().await? {
            Some(Piece::Head(head)) => Ok(*head),
            Some(Piece::Payload(_)) => Err(WireError::Malformed("payload without a head").into()),
            None => Err(Cause::Truncated),
        }
    }

    /// Reads the payload of a frame.
    async fn fill(&mut self, open: &mut Open, offset: u64, length: usize) -> Result<(), Cause> {
        let at = open.pixels.len() as u64;
        if offset != at {
            return Err(WireError::Gap { expected: at, found: offset }.into());
        }
        if at + length as u64 > open.header.payload_bytes {
            return Err(WireError::Malformed("frames beyond the end of the payload").into());
        }
        let end = open.pixels.len() + length;
        while open.pixels.len() < end {
            let Some(Piece::Payload(bytes)) = self.piece().await? else {
                return Err(Cause::Truncated);
            };
            for part in bytes.chunks(HASHED_AT_ONCE) {
                open.hash.update(part);
                open.pixels.push(part);
            }
            self.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Reads the next piece; `None` at the end of a body with status OK.
    async fn piece(&mut self) -> Result<Option<Piece>, Cause> {
        loop {
            if let Some(piece) = self.parser.next(&mut self.data)? {
                return Ok(Some(piece));
            }
            let idle = self.timeouts.idle;
            let frame = timeout(idle, next_frame(&mut self.body, self.leasing.as_mut()))
                .await
                .map_err(|_elapsed| Cause::IdleTimeout(idle))?;
            match frame {
                None => return Err(Cause::Truncated),
                Some(Err(error)) => return Err(cause_of(&error, &self.timeouts, None)),
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
            Some(status) if status.code() != tonic::Code::Ok => {
                Err(cause_of(&status, &self.timeouts, None))
            }
            Some(_) if self.parser.is_between_messages() => Ok(None),
            _ => Err(Cause::Truncated),
        }
    }
}

impl Open {
    fn finish(self, job: &Expected) -> Result<Microbatch, Cause> {
        check_hash(self.header.payload_xxh3, self.hash.digest())?;
        let Self { header, pixels, .. } = self;
        Ok(Microbatch::new(header, pixels.into(), job.format.dtype, job.format.layout))
    }
}

/// Waits for the next frame of HTTP/2, and tells the server meanwhile if the trainer begins to wait.
async fn next_frame(
    body: &mut Body,
    leasing: Option<&mut Leasing>,
) -> Option<Result<http_body::Frame<Bytes>, Status>> {
    let mut frame = pin!(body.frame());
    if let Some(leasing) = leasing.filter(|leasing| !leasing.asked) {
        tokio::select! {
            biased;
            frame = &mut frame => return frame,
            () = leasing.demand.begins() => {
                leasing.asked = true;
                leasing.call.need();
            }
        }
    }
    frame.await
}

fn check_hash(expected: u64, found: u64) -> Result<(), WireError> {
    if expected == found { Ok(()) } else { Err(WireError::Corrupt { expected, found }) }
}

#[cfg(test)]
mod tests {
    use forebay_proto::types::{DType, Layout, MixedBy, PixelFormat};
    use forebay_proto::v1;
    use http::HeaderMap;
    use http_body::Frame;
    use http_body_util::{Full, StreamBody};
    use proptest::prelude::*;
    use prost::Message as _;
    use rustix::fs::SealFlags;

    use super::*;
    use crate::description::Description;
    use crate::wire::memory::tests::{SEALS, connected, lend, memory};

    const SIDE: u32 = 6;
    const NAME: MicrobatchName = MicrobatchName { seed: 9, epoch: 3, step: 1, index: 1 };

    fn expected() -> Expected {
        let description = v1::DescribeResponse {
            dataset_digest: vec![1; 32].into(),
            records: 81,
            classes: ["ant", "bee", "cat"].map(str::to_owned).into(),
            recipe_digest: vec![2; 32].into(),
            samples_per_epoch: 8,
            steps_per_epoch: 2,
            batch: 4,
            microbatches: 2,
            image_size: SIDE,
            mean: vec![0.0; 3],
            std: vec![1.0; 3],
            ..v1::DescribeResponse::default()
        };
        let description = Arc::new(Description::from_wire(description).unwrap());
        let format =
            PixelFormat { dtype: DType::U8, layout: Layout::Nchw, mixed_by: MixedBy::Server };
        Expected { description, seed: 9, format, max_bytes: 1 << 20 }
    }

    fn payload() -> Vec<u8> {
        (0..2 * 3 * SIDE * SIDE).map(|i| u8::try_from(i % 251).unwrap()).collect()
    }

    /// The microbatch of that name as a gRPC body, in frames of `frame` bytes.
    fn bytes(frame: usize) -> Vec<u8> {
        let payload = payload();
        let mut header = Some(Header {
            epoch: NAME.epoch,
            step: NAME.step,
            microbatch: NAME.index,
            seed: 9,
            dataset_digest: vec![1; 32].into(),
            recipe_digest: vec![2; 32].into(),
            dtype: v1::DType::DtypeU8.into(),
            layout: v1::Layout::Nchw.into(),
            shape: vec![2, 3, SIDE, SIDE],
            payload_bytes: payload.len() as u64,
            payload_xxh3: xxh3_64(&payload),
            records: vec![70, 80],
            label_a: vec![1, 2],
            label_b: vec![2, 1],
            lambda: vec![0.5, 0.25],
            ..Header::default()
        });
        let mut body = Vec::new();
        for (piece, offset) in payload.chunks(frame).zip((0..).step_by(frame)) {
            let payload = piece.to_vec().into();
            let frame = v1::Frame { header: header.take(), offset, payload };
            body.push(0);
            body.extend(u32::try_from(frame.encoded_len()).unwrap().to_be_bytes());
            frame.encode(&mut body).unwrap();
        }
        body
    }

    /// Receives a body in DATA frames of `cut` bytes, with status OK at its end.
    fn receive(body: &[u8], cut: usize) -> Result<Microbatch, Cause> {
        let data = body.chunks(cut).map(|piece| Frame::data(Bytes::copy_from_slice(piece)));
        let trailers =
            HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
        let frames: Vec<_> = data.chain([Frame::trailers(trailers)]).map(Ok::<_, Status>).collect();
        let body = Body::new(StreamBody::new(tokio_stream::iter(frames)));
        let mut receiver = Receiver::new(body, Timeouts::default(), Arc::default(), None);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let microbatch = receiver.microbatch(NAME, &expected(), &Buffers::default()).await?;
            assert_eq!(microbatch.pixels.len(), expected().bytes(NAME));
            receiver.end().await?;
            Ok(microbatch)
        })
    }

    proptest! {
        #[test]
        fn a_microbatch_is_received_whatever_the_frame_sizes(frame in 1..300_usize, cut in 1..300_usize) {
            prop_assert_eq!(&*receive(&bytes(frame), cut).unwrap().pixels, &payload()[..]);
        }

        #[test]
        fn a_changed_byte_changes_no_pixel(
            frame in 1..300_usize, cut in 1..300_usize, at in any::<prop::sample::Index>(), flip in 1..=255_u8
        ) {
            let mut body = bytes(frame);
            let at = at.index(body.len());
            body[at] ^= flip;
            if let Ok(microbatch) = receive(&body, cut) {
                prop_assert_eq!(&*microbatch.pixels, &payload()[..]);
            }
        }

        #[test]
        fn a_missing_end_is_detected(cut in 1..300_usize, at in any::<prop::sample::Index>()) {
            let body = bytes(50);
            let received = receive(&body[..at.index(body.len())], cut);
            prop_assert!(matches!(received, Err(Cause::Truncated)));
        }

        #[test]
        fn lost_and_repeated_frames_are_detected(first in 0..9_usize, twice in any::<bool>()) {
            let body = bytes(48);
            let mut messages = Vec::new();
            let mut rest = &body[..];
            while let [_, length @ ..] = rest {
                let length = u32::from_be_bytes(length[..4].try_into().unwrap()) as usize;
                let (message, after) = rest.split_at(5 + length);
                messages.push(message);
                rest = after;
            }
            let first = first % messages.len();
            let times = if twice { 2 } else { 0 };
            messages.splice(first..=first, std::iter::repeat_n(messages[first], times));
            prop_assert!(receive(&messages.concat(), 64).is_err());
        }
    }

    #[test]
    fn another_microbatch_than_the_requested_one_is_rejected() {
        type Change = fn(&mut Header);
        let header = header();
        let changes: [(&str, Change); 11] = [
            ("epoch", |h| h.epoch += 1),
            ("step", |h| h.step = 0),
            ("microbatch", |h| h.microbatch = 0),
            ("seed", |h| h.seed = 8),
            ("dataset", |h| h.dataset_digest = vec![9; 32].into()),
            ("recipe", |h| h.recipe_digest = vec![9; 32].into()),
            ("layout", |h| {
                h.layout = v1::Layout::Nhwc.into();
                h.shape = vec![2, SIDE, SIDE, 3];
            }),
            ("dtype", |h| {
                h.dtype = v1::DType::DtypeF16.into();
                h.payload_bytes *= 2;
            }),
            ("a record that the dataset does not have", |h| h.records[1] = 81),
            ("a class that it does not have", |h| h.label_b[0] = 3),
            ("a plan to mix by", |h| h.mix = Some(plan())),
        ];
        assert!(expected().check(&header, NAME).is_ok());
        for (what, change) in changes {
            let mut changed = header.clone();
            change(&mut changed);
            assert!(expected().check(&changed, NAME).is_err(), "{what}");
        }
    }

    #[test]
    fn a_trainer_that_mixes_accepts_no_microbatch_without_a_plan() {
        let mut expected = expected();
        expected.format.mixed_by = MixedBy::Trainer;
        assert!(expected.check(&header(), NAME).is_err());
        expected.check(&Header { mix: Some(plan()), ..header() }, NAME).unwrap();
    }

    #[tokio::test]
    async fn a_lease_that_cannot_be_used_is_the_last_one_of_its_connection() {
        let other = vec![7; payload().len()];
        for (bytes, seals) in [(payload(), SealFlags::empty()), (other, SEALS)] {
            let (connection, peer, _folder) = connected().await;
            let (call, length) = (connection.call(), bytes.len() as u64);
            let options = call.to_wire();
            lend(&peer, [4, options.call, length], &memory(&bytes, seals));
            let frame =
                v1::Frame { header: Some(Header { lease: 4, ..header() }), ..v1::Frame::default() };
            let length = u32::try_from(frame.encoded_len()).unwrap().to_be_bytes();
            let message = [&[0][..], &length, &frame.encode_to_vec()].concat();
            let body = Body::new(Full::new(Bytes::from(message)));
            let leasing = Leasing::new(call, Arc::default(), true);
            let (timeouts, received) = (Timeouts::default(), Arc::default());
            let mut receiver = Receiver::new(body, timeouts, received, Some(leasing));
            assert!(connection.is_usable());
            let buffers = Buffers::default();
            receiver.microbatch(NAME, &expected(), &buffers).await.unwrap_err();
            assert!(!connection.is_usable());
        }
    }

    fn plan() -> v1::TrainerMix {
        v1::TrainerMix { samples: vec![v1::MixParameters::default(); 2] }
    }

    fn header() -> Header {
        let body = bytes(1000);
        v1::Frame::decode(&body[5..]).unwrap().header.unwrap()
    }
}
