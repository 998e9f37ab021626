//! Incoming connections, whose handshakes are read at the same time.
//!
//! A connection that sends nothing, such as one of a port scanner, keeps no rank waiting. Their number is
//! bounded: one more takes the place of the oldest, because a rank sends its handshake as soon as it has
//! connected.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::handshake::{Handshake, Partial};

/// Time that a connection may take to send its handshake.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum number of connections that have not sent their handshake yet.
const MAX_PENDING: usize = 256;

/// Listeners, and connections that have not sent their handshake yet.
pub(super) struct Acceptor {
    listeners: Vec<TcpListener>,
    /// In the order in which they were accepted.
    pending: VecDeque<Pending>,
}

struct Pending {
    stream: TcpStream,
    from: SocketAddr,
    partial: Partial,
    deadline: Instant,
}

/// A connection with its handshake. Reading from it waits.
pub(super) struct Accepted {
    pub(super) handshake: Handshake,
    pub(super) stream: TcpStream,
    pub(super) from: SocketAddr,
}

impl Acceptor {
    pub(super) fn new(listeners: Vec<TcpListener>) -> std::io::Result<Self> {
        for listener in &listeners {
            listener.set_nonblocking(true)?;
        }
        Ok(Self { listeners, pending: VecDeque::new() })
    }

    /// A connection whose handshake has arrived; `None` if there is none at present.
    pub(super) fn poll(&mut self) -> Option<Accepted> {
        for listener in &self.listeners {
            // A flood of connections does not keep those that have been accepted from being read.
            for _ in 0..MAX_PENDING {
                let Ok((stream, from)) = listener.accept() else { break };
                if stream.set_nonblocking(true).is_err() {
                    continue;
                }
                if self.pending.len() == MAX_PENDING {
                    self.pending.pop_front();
                }
                let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
                self.pending.push_back(Pending {
                    stream,
                    from,
                    partial: Partial::default(),
                    deadline,
                });
            }
        }
        let mut at = 0;
        while let Some(pending) = self.pending.get_mut(at) {
            match pending.read() {
                Ok(None) => at += 1,
                Ok(Some(handshake)) => {
                    let Pending { stream, from, .. } = self.pending.remove(at)?;
                    // If this fails, the first message fails as well.
                    stream.set_nonblocking(false).ok();
                    return Some(Accepted { handshake, stream, from });
                }
                Err(error) => {
                    tracing::debug!(from = %pending.from, %error, "not a rank");
                    self.pending.remove(at);
                }
            }
        }
        None
    }
}

impl Pending {
    /// Reads what has arrived. Returns the handshake when it is complete.
    fn read(&mut self) -> std::io::Result<Option<Handshake>> {
        loop {
            match self.partial.read(&mut self.stream) {
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let late = Instant::now() > self.deadline;
                    return if late { Err(ErrorKind::TimedOut.into()) } else { Ok(None) };
                }
                complete => return complete,
            }
        }
    }
}
