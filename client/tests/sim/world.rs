//! A network of servers on one thread in virtual time, with faults drawn from a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use forebay_client::{Connection, Network};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;
use tower::Service as _;

use crate::fake::{Data, Fake};

/// `SplitMix64`.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0xd134_2543_de82_ef95))
    }

    /// Below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    /// True with a probability in millionths.
    pub(crate) fn chance(&mut self, millionths: u64) -> bool {
        self.below(1_000_000) < millionths
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }

    /// A delay of a few milliseconds, rarely of seconds.
    fn delay(&mut self) -> Duration {
        let longest = if self.chance(10_000) { 3_000_000 } else { 4000 };
        Duration::from_micros(self.below(longest))
    }
}

/// Probabilities of faults, in millionths.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    /// A request is never answered, or a response stops after a frame.
    pub(crate) lost: u64,
    /// The connection breaks at a request or a frame.
    pub(crate) reset: u64,
    /// A body ends early.
    pub(crate) truncated: u64,
    /// A byte of a payload is changed.
    pub(crate) corrupt: u64,
}

/// A server of the network.
struct Server {
    data: Data,
    /// Closed when the server is killed, which wakes its waiters in order.
    life: Arc<Semaphore>,
    /// Whether its service's name resolves to it.
    named: bool,
}

/// The simulated network.
pub(crate) struct World {
    start: Instant,
    pub(crate) random: Random,
    pub(crate) faults: Faults,
    /// When the faults end.
    horizon: Instant,
    servers: BTreeMap<SocketAddr, Server>,
    pub(crate) log: Vec<String>,
    /// The ranks and servers between which a byte was changed, once each: a microbatch that every server
    /// corrupts twice ends the job, as it should.
    corrupted: BTreeSet<(u64, SocketAddr)>,
    /// Whether to print each line of the log.
    is_verbose: bool,
    /// Number of ranks that received nothing yet. Such a rank would trust a server with other data if
    /// that were the only one.
    pub(crate) newcomers: u32,
}

#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub(crate) fn new(random: Random, faults: Faults, horizon: Duration, is_verbose: bool) -> Self {
        let start = Instant::now();
        let (servers, log) = (BTreeMap::new(), Vec::new());
        let horizon = start + horizon;
        Self(Arc::new(Mutex::new(World {
            start,
            random,
            faults,
            horizon,
            servers,
            log,
            corrupted: BTreeSet::new(),
            is_verbose,
            newcomers: 0,
        })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    /// The network as a rank's client sees it.
    pub(crate) fn network(&self, rank: u64, seed: u64) -> Network {
        let (names, servers) = (self.clone(), self.clone());
        Network::default().seed(seed).resolver(move |_host| names.clone().resolve()).connector(
            move |url| {
                let address = url.trim_start_matches("http://").parse().unwrap();
                let world = servers.clone();
                let call = move |request| world.clone().call((rank, address), request);
                Connection::new(tower::service_fn(call))
            },
        )
    }

    async fn resolve(self) -> io::Result<Vec<SocketAddr>> {
        let delay = self.lock().random.delay();
        sleep(delay).await;
        let mut world = self.lock();
        if world.strikes(|faults| faults.reset * 20) {
            world.note("resolver fails");
            return Err(io::Error::other("the resolver fails"));
        }
        let named = world.servers.iter().filter(|(_, server)| server.named);
        let mut found: Vec<SocketAddr> = named.map(|(address, _)| *address).collect();
        let first = world.random.below(found.len().max(1) as u64);
        found.rotate_left(usize::try_from(first).unwrap());
        Ok(found)
    }

    /// Calls a server for a rank.
    async fn call(
        self,
        (rank, address): (u64, SocketAddr),
        request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        let (delay, path) = (self.lock().random.delay(), request.uri().path().to_owned());
        sleep(delay).await;
        let accepted = self.lock().accept(address, &path)?;
        let Some((data, life)) = accepted else { return std::future::pending().await };
        if life.is_closed() {
            return Err(broken("refused"));
        }
        let response =
            Fake::service(data).call(request).await.unwrap_or_else(|never| match never {});
        let frames = path.ends_with("/Stream") || path.ends_with("/Fetch");
        let (parts, body) = response.into_parts();
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(self.pump((rank, address), body, frames, life, sender));
        Ok(Response::from_parts(parts, Body::new(StreamBody::new(ReceiverStream::new(receiver)))))
    }

    /// Forwards a body until its end, a fault, or the death of the server.
    async fn pump(
        self,
        ends: (u64, SocketAddr),
        mut body: Body,
        frames: bool,
        life: Arc<Semaphore>,
        sender: mpsc::Sender<Result<Frame<Bytes>, Status>>,
    ) {
        loop {
            let delay = self.lock().random.delay();
            let frame = async {
                sleep(delay).await;
                body.frame().await
            };
            let mut frame = tokio::select! {
                biased;
                _ = life.acquire() => {
                    sender.send(Err(broken("killed"))).await.ok();
                    return;
                }
                () = sender.closed() => return,
                frame = frame => match frame {
                    Some(Ok(frame)) => frame,
                    _ => return,
                },
            };
            let fate = self.lock().fate(ends, frames, &mut frame);
            match fate {
                Fate::Passed => {}
                Fate::Reset => {
                    sender.send(Err(broken("reset"))).await.ok();
                    return;
                }
                Fate::Truncated => return,
                Fate::Lost => {
                    sender.closed().await;
                    return;
                }
            }
            if sender.send(Ok(frame)).await.is_err() {
                return;
            }
        }
    }

    /// Kills, starts, adds and removes servers until the horizon, and then starts all of them.
    pub(crate) async fn churn(self, data: Data) {
        loop {
            let pause = {
                let mut world = self.lock();
                let longest = world.random.pick(&[300, 3000]);
                Duration::from_millis(1 + world.random.below(longest))
            };
            sleep(pause).await;
            let mut world = self.lock();
            if Instant::now() >= world.horizon {
                let all: Vec<SocketAddr> = world.servers.keys().copied().collect();
                for address in all {
                    world.set(address, true);
                }
                return;
            }
            match world.random.below(10) {
                0..=3 => {
                    let address = world.any();
                    world.set(address, false);
                }
                4..=7 => {
                    let down = |(_, server): &(&SocketAddr, &Server)| server.life.is_closed();
                    let down = world.servers.iter().find(down).map(|(address, _)| *address);
                    if let Some(address) = down {
                        world.set(address, true);
                    }
                }
                8 if world.servers.len() < 6 => {
                    let _ = world.add(data.clone());
                }
                _ if world.newcomers == 0 => {
                    let address = world.any();
                    world.rename(address);
                }
                _ => {}
            }
        }
    }
}

enum Fate {
    Passed,
    Reset,
    Truncated,
    Lost,
}

impl World {
    pub(crate) fn note(&mut self, what: impl Into<String>) {
        let at = self.start.elapsed().as_micros();
        let line = format!("{at} {}", what.into());
        if self.is_verbose {
            println!("{line}");
        }
        self.log.push(line);
    }

    /// Decides whether a request reaches a server; `None` if it is lost.
    fn accept(
        &mut self,
        address: SocketAddr,
        path: &str,
    ) -> Result<Option<(Data, Arc<Semaphore>)>, Status> {
        let server = self.servers.get(&address).ok_or_else(|| broken("no route"))?;
        let accepted = (server.data.clone(), Arc::clone(&server.life));
        self.note(format!("{address} {path}"));
        if self.strikes(|faults| faults.reset) {
            return Err(broken("reset"));
        }
        if self.strikes(|faults| faults.lost) {
            self.note(format!("{address} does not receive it"));
            return Ok(None);
        }
        Ok(Some(accepted))
    }

    fn strikes(&mut self, of: impl Fn(&Faults) -> u64) -> bool {
        Instant::now() < self.horizon && self.random.chance(of(&self.faults))
    }

    fn fate(
        &mut self,
        (rank, address): (u64, SocketAddr),
        frames: bool,
        frame: &mut Frame<Bytes>,
    ) -> Fate {
        let fate = if self.strikes(|faults| faults.reset) {
            ("resets", Fate::Reset)
        } else if self.strikes(|faults| faults.truncated) {
            ("truncates", Fate::Truncated)
        } else if self.strikes(|faults| faults.lost) {
            ("stops sending", Fate::Lost)
        } else if frames
            && !self.corrupted.contains(&(rank, address))
            && self.strikes(|faults| faults.corrupt)
            && let Some(data) = frame.data_mut().filter(|data| data.len() > 160)
        {
            // The last bytes of a frame belong to the payload.
            let at = data.len() - 1 - usize::try_from(self.random.below(100)).unwrap();
            let mut changed = BytesMut::from(&data[..]);
            changed[at] ^= 1 << self.random.below(8);
            *data = changed.freeze();
            self.corrupted.insert((rank, address));
            ("corrupts", Fate::Passed)
        } else {
            return Fate::Passed;
        };
        self.note(format!("{address} {}", fate.0));
        fate.1
    }

    /// Adds a server.
    pub(crate) fn add(&mut self, data: Data) -> SocketAddr {
        let octet = u8::try_from(self.servers.len() + 1).unwrap();
        let address = SocketAddr::from(([10, 0, 0, octet], 50051));
        self.note(format!("{address} joins"));
        self.servers
            .insert(address, Server { data, life: Arc::new(Semaphore::new(0)), named: true });
        address
    }

    fn any(&mut self) -> SocketAddr {
        let all: Vec<SocketAddr> = self.servers.keys().copied().collect();
        self.random.pick(&all)
    }

    /// Starts or kills a server.
    fn set(&mut self, address: SocketAddr, up: bool) {
        let server = self.servers.get_mut(&address).unwrap();
        server.named |= up;
        if server.life.is_closed() == up {
            server.life.close();
            if up {
                server.life = Arc::new(Semaphore::new(0));
            }
            self.note(format!("{address} {}", if up { "starts" } else { "is killed" }));
        }
    }

    /// Takes a server's address out of its service's name, or puts it in.
    fn rename(&mut self, address: SocketAddr) {
        let server = self.servers.get_mut(&address).unwrap();
        server.named = !server.named;
        let what = if server.named { "is named" } else { "is no longer named" };
        self.note(format!("{address} {what}"));
    }
}

/// A broken connection.
fn broken(what: &str) -> Status {
    Status::from_error(Box::new(io::Error::new(io::ErrorKind::ConnectionReset, what.to_owned())))
}
