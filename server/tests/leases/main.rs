//! Microbatches in shared memory, read by a client that is written out: what it gets, what it cannot do, and
//! what happens when it keeps, returns or leaves. In a process of its own, because others measure their memory.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../service/support.rs"]
#[expect(dead_code, reason = "tests/service uses the rest")]
mod support;

use std::io::{IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use forebay::BufferPool;
use forebay::gpu::HostMemory;
use forebay_proto::v1::forebay_service_client::ForebayServiceClient as Client;
use forebay_proto::v1::{Frame, Header, LeaseOptions, StreamRequest};
use forebay_server::{Limits, MicrobatchName};
use rustix::fs::{FallocateFlags, OFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tempfile::TempDir;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};

use support::{
    Fake, HANG, MICROBATCH_BYTES, Make, Server, next, patient, pixels, start_at, steps, until,
};

/// A connection for leases.
struct Memory {
    socket: UnixStream,
    name: Vec<u8>,
}

/// A microbatch in shared memory.
struct Leased {
    number: u64,
    header: Header,
    memory: OwnedFd,
}

impl Memory {
    fn connect(path: &Path) -> Self {
        let mut socket = UnixStream::connect(format!("{}.memory", path.display())).unwrap();
        let mut greeting = [0; 40];
        socket.read_exact(&mut greeting).unwrap();
        assert_eq!(greeting[..8], *b"forebay1");
        Self { socket, name: greeting[24..].to_vec() }
    }

    fn request(&self, call: u64) -> StreamRequest {
        let leases = LeaseOptions { connection: self.name.clone().into(), call };
        StreamRequest { leases: Some(leases), ..steps(3) }
    }

    /// Receives the memory of a lease: its number and its call.
    fn receive(&self) -> ([u64; 3], OwnedFd) {
        let mut message = [0; 24];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut message)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(self.socket.as_fd(), &mut slices, &mut control, flags).unwrap();
        assert_eq!(received.bytes, 24);
        let Some(RecvAncillaryMessage::ScmRights(mut files)) = control.drain().next() else {
            panic!("no descriptor")
        };
        let memory = files.next().unwrap();
        let numbers =
            [0, 8, 16].map(|at| u64::from_le_bytes(message[at..at + 8].try_into().unwrap()));
        (numbers, memory)
    }

    fn say(&mut self, kind: u64, number: u64) {
        self.socket.write_all(&[kind, number].map(u64::to_le_bytes).concat()).unwrap();
    }

    /// Unmaps and returns a lease.
    fn give_back(&mut self, leased: Leased) {
        let number = leased.number;
        drop(leased);
        self.say(0, number);
    }

    /// The next microbatch of a stream, which is leased.
    async fn next(&self, stream: &mut Streaming<Frame>) -> Leased {
        let frame = timeout(HANG, stream.message()).await.unwrap().unwrap().unwrap();
        let header = frame.header.unwrap();
        assert!(header.lease > 0 && frame.payload.is_empty());
        let ([number, _, bytes], memory) = self.receive();
        assert_eq!((number, bytes), (header.lease, MICROBATCH_BYTES));
        Leased { number, header, memory }
    }
}

impl Leased {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(MICROBATCH_BYTES).unwrap()];
        assert_eq!(rustix::io::pread(&self.memory, &mut bytes, 0).unwrap(), bytes.len());
        bytes
    }

    fn check(&self) {
        let Header { seed, epoch, step, microbatch: index, .. } = self.header;
        assert!(
            self.bytes() == pixels(MicrobatchName { seed, epoch, step, index }),
            "{step} {index}"
        );
    }
}

/// A pipeline with `count` buffers that can be lent.
fn lending(count: usize) -> Arc<Fake> {
    let mut fake = Fake::new(Make::Now, vec!["cat".into(), "dog".into()], 0);
    let bytes = count * usize::try_from(MICROBATCH_BYTES).unwrap();
    let buffers = BufferPool::with_memory(bytes, HostMemory::Shared);
    Arc::get_mut(&mut fake).unwrap().buffers = Some(buffers);
    fake
}

/// A server with buffers to lend, and the path of its socket.
async fn start(buffers: usize, limits: Limits) -> (Server, PathBuf, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("forebay.sock");
    let server = start_at(&path, lending(buffers), limits).await;
    (server, path, folder)
}

/// Windows of two microbatches.
fn limits() -> Limits {
    Limits { window_bytes: 2 * MICROBATCH_BYTES, ..patient() }
}

async fn client(path: &Path) -> Client<Channel> {
    let endpoint = Endpoint::from_shared(format!("unix:{}", path.display())).unwrap();
    Client::new(endpoint.connect().await.unwrap())
}

fn in_use(server: &Server) -> usize {
    server.fake.buffers.as_ref().unwrap().bytes_in_use()
}

#[tokio::test(flavor = "multi_thread")]
async fn leased_microbatches_have_the_bytes_of_frames_and_return() {
    let (server, path, _folder) = start(16, limits()).await;
    let mut memory = Memory::connect(&path);
    let mut stream = client(&path).await.stream(memory.request(7)).await.unwrap().into_inner();
    for _ in 0..11 {
        let leased = memory.next(&mut stream).await;
        leased.check();
        memory.give_back(leased);
    }
    assert!(stream.message().await.unwrap().is_none());
    until("all buffers are free", || in_use(&server) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_write_what_another_one_reads() {
    let (_server, path, _folder) = start(16, limits()).await;
    let memory = Memory::connect(&path);
    let mut stream = client(&path).await.stream(memory.request(1)).await.unwrap().into_inner();
    let leased = memory.next(&mut stream).await;
    // Whoever owns a file may open it again, with any access.
    let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&leased.memory));
    let again = rustix::fs::open(again, OFlags::RDWR, rustix::fs::Mode::empty());
    for file in [Some(&leased.memory), again.as_ref().ok()].into_iter().flatten() {
        assert!(rustix::io::pwrite(file, &[1], 0).is_err());
        assert!(rustix::fs::ftruncate(file, 0).is_err());
        assert!(rustix::fs::ftruncate(file, 1 << 30).is_err());
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        assert!(rustix::fs::fallocate(file, punch, 0, 4096).is_err());
    }
    leased.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_ends_returns_its_leases_once_nothing_of_it_is_mapped() {
    let (server, path, _folder) = start(16, limits()).await;
    let memory = Memory::connect(&path);
    let mut stream = client(&path).await.stream(memory.request(1)).await.unwrap().into_inner();
    let kept = memory.next(&mut stream).await;
    drop(stream);
    drop(memory);
    // What was sent and not received is closed with the connection.
    let one = usize::try_from(MICROBATCH_BYTES).unwrap();
    until("the other buffers are free", || in_use(&server) == one).await;
    // The memory that it still has is not written again.
    let other = Memory::connect(&path);
    let mut stream = client(&path).await.stream(other.request(1)).await.unwrap().into_inner();
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(other.next(&mut stream).await);
    }
    kept.check();
    all.iter().for_each(Leased::check);
    drop((kept, all, stream, other));
    until("all buffers are free", || in_use(&server) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_keeps_what_it_says_to_have_returned_has_half_of_the_buffers_at_most() {
    let (server, path, _folder) = start(16, Limits { window_bytes: 0, ..patient() }).await;
    let mut memory = Memory::connect(&path);
    let mut client = client(&path).await;
    let (mut streams, mut kept) = (Vec::new(), Vec::new());
    // Under names of their own, so that no share of a client is in the way. Each has another microbatch, which waits.
    for call in 1..=4 {
        let mut request = memory.request(call);
        request.job.as_mut().unwrap().seed = call;
        let mut stream = client.stream(request).await.unwrap().into_inner();
        for _ in 0..2 {
            kept.push(memory.next(&mut stream).await);
        }
        streams.push(stream);
    }
    let bytes = |count: usize| count * usize::try_from(MICROBATCH_BYTES).unwrap();
    until("every stream has another one", || in_use(&server) == bytes(12)).await;
    for leased in &kept {
        memory.say(0, leased.number);
    }
    for stream in &mut streams {
        let (header, _payload) = timeout(HANG, next(stream)).await.unwrap().unwrap().unwrap();
        assert_eq!(header.lease, 0, "as much as may be lent is not returned");
    }
    drop(streams);
    until("it has what it keeps", || in_use(&server) == bytes(8)).await;
    let mut other = Memory::connect(&path);
    let mut stream = client.stream(other.request(1)).await.unwrap().into_inner();
    for _ in 0..5 {
        let (header, _payload) = timeout(HANG, next(&mut stream)).await.unwrap().unwrap().unwrap();
        assert_eq!(header.lease, 0);
    }
    kept.iter().for_each(Leased::check);
    drop(kept);
    until("what it kept is free", || in_use(&server) <= bytes(2)).await;
    // The one that was made before may come as frames.
    let mut leased = 0;
    while let Some(frame) = timeout(HANG, stream.message()).await.unwrap().unwrap() {
        if frame.header.is_some_and(|header| header.lease > 0) {
            let ([number, ..], returned) = other.receive();
            drop(returned);
            other.say(0, number);
            leased += 1;
        }
    }
    assert!(leased > 0, "memory is lent again");
    drop((memory, other));
    until("all buffers are free", || in_use(&server) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_keeps_leases_gets_the_next_microbatch_as_frames_when_it_needs_it() {
    let (_server, path, _folder) = start(16, limits()).await;
    let mut memory = Memory::connect(&path);
    let mut stream = client(&path).await.stream(memory.request(5)).await.unwrap().into_inner();
    let mut kept = Vec::new();
    // The window, and one more.
    for _ in 0..3 {
        kept.push(memory.next(&mut stream).await);
    }
    for _ in 3..11 {
        memory.say(1, 5);
        let (header, payload) = timeout(HANG, next(&mut stream)).await.unwrap().unwrap().unwrap();
        let Header { seed, epoch, step, microbatch: index, lease, .. } = header;
        assert_eq!(lease, 0);
        assert!(payload == pixels(MicrobatchName { seed, epoch, step, index }));
    }
    kept.iter().for_each(Leased::check);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_keeps_its_leases_and_needs_nothing_is_cut_and_others_continue() {
    // A busy machine does not reach it while the other client reads.
    let stall_timeout = Duration::from_secs(5);
    let (server, path, _folder) = start(16, Limits { stall_timeout, ..limits() }).await;
    let memory = Memory::connect(&path);
    let mut stream = client(&path).await.stream(memory.request(1)).await.unwrap().into_inner();
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(memory.next(&mut stream).await);
    }
    let cut = timeout(HANG, stream.message()).await.unwrap().unwrap_err();
    assert_eq!(cut.code(), Code::Unavailable);
    assert!(cut.message().contains("accepted no data for 5s"), "{cut}");
    // What it was to get next is free again.
    let three = 3 * usize::try_from(MICROBATCH_BYTES).unwrap();
    until("it holds what it has", || in_use(&server) == three).await;
    let mut other = Memory::connect(&path);
    let mut stream = client(&path).await.stream(other.request(1)).await.unwrap().into_inner();
    for _ in 0..11 {
        let leased = other.next(&mut stream).await;
        other.give_back(leased);
    }
    kept.iter().for_each(Leased::check);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_connection_or_with_another_name_microbatches_are_sent_as_frames() {
    let (server, path, _folder) = start(16, limits()).await;
    let closed = Memory::connect(&path);
    let name = closed.name.clone();
    drop(closed);
    for connection in [name, vec![7; 16], vec![1, 2, 3], vec![]] {
        let leases = Some(LeaseOptions { connection: connection.into(), call: 1 });
        let request = StreamRequest { leases, ..steps(1) };
        let mut stream = client(&path).await.stream(request).await.unwrap().into_inner();
        for _ in 0..4 {
            assert_eq!(next(&mut stream).await.unwrap().unwrap().0.lease, 0);
        }
    }
    until("all buffers are free", || in_use(&server) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_lies_or_leases_nothing_is_closed() {
    let has_ended = |mut memory: Memory| {
        memory.socket.set_read_timeout(Some(HANG)).unwrap();
        match memory.socket.read(&mut [0; 9]) {
            Ok(bytes) => bytes == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    };
    // Nothing but the lie can close a connection, and no time ends one before it has lied.
    let (_server, path, _folder) = start(16, limits()).await;
    for (kind, number) in [(0, 99), (2, 0), (u64::MAX, 0)] {
        let mut memory = Memory::connect(&path);
        memory.say(kind, number);
        assert!(has_ended(memory), "{kind}");
    }
    let authentication_timeout = Duration::from_millis(200);
    let (_server, path, _folder) = start(16, Limits { authentication_timeout, ..limits() }).await;
    assert!(has_ended(Memory::connect(&path)), "no call names it");
}

#[tokio::test]
async fn a_flood_of_messages_is_cut_and_others_are_served() {
    // Nothing but the flood can close a connection.
    let (server, path, _folder) = start(16, limits()).await;
    let at = path.clone();
    let flood = std::thread::Builder::new().spawn(move || {
        let mut socket = Memory::connect(&at).socket;
        let many = [1_u64, 7].map(u64::to_le_bytes).concat().repeat(4096);
        while socket.write_all(&many).is_ok() {}
    });
    // The flood and the calls of others share this thread.
    let mut stream = client(&path).await.stream(steps(3)).await.unwrap().into_inner();
    for _ in 0..11 {
        timeout(HANG, next(&mut stream)).await.unwrap().unwrap().unwrap();
    }
    let flood = flood.unwrap();
    until("the flood is cut", || flood.is_finished()).await;
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_for_every_microbatch_is_not_cut() {
    let (_server, path, _folder) = start(16, limits()).await;
    let mut memory = Memory::connect(&path);
    let mut client = client(&path).await;
    // More messages than a connection may send without having earned them.
    for call in 0..20 {
        let mut stream = client.stream(memory.request(call)).await.unwrap().into_inner();
        let mut headers = 0;
        while let Some(frame) = timeout(HANG, stream.message()).await.unwrap().unwrap() {
            let Some(header) = frame.header else { continue };
            headers += 1;
            if header.lease > 0 {
                drop(memory.receive());
                memory.say(0, header.lease);
            }
            (0..7).for_each(|_| memory.say(1, call));
        }
        assert_eq!(headers, 11);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_read_the_same_memory_and_one_that_leaves_disturbs_no_other() {
    let (server, path, _folder) = start(16, limits()).await;
    let (mut one, other) = (Memory::connect(&path), Memory::connect(&path));
    let mut client = client(&path).await;
    let mut first = client.stream(one.request(1)).await.unwrap().into_inner();
    let mut second = client.stream(other.request(1)).await.unwrap().into_inner();
    let (a, b) = (one.next(&mut first).await, other.next(&mut second).await);
    one.give_back(a);
    drop((first, one));
    b.check();
    drop((b, second, other));
    until("all buffers are free", || in_use(&server) == 0).await;
}
