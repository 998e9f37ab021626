//! A socket that fails if its peer accepts no data, does not begin HTTP/2, or sends too many frames.
//!
//! HTTP/2's keep-alive does not help while the socket's buffer is full: the connection then waits to
//! send its GOAWAY and keeps the slices of payloads that it was about to write. Nor does it help before
//! HTTP/2 has begun.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use forebay_types::settings::TimeSpan;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::admission::{FrameBudget, FrameCounter, PREFACE_BYTES};

/// The transport of a connection: TCP, TLS over TCP, or a Unix socket.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Transport for S {}

/// A stream whose writes fail once the peer has accepted no data for a while, and whose reads fail if
/// the peer does not begin HTTP/2 in time, or sends more frames than it may.
pub(crate) struct Socket {
    stream: Box<dyn Transport>,
    preface_timeout: Duration,
    write_timeout: Duration,
    /// Expires when the preface is overdue, and `write_timeout` after the first write that had to wait.
    deadline: Pin<Box<Sleep>>,
    /// Whether the last write had to wait.
    blocked: bool,
    /// Bytes of the preface not yet received. From then on keep-alive detects dead peers.
    preface_left: usize,
    counter: FrameCounter,
    frames: Arc<FrameBudget>,
}

impl Socket {
    /// The peer has `preface_timeout` to begin HTTP/2, and may accept no data for `write_timeout`.
    pub(crate) fn new(
        stream: Box<dyn Transport>,
        preface_timeout: Duration,
        write_timeout: Duration,
        frames: Arc<FrameBudget>,
    ) -> Self {
        Self {
            stream,
            preface_timeout,
            write_timeout,
            deadline: Box::pin(sleep(preface_timeout)),
            blocked: false,
            preface_left: PREFACE_BYTES,
            counter: FrameCounter::new(),
            frames,
        }
    }

    /// Counts bytes that the peer takes.
    fn earn(&self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = written {
            self.frames.earn_bytes(*bytes);
        }
    }

    /// Fails once the deadline has passed, saying what the peer did not do within `limit`.
    fn poll_deadline<T>(
        &mut self,
        context: &mut Context<'_>,
        missed: &str,
        limit: Duration,
    ) -> Poll<io::Result<T>> {
        self.deadline.as_mut().poll(context).map(|()| {
            let message = format!("the peer {missed} within {}", TimeSpan(limit));
            Err(io::Error::new(io::ErrorKind::TimedOut, message))
        })
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
        self.poll_deadline(context, "accepted no data", self.write_timeout)
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
        let received = &buffer.filled()[before..];
        self.preface_left = self.preface_left.saturating_sub(received.len());
        let frames = self.counter.count(received);
        if frames > 0 && !self.frames.spend(frames) {
            return Poll::Ready(Err(io::Error::other("the peer sent too many frames")));
        }
        if read.is_pending() && self.preface_left > 0 {
            let limit = self.preface_timeout;
            return self.poll_deadline(context, "did not begin HTTP/2", limit);
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
        self.earn(&written);
        self.check_write(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.earn(&written);
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_timeout_says_what_the_peer_did_not_do_and_its_limit() {
        let (stream, _silent) = duplex(8);
        let [short, long] = [10, 60].map(Duration::from_secs);
        let mut socket = Socket::new(Box::new(stream), short, long, Arc::new(FrameBudget::new()));
        let read = socket.read(&mut [0; 99]).await.unwrap_err().to_string();
        assert_eq!(read, "the peer did not begin HTTP/2 within 10s");
        let written = socket.write_all(&[0; 99]).await.unwrap_err().to_string();
        assert_eq!(written, "the peer accepted no data within 1m");
    }
}
