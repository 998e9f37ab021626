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
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
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
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::coop::consume_budget;
use tokio::time::timeout;

use crate::error::Cause;
use crate::wire::offer::{Name, Offer};

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

impl MemoryConnection {
    /// Connects to a server.
    ///
    /// # Errors
    /// When nobody listens there, or it is not that server.
    pub(crate) async fn connect(offer: &Offer, within: Duration) -> io::Result<Self> {
        let greeted = timeout(within, offer.connect()).await;
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
pub(crate) mod tests;
