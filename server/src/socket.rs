//! A socket that gives up on a peer who takes nothing.
//!
//! HTTP/2's keep-alive does not help where the socket's buffer is full: the connection then waits to
//! send its last words, and keeps the pieces of slabs that it was about to write. Nor does it help
//! before HTTP/2 has begun: whoever connects must introduce himself in time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// What an HTTP/2 client says first (RFC 9113, section 3.4). Keep-alive watches over it from then on.
const PREFACE_BYTES: usize = 24;

/// What a connection's bytes go over: TCP, or TLS over it.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Wire for S {}

/// A stream whose writes fail once the peer has taken nothing for a while, and whose reads fail if it
/// does not even introduce itself in time.
pub(crate) struct Socket {
    stream: Box<dyn Wire>,
    patience: Duration,
    /// Ends when the peer should have introduced itself, and `patience` after it stopped to take.
    limit: Pin<Box<Sleep>>,
    /// Whether the last write had to wait.
    blocked: bool,
    /// Bytes of the preface not yet received.
    unheard: usize,
}

impl Socket {
    /// A peer may take `introduction` to say that it speaks HTTP/2, and nothing for `patience`.
    pub(crate) fn new(
        stream: impl Wire + 'static,
        introduction: Duration,
        patience: Duration,
    ) -> Self {
        Self {
            stream: Box::new(stream),
            patience,
            limit: Box::pin(sleep(introduction)),
            blocked: false,
            unheard: PREFACE_BYTES,
        }
    }

    fn give_up<T>(&mut self, context: &mut Context<'_>, what: &str) -> Poll<io::Result<T>> {
        self.limit
            .as_mut()
            .poll(context)
            .map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, what)))
    }

    /// Passes on what a write came to, or says that it took too long.
    fn judge<T>(
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
            self.limit.as_mut().reset(Instant::now() + self.patience);
        }
        self.give_up(context, "the peer took nothing for too long")
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
        self.unheard = self.unheard.saturating_sub(buffer.filled().len() - before);
        if read.is_pending() && self.unheard > 0 {
            return self.give_up(context, "the peer did not begin HTTP/2 in time");
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
        self.judge(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS has bytes of its own to send.
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.judge(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.judge(context, shut)
    }
}
