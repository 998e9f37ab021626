//! The messages that processes exchange when they join.
//!
//! ```text
//!   rank r -> rank 0   Hello { rank, world, port, settings }     port: where r accepts its ring link
//!   rank 0 -> rank r   Welcome { token, next } or Refused { rank, problem }
//!   rank r -> r + 1    Link { token, rank }                      becomes the ring link
//! ```

use std::io::{Error as IoError, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use forebay_types::settings::TimeSpan;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Prefix of every message, by which connections of other programs are recognized.
const MAGIC: &[u8; 16] = b"forebay ranks 2\n";

/// Length of the prefix with the length of the text after it.
const HEADER: usize = MAGIC.len() + 4;

/// Maximum length of a message.
const MAX_BYTES: usize = 1 << 16;

/// Maximum length of the reason for a refusal, in characters.
const MAX_PROBLEM: usize = 1000;

#[derive(Debug, Deserialize, Serialize)]
pub(super) enum Handshake {
    Hello { rank: u32, world: u32, port: u16, settings: Value },
    Welcome { token: u64, next: Option<SocketAddr> },
    Refused { rank: u32, problem: String },
    Link { token: u64, rank: u32 },
}

pub(super) fn send(stream: &mut TcpStream, message: &Handshake) -> std::io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).map_err(IoError::other)?;
    stream.write_all(&[&MAGIC[..], &length.to_le_bytes(), &text].concat())
}

/// Sends a refusal, as far as the socket takes it without waiting: a process that reads nothing must not keep
/// the ranks waiting. A new socket takes a whole refusal.
pub(super) fn refuse(stream: &mut TcpStream, rank: u32, problem: &str) {
    let refused = Handshake::Refused { rank, problem: problem.to_owned() };
    // A process that is gone by now needs no reason.
    stream.set_nonblocking(true).and_then(|()| send(stream, &refused)).ok();
}

/// The start of a text that may quote what another process sent.
pub(super) fn shortened(text: &str) -> String {
    text.chars().take(MAX_PROBLEM).collect()
}

/// Receives one message. Fails on anything else, and when the message does not arrive in time.
pub(super) fn recv(stream: &mut TcpStream, timeout: Duration) -> std::io::Result<Handshake> {
    recv_before(stream, Instant::now() + timeout).map_err(|error| with_limit(error, timeout))
}

/// Adds the limit that has passed to the error of a socket operation with a timeout, because the
/// operating system's message does not say it.
pub(super) fn with_limit(error: IoError, limit: Duration) -> IoError {
    if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) {
        let message = format!("timed out after {}", TimeSpan(limit));
        return IoError::new(ErrorKind::TimedOut, message);
    }
    error
}

/// A slow sender cannot extend the deadline with single bytes.
fn recv_before(stream: &mut TcpStream, deadline: Instant) -> std::io::Result<Handshake> {
    stream.set_nonblocking(false)?;
    let mut partial = Partial::default();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        if let Some(message) = partial.read(stream)? {
            return Ok(message);
        }
    }
}

/// The bytes of a message that have arrived.
#[derive(Default)]
pub(super) struct Partial(Vec<u8>);

impl Partial {
    /// Reads from the stream once, and nothing beyond the message. Returns the message when it is complete.
    pub(super) fn read(&mut self, stream: &mut TcpStream) -> std::io::Result<Option<Handshake>> {
        let mut bytes = [0; 1 << 12];
        let length = self.missing()?.min(bytes.len());
        match stream.read(&mut bytes[..length]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.0.extend(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if self.missing()? > 0 {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&self.0[HEADER..])?))
    }

    /// The number of bytes after which more is known: those of the prefix, then those of the text.
    fn missing(&self) -> std::io::Result<usize> {
        let Some((header, text)) = self.0.split_at_checked(HEADER) else {
            return Ok(HEADER - self.0.len());
        };
        let (magic, length) = header.split_at(MAGIC.len());
        let length = u32::from_le_bytes(length.try_into().expect("4 bytes")) as usize;
        if magic != MAGIC || length > MAX_BYTES {
            return Err(IoError::new(
                ErrorKind::InvalidData,
                "not a handshake of this version of forebay-trainer",
            ));
        }
        Ok(length - text.len())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_error_for_a_silent_process_says_the_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let error = recv(&mut stream, Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.to_string(), "timed out after 20ms");
    }

    #[test]
    fn a_refusal_does_not_wait_for_a_process_that_reads_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        while stream.write(&[0; 1 << 12]).is_ok() {}
        stream.set_nonblocking(false).unwrap();
        refuse(&mut stream, 1, &shortened(&"x".repeat(MAX_BYTES)));
        drop(silent);

        let mut reader = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        refuse(&mut stream, 1, "another world");
        let refused = recv(&mut reader, Duration::from_mins(5)).unwrap();
        let Handshake::Refused { rank: 1, problem } = refused else { panic!("{refused:?}") };
        assert_eq!(problem, "another world");
    }
}
