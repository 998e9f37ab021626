//! Tests of microbatches in the memory of a server.

use std::io::{IoSlice, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream as Peer};

use rustix::fs::{MemfdFlags, fcntl_add_seals, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, sendmsg};
use tempfile::TempDir;

use super::*;
use crate::options::Options;
use crate::wire::connect::{Pool, Server};
use crate::wire::offer::SUFFIX;

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
        let offer = offer.of_server(expected);
        let error = MemoryConnection::connect(&offer, HANG).await.unwrap_err();
        assert!(error.to_string().contains("another program"), "{error}");
        assert_eq!(accept.unwrap().join().unwrap(), b"");
    }
}
