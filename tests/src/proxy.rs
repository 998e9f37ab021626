//! A TCP proxy that does to bytes what networks do: late, slow, cut, held back, changed.

#![expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "for tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes on their way in each direction: chunks of the first number, as many as the second.
const CHUNK: usize = 16 << 10;
const CHUNKS: usize = 64;

/// What happens to bytes in one direction. The default is nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Path {
    /// How long a byte travels, and up to how much longer.
    pub delay: Duration,
    /// Drawn for each chunk.
    pub jitter: Duration,
    /// Nothing gets through, and nobody is told.
    pub blocked: bool,
    /// A connection ends after half to one and a half times so many bytes.
    pub cut_after: Option<u64>,
    /// The lowest bit of this byte is flipped, counted over all connections; once.
    pub flip_at: Option<u64>,
    /// At most so many bytes a second, a few at a time.
    pub bytes_per_s: Option<u64>,
}

/// What happens to connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// From client to server.
    pub up: Path,
    /// From server to client.
    pub down: Path,
    /// Whether connections end by a reset instead of an end.
    pub reset: bool,
    /// Connections are accepted, and nothing ever comes.
    pub half_open: bool,
}

/// A running proxy in front of a server.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    faults: watch::Sender<Faults>,
    /// Changes when all connections are to end.
    cut: watch::Sender<u64>,
    connections: AtomicU64,
    /// Bytes that came from the client and from the server.
    passed: [AtomicU64; 2],
}

impl Proxy {
    /// In front of a server, without faults.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            faults: watch::Sender::default(),
            cut: watch::Sender::default(),
            connections: AtomicU64::new(0),
            passed: [const { AtomicU64::new(0) }; 2],
        });
        let accepting = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let number = accepting.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(Arc::clone(&accepting).connection(client, server, number));
            }
        });
        Self { address, shared, task }
    }

    /// What clients are given.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on.
    pub fn set(&self, faults: Faults) {
        self.shared.faults.send_replace(faults);
    }

    /// Ends all connections.
    pub fn cut(&self) {
        self.shared.cut.send_modify(|cuts| *cuts += 1);
    }

    /// How many there were.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Bytes that the server sent.
    pub fn sent(&self) -> u64 {
        self.shared.passed[1].load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

impl Shared {
    async fn connection(self: Arc<Self>, client: TcpStream, server: SocketAddr, number: u64) {
        let mut cut = self.cut.subscribe();
        if self.faults.borrow().half_open {
            drop(cut.changed().await);
            return;
        }
        let Ok(server) = TcpStream::connect(server).await else { return };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::select! {
            () = self.pump(0, number, &from_client, to_server) => {}
            () = self.pump(1, number, &from_server, to_client) => {}
            _ = cut.changed() => {}
        }
        if self.faults.borrow().reset {
            for half in [&from_client, &from_server] {
                // Gone already, it needs no reset.
                half.as_ref().set_zero_linger().ok();
            }
        }
    }

    /// Moves bytes in one direction until the connection ends.
    async fn pump(&self, way: usize, number: u64, from: &OwnedReadHalf, to: OwnedWriteHalf) {
        let (sender, receiver) = mpsc::channel(CHUNKS);
        tokio::select! {
            () = self.read(way, number, from, sender) => {}
            () = self.write(way, receiver, to) => {}
        }
    }

    fn path(&self, way: usize) -> Path {
        let faults = self.faults.borrow();
        if way == 0 { faults.up } else { faults.down }
    }

    async fn read(
        &self,
        way: usize,
        number: u64,
        from: &OwnedReadHalf,
        sender: mpsc::Sender<(Instant, Vec<u8>)>,
    ) {
        let mut of_connection = 0;
        for chunk in 0_u64.. {
            let Path { delay, jitter, cut_after, flip_at, bytes_per_s, .. } = self.path(way);
            let random = part([number, way as u64, chunk]);
            let left = cut_after.map(|mean| {
                let end = mean / 2 + draw([number, way as u64, u64::MAX]) % mean.max(1);
                end.saturating_sub(of_connection)
            });
            let most = bytes_per_s.map_or(CHUNK as u64, |rate| rate / 50 + 1);
            let most = most.min(left.unwrap_or(u64::MAX)).min(CHUNK as u64);
            let mut bytes = vec![0; usize::try_from(most).unwrap()];
            let read = loop {
                if from.readable().await.is_err() {
                    return;
                }
                match from.try_read(&mut bytes) {
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Ok(read) if read > 0 => break read,
                    // Cut, ended or failed.
                    _ => return,
                }
            };
            bytes.truncate(read);
            let begin = self.passed[way].fetch_add(read as u64, Ordering::SeqCst);
            of_connection += read as u64;
            if let Some(at) = flip_at.and_then(|at| at.checked_sub(begin))
                && let Some(byte) = bytes.get_mut(usize::try_from(at).unwrap())
            {
                *byte ^= 1;
            }
            let due = Instant::now() + delay + jitter.mul_f64(random);
            if sender.send((due, bytes)).await.is_err() {
                return;
            }
            if let Some(rate) = bytes_per_s {
                sleep(Duration::from_secs_f64(read as f64 / rate as f64)).await;
            }
        }
    }

    async fn write(
        &self,
        way: usize,
        mut receiver: mpsc::Receiver<(Instant, Vec<u8>)>,
        mut to: OwnedWriteHalf,
    ) {
        let mut faults = self.faults.subscribe();
        while let Some((due, bytes)) = receiver.recv().await {
            sleep_until(due).await;
            while self.path(way).blocked {
                drop(faults.changed().await);
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    }
}

/// A random number, by what it is for: the same each time.
fn draw(what: [u64; 3]) -> u64 {
    xxh3_64(&what.map(u64::to_le_bytes).concat())
}

/// From 0 to 1.
fn part(what: [u64; 3]) -> f64 {
    (draw(what) >> 11) as f64 / (1_u64 << 53) as f64
}
