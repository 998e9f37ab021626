//! A TCP proxy that injects the faults of networks: latency, low bandwidth, partitions, resets, flipped bits.

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

/// Bytes of a chunk. Delays apply to whole chunks.
const CHUNK: usize = 16 << 10;
/// Chunks in flight in each direction of a connection.
const CHUNKS: usize = 64;

/// Faults of one direction. The default has none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Path {
    /// Minimum latency.
    pub delay: Duration,
    /// Maximum of the additional latency, which is drawn for each chunk.
    pub jitter: Duration,
    /// Whether nothing is delivered while connections stay open.
    pub blocked: bool,
    /// Mean number of bytes after which a connection ends. The number is drawn between half of the mean and
    /// one and a half times the mean.
    pub cut_after: Option<u64>,
    /// Offset of the one byte whose lowest bit is flipped, counted over all connections.
    pub flip_at: Option<u64>,
    /// Bandwidth in bytes per second.
    pub bytes_per_s: Option<u64>,
}

/// Faults of connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Faults from client to server.
    pub up: Path,
    /// Faults from server to client.
    pub down: Path,
    /// Whether connections end by a reset (RST) instead of an end of stream (FIN).
    pub reset: bool,
    /// Whether connections are accepted and nothing is ever sent on them.
    pub half_open: bool,
}

/// A running proxy in front of a server.
#[derive(Debug)]
pub struct Proxy {
    /// Address that it listens on.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    faults: watch::Sender<Faults>,
    /// Changes to end all connections.
    cut: watch::Sender<u64>,
    connections: AtomicU64,
    /// Bytes received from clients and from the server.
    received: [AtomicU64; 2],
}

impl Proxy {
    /// Starts a proxy in front of a server, without faults.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            faults: watch::Sender::default(),
            cut: watch::Sender::default(),
            connections: AtomicU64::new(0),
            received: [const { AtomicU64::new(0) }; 2],
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

    /// The endpoint for clients.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Replaces the faults.
    pub fn set(&self, faults: Faults) {
        self.shared.faults.send_replace(faults);
    }

    /// Ends all connections.
    pub fn cut(&self) {
        self.shared.cut.send_modify(|cuts| *cuts += 1);
    }

    /// The number of connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Bytes that the server has sent.
    pub fn sent(&self) -> u64 {
        self.shared.received[1].load(Ordering::SeqCst)
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
                // An error means that the connection has already ended.
                half.as_ref().set_zero_linger().ok();
            }
        }
    }

    /// Forwards bytes in one direction until the connection ends.
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
        let mut connection_bytes = 0;
        for chunk in 0_u64.. {
            let Path { delay, jitter, cut_after, flip_at, bytes_per_s, .. } = self.path(way);
            let random = uniform([number, way as u64, chunk]);
            let left = cut_after.map(|mean| {
                let end = mean / 2 + draw([number, way as u64, u64::MAX]) % mean.max(1);
                end.saturating_sub(connection_bytes)
            });
            let max = bytes_per_s.map_or(CHUNK as u64, |rate| rate / 50 + 1);
            let max = max.min(left.unwrap_or(u64::MAX)).min(CHUNK as u64);
            let mut bytes = vec![0; usize::try_from(max).unwrap()];
            let read = loop {
                if from.readable().await.is_err() {
                    return;
                }
                match from.try_read(&mut bytes) {
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Ok(read) if read > 0 => break read,
                    // The connection was cut, has ended or has failed.
                    _ => return,
                }
            };
            bytes.truncate(read);
            let begin = self.received[way].fetch_add(read as u64, Ordering::SeqCst);
            connection_bytes += read as u64;
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

/// A random number for a purpose, the same in each run.
fn draw(purpose: [u64; 3]) -> u64 {
    xxh3_64(&purpose.map(u64::to_le_bytes).concat())
}

/// A random number from 0 to 1.
fn uniform(purpose: [u64; 3]) -> f64 {
    (draw(purpose) >> 11) as f64 / (1_u64 << 53) as f64
}
