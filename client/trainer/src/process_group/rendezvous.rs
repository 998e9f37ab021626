//! The rendezvous: processes find each other and exchange addresses.
//!
//! Rank 0 listens. The other ranks connect to it, present their rank and their settings, and receive the
//! address of the next rank. Then every rank connects to the next one, which closes the ring. The
//! connections to rank 0 stay open for the heartbeat.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{Error as IoError, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use forebay_types::Rank;
use forebay_types::settings::TimeSpan;
use serde_json::Value;

use super::handshake::{self, Handshake};
use super::heartbeat::Heartbeat;
use super::ring::Ring;
use super::timeouts::Timeouts;
use crate::Error;

/// Time that a connected process may take to send its handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time that the ring may take to close after all ranks have joined.
const RING_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause between two attempts to accept or to connect.
const POLL: Duration = Duration::from_millis(50);

/// Everything that a process needs to join its world.
#[derive(Clone, Debug)]
pub struct Rendezvous {
    /// The rank of this process and the size of the world.
    pub rank: Rank,
    /// `host:port` at which rank 0 listens.
    pub address: String,
    /// Everything that must be the same on all ranks.
    pub settings: Value,
    /// Longest waits of ranks for each other.
    pub timeouts: Timeouts,
}

/// Joins the other ranks.
pub(super) fn join(rendezvous: &Rendezvous) -> Result<(Ring, Heartbeat), Error> {
    let deadline = Instant::now() + rendezvous.timeouts.rendezvous;
    if rendezvous.rank.rank == 0 {
        host(rendezvous, deadline)
    } else {
        connect(rendezvous, deadline)
    }
}

impl Rendezvous {
    fn error(&self, problem: String) -> Error {
        Error::Rendezvous { address: self.address.clone(), problem }
    }
}

/// A rank that has joined, as rank 0 sees it.
struct Peer {
    stream: TcpStream,
    /// Address at which the rank accepts its ring link.
    link: SocketAddr,
}

/// Rank 0: waits for all other ranks, and sends each the address of the next one.
fn host(rendezvous: &Rendezvous, deadline: Instant) -> Result<(Ring, Heartbeat), Error> {
    let listener = listen(rendezvous)?;
    let mut peers = BTreeMap::new();
    if let Err(error) = accept_all(rendezvous, &listener, &mut peers, deadline) {
        let (rank, problem) = match &error {
            Error::Rank { rank, problem } => (*rank, problem.clone()),
            other => (0, other.to_string()),
        };
        let refused = Handshake::Refused { rank, problem };
        for peer in peers.values_mut() {
            handshake::send(&mut peer.stream, &refused).ok();
        }
        return Err(error);
    }
    // A random token keeps processes of an earlier or another run out of the ring.
    let token = RandomState::new().build_hasher().finish();
    let links: Vec<SocketAddr> = peers.values().map(|peer| peer.link).collect();
    for (rank, peer) in &mut peers {
        // `links` starts with rank 1, so index `rank` is the next rank; the last rank has none.
        let welcome = Handshake::Welcome { token, next: links.get(*rank as usize).copied() };
        // A peer that is gone by now is detected by the heartbeat.
        handshake::send(&mut peer.stream, &welcome).ok();
    }
    let connections = peers.into_iter().map(|(rank, peer)| (rank, peer.stream)).collect();
    close_ring(rendezvous, connections, &listener, links[0], token)
}

/// Binds the address. A host name is bound on all interfaces, because names like those of Kubernetes
/// services may resolve to an address that no interface has.
fn listen(rendezvous: &Rendezvous) -> Result<TcpListener, Error> {
    let address = &rendezvous.address;
    let error = |cause: IoError| {
        let advice = match cause.kind() {
            ErrorKind::AddrInUse => {
                "; another program uses the port (torchrun's own store uses MASTER_PORT): set --rendezvous to another port on all ranks"
            }
            ErrorKind::AddrNotAvailable => {
                "; rank 0 must run on the machine that --rendezvous names"
            }
            ErrorKind::InvalidInput => "; expected --rendezvous HOST:PORT",
            _ => "",
        };
        rendezvous.error(format!("rank 0 cannot listen: {cause}{advice}"))
    };
    let literal: Option<SocketAddr> = address.parse().ok();
    let bound = match (literal, address.rsplit_once(':')) {
        (Some(address), _) => TcpListener::bind(address),
        (None, Some(("localhost", port))) => TcpListener::bind(format!("127.0.0.1:{port}")),
        (None, Some((_, port))) => {
            let port = port.parse().map_err(|_error| IoError::from(ErrorKind::InvalidInput));
            port.and_then(|port| TcpListener::bind((IpAddr::from(Ipv4Addr::UNSPECIFIED), port)))
        }
        (None, None) => Err(ErrorKind::InvalidInput.into()),
    };
    let listener = bound.map_err(error)?;
    listener.set_nonblocking(true).map_err(error)?;
    Ok(listener)
}

/// Accepts handshakes until all ranks have joined.
fn accept_all(
    rendezvous: &Rendezvous,
    listener: &TcpListener,
    peers: &mut BTreeMap<u32, Peer>,
    deadline: Instant,
) -> Result<(), Error> {
    let world = rendezvous.rank.world;
    while peers.len() + 1 < world as usize {
        if Instant::now() > deadline {
            let missing = (1..world).filter(|rank| !peers.contains_key(rank));
            let missing: Vec<String> = missing.map(|rank| rank.to_string()).collect();
            return Err(rendezvous.error(format!(
                "{} of {world} ranks did not join within {}: {}; see their logs, or raise --rendezvous-timeout",
                missing.len(),
                TimeSpan(rendezvous.timeouts.rendezvous),
                missing.join(", ")
            )));
        }
        let Ok((mut stream, from)) = listener.accept() else {
            std::thread::sleep(POLL);
            continue;
        };
        // A connection that does not send a handshake is of another program, such as a port scanner.
        let received = handshake::recv(&mut stream, HANDSHAKE_TIMEOUT);
        let Ok(Handshake::Hello { rank, world: its_world, port, settings }) = received else {
            continue;
        };
        // A rank that died while it waited may have been restarted.
        peers.retain(|_, peer| is_connected(&peer.stream));
        let problem = if its_world != world {
            Some(format!("it was started for a world of {its_world}, but rank 0 for {world}"))
        } else if !(1..world).contains(&rank) || peers.contains_key(&rank) {
            Some(format!("two processes have rank {rank}: give each its own --rank"))
        } else {
            first_difference("", &settings, &rendezvous.settings)
        };
        if let Some(problem) = problem {
            let problem = format!("refused at the rendezvous: {problem}");
            let refused = Handshake::Refused { rank, problem: problem.clone() };
            handshake::send(&mut stream, &refused).ok();
            return Err(Error::Rank { rank, problem });
        }
        peers.insert(rank, Peer { stream, link: SocketAddr::new(from.ip(), port) });
    }
    Ok(())
}

/// Describes the first setting that differs.
fn first_difference(name: &str, its: &Value, ours: &Value) -> Option<String> {
    if let (Value::Object(its), Value::Object(ours)) = (its, ours) {
        let get =
            |map: &serde_json::Map<String, Value>, key| map.get(key).cloned().unwrap_or_default();
        return ours.keys().chain(its.keys()).find_map(|key| {
            let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            first_difference(&name, &get(its, key), &get(ours, key))
        });
    }
    (its != ours).then(|| {
        format!(
            "its {name} is {its}, but rank 0's is {ours}: start all ranks with the same settings"
        )
    })
}

/// All ranks but 0: connects to rank 0 and joins the ring where rank 0 says.
fn connect(rendezvous: &Rendezvous, deadline: Instant) -> Result<(Ring, Heartbeat), Error> {
    let Rank { rank, world } = rendezvous.rank;
    let io_error = |error: IoError| {
        rendezvous.error(format!("rank {rank} cannot open its socket for the ring: {error}"))
    };
    let mut stream = connect_to_host(rendezvous, deadline)?;
    let here = stream.local_addr().map_err(io_error)?;
    let listener = TcpListener::bind((here.ip(), 0)).map_err(io_error)?;
    listener.set_nonblocking(true).map_err(io_error)?;
    let port = listener.local_addr().map_err(io_error)?.port();
    let settings = rendezvous.settings.clone();
    let hello = Handshake::Hello { rank, world, port, settings };
    let left = deadline.saturating_duration_since(Instant::now()) + HANDSHAKE_TIMEOUT;
    let sent = handshake::send(&mut stream, &hello);
    match sent.and_then(|()| handshake::recv(&mut stream, left)) {
        Ok(Handshake::Welcome { token, next }) => {
            // The last rank links back to rank 0.
            let first = stream.peer_addr().map_err(io_error)?;
            close_ring(rendezvous, vec![(0, stream)], &listener, next.unwrap_or(first), token)
        }
        Ok(Handshake::Refused { rank, problem }) => Err(Error::Rank { rank, problem }),
        Ok(_) => Err(rendezvous.error("the process that listens there is not rank 0".to_owned())),
        Err(error) => Err(rendezvous.error(format!(
            "rank 0 did not answer ({error}): it has ended, or another program listens there; see rank 0's log"
        ))),
    }
}

/// Connects to rank 0, which may be started later.
fn connect_to_host(rendezvous: &Rendezvous, deadline: Instant) -> Result<TcpStream, Error> {
    loop {
        let connected = rendezvous.address.to_socket_addrs().and_then(|addresses| {
            let none = Err(IoError::new(ErrorKind::NotFound, "the name has no address"));
            addresses.fold(none, |connected, address| {
                connected.or_else(|_| TcpStream::connect_timeout(&address, HANDSHAKE_TIMEOUT))
            })
        });
        match connected {
            Ok(stream) if stream.local_addr().ok() != stream.peer_addr().ok() => return Ok(stream),
            // TCP allows a socket to connect to itself while no process listens on an ephemeral port.
            Ok(itself) => drop(itself),
            Err(error) if Instant::now() > deadline => {
                return Err(rendezvous.error(format!(
                    "rank 0 was not reachable within {} ({error}); see its log, or raise --rendezvous-timeout",
                    TimeSpan(rendezvous.timeouts.rendezvous)
                )));
            }
            Err(_) => std::thread::sleep(4 * POLL),
        }
    }
}

/// Starts the heartbeat, connects to the next rank and accepts the link of the previous one.
fn close_ring(
    rendezvous: &Rendezvous,
    connections: Vec<(u32, TcpStream)>,
    listener: &TcpListener,
    next: SocketAddr,
    token: u64,
) -> Result<(Ring, Heartbeat), Error> {
    let Rank { rank, world } = rendezvous.rank;
    let own_error = |error: IoError| {
        let problem = format!("it cannot set up its connections: {error}");
        Error::Rank { rank, problem }
    };
    let heartbeat = Heartbeat::start(rank, connections, rendezvous.timeouts).map_err(own_error)?;
    let link = || -> Result<Ring, Error> {
        let (next_rank, previous_rank) = ((rank + 1) % world, (rank + world - 1) % world);
        let outgoing = TcpStream::connect_timeout(&next, RING_TIMEOUT).and_then(|mut stream| {
            handshake::send(&mut stream, &Handshake::Link { token, rank })?;
            Ok(stream)
        });
        let outgoing = outgoing.map_err(|error| {
            let problem = format!(
                "rank {rank} cannot connect to it at {next} ({error}): each rank must reach the next one, not only rank 0"
            );
            Error::Rank { rank: next_rank, problem }
        })?;
        let incoming = accept_link(listener, previous_rank, token, &heartbeat)?;
        let both = outgoing.try_clone().and_then(|out| Ok([out, incoming.try_clone()?]));
        heartbeat.close_on_failure(both.map_err(own_error)?);
        Ring::between_processes(outgoing, incoming).map_err(own_error)
    };
    match link() {
        Ok(ring) => Ok((ring, heartbeat)),
        Err(error) => {
            heartbeat.fail(&error.to_string());
            Err(heartbeat.failure().unwrap_or(error))
        }
    }
}

/// Accepts the link of the previous rank.
fn accept_link(
    listener: &TcpListener,
    previous_rank: u32,
    token: u64,
    heartbeat: &Heartbeat,
) -> Result<TcpStream, Error> {
    let error = |problem| Error::Rank { rank: previous_rank, problem };
    let deadline = Instant::now() + RING_TIMEOUT;
    while Instant::now() < deadline {
        if let Some(failure) = heartbeat.failure() {
            return Err(failure);
        }
        let Ok((mut stream, _)) = listener.accept() else {
            std::thread::sleep(POLL);
            continue;
        };
        match handshake::recv(&mut stream, HANDSHAKE_TIMEOUT) {
            Ok(Handshake::Link { token: its_token, rank })
                if its_token == token && rank == previous_rank =>
            {
                // The handshake has set a read timeout, but messages of the ring may take any time.
                let blocking = stream.set_read_timeout(None);
                return blocking
                    .map(|()| stream)
                    .map_err(|cause| error(format!("its connection failed: {cause}")));
            }
            _ => {}
        }
    }
    Err(error(format!("it did not join the ring within {}", TimeSpan(RING_TIMEOUT))))
}

/// Whether the other side still has the connection open.
fn is_connected(stream: &TcpStream) -> bool {
    let peeked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
    let pending = |error: &IoError| error.kind() == ErrorKind::WouldBlock;
    let connected = peeked.as_ref().is_err_and(pending) || peeked.is_ok_and(|count| count > 0);
    stream.set_nonblocking(false).is_ok() && connected
}
