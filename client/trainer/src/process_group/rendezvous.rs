//! The rendezvous: processes find each other and exchange addresses.
//!
//! Rank 0 listens. The other ranks connect to it, present their rank and their settings, and receive the
//! address of the next rank. Then every rank connects to the next one, which closes the ring. The
//! connections to rank 0 stay open for the heartbeat.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{Error as IoError, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use forebay_types::Rank;
use forebay_types::settings::TimeSpan;
use serde_json::Value;

use super::accept::{Accepted, Acceptor, HANDSHAKE_TIMEOUT};
use super::handshake::{self, Handshake, shortened};
use super::heartbeat::Heartbeat;
use super::ring::Ring;
use super::timeouts::Timeouts;
use crate::Error;
use crate::difference::{Difference, first_difference};

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
    if !is_address(&rendezvous.address) {
        return Err(rendezvous.error("expected --rendezvous HOST:PORT, with a port above 0".into()));
    }
    let deadline = Instant::now() + rendezvous.timeouts.rendezvous;
    if rendezvous.rank.rank == 0 {
        host(rendezvous, deadline)
    } else {
        connect(rendezvous, deadline)
    }
}

/// Whether a text has a host and a port, which all ranks know before they wait for each other.
fn is_address(text: &str) -> bool {
    let port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    text.rsplit_once(':').is_some_and(|(host, number)| !host.is_empty() && port(number))
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
    let mut acceptor = listen(rendezvous)?;
    let mut peers = BTreeMap::new();
    if let Err(error) = accept_all(rendezvous, &mut acceptor, &mut peers, deadline) {
        let problem = shortened(&error.to_string());
        for peer in peers.values_mut() {
            handshake::refuse(&mut peer.stream, 0, &problem);
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
    close_ring(rendezvous, connections, &mut acceptor, links[0], token)
}

/// Listens at the address.
fn listen(rendezvous: &Rendezvous) -> Result<Acceptor, Error> {
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
    bind(address).and_then(Acceptor::new).map_err(error)
}

/// Binds the address. A host name is bound on all interfaces, because names like those of Kubernetes
/// services may resolve to an address that no interface has, and for IPv4 and IPv6, because it may resolve
/// to either on the machines of the other ranks.
fn bind(address: &str) -> std::io::Result<Vec<TcpListener>> {
    if let Ok(literal) = address.parse::<SocketAddr>() {
        return Ok(vec![TcpListener::bind(literal)?]);
    }
    let invalid = || IoError::from(ErrorKind::InvalidInput);
    let (host, port) = address.rsplit_once(':').ok_or_else(invalid)?;
    let port: u16 = port.parse().map_err(|_error| invalid())?;
    let (v6, v4) = match host {
        "localhost" => (Ipv6Addr::LOCALHOST, Ipv4Addr::LOCALHOST),
        _ => (Ipv6Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED),
    };
    let in_use = |error: &IoError| error.kind() == ErrorKind::AddrInUse;
    match (TcpListener::bind((v6, port)), TcpListener::bind((v4, port))) {
        (Ok(v6), Ok(v4)) => Ok(vec![v6, v4]),
        // All interfaces of IPv6 include those of IPv4, unless the system is configured otherwise.
        (Ok(listener), Err(error)) if v6.is_unspecified() && in_use(&error) => Ok(vec![listener]),
        // Most likely the machine has only one of the two.
        (Ok(listener), Err(error)) | (Err(error), Ok(listener)) if !in_use(&error) => {
            Ok(vec![listener])
        }
        (_, Err(error)) | (Err(error), _) => Err(error),
    }
}

/// Accepts handshakes until all ranks have joined. A process that does not belong to this world, such as one
/// of another training at the same address, is refused with the reason, and the others are waited for.
fn accept_all(
    rendezvous: &Rendezvous,
    acceptor: &mut Acceptor,
    peers: &mut BTreeMap<u32, Peer>,
    deadline: Instant,
) -> Result<(), Error> {
    let world = rendezvous.rank.world;
    // The reason for which a process that claimed a rank of this world was refused last.
    let mut refusals = BTreeMap::new();
    while peers.len() + 1 < world as usize {
        if Instant::now() > deadline {
            return Err(rendezvous.error(missing(rendezvous, peers, &refusals)));
        }
        let Some(accepted) = acceptor.poll() else {
            std::thread::sleep(POLL);
            continue;
        };
        let Accepted { handshake, mut stream, from } = accepted;
        let Handshake::Hello { rank, world: its_world, port, settings } = handshake else {
            continue;
        };
        // A rank that died while it waited may have been restarted.
        peers.retain(|_, peer| is_connected(&peer.stream));
        let problem = if its_world != world {
            Some(format!("it was started for a world of {its_world}, but rank 0 for {world}"))
        } else if !(1..world).contains(&rank) || peers.contains_key(&rank) {
            Some(format!("two processes have rank {rank}: give each its own --rank"))
        } else {
            first_difference("", &settings, &rendezvous.settings).map(|differing| {
                let Difference { name, left, right } = differing;
                format!(
                    "its {name} is {left}, but rank 0's is {right}: start all ranks with the same settings"
                )
            })
        };
        // Connections over IPv4 to a listener of both have addresses that only it understands.
        let ip = from.ip().to_canonical();
        let Some(problem) = problem else {
            refusals.remove(&rank);
            peers.insert(rank, Peer { stream, link: SocketAddr::new(ip, port) });
            continue;
        };
        let problem = shortened(&problem);
        let process = format!("{ip}, which says that it is rank {rank} of {its_world}");
        tracing::warn!("refused the process at {process}: {problem}");
        let refused = format!("refused at the rendezvous: {problem}");
        handshake::refuse(&mut stream, rank, &refused);
        if (1..world).contains(&rank) {
            refusals.insert(rank, problem);
        }
    }
    Ok(())
}

/// Names the ranks that did not join, and why those that tried were refused.
fn missing(
    rendezvous: &Rendezvous,
    peers: &BTreeMap<u32, Peer>,
    refusals: &BTreeMap<u32, String>,
) -> String {
    let Rank { world, .. } = rendezvous.rank;
    let missing = (1..world).filter(|rank| !peers.contains_key(rank));
    let missing: Vec<String> = missing
        .map(|rank| match refusals.get(&rank) {
            Some(problem) => format!("{rank} (one was refused: {problem})"),
            None => rank.to_string(),
        })
        .collect();
    format!(
        "{} of {world} ranks did not join within {}: {}; see their logs, or raise --rendezvous-timeout",
        missing.len(),
        TimeSpan(rendezvous.timeouts.rendezvous),
        missing.join(", ")
    )
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
    let port = listener.local_addr().map_err(io_error)?.port();
    let mut acceptor = Acceptor::new(vec![listener]).map_err(io_error)?;
    let settings = rendezvous.settings.clone();
    let hello = Handshake::Hello { rank, world, port, settings };
    let left = deadline.saturating_duration_since(Instant::now()) + HANDSHAKE_TIMEOUT;
    // Whole seconds, because an error states the limit.
    let left = Duration::from_secs(left.as_secs());
    let sent = handshake::send(&mut stream, &hello);
    match sent.and_then(|()| handshake::recv(&mut stream, left)) {
        Ok(Handshake::Welcome { token, next }) => {
            // The last rank links back to rank 0.
            let first = stream.peer_addr().map_err(io_error)?;
            close_ring(rendezvous, vec![(0, stream)], &mut acceptor, next.unwrap_or(first), token)
        }
        Ok(Handshake::Refused { rank, problem }) => Err(Error::Rank { rank, problem }),
        Ok(_) => Err(rendezvous.error("the process that listens there is not rank 0".to_owned())),
        Err(error) => Err(rendezvous.error(format!(
            "rank 0 did not answer ({error}): it has ended, or another program listens there; see rank 0's log"
        ))),
    }
}

fn connect_within(address: &SocketAddr, limit: Duration) -> std::io::Result<TcpStream> {
    let connected = TcpStream::connect_timeout(address, limit);
    connected.map_err(|error| handshake::with_limit(error, limit))
}

/// Connects to rank 0, which may be started later.
fn connect_to_host(rendezvous: &Rendezvous, deadline: Instant) -> Result<TcpStream, Error> {
    loop {
        let connected = rendezvous.address.to_socket_addrs().and_then(|addresses| {
            let none = Err(IoError::new(ErrorKind::NotFound, "the name has no address"));
            addresses.fold(none, |connected, address| {
                connected.or_else(|_| connect_within(&address, HANDSHAKE_TIMEOUT))
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
    acceptor: &mut Acceptor,
    next: SocketAddr,
    token: u64,
) -> Result<(Ring, Heartbeat), Error> {
    let Rank { rank, world } = rendezvous.rank;
    let own_error = |error: IoError| {
        let problem = format!("it cannot set up its connections: {error}");
        Error::Rank { rank, problem }
    };
    let heartbeat = Heartbeat::start(rank, connections, rendezvous.timeouts).map_err(own_error)?;
    let mut link = || -> Result<Ring, Error> {
        let (next_rank, previous_rank) = ((rank + 1) % world, (rank + world - 1) % world);
        let outgoing = connect_within(&next, RING_TIMEOUT).and_then(|mut stream| {
            handshake::send(&mut stream, &Handshake::Link { token, rank })?;
            Ok(stream)
        });
        let outgoing = outgoing.map_err(|error| {
            let problem = format!(
                "rank {rank} cannot connect to it at {next} ({error}): each rank must reach the next one, not only rank 0"
            );
            Error::Rank { rank: next_rank, problem }
        })?;
        let incoming = accept_link(acceptor, previous_rank, token, &heartbeat)?;
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
    acceptor: &mut Acceptor,
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
        let Some(Accepted { handshake, mut stream, .. }) = acceptor.poll() else {
            std::thread::sleep(POLL);
            continue;
        };
        if let Handshake::Hello { rank, .. } = handshake {
            let problem = "refused at the rendezvous: all ranks have joined: give each process its own --rank";
            handshake::refuse(&mut stream, rank, problem);
        }
        if let Handshake::Link { token: its_token, rank } = handshake
            && (its_token, rank) == (token, previous_rank)
        {
            return Ok(stream);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the machine has addresses of a family.
    fn has(address: &str) -> bool {
        TcpListener::bind(address).is_ok()
    }

    #[test]
    fn a_host_name_is_bound_in_every_family_that_the_machine_has() {
        for host in ["localhost", "rank-0.training"] {
            let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let _listeners = bind(&format!("{host}:{free}")).unwrap();
            for family in ["127.0.0.1", "[::1]"] {
                let connected = TcpStream::connect(format!("{family}:{free}"));
                assert_eq!(connected.is_ok(), has(&format!("{family}:0")), "{host}, {family}");
            }
        }
    }

    #[test]
    fn an_address_without_a_host_or_a_port_is_refused_at_once() {
        for text in ["127.0.0.1:29500", "[::1]:29500", "node0:1"] {
            assert!(is_address(text), "{text}");
        }
        for text in ["", ":", "node0", ":29500", "node0:", "node0:0", "node0:65536", "29500"] {
            let address = text.to_owned();
            let rank = Rank { rank: 1, world: 2 };
            let (settings, timeouts) = (Value::Null, Timeouts::default());
            let error = join(&Rendezvous { rank, address, settings, timeouts }).unwrap_err();
            assert!(error.to_string().contains("--rendezvous HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn a_port_that_another_program_uses_in_one_family_is_refused() {
        for host in ["localhost", "rank-0.training"] {
            for family in ["127.0.0.1:0", "[::1]:0"].into_iter().filter(|family| has(family)) {
                let taken = TcpListener::bind(family).unwrap();
                let port = taken.local_addr().unwrap().port();
                let error = bind(&format!("{host}:{port}")).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::AddrInUse, "{host}, {family}");
            }
        }
    }
}
