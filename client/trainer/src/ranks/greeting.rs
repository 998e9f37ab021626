//! What processes say to each other when they meet.
//!
//! ```text
//!   rank r -> rank 0   Hello { rank, world, port, settings }     port: where r awaits its ring link
//!   rank 0 -> rank r   Welcome { token, next } or Refused { problem }
//!   rank r -> r + 1    Join { token, rank }                      the ring link
//! ```

use std::io::{Error as IoError, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Begins each greeting, so that strangers are recognised.
const MAGIC: &[u8; 16] = b"forebay ranks 1\n";

/// Bytes of a greeting, at most.
const LONGEST: usize = 1 << 16;

#[derive(Debug, Deserialize, Serialize)]
pub(super) enum Greeting {
    Hello { rank: u32, world: u32, port: u16, settings: Value },
    Welcome { token: u64, next: Option<SocketAddr> },
    Refused { rank: u32, problem: String },
    Join { token: u64, rank: u32 },
}

pub(super) fn say(stream: &mut TcpStream, greeting: &Greeting) -> std::io::Result<()> {
    let text = serde_json::to_vec(greeting)?;
    let length = u32::try_from(text.len()).map_err(IoError::other)?;
    stream.write_all(&[&MAGIC[..], &length.to_le_bytes(), &text].concat())
}

/// The next greeting. A stranger's is an error, and so is one that does not come in time.
pub(super) fn hear(stream: &mut TcpStream, wait: Duration) -> std::io::Result<Greeting> {
    stream.set_nonblocking(false)?;
    let deadline = Instant::now() + wait;
    let mut head = [0; MAGIC.len() + 4];
    read(stream, &mut head, deadline)?;
    let (magic, length) = head.split_at(MAGIC.len());
    let length = u32::from_le_bytes(length.try_into().expect("4 bytes")) as usize;
    if magic != MAGIC || length > LONGEST {
        return Err(IoError::new(ErrorKind::InvalidData, "no greeting of a rank"));
    }
    let mut text = vec![0; length];
    read(stream, &mut text, deadline)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Reads so many bytes, all before the deadline.
fn read(stream: &mut TcpStream, mut bytes: &mut [u8], deadline: Instant) -> std::io::Result<()> {
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
