//! Gates 4 and 6: what a connection may hold in requests, and the time that a request may take to arrive.
//!
//! Every call passes here before it is routed, those of health and reflection included, which need no
//! token: libraries read up to 4 MiB of a request and wait for it forever.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use forebay_proto::frame::PREFIX_BYTES;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::limits::Limits;
use super::origin::Origin;
use crate::status::Refusal;

/// Bytes that a header takes in memory besides its name and its value, as HTTP/2 counts them (RFC 9113,
/// section 6.5.2).
const HEADER_OVERHEAD: usize = 32;

/// Bytes that are counted for a call of health or reflection: its largest response, which is the
/// description of the contract, as a queue and as encoded frames.
const PUBLIC_CALL_BYTES: usize = 64 << 10;

/// The bytes that one connection holds: headers and messages of its requests until they are read, and
/// responses until they are sent.
#[derive(Debug)]
pub(crate) struct ConnectionBytes {
    origin: Origin,
    held: AtomicUsize,
    limit: AtomicUsize,
    server: Arc<ServerBytes>,
}

/// The bytes that all connections of a server hold. Those of one address hold at most half of the limit,
/// so that what one client does not send or take leaves room for the requests of others.
#[derive(Debug)]
pub(crate) struct ServerBytes {
    limit: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    /// Of each address that holds any.
    by_origin: BTreeMap<Origin, usize>,
}

impl ServerBytes {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, held: Mutex::default() })
    }

    fn add(&self, origin: Origin, bytes: usize) -> Result<(), Refusal> {
        let mut held = self.lock();
        let of_origin = held.by_origin.get(&origin).copied().unwrap_or(0);
        let of_origin = sum(of_origin, bytes, self.limit / 2)?;
        held.all = sum(held.all, bytes, self.limit)?;
        held.by_origin.insert(origin, of_origin);
        Ok(())
    }

    fn release(&self, origin: Origin, bytes: usize) {
        let mut held = self.lock();
        held.all -= bytes;
        if let Some(of_origin) = held.by_origin.get_mut(&origin) {
            *of_origin -= bytes;
            if *of_origin == 0 {
                held.by_origin.remove(&origin);
            }
        }
    }

    /// A panic cannot leave the sums half-changed, so a poisoned lock is used as it is.
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sum, unless it exceeds a limit.
fn sum(held: usize, bytes: usize, limit: usize) -> Result<usize, Refusal> {
    let sum = held.checked_add(bytes).filter(|sum| *sum <= limit);
    sum.ok_or(Refusal::TooManyBytes { limit })
}

/// A part of a connection's bytes, released when dropped.
#[derive(Debug)]
pub(crate) struct HeldBytes {
    connection: Arc<ConnectionBytes>,
    bytes: usize,
}

impl ConnectionBytes {
    /// The bytes of a connection of an origin.
    pub(super) fn new(limit: usize, origin: Origin, server: &Arc<ServerBytes>) -> Arc<Self> {
        let (held, limit) = (AtomicUsize::new(0), AtomicUsize::new(limit));
        Arc::new(Self { origin, held, limit, server: Arc::clone(server) })
    }

    /// Replaces the limit.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Counts bytes until the guard is dropped.
    ///
    /// # Errors
    /// [`Refusal::TooManyBytes`] if the connection or the server would hold more than its limit.
    pub(crate) fn hold(self: &Arc<Self>, bytes: usize) -> Result<HeldBytes, Refusal> {
        let mut held = HeldBytes { connection: Arc::clone(self), bytes: 0 };
        held.add(bytes)?;
        Ok(held)
    }
}

impl HeldBytes {
    fn add(&mut self, bytes: usize) -> Result<(), Refusal> {
        let ConnectionBytes { origin, held, limit, server } = &*self.connection;
        let limit = limit.load(Ordering::Relaxed);
        let fits = |held: usize| sum(held, bytes, limit).ok();
        let added = held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        added.map_err(|_held| Refusal::TooManyBytes { limit })?;
        server.add(*origin, bytes).inspect_err(|_refused| {
            held.fetch_sub(bytes, Ordering::Relaxed);
        })?;
        self.bytes += bytes;
        Ok(())
    }

    fn release(&mut self, bytes: usize) {
        let ConnectionBytes { origin, held, server, .. } = &*self.connection;
        server.release(*origin, bytes);
        held.fetch_sub(bytes, Ordering::Relaxed);
        self.bytes -= bytes;
    }

    /// Replaces the number of bytes.
    ///
    /// # Errors
    /// As [`ConnectionBytes::hold`], if they become more.
    pub(crate) fn resize(&mut self, bytes: usize) -> Result<(), Refusal> {
        if bytes > self.bytes {
            return self.add(bytes - self.bytes);
        }
        self.release(self.bytes - bytes);
        Ok(())
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.release(self.bytes);
    }
}

/// Admits a request: its headers are counted now, its body as it arrives.
///
/// A `public` call needs no token; the second value counts its response and is kept until that ends.
///
/// # Errors
/// [`Refusal::TooManyBytes`] if the connection holds too much already.
pub(crate) fn admit<B: Body<Data = Bytes>>(
    request: Request<B>,
    public: bool,
    connection: &Arc<ConnectionBytes>,
    limits: &Limits,
) -> Result<(Request<RequestBody<B>>, Option<HeldBytes>), Refusal> {
    let headers = request.headers().iter();
    let sizes = headers.map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD);
    let held = connection.hold(request.uri().path().len() + sizes.sum::<usize>())?;
    let response = public.then(|| connection.hold(PUBLIC_CALL_BYTES)).transpose()?;
    let max = if public { limits.public_request_bytes } else { limits.request_bytes };
    let time = limits.request_timeout;
    let body = |body| RequestBody {
        body,
        max,
        left: max + PREFIX_BYTES,
        time,
        deadline: Box::pin(sleep(time)),
        held,
        ended: false,
    };
    Ok((request.map(body), response))
}

/// The body of a request, which fails once it is too large or too late.
#[derive(Debug)]
pub(crate) struct RequestBody<B> {
    body: B,
    /// Largest message.
    max: usize,
    /// Bytes that may still arrive.
    left: usize,
    /// Time that the whole request may take to arrive.
    time: Duration,
    deadline: Pin<Box<Sleep>>,
    held: HeldBytes,
    ended: bool,
}

impl<B> RequestBody<B> {
    fn count(&mut self, bytes: usize) -> Result<(), Refusal> {
        let Some(left) = self.left.checked_sub(bytes) else {
            let what = format!("exceeds the limit of {} bytes", self.max);
            return Err(Refusal::invalid("request", what));
        };
        self.left = left;
        self.held.add(bytes)
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            return self.deadline.as_mut().poll(context).map(|()| {
                self.ended = true;
                Some(Err(Refusal::TooLate { limit: self.time }.into()))
            });
        };
        let bytes = |frame: &Frame<Bytes>| frame.data_ref().map_or(0, Bytes::len);
        // HTTP/2 hands out slices of what it has read from the socket, and a slice of one byte keeps all of that.
        let copy = |frame: Frame<Bytes>| frame.map_data(|data| Bytes::copy_from_slice(&data));
        let counted = match frame {
            None => None,
            Some(Ok(frame)) => {
                Some(self.count(bytes(&frame)).map(|()| copy(frame)).map_err(Into::into))
            }
            Some(Err(error)) => {
                let mut why = error.to_string();
                if let Some(cause) = std::error::Error::source(&error) {
                    why = format!("{why}: {cause}");
                }
                Some(Err(Refusal::Cancelled { why }.into()))
            }
        };
        self.ended = !matches!(counted, Some(Ok(_)));
        Poll::Ready(counted)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a response, with the bytes that are counted for it.
#[derive(Debug)]
pub(crate) struct CountedBody<B> {
    pub(crate) body: B,
    pub(crate) _held: HeldBytes,
}

impl<B: Body + Unpin> Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full, StreamBody};
    use tonic::Code;

    use super::*;

    /// A body that never has data.
    struct Silent;

    impl Body for Silent {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Pending
        }
    }

    /// What was read from a socket, of which frames are slices.
    struct Shared(Arc<Vec<u8>>);

    impl AsRef<[u8]> for Shared {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    fn connection(limit: usize) -> Arc<ConnectionBytes> {
        ConnectionBytes::new(limit, address(1), &ServerBytes::new(1 << 30))
    }

    fn address(last: u8) -> Origin {
        std::net::IpAddr::from([10, 0, 0, last]).into()
    }

    fn limits() -> Limits {
        let request_timeout = Duration::from_millis(20);
        Limits {
            request_timeout,
            request_bytes: 100,
            public_request_bytes: 10,
            ..Limits::default()
        }
    }

    fn body(bytes: usize) -> Request<Full<Bytes>> {
        Request::new(Full::new(vec![7; bytes].into()))
    }

    #[tokio::test]
    async fn a_request_that_does_not_arrive_times_out() {
        let connection = connection(1 << 20);
        let (request, _) = admit(Request::new(Silent), false, &connection, &limits()).unwrap();
        let late = request.into_body().collect().await.unwrap_err();
        assert_eq!(late.code(), Code::DeadlineExceeded);
        assert_eq!(late.message(), "the request did not arrive within 20ms: send it at once");
    }

    #[tokio::test]
    async fn a_request_whose_call_is_cancelled_is_not_called_invalid() {
        let connection = connection(1 << 20);
        let broken = std::io::Error::other("stream error received");
        let frames = [Ok(Frame::data(Bytes::from_static(&[0, 0]))), Err(broken)];
        let part = StreamBody::new(tokio_stream::iter(frames));
        let (request, _) = admit(Request::new(part), false, &connection, &limits()).unwrap();
        let cancelled = request.into_body().collect().await.unwrap_err();
        assert_eq!(cancelled.code(), Code::Cancelled);
        let says = "the call ended before its request was complete: stream error received";
        assert_eq!(cancelled.message(), says);
        assert_eq!(connection.held.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_request_that_is_too_large_fails_and_one_without_identity_may_have_less() {
        let connection = connection(1 << 20);
        for (public, max) in [(false, 100), (true, 10)] {
            for (bytes, fits) in [(max + PREFIX_BYTES, true), (max + PREFIX_BYTES + 1, false)] {
                let (request, _) = admit(body(bytes), public, &connection, &limits()).unwrap();
                assert_eq!(request.into_body().collect().await.is_ok(), fits, "{bytes}");
            }
        }
        assert_eq!(connection.held.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_request_keeps_nothing_but_the_bytes_that_are_counted_for_it() {
        let read = Arc::new(vec![7_u8; 16 << 10]);
        let frame = Bytes::from_owner(Shared(Arc::clone(&read))).slice(100..101);
        let (request, _) =
            admit(Request::new(Full::new(frame)), false, &connection(1 << 20), &limits()).unwrap();
        let body = request.into_body().collect().await.unwrap();
        assert_eq!(Arc::strong_count(&read), 1, "what was read from the socket is released");
        assert_eq!(body.to_bytes()[..], [7]);
    }

    #[tokio::test]
    async fn a_connection_holds_at_most_its_limit_and_gets_it_back() {
        let connection = connection(100);
        let (first, _) = admit(body(90), false, &connection, &limits()).unwrap();
        let (second, _) = admit(body(90), false, &connection, &limits()).unwrap();
        let mut first = first.into_body();
        first.frame().await.unwrap().unwrap();
        let refused = second.into_body().collect().await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        drop(first);
        let (third, _) = admit(body(90), false, &connection, &limits()).unwrap();
        third.into_body().collect().await.unwrap();
        admit(body(1), true, &connection, &limits()).unwrap_err();
        connection.set_limit(1 << 20);
        let (_, response) = admit(body(1), true, &connection, &limits()).unwrap();
        assert_eq!(connection.held.load(Ordering::Relaxed), PUBLIC_CALL_BYTES);
        drop(response);
        assert_eq!(connection.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn all_connections_of_a_server_hold_at_most_its_limit_and_those_of_an_address_half() {
        let server = ServerBytes::new(200);
        let connection = |last| ConnectionBytes::new(90, address(last), &server);
        let [one, same, other, third] = [1, 1, 2, 3].map(connection);
        let held = one.hold(80).unwrap();
        assert!(matches!(one.hold(11), Err(Refusal::TooManyBytes { limit: 90 })));
        assert!(matches!(same.hold(21), Err(Refusal::TooManyBytes { limit: 100 })));
        let rest = [same.hold(20).unwrap(), other.hold(90).unwrap()];
        assert!(matches!(third.hold(11), Err(Refusal::TooManyBytes { limit: 200 })));
        third.hold(10).unwrap();
        drop((held, rest));
        third.hold(90).unwrap();
        assert!(server.lock().by_origin.is_empty(), "no address is remembered without bytes");
    }
    #[test]
    fn held_bytes_grow_and_shrink_within_the_limits() {
        let server = ServerBytes::new(200);
        let [one, other] = [1, 2].map(|last| ConnectionBytes::new(100, address(last), &server));
        let mut held = one.hold(10).unwrap();
        held.resize(100).unwrap();
        held.resize(101).unwrap_err();
        held.resize(1).unwrap();
        let rest = one.hold(99).unwrap();
        one.hold(1).unwrap_err();
        drop((held, rest));
        drop(one.hold(100).unwrap());
        other.hold(100).unwrap();
    }
}
