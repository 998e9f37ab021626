//! A socket that gives up on a peer who takes nothing.
//!
//! HTTP/2's keep-alive does not help where the socket's buffer is full: the connection then waits to
//! send its last words, and keeps the pieces of slabs that it was about to write.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// What an HTTP/2 client says first (RFC 9113, section 3.4). Keep-alive watches over it from then on.
const PREFACE_BYTES: usize = 24;

/// A stream whose writes fail once the peer has taken nothing for a while, and whose reads fail if it
/// does not even introduce itself in that time.
pub(crate) struct Socket {
    stream: TcpStream,
    patience: Duration,
    /// Ends `patience` after the peer connected, and after it stopped to take.
    limit: Pin<Box<Sleep>>,
    /// Whether the last write had to wait.
    blocked: bool,
    /// Bytes of the preface not yet received.
    unheard: usize,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            limit: Box::pin(sleep(patience)),
            blocked: false,
            unheard: PREFACE_BYTES,
        }
    }

    fn give_up<T>(&mut self, context: &mut Context<'_>, what: &str) -> Poll<io::Result<T>> {
        self.limit.as_mut().poll(context).map(|()| {
            let what = format!("the peer {what} nothing for {:?}", self.patience);
            Err(io::Error::new(io::ErrorKind::TimedOut, what))
        })
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
        self.give_up(context, "took")
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
            return self.give_up(context, "said");
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
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
