//! Leases: microbatches in shared memory that processes of this host read where they were made.
//!
//! Beside each Unix socket the server has a second one. A client that connects to it gets a name for the
//! connection, and calls that have this name get microbatches leased:
//!
//! ```text
//! session ─> lend: number of the lease, memory as a descriptor ─> connection ─> client
//!        ─> header with that number ─> HTTP/2 ─────────────────────────────────> client
//!                                          <── returned: unmapped and closed ─── client
//! ```
//!
//! What a client says ends a lease, and so does the end of its connection. Whether the memory may be
//! written again does not depend on that: its buffer returns to the pool when the kernel has no file of
//! the client's any more (see `forebay::SharedMemory`).

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forebay::Pixels;
use forebay_proto::v1::LeaseOptions;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::net::UnixStream;
use tokio::sync::Notify;

use crate::access::{CallGuard, Peer};
use crate::admission::LentPermit;

/// What a socket's path has at its end for the socket of leases.
pub(crate) const SUFFIX: &str = ".memory";

/// The first bytes of a greeting.
const MAGIC: [u8; 8] = *b"forebay1";

/// What a client's message begins with.
const RETURNED: u64 = 0;
const NEEDED: u64 = 1;

/// Most calls of one connection that may lease at the same time.
const MAX_CALLS: usize = 1024;

/// The name of a server or of a connection.
type Name = [u8; 16];

/// The connections of a server for leases.
#[derive(Debug)]
pub(crate) struct Leases {
    /// Where clients of this host find the socket, if there is one.
    socket: Option<PathBuf>,
    server: Name,
    connections: Mutex<BTreeMap<Name, Arc<LeaseConnection>>>,
}

/// A client's connection for leases.
#[derive(Debug)]
pub(crate) struct LeaseConnection {
    name: Name,
    socket: UnixStream,
    pub(crate) peer: Arc<Peer>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    leases: BTreeMap<u64, Lease>,
    /// The calls that lease, by the client's number.
    calls: BTreeMap<u64, Arc<Needed>>,
    closed: bool,
}

/// A microbatch that a client has. Dropping it ends the lease.
#[derive(Debug)]
struct Lease {
    _pixels: Pixels,
    _permit: LentPermit,
    _call: CallGuard,
}

/// Whether the client of a call needs its next microbatch before it can return one.
#[derive(Debug, Default)]
struct Needed {
    is_set: AtomicBool,
    changed: Notify,
}

/// A call whose microbatches can be leased.
#[derive(Debug)]
pub(crate) struct Lender {
    connection: Arc<LeaseConnection>,
    call: u64,
    needed: Arc<Needed>,
    /// A connection with a call in progress is not idle.
    _call: CallGuard,
}

impl Leases {
    /// No connections yet. `socket` is the Unix socket beside which clients of this host find the one for leases.
    pub(crate) fn new(socket: Option<&Path>) -> Self {
        let socket = socket.and_then(|socket| std::path::absolute(path_beside(socket)).ok());
        Self { socket, server: random_name(), connections: Mutex::default() }
    }

    /// The path of the socket, and the name of the server as hexadecimal digits.
    pub(crate) fn offer(&self) -> Option<(&Path, String)> {
        let digits = self.server.iter().map(|byte| format!("{byte:02x}"));
        self.socket.as_deref().map(|socket| (socket, digits.collect()))
    }

    /// A new connection, which has been told its name.
    ///
    /// # Errors
    /// When the client is gone.
    pub(crate) async fn open(
        &self,
        socket: UnixStream,
        peer: Arc<Peer>,
    ) -> io::Result<Arc<LeaseConnection>> {
        socket.writable().await?;
        let name = random_name();
        let greeting = [&MAGIC[..], &self.server, &name].concat();
        let state = Mutex::default();
        let connection = Arc::new(LeaseConnection { name, socket, peer, state });
        // Before the client knows the name, because its first call may be faster than this task.
        self.lock().insert(name, Arc::clone(&connection));
        // A new socket has room for the whole greeting.
        match connection.socket.try_write(&greeting) {
            Ok(written) if written == greeting.len() => Ok(connection),
            cut => {
                self.close(&connection);
                Err(cut.err().unwrap_or_else(|| io::Error::other("the greeting was cut")))
            }
        }
    }

    /// Ends the leases of a connection. Nobody finds it any more.
    pub(crate) fn close(&self, connection: &LeaseConnection) {
        self.lock().remove(&connection.name);
        let mut state = connection.lock();
        state.closed = true;
        let leases = std::mem::take(&mut state.leases);
        drop(state);
        drop(leases);
    }

    /// The lender of a call. `None` if its client has no such connection any more, or too many calls use it.
    pub(crate) fn lender(&self, options: &LeaseOptions) -> Option<Lender> {
        let name = Name::try_from(&options.connection[..]).ok()?;
        let connection = self.lock().get(&name).map(Arc::clone)?;
        let needed = Arc::<Needed>::default();
        let mut state = connection.lock();
        if state.closed || state.calls.len() >= MAX_CALLS || state.calls.contains_key(&options.call)
        {
            return None;
        }
        state.calls.insert(options.call, Arc::clone(&needed));
        drop(state);
        let _call = connection.peer.begin_call();
        Some(Lender { connection, call: options.call, needed, _call })
    }

    /// A panic cannot leave the connections half-changed, so a poisoned lock is used as it is.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, Arc<LeaseConnection>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LeaseConnection {
    /// Reads what the client sends, until the connection ends.
    pub(crate) async fn serve(&self) -> io::Result<()> {
        let mut message = [0; 16];
        loop {
            let mut filled = 0;
            while filled < message.len() {
                self.socket.readable().await?;
                match self.socket.try_read(&mut message[filled..]) {
                    Ok(0) => return Ok(()),
                    Ok(read) => filled += read,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            self.received(&message)?;
        }
    }

    fn received(&self, message: &[u8; 16]) -> io::Result<()> {
        let [kind, number] = [0, 8].map(|at| {
            let bytes = message[at..at + 8].try_into().expect("eight bytes");
            u64::from_le_bytes(bytes)
        });
        let mut state = self.lock();
        match kind {
            RETURNED => {
                let lease = state.leases.remove(&number);
                drop(state);
                lease
                    .map(drop)
                    .ok_or_else(|| io::Error::other("a lease that the client does not have"))
            }
            NEEDED => {
                // The call may have ended meanwhile.
                if let Some(needed) = state.calls.get(&number) {
                    needed.is_set.store(true, Ordering::Relaxed);
                    needed.changed.notify_one();
                }
                Ok(())
            }
            _ => Err(io::Error::other("a message of an unknown kind")),
        }
    }

    /// Sends the memory of a lease.
    ///
    /// # Errors
    /// When the client does not read, or is gone.
    fn send(&self, message: &[u8; 24], memory: BorrowedFd<'_>) -> io::Result<()> {
        let memory = [memory];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&memory));
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let data = [IoSlice::new(message)];
        let sent = rustix::net::sendmsg(self.socket.as_fd(), &data, &mut control, flags)?;
        // The kernel takes a small message as a whole.
        if sent == message.len() { Ok(()) } else { Err(io::Error::other("a message was cut")) }
    }

    /// A panic cannot leave the state half-changed, so a poisoned lock is used as it is.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lender {
    pub(crate) fn peer(&self) -> &Arc<Peer> {
        &self.connection.peer
    }

    /// Waits until the client needs the next microbatch before it can return one.
    pub(crate) async fn needed(&self) {
        while !self.needed.is_set.swap(false, Ordering::Relaxed) {
            self.needed.changed.notified().await;
        }
    }

    /// Leases a microbatch. Returns the number of the lease.
    ///
    /// # Errors
    /// The permit, if the client does not read its connection or the system has no descriptor left.
    pub(crate) fn lend(&self, pixels: &Pixels, permit: LentPermit) -> Result<u64, LentPermit> {
        let reader = pixels.shared().and_then(|memory| memory.reader().ok());
        let (Some(reader), connection) = (reader, &*self.connection) else { return Err(permit) };
        let mut state = connection.lock();
        if state.closed {
            return Err(permit);
        }
        let number = state.last + 1;
        let parts = [number, self.call, pixels.len() as u64].map(u64::to_le_bytes);
        let message = parts.concat().try_into().expect("three numbers of eight bytes");
        // Under the lock, so that the lease is known before the client can return it.
        if let Err(error) = connection.send(&message, reader.as_fd()) {
            tracing::debug!(%error, peer = %connection.peer.address, "a microbatch cannot be leased");
            return Err(permit);
        }
        state.last = number;
        let call = connection.peer.begin_call();
        let lease = Lease { _pixels: pixels.clone(), _permit: permit, _call: call };
        state.leases.insert(number, lease);
        // What the client needed before has come.
        self.needed.is_set.store(false, Ordering::Relaxed);
        Ok(number)
    }
}

impl Drop for Lender {
    fn drop(&mut self) {
        self.connection.lock().calls.remove(&self.call);
    }
}

/// The path of the socket for leases beside a socket.
pub(crate) fn path_beside(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(SUFFIX);
    path.into()
}

/// A name that nobody can guess.
fn random_name() -> Name {
    let mut name = Name::default();
    let flags = rustix::rand::GetRandomFlags::empty();
    let filled = rustix::rand::getrandom(&mut name, flags);
    assert_eq!(filled, Ok(name.len()), "the system's source of random numbers");
    name
}
