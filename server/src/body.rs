//! A response body of frames that sends payloads zero-copy.
//!
//! Each gRPC message is sent as two pieces: its five-byte prefix with the frame's head, and a slice of
//! the buffer that contains the payload. tonic's encoder would copy whole messages into another
//! buffer. The bytes on the wire are the same, so any gRPC client can read them.

use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, Bytes, BytesMut};
use forebay_proto::frame::{self, PREFIX_BYTES};
use forebay_proto::v1::Header;
use http::HeaderMap;
use tokio::sync::mpsc;
use tonic::Status;

use crate::grpc;

/// One frame as a gRPC message.
#[derive(Debug)]
pub(crate) struct Message {
    head: Bytes,
    payload: Bytes,
}

impl Message {
    /// The frame of one of the [`frame::ranges`] of a payload. The first one has the header.
    pub(crate) fn new(header: Option<Header>, payload: &Bytes, range: Range<usize>) -> Self {
        let mut head = BytesMut::new();
        head.put_bytes(0, PREFIX_BYTES);
        frame::head(header, &range, &mut head);
        let length = head.len() - PREFIX_BYTES + range.len();
        let length = u32::try_from(length).expect("frames are far smaller than 4 GiB");
        head[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
        Self { head: head.freeze(), payload: payload.slice(range) }
    }
}

/// The reader cancelled the call, or its connection broke.
#[derive(Debug)]
pub(crate) struct Disconnected;

/// The sending end of a [`FrameBody`].
#[derive(Debug)]
pub(crate) struct Sender {
    messages: mpsc::Sender<Message>,
    status: Arc<OnceLock<Status>>,
}

impl Sender {
    /// Waits until the channel has room, that is until the reader has accepted the message before the
    /// previous one, then sends.
    ///
    /// # Errors
    /// [`Disconnected`] if the reader is gone.
    pub(crate) async fn send(&self, message: Message) -> Result<(), Disconnected> {
        self.messages.send(message).await.map_err(|_message| Disconnected)
    }

    /// Waits until the reader disconnects.
    pub(crate) async fn disconnected(&self) {
        self.messages.closed().await;
    }

    /// Ends the call with a status, after the messages that are left.
    pub(crate) fn end(self, status: Status) {
        self.status.set(status).expect("`end` consumes the sender");
    }
}

/// The receiving end: HTTP/2 data frames, then the gRPC status as trailers.
#[derive(Debug)]
pub(crate) struct FrameBody {
    messages: mpsc::Receiver<Message>,
    payload: Option<Bytes>,
    status: Arc<OnceLock<Status>>,
    ended: bool,
}

/// A sender and its body, with room for one message between them.
pub(crate) fn channel() -> (Sender, FrameBody) {
    let (sender, messages) = mpsc::channel(1);
    let status = Arc::new(OnceLock::new());
    let sender = Sender { messages: sender, status: Arc::clone(&status) };
    (sender, FrameBody { messages, payload: None, status, ended: false })
}

impl FrameBody {
    fn trailers(&self) -> HeaderMap {
        let lost = || {
            Status::internal("the call ended without a status: request again, and report this bug")
        };
        grpc::trailers(self.status.get().unwrap_or(&lost()))
    }
}

impl http_body::Body for FrameBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        if let Some(payload) = self.payload.take() {
            return Poll::Ready(Some(Ok(http_body::Frame::data(payload))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let message = ready!(self.messages.poll_recv(context));
        let frame = if let Some(Message { head, payload }) = message {
            // That of a lease is empty.
            self.payload = Some(payload).filter(|payload| !payload.is_empty());
            http_body::Frame::data(head)
        } else {
            self.ended = true;
            http_body::Frame::trailers(self.trailers())
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use forebay_proto::frame::FRAME_BYTES;
    use forebay_proto::v1::Frame;
    use http_body_util::BodyExt as _;
    use prost::Message as _;
    use tonic::Code;

    use super::*;

    #[tokio::test]
    async fn messages_decode_and_their_payloads_are_not_copied() {
        let slab = Bytes::from(vec![7; FRAME_BYTES + 5]);
        let (sender, mut body) = channel();
        let sent = slab.clone();
        let task = tokio::spawn(async move {
            let mut header = Some(Header { epoch: 3, ..Header::default() });
            for range in frame::ranges(sent.len()) {
                sender.send(Message::new(header.take(), &sent, range)).await.unwrap();
            }
            sender.end(Status::ok(""));
        });
        for range in frame::ranges(slab.len()) {
            let head = body.frame().await.unwrap().unwrap().into_data().unwrap();
            let payload = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(payload.as_ptr(), slab[range.clone()].as_ptr());
            let message = [&head[PREFIX_BYTES..], &payload].concat();
            assert_eq!(head[0], 0);
            assert_eq!(head[1..PREFIX_BYTES], u32::try_from(message.len()).unwrap().to_be_bytes());
            let frame = Frame::decode(message.as_slice()).unwrap();
            assert_eq!(frame.header.is_some(), range.start == 0);
            assert_eq!((frame.offset, frame.payload.len()), (range.start as u64, range.len()));
        }
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        assert!(body.frame().await.is_none());
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_sender_dropped_without_a_status_is_an_internal_error() {
        let (sender, mut body) = channel();
        drop(sender);
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(Status::from_header_map(&trailers).unwrap().code(), Code::Internal);
    }
}
