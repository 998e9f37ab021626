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

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Prefix of every message, by which connections of other programs are recognized.
const MAGIC: &[u8; 16] = b"forebay ranks 2\n";

/// Maximum length of a message.
const MAX_BYTES: usize = 1 << 16;

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

/// Receives one message. Fails on anything else, and when the message does not arrive in time.
pub(super) fn recv(stream: &mut TcpStream, timeout: Duration) -> std::io::Result<Handshake> {
    stream.set_nonblocking(false)?;
    let deadline = Instant::now() + timeout;
    let mut header = [0; MAGIC.len() + 4];
    read_exact(stream, &mut header, deadline)?;
    let (magic, length) = header.split_at(MAGIC.len());
    let length = u32::from_le_bytes(length.try_into().expect("4 bytes")) as usize;
    if magic != MAGIC || length > MAX_BYTES {
        return Err(IoError::new(
            ErrorKind::InvalidData,
            "not a handshake of this version of forebay-trainer",
        ));
    }
    let mut text = vec![0; length];
    read_exact(stream, &mut text, deadline)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Fills `bytes` before the deadline. A slow sender cannot extend it with single bytes.
fn read_exact(
    stream: &mut TcpStream,
    mut bytes: &mut [u8],
    deadline: Instant,
) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match stream.read(bytes) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => bytes = &mut bytes[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
