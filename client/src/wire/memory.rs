//! Microbatches in the memory of a server on this host.
//!
//! Beside its Unix socket a server has one for shared memory. A connection to it has a name; a call that
//! has this name gets microbatches leased: the header arrives by the call, the memory by this connection,
//! as a descriptor. The pixels are read where the server made them, and the lease is returned when the
//! trainer drops them:
//!
//! ```text
//! connect ─> Calls ─> call, named in the request ─> header with a lease ─> take ─> Pixels
//!   a task reads descriptors, maps the memory,                            drop: unmap, return
//!   and returns what no call takes
//! ```
//!
//! A process that is forked from this one gets none of the memory, which the server could not use again before
//! that process ends: the descriptor is closed as soon as the memory is mapped, and the mapping is not
//! inherited unless [`Leased::share_with_children`] says so.
//!
//! The connection stays open for as long as the client or any pixels use it: at its end the server counts
//! every lease as returned.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use forebay_proto::types::map::FileMap;
use forebay_proto::v1::LeaseOptions;
use rustix::fs::{SealFlags, fcntl_get_seals};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, Shutdown,
    recvmsg, send, shutdown,
};
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::coop::consume_budget;
use tokio::time::timeout;

use crate::error::Cause;

/// What the path of a server's socket has at its end for the socket of leases.
const SUFFIX: &str = ".memory";

/// The first bytes of a greeting.
const MAGIC: &[u8] = b"forebay1";

/// What a message to the server begins with.
const RETURNED: u64 = 0;
const NEEDED: u64 = 1;

/// Bytes of a message of the server: lease, call, bytes.
const MESSAGE: usize = 24;

/// Most leases that have arrived and that nobody has taken, each of which is a mapping. A server has no more
/// memory to lend at a time.
const MAX_WAITING: usize = 512;

/// Most messages that the socket has no room for. A server that lends reads what is said.
const MAX_UNSENT: usize = 4096;

/// The name of a server or of a connection.
pub(crate) type Name = [u8; 16];

/// A connection for leases. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct MemoryConnection(Arc<Users>);

/// Ends the connection when the last user is gone.
#[derive(Debug)]
struct Users {
    link: Arc<Link>,
}

#[derive(Debug)]
struct Link {
    name: Name,
    socket: UnixStream,
    state: Mutex<State>,
    next_call: AtomicU64,
    /// Notified when memory has arrived or the connection has ended.
    arrived: Notify,
    /// Notified when there is something to send that the socket had no room for, or the last user is gone.
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By call and lease, the memory that has arrived and that nobody has taken.
    calls: BTreeMap<u64, BTreeMap<u64, io::Result<FileMap>>>,
    /// Messages that the socket had no room for.
    unsent: Vec<[u64; 2]>,
    closed: bool,
    /// Whether a lease could not be used, or the server exceeded a limit, so that no further call asks for leases.
    distrusted: bool,
    /// Whether the last user is gone.
    unused: bool,
}

/// A call whose microbatches can be leased. What arrives for it after this is dropped is returned.
#[derive(Debug)]
pub(crate) struct LeaseCall {
    users: Arc<Users>,
    number: u64,
}

/// Leased memory, which is returned when dropped.
#[derive(Debug)]
pub(crate) struct Leased {
    map: Option<FileMap>,
    lease: u64,
    users: Arc<Users>,
}

/// Where a server on this host has its socket for leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    socket: PathBuf,
    /// The name that the server must have; `None` if the user named the socket.
    server: Option<Name>,
}

impl Offer {
    /// The socket beside a server's Unix socket.
    pub(crate) fn beside(socket: &Path) -> Self {
        let mut path = socket.as_os_str().to_owned();
        path.push(SUFFIX);
        Self { socket: path.into(), server: None }
    }

    /// What a server that is called over TCP says in the headers of a response. Nothing is sent to a socket before it
    /// has the greeting of that server.
    pub(crate) fn from_headers(headers: &http::HeaderMap) -> Option<Self> {
        let socket = headers.get("forebay-memory-socket")?.as_bytes();
        let socket = Path::new(OsStr::from_bytes(socket));
        let digits = headers.get("forebay-memory-server")?.to_str().ok()?;
        let bytes = u128::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 32)?;
        let is_valid =
            socket.is_absolute() && socket.as_os_str().as_bytes().ends_with(SUFFIX.as_bytes());
        is_valid.then(|| Self { socket: socket.into(), server: Some(bytes.to_be_bytes()) })
    }
}

impl MemoryConnection {
    /// Connects to a server.
    ///
    /// # Errors
    /// When nobody listens there, or it is not that server.
    pub(crate) async fn connect(offer: &Offer, within: Duration) -> io::Result<Self> {
        let greeted = timeout(within, greeting(offer)).await;
        let (socket, name) =
            greeted.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
        let link = Arc::new(Link {
            name,
            socket,
            state: Mutex::default(),
            next_call: AtomicU64::new(1),
            arrived: Notify::new(),
            wake: Notify::new(),
        });
        drop(tokio::spawn(read(Arc::clone(&link))));
        Ok(Self(Arc::new(Users { link })))
    }

    /// Whether a call may ask for leases: the connection has not ended, and every lease could be used.
    pub(crate) fn is_usable(&self) -> bool {
        let state = self.0.link.lock();
        !state.closed && !state.distrusted
    }

    /// Whether a lease could not be used, or the server exceeded a limit: a new connection would be like this one.
    pub(crate) fn is_distrusted(&self) -> bool {
        self.0.link.lock().distrusted
    }

    /// A new call.
    pub(crate) fn call(&self) -> LeaseCall {
        let number = self.0.link.next_call.fetch_add(1, Ordering::Relaxed);
        self.0.link.lock().calls.insert(number, BTreeMap::new());
        LeaseCall { users: Arc::clone(&self.0), number }
    }
}

/// Connects, and reads the greeting: the name of the connection.
async fn greeting(offer: &Offer) -> io::Result<(UnixStream, Name)> {
    let mut socket = UnixStream::connect(&offer.socket).await?;
    let mut greeting = [0; 40];
    socket.read_exact(&mut greeting).await?;
    let (magic, names) = greeting.split_at(MAGIC.len());
    let (server, name) = names.split_at(16);
    if magic != MAGIC || offer.server.is_some_and(|expected| server != expected) {
        return Err(io::Error::other("another program listens there"));
    }
    Ok((socket, name.try_into().expect("sixteen bytes")))
}

/// Reads until the connection ends, the server exceeds a limit, or nobody uses it any more.
async fn read(link: Arc<Link>) {
    let (mut message, mut filled, mut memory) = ([0; MESSAGE], 0, Vec::new());
    loop {
        // Others of this thread make progress, whatever the server sends.
        consume_budget().await;
        let (ends, unsent) = {
            let mut state = link.lock();
            let is_flooded = state.waiting() > MAX_WAITING || state.unsent.len() > MAX_UNSENT;
            state.distrusted |= is_flooded;
            (state.unused || is_flooded, !state.unsent.is_empty())
        };
        if ends {
            break;
        }
        tokio::select! {
            readable = link.socket.readable() => if readable.is_err() { break },
            writable = link.socket.writable(), if unsent => {
                if writable.is_err() { break }
                link.flush();
                continue;
            }
            () = link.wake.notified() => continue,
        }
        let received = link.socket.try_io(Interest::READABLE, || {
            receive(&link.socket, &mut message[filled..], &mut memory)
        });
        match received {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_broken) => break,
        }
        if filled == MESSAGE {
            filled = 0;
            // Without a descriptor the call gets nothing, and fails when it wants to take the memory.
            if let Some(descriptor) = memory.pop() {
                link.arrived(&message, descriptor);
            }
            memory.clear();
        }
    }
    // A server that still sends must not wait for a reader, nor keep memory for one. This fails only if the server has
    // already closed the connection.
    shutdown(link.socket.as_fd(), Shutdown::Both).ok();
    let mut state = link.lock();
    state.closed = true;
    state.calls.clear();
    state.unsent.clear();
    drop(state);
    link.arrived.notify_waiters();
}

/// Receives a part of a message, with its descriptor.
fn receive(
    socket: &UnixStream,
    message: &mut [u8],
    memory: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket.as_fd(), &mut [IoSliceMut::new(message)], &mut control, flags)?;
    for control in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = control {
            memory.extend(descriptors);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other("no descriptor is left for shared memory"));
    }
    Ok(received.bytes)
}

impl State {
    /// The number of leases that nobody has taken.
    fn waiting(&self) -> usize {
        self.calls.values().map(BTreeMap::len).sum()
    }
}

impl Link {
    fn arrived(&self, message: &[u8; MESSAGE], memory: OwnedFd) {
        let [lease, call, bytes] = [0, 8, 16].map(|at| {
            let number = message[at..at + 8].try_into().expect("eight bytes");
            u64::from_le_bytes(number)
        });
        let bytes = usize::try_from(bytes).map_err(io::Error::other);
        let mapped = bytes.and_then(|bytes| map(&memory, bytes));
        drop(memory);
        let mut state = self.lock();
        if let Some(leases) = state.calls.get_mut(&call) {
            leases.insert(lease, mapped);
            drop(state);
            self.arrived.notify_waiters();
        } else {
            drop(state);
            drop(mapped);
            self.say([RETURNED, lease]);
        }
    }

    /// Sends a message, now or as soon as the socket has room.
    fn say(&self, message: [u64; 2]) {
        self.lock().unsent.push(message);
        self.flush();
    }

    fn flush(&self) {
        let mut state = self.lock();
        while let Some(message) = state.unsent.first() {
            let bytes = message.map(u64::to_le_bytes).concat();
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let send = || Ok(send(self.socket.as_fd(), &bytes, flags)?);
            match self.socket.try_io(Interest::WRITABLE, send) {
                // The kernel takes a small message as a whole.
                Ok(_sent) => drop(state.unsent.remove(0)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    drop(state);
                    self.wake.notify_one();
                    return;
                }
                // The connection has ended, and with it every lease.
                Err(_broken) => state.unsent.clear(),
            }
        }
    }

    /// A panic cannot leave the state half-changed, so a poisoned lock is used as it is.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        self.link.lock().unused = true;
        self.link.wake.notify_one();
    }
}

impl LeaseCall {
    /// The fields of the request.
    pub(crate) fn to_wire(&self) -> LeaseOptions {
        let connection = self.users.link.name.to_vec().into();
        LeaseOptions { connection, call: self.number }
    }

    /// Ends the use of leases on this connection, after one that could not be used. Those that are in use stay so.
    pub(crate) fn distrust(&self) {
        self.users.link.lock().distrusted = true;
    }

    /// Tells the server that the next microbatch is needed before one can be returned.
    pub(crate) fn need(&self) {
        self.users.link.say([NEEDED, self.number]);
    }

    /// Takes the memory of a lease, of `bytes`, once it has arrived.
    ///
    /// # Errors
    /// When the connection ends, or the memory is not what the header says.
    pub(crate) async fn take(&self, lease: u64, bytes: usize) -> Result<Leased, Cause> {
        let broken = |why: &str| Cause::Connection(format!("shared memory: {why}"));
        let link = &self.users.link;
        let taken = loop {
            let mut arrived = std::pin::pin!(link.arrived.notified());
            // Before the look, so that nothing that arrives between look and wait is missed.
            arrived.as_mut().enable();
            {
                let mut state = link.lock();
                if let Some(taken) =
                    state.calls.get_mut(&self.number).and_then(|call| call.remove(&lease))
                {
                    break taken;
                }
                if state.closed {
                    return Err(broken("the connection has ended"));
                }
            }
            arrived.await;
        };
        // From here on the lease is returned, whatever happens.
        let mut leased = Leased { map: None, lease, users: Arc::clone(&self.users) };
        let map = taken.map_err(|error| broken(&error.to_string()))?;
        if map.len() != bytes {
            return Err(broken("it has another length than the header says"));
        }
        leased.map = Some(map);
        Ok(leased)
    }
}

impl Drop for LeaseCall {
    fn drop(&mut self) {
        let link = &self.users.link;
        let left = link.lock().calls.remove(&self.number).unwrap_or_default();
        for (lease, map) in left {
            drop(map);
            link.say([RETURNED, lease]);
        }
    }
}

/// Maps memory for reading in this process, which must be long enough and must stay so.
#[expect(unsafe_code, reason = "a memory map of a file")]
fn map(memory: &OwnedFd, bytes: usize) -> io::Result<FileMap> {
    let seals = fcntl_get_seals(memory)?;
    let length = rustix::fs::fstat(memory)?.st_size;
    if !seals.contains(SealFlags::SHRINK | SealFlags::FUTURE_WRITE)
        || length < i64::try_from(bytes).unwrap_or(i64::MAX)
    {
        return Err(io::Error::other("it is not sealed, or too short"));
    }
    // SAFETY: the file has that length and cannot become shorter. The server writes it again only once nobody
    // has it mapped; a server that breaks its word changes pixels, as it could before it hashed them.
    //
    // Pages are mapped when they are read: large ones as one, small ones sixteen at a time, which takes less than
    // `populate` does for each.
    let map = unsafe { FileMap::new(memory, bytes) }?;
    map.inherit(false)?;
    Ok(map)
}

impl Leased {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    /// Lets processes that are forked from now on read the bytes, too. Each of them keeps the memory until it calls
    /// [`unmap`](Self::unmap) or ends.
    pub(crate) fn share_with_children(&self) -> io::Result<()> {
        self.map.as_ref().map_or(Ok(()), |map| map.inherit(true))
    }

    /// Unmaps the memory in a forked process, which has no lease to return and must not wait for a lock.
    pub(crate) fn unmap(mut self) {
        self.map = None;
        std::mem::forget(self);
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        // Before the lease is returned: the server does not use memory that somebody has mapped.
        self.map = None;
        self.users.link.say([RETURNED, self.lease]);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{IoSlice, Read as _, Write as _};
    use std::os::unix::net::{UnixListener, UnixStream as Peer};

    use http::HeaderMap;
    use rustix::fs::{MemfdFlags, fcntl_add_seals, memfd_create};
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, sendmsg};
    use tempfile::TempDir;

    use super::*;
    use crate::options::Options;
    use crate::wire::connect::{Pool, Server};

    const HANG: Duration = Duration::from_mins(1);

    /// A server that greets everyone with `magic`, and the offer of a client.
    fn server(magic: &[u8]) -> (UnixListener, Offer, TempDir, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let listener = UnixListener::bind(format!("{}{SUFFIX}", path.display())).unwrap();
        let greeting = [magic, &[5; 16], &[6; 16]].concat();
        (listener, Offer::beside(&path), folder, greeting)
    }

    pub(crate) async fn connected() -> (MemoryConnection, Peer, TempDir) {
        let (listener, offer, folder, greeting) = server(b"forebay1");
        let accept = std::thread::Builder::new().spawn(move || {
            let mut peer = listener.accept().unwrap().0;
            peer.write_all(&greeting).unwrap();
            peer
        });
        let connection = MemoryConnection::connect(&offer, HANG).await.unwrap();
        (connection, accept.unwrap().join().unwrap(), folder)
    }

    pub(crate) fn memory(bytes: &[u8], seals: SealFlags) -> OwnedFd {
        let memory = memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::io::write(&memory, bytes).unwrap();
        fcntl_add_seals(&memory, seals).unwrap();
        memory
    }

    pub(crate) fn lend(peer: &Peer, numbers: [u64; 3], memory: &OwnedFd) {
        try_lend(peer, numbers, memory).unwrap();
    }

    fn try_lend(peer: &Peer, numbers: [u64; 3], memory: &OwnedFd) -> rustix::io::Result<usize> {
        let memory = [memory.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&memory));
        let message = numbers.map(u64::to_le_bytes).concat();
        sendmsg(peer, &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL)
    }

    async fn said(peer: &Peer) -> [u64; 2] {
        let mut peer = peer.try_clone().unwrap();
        let read = std::thread::Builder::new().spawn(move || {
            let mut message = [0; 16];
            peer.read_exact(&mut message).unwrap();
            [0, 8].map(|at| u64::from_le_bytes(message[at..at + 8].try_into().unwrap()))
        });
        let read = read.unwrap();
        while !read.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        read.join().unwrap()
    }

    pub(crate) const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::FUTURE_WRITE);

    #[tokio::test]
    async fn pixels_are_read_in_place_and_returned_when_dropped() {
        let (connection, peer, _folder) = connected().await;
        let call = connection.call();
        assert_eq!(call.to_wire().connection[..], [6; 16]);
        lend(&peer, [9, call.number, 4], &memory(b"abcd", SEALS));
        let leased = call.take(9, 4).await.unwrap();
        assert_eq!(leased.bytes(), b"abcd");
        call.need();
        assert_eq!(said(&peer).await, [NEEDED, call.number]);
        drop((connection, call));
        assert_eq!(leased.bytes(), b"abcd", "the connection stays while pixels are read");
        drop(leased);
        assert_eq!(said(&peer).await, [RETURNED, 9]);
        let mut rest = peer;
        let read = std::thread::Builder::new().spawn(move || rest.read(&mut [0]).unwrap()).unwrap();
        while !read.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(read.join().unwrap(), 0, "it ends with its last user");
    }

    /// Whether a forked process would have the memory at an address.
    fn is_inherited(address: *const u8) -> bool {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let start = format!("{:x}-", address.addr());
        let mapping = maps.split_once(&start).unwrap().1;
        let flags = mapping.split_once("VmFlags:").unwrap().1.lines().next().unwrap();
        !flags.split_whitespace().any(|flag| flag == "dc")
    }

    #[tokio::test]
    async fn a_forked_process_has_only_the_memory_that_is_shared_with_it() {
        let (connection, peer, _folder) = connected().await;
        let call = connection.call();
        lend(&peer, [9, call.number, 4], &memory(b"abcd", SEALS));
        let leased = call.take(9, 4).await.unwrap();
        let address = leased.bytes().as_ptr();
        assert!(!is_inherited(address));
        leased.share_with_children().unwrap();
        assert!(is_inherited(address));
        // As the child drops it: the parent still has its lease.
        leased.unmap();
        call.need();
        assert_eq!(said(&peer).await, [NEEDED, call.number]);
    }

    #[tokio::test]
    async fn what_no_call_takes_is_returned() {
        let (connection, peer, _folder) = connected().await;
        let (call, other) = (connection.call(), connection.call());
        lend(&peer, [1, call.number, 4], &memory(b"abcd", SEALS));
        lend(&peer, [2, other.number, 4], &memory(b"efgh", SEALS));
        assert_eq!(other.take(2, 4).await.unwrap().bytes(), b"efgh");
        assert_eq!(said(&peer).await, [RETURNED, 2]);
        let number = call.number;
        drop(call);
        assert_eq!(said(&peer).await, [RETURNED, 1]);
        lend(&peer, [3, number, 4], &memory(b"abcd", SEALS));
        assert_eq!(said(&peer).await, [RETURNED, 3]);
    }

    #[tokio::test]
    async fn memory_that_may_shrink_or_is_too_short_is_refused_and_returned() {
        let (connection, peer, _folder) = connected().await;
        let call = connection.call();
        for (lease, seals, bytes) in
            [(1, SealFlags::FUTURE_WRITE, 4), (2, SEALS, 5000), (3, SealFlags::SHRINK, 4)]
        {
            lend(&peer, [lease, call.number, bytes], &memory(b"abcd", seals));
            let error = call.take(lease, usize::try_from(bytes).unwrap()).await.unwrap_err();
            assert!(error.to_string().contains("not sealed, or too short"), "{error}");
            assert_eq!(said(&peer).await, [RETURNED, lease]);
        }
        lend(&peer, [4, call.number, 4], &memory(b"abcd", SEALS));
        let error = call.take(4, 3).await.unwrap_err().to_string();
        assert!(error.contains("another length"), "{error}");
        drop(peer);
        let error = call.take(5, 4).await.unwrap_err().to_string();
        assert!(error.contains("has ended"), "{error}");
        assert!(!connection.is_usable());
    }

    #[tokio::test]
    async fn a_server_that_lends_without_end_or_reads_nothing_loses_the_connection() {
        for is_taken in [true, false] {
            let (connection, mut peer, _folder) = connected().await;
            let call = connection.call();
            let number = if is_taken { call.number } else { call.number + 1 };
            // It reads nothing of what it is told until the connection ends.
            let lend = std::thread::Builder::new().spawn(move || {
                let memory = memory(b"abcd", SEALS);
                let lent =
                    (0..).take_while(|lease| try_lend(&peer, [*lease, number, 4], &memory).is_ok());
                let lent = lent.count();
                while peer.read(&mut [0; 1 << 12]).is_ok_and(|read| read > 0) {}
                lent
            });
            let error = call.take(u64::MAX, 4).await.unwrap_err().to_string();
            assert!(error.contains("has ended"), "{error}");
            assert!(!connection.is_usable() && connection.is_distrusted());
            {
                let state = connection.0.link.lock();
                assert_eq!((state.waiting(), state.unsent.len()), (0, 0));
            }
            assert!(lend.unwrap().join().unwrap() >= MAX_WAITING);
        }
    }

    #[tokio::test]
    async fn after_a_lease_that_could_not_be_used_calls_ask_for_frames() {
        let (listener, _offer, folder, greeting) = server(b"forebay1");
        let accept = std::thread::Builder::new().spawn(move || {
            let mut peer = listener.accept().unwrap().0;
            peer.write_all(&greeting).unwrap();
            (peer, listener)
        });
        let path = folder.path().join("a.sock");
        let options = Arc::new(Options::new(["unix:a.sock"]));
        let server = Server::at_socket("unix:a.sock", path.to_str().unwrap(), &options).unwrap();
        let pool = Pool::new(&options);
        let connection = pool.memory(&server).await.unwrap();
        let (_peer, _listener) = accept.unwrap().join().unwrap();
        let failure = Cause::Connection("of something else".to_owned());
        pool.failed(&server, &failure);
        assert!(pool.memory(&server).await.is_some());
        connection.call().distrust();
        assert!(pool.memory(&server).await.is_none());
    }

    #[tokio::test]
    async fn nothing_is_sent_to_another_program_or_another_server() {
        for (magic, expected) in [(b"HTTP/1.1", None), (b"forebay1", Some([7; 16]))] {
            let (listener, offer, _folder, greeting) = server(magic);
            let accept = std::thread::Builder::new().spawn(move || {
                let mut peer = listener.accept().unwrap().0;
                peer.write_all(&greeting).unwrap();
                let mut received = Vec::new();
                peer.read_to_end(&mut received).unwrap();
                received
            });
            let offer = Offer { server: expected, ..offer };
            let error = MemoryConnection::connect(&offer, HANG).await.unwrap_err();
            assert!(error.to_string().contains("another program"), "{error}");
            assert_eq!(accept.unwrap().join().unwrap(), b"");
        }
    }

    #[test]
    fn an_offer_names_a_socket_for_shared_memory_and_its_server() {
        let offer = |socket: &str, server: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("forebay-memory-socket", socket.parse().unwrap());
            headers.insert("forebay-memory-server", server.parse().unwrap());
            Offer::from_headers(&headers)
        };
        let digits = "000102030405060708090a0b0c0d0e0f";
        let found = offer("/run/a.sock.memory", digits).unwrap();
        assert_eq!(
            (found.socket.to_str(), found.server.unwrap()[15]),
            (Some("/run/a.sock.memory"), 15)
        );
        for (socket, server) in [
            ("a.sock.memory", digits),
            ("/run/docker.sock", digits),
            ("/a.memory", "00"),
            ("/a.memory", "+"),
        ] {
            assert_eq!(offer(socket, server), None, "{socket} {server}");
        }
        assert_eq!(Offer::from_headers(&HeaderMap::new()), None);
    }
}
