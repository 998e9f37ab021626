//! Admission control: the gates that a request passes, in order.
//!
//! ```text
//! connection ─> call ─> stream ─> for each microbatch: window ─> buffer ─> submission ─> queue ─> delivery
//!   1, 2, 3     4 to 7   8, 9                            10        11         12         13, 14      15
//! ```
//!
//! | # | gate | what is bounded | setting | what the client gets at the limit |
//! |---|------|-----------------|---------|-----------------------------------|
//! | 1 | connection | connections that have not authenticated, half of them of one address; as many as half of the bytes of gate 4 are enough for | `--max-unauthenticated` | the oldest one is closed |
//! |   |            | connections that have authenticated | `--max-connections` | the longest idle one is closed; without any, one of the identity or address that has most, if that is more than the client has; otherwise `RESOURCE_EXHAUSTED` with `RetryInfo` |
//! | 2 | handshake | time until TLS and HTTP/2 have begun | `--handshake-timeout` | connection closed |
//! | 3 | idle | time until a connection has authenticated | `--authentication-timeout` | connection closed |
//! |   |      | time without an authenticated call | `--idle-timeout` | connection closed |
//! | 4 | call | calls of a connection (128), bytes of headers (16 KiB) | fixed | HTTP/2 holds the call back, or resets it |
//! |   |      | frames beyond those that a connection earns by calls and bytes taken: 1000, and 50 a second | fixed | connection closed |
//! |   |      | bytes that a connection holds in requests and answers: 4 MiB, and 256 KiB until it has authenticated; all connections: an eighth of the memory, at most 256 MiB, and those of one address half of that | fixed, `--memory` | `RESOURCE_EXHAUSTED` with `RetryInfo` |
//! | 5 | identity | who may call | `--token-file`, `--tls-client-ca` | `UNAUTHENTICATED`, or no handshake |
//! | 6 | request | bytes (64 KiB; 4 KiB for health and reflection), time to its end (10 s), steps, selection, header and memory of its microbatches (half of the buffers) | fixed, `--buffer-bytes` | `INVALID_ARGUMENT`; too late: `DEADLINE_EXCEEDED` |
//! | 7 | shutdown | new streams while draining | SIGTERM | `UNAVAILABLE` |
//! | 8 | stream | streams of the server, calls of Explain included | `--max-streams` | `RESOURCE_EXHAUSTED` with `RetryInfo` |
//! | 9 | identity's streams | streams of one identity | `--identity-streams`, `[identities]` | `RESOURCE_EXHAUSTED` with `RetryInfo` |
//! | 10 | window | microbatches ahead of a stream's reader | `--window-bytes`, `window_bytes` of the request | stream waits |
//! | 11 | buffer | share of the buffers, by the reader's speed; three quarters for one client while others have streams | `--buffer-bytes`, `--slow-after` | stream waits |
//! |    | lease | microbatches that clients of this host have in the server's memory, returned or not: half of the buffers, five eighths together with those of slow readers; of a stream its largest window and one more | `--buffer-bytes`, `--window-bytes` | frames; if it has others of the stream and does not need the next one, the stream waits |
//! | 12 | submission | microbatches of a stream in the queue (8, and at most those of its client) | fixed, `--max-queued` | stream waits |
//! | 13 | queue | outstanding microbatches of one client | `--max-queued` | `RESOURCE_EXHAUSTED` with `RetryInfo` |
//! | 14 | pool | bytes of all buffers, in order of the makers | `--buffer-bytes` | makers wait, and with them the stream |
//! | 15 | delivery | time that the reader accepts no data | `--stall-timeout` | `UNAVAILABLE`, then a reset |
//! |    |          | time that the end of a response is not taken | `--stall-timeout` | a reset, then connection closed |
//! |    |          | time that a slow reader keeps a buffer that others wait for | `--slow-after` | `RESOURCE_EXHAUSTED` with `RetryInfo` |
//!
//! Gates 1, 4, 6, 8 to 12 and 15 are in this module; 2 and 3 are in `connection.rs`, 5 in `access`, the
//! fields of gate 6 in `request.rs`, 7 in `service.rs`, 13 and 14 in the pipeline. Gates 1 to 4 and 6 hold
//! for every route, health and reflection included, which have no gate 5.
//!
//! An address is that of a peer over TCP, or the user of a peer over a Unix socket.
//!
//! A connection has authenticated once its certificate or the token of a call was accepted; where calls
//! need neither, once it has made a valid call.
//!
//! Describe and Explain are made on threads of their own, of lower priority, two of each at once, and of one
//! identity or address one; others wait in order. Their answers have at most 3 MiB and about 1 MiB, and clients
//! request the rest. What a connection may not hold is not made.
//!
//! A call that is refused at gates 5 to 9 holds no buffer and no place in the queue. A stream that
//! waits at gates 10 to 14 holds only what it acquired at earlier gates, and permits are always
//! acquired in this order, so that two streams cannot wait for each other. Every permit is released
//! by its `Drop`, so a stream returns everything that it held, however it ends.

mod budget;
mod buffers;
mod connections;
mod frames;
mod limits;
mod origin;
mod request;
mod slots;
mod stream;
mod stream_buffers;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use crate::low_priority::LowPriority;
use crate::status::Refusal;
use buffers::BufferAdmission;
pub(crate) use connections::{Connections, Place, Places};
pub(crate) use frames::{FrameBudget, FrameCounter, PREFACE_BYTES};
pub(crate) use limits::StreamLimits;
pub use limits::{IdentityLimits, Limits};
pub(crate) use origin::Origin;
use request::ServerBytes;
pub(crate) use request::{ConnectionBytes, CountedBody, HeldBytes, admit};
pub(crate) use slots::StreamSlot;
use slots::StreamSlots;
pub(crate) use stream::{KeptPermit, Lending, LentPermit, MicrobatchPermit, StreamAdmission};
pub(crate) use stream_buffers::Delivery;
pub(crate) use turns::Turns;

/// Time that a connection has to make a call before it can be closed for another one.
const MIN_AGE: Duration = Duration::from_millis(100);

/// Answers to Describe, and to Explain, that are made at once.
const MAX_ANSWERS: usize = 2;

/// Niceness of the threads that make answers to Describe, above that of the process: where the workers want every core,
/// a trainer that starts gets its description from a tenth of one.
const DESCRIBE_NICENESS: i32 = 10;

/// The same for Explain. Plans of huge microbatches cost much, and people wait for them, not trainers: where the workers
/// want every core, a thread gets a sixty-eighth of one.
const EXPLAIN_NICENESS: i32 = 19;

/// The gates of a server.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) limits: Limits,
    pub(crate) connections: Arc<Connections>,
    streams: Arc<StreamSlots>,
    server_bytes: Arc<ServerBytes>,
    /// Turns of answers to Describe.
    pub(crate) describing: Turns,
    /// Turns of answers to Explain.
    pub(crate) explaining: Turns,
    buffers: Arc<BufferAdmission>,
    /// Bytes of all buffers; 0 for no limit.
    buffer_bytes: u64,
}

impl Admission {
    /// The gates of a server whose buffers have `buffer_bytes` in total; 0 for no limit.
    pub(crate) fn new(limits: Limits, buffer_bytes: u64) -> Self {
        // However little memory a server has, half of what it has for messages is for those that have
        // authenticated.
        let places = limits.server_bytes / 2 / limits.unauthenticated_bytes.max(1);
        let unauthenticated = limits.max_unauthenticated.min(places.max(2));
        Self {
            connections: Connections::new(Places {
                unauthenticated,
                of_address: unauthenticated.div_ceil(2),
                min_age: MIN_AGE,
                authenticated: limits.max_connections,
            }),
            streams: Arc::new(StreamSlots::new(limits.max_streams)),
            server_bytes: ServerBytes::new(limits.server_bytes),
            describing: Turns::new(LowPriority::new("describe", DESCRIBE_NICENESS, MAX_ANSWERS)),
            explaining: Turns::new(LowPriority::new("explain", EXPLAIN_NICENESS, MAX_ANSWERS)),
            buffers: Arc::new(BufferAdmission::new(buffer_bytes)),
            buffer_bytes,
            limits,
        }
    }

    /// The bytes of a new connection, which has not authenticated.
    pub(crate) fn connection_bytes(&self, origin: Origin) -> Arc<ConnectionBytes> {
        ConnectionBytes::new(self.limits.unauthenticated_bytes, origin, &self.server_bytes)
    }

    /// A slot for a stream of an identity. `retry_after` is the delay that a refused client gets.
    ///
    /// # Errors
    /// When the server or the identity is at its limit of streams.
    pub(crate) fn stream(
        &self,
        identity: &Arc<str>,
        limits: StreamLimits,
        retry_after: impl FnOnce() -> Duration,
    ) -> Result<StreamSlot, Refusal> {
        self.streams.acquire(identity, limits.max_streams, retry_after)
    }

    /// Checks the bytes of the microbatches of a stream: what a slow reader may hold, half of the buffers,
    /// must suffice for one. Otherwise a single one would keep all others waiting while it is read.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if they are too large.
    pub(crate) fn check(&self, microbatch_bytes: u64) -> Result<(), Refusal> {
        let most = self.buffer_bytes / 2;
        if self.buffer_bytes > 0 && microbatch_bytes > most {
            let what = format!(
                "{microbatch_bytes} bytes (expected at most half of the buffers, {most}: use more microbatches \
                 or a smaller dtype, or raise --buffer-bytes or --memory)"
            );
            return Err(Refusal::invalid("size of a microbatch", what));
        }
        Ok(())
    }

    /// The gates of the microbatches of a stream, of `microbatch_bytes` each: at most `max_window` are
    /// ahead of the reader, and at most `max_queued` in the queue.
    pub(crate) fn microbatches(
        &self,
        client: Arc<str>,
        max_window: usize,
        microbatch_bytes: u64,
        max_queued: usize,
    ) -> StreamAdmission {
        let slow_after = self.limits.slow_after;
        let buffers = self.buffers.open(&client, slow_after, max_window, microbatch_bytes);
        let all_buffers = Arc::clone(&self.buffers);
        StreamAdmission::new(client, all_buffers, buffers, self.limits.stall_timeout, max_queued)
    }

    /// Number of open streams.
    pub(crate) fn open_streams(&self) -> usize {
        self.streams.open()
    }

    /// Waits until no stream is open. Must not be called while streams are still admitted.
    pub(crate) async fn all_streams_closed(&self) {
        self.streams.all_closed().await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[tokio::test]
    async fn connections_that_have_not_authenticated_hold_at_most_half_of_what_a_server_has() {
        let limits =
            Limits { server_bytes: 4 << 20, unauthenticated_bytes: 1 << 20, ..Limits::default() };
        let admission = Admission::new(limits, 0);
        let mut places = Vec::new();
        for last in 0..3 {
            places.push(admission.connections.place(IpAddr::from([10, 0, 0, last]).into()).await);
        }
        places[0].evicted().await;
    }

    #[test]
    fn a_microbatch_may_take_half_of_the_buffers() {
        let refused =
            |buffers, bytes| Admission::new(Limits::default(), buffers).check(bytes).err();
        assert!(refused(100, 50).is_none() && refused(0, u64::MAX).is_none());
        let refused = refused(100, 51).unwrap();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        let text = refused.to_string();
        assert!(text.contains("51 bytes") && text.contains("half of the buffers, 50"), "{text}");
    }
}
