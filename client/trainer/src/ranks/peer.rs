//! A watched connection: what is said on it, and what its silence means.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// Kind, rank, number or length.
const HEAD: usize = 1 + 4 + 8;

/// Bytes of a reason, at most.
pub(super) const REASON: usize = 1 << 12;

/// A rank lives and has begun so many exchanges.
pub(super) const ALIVE: u8 = 1;
/// A rank was lost or failed; a reason of so many bytes follows.
pub(super) const FAILED: u8 = 2;
/// The sender has finished: that it is gone is no loss.
pub(super) const FINISHED: u8 = 3;

/// One connection.
pub(super) struct Peer {
    pub(super) rank: u32,
    stream: TcpStream,
    inbox: Vec<u8>,
    /// Ticks since it was heard.
    silent: u64,
    /// Exchanges that it has begun.
    pub(super) calls: u64,
    pub(super) finished: bool,
}

impl Peer {
    pub(super) fn new(rank: u32, stream: TcpStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self { rank, stream, inbox: Vec::new(), silent: 0, calls: 0, finished: false })
    }

    /// Says something. A connection that takes nothing is that of a rank whose silence will be noticed.
    pub(super) fn say(&self, kind: u8, rank: u32, number: u64, text: &[u8]) {
        let mut message = vec![kind];
        message.extend(rank.to_le_bytes());
        message.extend(number.to_le_bytes());
        message.extend(text);
        (&self.stream).write_all(&message).ok();
    }

    /// Takes what came; gives the rank that failed or was lost.
    pub(super) fn hear(&mut self) -> Option<(u32, String)> {
        let mut bytes = [0; 1 << 10];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => {
                    return self.read().or_else(|| self.lost(""));
                }
                Ok(count) => {
                    self.inbox.extend(&bytes[..count]);
                    self.silent = 0;
                    if let Some(failure) = self.read() {
                        return Some(failure);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return self.lost(&format!(": {error}")),
            }
        }
    }

    /// Reads whole messages; gives a failure that one of them tells.
    fn read(&mut self) -> Option<(u32, String)> {
        while let Some((head, rest)) = self.inbox.split_at_checked(HEAD) {
            let rank = u32::from_le_bytes(head[1..5].try_into().expect("4 bytes"));
            let number = u64::from_le_bytes(head[5..].try_into().expect("8 bytes"));
            let mut length = 0;
            match head[0] {
                ALIVE => self.calls = number,
                FINISHED => self.finished = true,
                FAILED if number <= REASON as u64 => {
                    length = usize::try_from(number).expect("at most REASON");
                    let reason = rest.get(..length)?;
                    return Some((rank, String::from_utf8_lossy(reason).into_owned()));
                }
                _ => return Some((self.rank, "it speaks another protocol".to_owned())),
            }
            self.inbox.drain(..HEAD + length);
        }
        None
    }

    fn lost(&self, how: &str) -> Option<(u32, String)> {
        let problem = format!(
            "lost: its connection closed without a word; it was killed, or its machine is gone{how}"
        );
        (!self.finished).then_some((self.rank, problem))
    }

    /// Counts a tick, of which so many may pass in silence.
    pub(super) fn silence(&mut self, most: u64, time: Duration) -> Option<(u32, String)> {
        self.silent += 1;
        let problem = || {
            let seconds = time.as_secs();
            format!(
                "lost: no sign of life for {seconds} s; its machine or the network stands still"
            )
        };
        (self.silent > most && !self.finished).then(|| (self.rank, problem()))
    }
}
