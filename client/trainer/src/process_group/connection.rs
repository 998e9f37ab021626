//! One heartbeat connection between two ranks: its messages, and how a lost rank is detected.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use forebay_types::settings::TimeSpan;

/// Length of a header: the kind of message, a rank, and a number whose meaning depends on the kind.
const HEADER: usize = 1 + 4 + 8;

/// Maximum length of a reason in bytes.
pub(super) const MAX_REASON: usize = 1 << 12;

/// The sender is alive; the number counts the collective operations that it has started.
pub(super) const HEARTBEAT: u8 = 1;
/// A rank was lost or failed; the number is the length of the reason that follows.
pub(super) const FAILED: u8 = 2;
/// The sender has finished, so that its disconnect is not a failure.
pub(super) const FINISHED: u8 = 3;
/// A rank was asked to stop, and all of them should.
pub(super) const STOP: u8 = 4;

/// A connection to another rank.
pub(super) struct Connection {
    pub(super) rank: u32,
    stream: TcpStream,
    inbox: Vec<u8>,
    /// Ticks since the last byte was received.
    ticks_silent: u64,
    /// Collective operations that the other rank has started.
    pub(super) operations: u64,
    pub(super) finished: bool,
    /// Whether the other rank was asked to stop, or knows of one that was.
    pub(super) stops: bool,
}

impl Connection {
    pub(super) fn new(rank: u32, stream: TcpStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            rank,
            stream,
            inbox: Vec::new(),
            ticks_silent: 0,
            operations: 0,
            finished: false,
            stops: false,
        })
    }

    /// Sends a message. A failure is ignored, because the other rank's silence will be noticed.
    pub(super) fn send(&self, kind: u8, rank: u32, number: u64, text: &[u8]) {
        let mut message = vec![kind];
        message.extend(rank.to_le_bytes());
        message.extend(number.to_le_bytes());
        message.extend(text);
        (&self.stream).write_all(&message).ok();
    }

    /// Receives what has arrived. Returns the rank that failed or was lost, with the reason.
    pub(super) fn recv(&mut self) -> Option<(u32, String)> {
        let mut bytes = [0; 1 << 10];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => {
                    return self.parse().or_else(|| self.lost(""));
                }
                Ok(count) => {
                    self.inbox.extend(&bytes[..count]);
                    self.ticks_silent = 0;
                    if let Some(failure) = self.parse() {
                        return Some(failure);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return self.lost(&format!(": {error}")),
            }
        }
    }

    /// Parses complete messages. Returns the failure that one of them reports.
    fn parse(&mut self) -> Option<(u32, String)> {
        while let Some((header, rest)) = self.inbox.split_at_checked(HEADER) {
            let rank = u32::from_le_bytes(header[1..5].try_into().expect("4 bytes"));
            let number = u64::from_le_bytes(header[5..].try_into().expect("8 bytes"));
            let mut length = 0;
            match header[0] {
                HEARTBEAT => self.operations = number,
                FINISHED => self.finished = true,
                STOP => self.stops = true,
                FAILED if number <= MAX_REASON as u64 => {
                    length = usize::try_from(number).expect("at most MAX_REASON");
                    let reason = rest.get(..length)?;
                    return Some((rank, String::from_utf8_lossy(reason).into_owned()));
                }
                _ => {
                    return Some((
                        self.rank,
                        "it sent an unknown message: start all ranks from the same build"
                            .to_owned(),
                    ));
                }
            }
            self.inbox.drain(..HEADER + length);
        }
        None
    }

    fn lost(&self, how: &str) -> Option<(u32, String)> {
        let problem = format!(
            "lost: the connection closed unexpectedly; the process was killed or its machine failed{how}"
        );
        (!self.finished).then_some((self.rank, problem))
    }

    /// Counts a tick. Returns a failure after more than `max_ticks` ticks of silence, which are `timeout`.
    pub(super) fn tick(&mut self, max_ticks: u64, timeout: Duration) -> Option<(u32, String)> {
        self.ticks_silent += 1;
        let problem = || {
            let timeout = TimeSpan(timeout);
            format!(
                "lost: no heartbeat for {timeout}; its process, its machine or the network hangs"
            )
        };
        (self.ticks_silent > max_ticks && !self.finished).then(|| (self.rank, problem()))
    }
}
