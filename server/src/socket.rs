//! A socket that times out if its peer accepts no data, or does not begin HTTP/2.
//!
//! HTTP/2's keep-alive does not help while the socket's buffer is full: the connection then waits to
//! send its GOAWAY and keeps the slices of payloads that it was about to write. Nor does it help before
//! HTTP/2 has begun.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Length of the preface that an HTTP/2 client sends first (RFC 9113, section 3.4). From then on
/// keep-alive detects dead peers.
const PREFACE_BYTES: usize = 24;

/// The transport of a connection: TCP, or TLS over TCP.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Transport for S {}

/// A stream whose writes fail once the peer has accepted no data for a while, and whose reads fail if
/// the peer does not begin HTTP/2 in time.
pub(crate) struct Socket {
    stream: Box<dyn Transport>,
    write_timeout: Duration,
    /// Expires when the preface is overdue, and `write_timeout` after the first write that had to wait.
    deadline: Pin<Box<Sleep>>,
    /// Whether the last write had to wait.
    blocked: bool,
    /// Bytes of the preface not yet received.
    preface_left: usize,
}

impl Socket {
    /// The peer has `preface_timeout` to begin HTTP/2, and may accept no data for `write_timeout`.
    pub(crate) fn new(
        stream: impl Transport + 'static,
        preface_timeout: Duration,
        write_timeout: Duration,
    ) -> Self {
        Self {
            stream: Box::new(stream),
            write_timeout,
            deadline: Box::pin(sleep(preface_timeout)),
            blocked: false,
            preface_left: PREFACE_BYTES,
        }
    }

    fn poll_deadline<T>(&mut self, context: &mut Context<'_>, what: &str) -> Poll<io::Result<T>> {
        self.deadline
            .as_mut()
            .poll(context)
            .map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, what)))
    }

    /// Returns the result of a write, or an error if it has waited for too long.
    fn check_write<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.blocked = false;
            return written;
        }
        if !self.blocked {
            self.blocked = true;
            self.deadline.as_mut().reset(Instant::now() + self.write_timeout);
        }
        self.poll_deadline(context, "the peer accepted no data for too long")
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.preface_left = self.preface_left.saturating_sub(buffer.filled().len() - before);
        if read.is_pending() && self.preface_left > 0 {
            return self.poll_deadline(context, "the peer did not begin HTTP/2 in time");
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.check_write(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.check_write(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS may have buffered bytes.
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.check_write(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.check_write(context, shut)
    }
}
