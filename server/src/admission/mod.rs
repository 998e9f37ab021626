//! Admission control: the gates that a request passes, in order.
//!
//! ```text
//! connection ─> call ─> stream ─> for each microbatch: window ─> buffer ─> submission ─> queue ─> delivery
//!   1, 2, 3     4 to 7   8, 9                            10        11         12         13, 14      15
//! ```
//!
//! | # | gate | what is bounded | setting | what the client gets at the limit |
//! |---|------|-----------------|---------|-----------------------------------|
//! | 1 | connection | connections | `--max-connections` | waits to be accepted |
//! | 2 | handshake | time until TLS and HTTP/2 have begun | `--handshake-timeout` | connection closed |
//! | 3 | idle | time without an authenticated call | `--idle-timeout` | connection closed |
//! | 4 | call | calls of a connection (128), bytes of headers (16 KiB) | fixed | HTTP/2 holds the call back, or resets it |
//! | 5 | identity | who may call | `--token-file`, `--tls-client-ca` | `UNAUTHENTICATED`, or no handshake |
//! | 6 | request | bytes (64 KiB), time to arrive (10 s), steps, selection | fixed | `INVALID_ARGUMENT` |
//! | 7 | shutdown | new streams while draining | SIGTERM | `UNAVAILABLE` |
//! | 8 | stream | streams of the server | `--max-streams` | `RESOURCE_EXHAUSTED` with `RetryInfo` |
//! | 9 | identity's streams | streams of one identity | `--identity-streams`, `[identities]` | `RESOURCE_EXHAUSTED` with `RetryInfo` |
//! | 10 | window | microbatches ahead of a stream's reader | `--ahead-bytes`, `credit_bytes` of the request | stream waits |
//! | 11 | buffer | share of the buffers, by the reader's speed | `--buffer-bytes`, `--slow-after` | stream waits |
//! | 12 | submission | microbatches of a stream in the queue (8) | fixed | stream waits |
//! | 13 | queue | outstanding microbatches of one client | `--max-queued` | `RESOURCE_EXHAUSTED` with `RetryInfo` |
//! | 14 | pool | bytes of all buffers | `--buffer-bytes` | workers wait, and with them the stream |
//! | 15 | delivery | time that the reader accepts no data | `--stall-timeout` | `UNAVAILABLE`, then a reset |
//! |    |          | time that a slow reader keeps a buffer that others wait for | `--slow-after` | `RESOURCE_EXHAUSTED` with `RetryInfo` |
//!
//! Gates 1, 8 to 12 and 15 are in this module; 2, 3 and 4 are in `connection.rs`, 5 in `access`, 6 in
//! `grpc.rs` and `request.rs`, 7 in `service.rs`, 13 and 14 in the pipeline.
//!
//! A call that is refused at gates 5 to 9 holds no buffer and no place in the queue. A stream that
//! waits at gates 10 to 14 holds only what it acquired at earlier gates, and permits are always
//! acquired in this order, so that two streams cannot wait for each other. Every permit is released
//! by its `Drop`, so a stream returns everything that it held, however it ends.

mod budget;
mod buffers;
mod limits;
mod slots;
mod stream;
mod stream_buffers;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::status::Refusal;
use budget::acquire_permit;
use buffers::BufferAdmission;
pub(crate) use limits::StreamLimits;
pub use limits::{IdentityLimits, Limits};
pub(crate) use slots::StreamSlot;
use slots::StreamSlots;
pub(crate) use stream::{MicrobatchPermit, StreamAdmission};

/// The gates of a server.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) limits: Limits,
    connections: Arc<Semaphore>,
    streams: Arc<StreamSlots>,
    buffers: Arc<BufferAdmission>,
}

impl Admission {
    /// The gates of a server whose buffers have `buffer_bytes` in total; 0 for no limit.
    pub(crate) fn new(limits: Limits, buffer_bytes: u64) -> Self {
        let max_connections = limits.max_connections.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            connections: Arc::new(Semaphore::new(max_connections)),
            streams: Arc::new(StreamSlots::new(limits.max_streams)),
            buffers: Arc::new(BufferAdmission::new(buffer_bytes)),
            limits,
        }
    }

    /// Waits until another connection may be accepted.
    pub(crate) async fn connection(&self) -> OwnedSemaphorePermit {
        acquire_permit(&self.connections).await
    }

    /// A slot for a stream of an identity. `retry_after` is the delay that a refused client is told.
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

    /// The gates of the microbatches of a stream: at most `max_ahead` microbatches of
    /// `microbatch_bytes` each are ahead of the reader.
    pub(crate) fn microbatches(
        &self,
        client: Arc<str>,
        max_ahead: usize,
        microbatch_bytes: u64,
    ) -> StreamAdmission {
        let slow_after = self.limits.slow_after;
        let buffers = self.buffers.open(&client, slow_after, max_ahead, microbatch_bytes);
        StreamAdmission::new(client, Arc::clone(&self.buffers), buffers, self.limits.stall_timeout)
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
