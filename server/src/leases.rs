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
//! What a client says ends a lease, and so does the end of its connection. Neither frees memory: that is kept, and
//! counts as before, until the kernel has no file of it but the server's (see `forebay::SharedMemory`).

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use forebay::{Pixels, SharedMemory};
use forebay_proto::v1::LeaseOptions;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::access::{CallGuard, Peer};
use crate::admission::{KeptPermit, LentPermit};

/// What a socket's path has at its end for the socket of leases.
pub(crate) const SUFFIX: &str = ".memory";

/// The first bytes of a greeting.
const MAGIC: [u8; 8] = *b"forebay1";

/// What a client's message begins with.
const RETURNED: u64 = 0;
const NEEDED: u64 = 1;

/// Most calls of one connection that may lease at the same time.
const MAX_CALLS: usize = 1024;

/// Interval at which the server looks whether memory is kept any more.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The name of a server or of a connection.
type Name = [u8; 16];

/// The connections of a server for leases.
#[derive(Debug)]
pub(crate) struct Leases {
    /// Where clients of this host find the socket, if there is one.
    socket: Option<PathBuf>,
    server: Name,
    connections: Mutex<BTreeMap<Name, Arc<LeaseConnection>>>,
    memory: Arc<LentMemory>,
}

/// The memory that clients have.
#[derive(Debug, Default)]
struct LentMemory {
    state: Mutex<MemoryState>,
    /// Notified when memory is kept.
    kept: Notify,
}

#[derive(Debug, Default)]
struct MemoryState {
    /// Numbers of leases, by the address of their memory.
    leases: BTreeMap<usize, usize>,
    /// What clients have returned, or left behind, and at least one of them still has, by the same.
    kept: BTreeMap<usize, (Pixels, KeptPermit)>,
}

/// A client's connection for leases.
#[derive(Debug)]
pub(crate) struct LeaseConnection {
    name: Name,
    socket: UnixStream,
    pub(crate) peer: Arc<Peer>,
    state: Mutex<State>,
    memory: Arc<LentMemory>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    leases: BTreeMap<u64, Lease>,
    /// The calls that lease, by the client's number.
    calls: BTreeMap<u64, Arc<Needed>>,
    closed: bool,
}

/// A microbatch that a client has.
#[derive(Debug)]
struct Lease {
    pixels: Pixels,
    permit: LentPermit,
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
        let (connections, memory) = (Mutex::default(), Arc::default());
        Self { socket, server: random_name(), connections, memory }
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
        let (state, memory) = (Mutex::default(), Arc::clone(&self.memory));
        let connection = Arc::new(LeaseConnection { name, socket, peer, state, memory });
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
        for lease in leases.into_values() {
            self.memory.end(lease);
        }
    }

    /// Waits until memory is kept, and frees it when it is not any more.
    pub(crate) async fn free_kept(&self) {
        self.memory.kept.notified().await;
        while self.memory.free() {
            sleep(LOOK_AGAIN).await;
        }
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
        let guard = connection.peer.begin_call();
        Some(Lender { connection, call: options.call, needed, _call: guard })
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
        if !self.peer.frames.spend(1) {
            return Err(io::Error::other("more messages than its calls and leases earn"));
        }
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
                    .map(|lease| self.memory.end(lease))
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

impl LentMemory {
    /// Counts a lease. The address tells memory apart, because what is lent or kept is not freed.
    fn begin(&self, pixels: &Pixels) {
        *self.lock().leases.entry(address(pixels)).or_default() += 1;
    }

    /// Ends a lease. If somebody still has its memory, and not because of another lease, it is kept.
    fn end(&self, lease: Lease) {
        let Lease { pixels, permit, _call } = lease;
        let address = address(&pixels);
        let mut state = self.lock();
        if let Some(count) = state.leases.get_mut(&address) {
            *count -= 1;
            if *count > 0 {
                return;
            }
        }
        state.leases.remove(&address);
        let is_kept = pixels.shared().is_some_and(|memory| !memory.is_exclusive());
        if is_kept && !state.kept.contains_key(&address) {
            state.kept.insert(address, (pixels, permit.keep()));
            self.kept.notify_one();
        }
    }

    /// Frees what nobody has any more. Returns whether something is left.
    fn free(&self) -> bool {
        let mut state = self.lock();
        let is_free = |pixels: &Pixels| pixels.shared().is_none_or(SharedMemory::is_exclusive);
        let free: Vec<_> = state.kept.extract_if(.., |_, (pixels, _)| is_free(pixels)).collect();
        let is_left = !state.kept.is_empty();
        drop(state);
        drop(free);
        is_left
    }

    /// A panic cannot leave the memory half-counted, so a poisoned lock is used as it is.
    fn lock(&self) -> MutexGuard<'_, MemoryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn address(pixels: &Pixels) -> usize {
    pixels.as_ptr().addr()
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

    /// Counts a microbatch that was sent as frames, which its client may have asked for.
    pub(crate) fn sent_frames(&self) {
        self.connection.peer.frames.earn_call();
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
        let lease = Lease { pixels: pixels.clone(), permit, _call: call };
        connection.memory.begin(&lease.pixels);
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
