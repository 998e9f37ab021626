//! How processes meet: rank 0 listens, the others come, say who they are and with what settings they
//! were started, and learn whom to connect to for the ring.
//!
//! The connections to rank 0 stay, for [`Watch`].

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{Error as IoError, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use forebay_client::Rank;
use serde_json::Value;

use super::greeting::{Greeting, hear, say};
use super::link::Ring;
use super::watch::Watch;
use crate::Error;

/// How long one who has connected may take to say who he is.
const GREETING: Duration = Duration::from_secs(5);

/// How long the ring may take to close once all are there.
const JOINING: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_millis(50);

/// Where, who and with what.
#[derive(Clone, Debug)]
pub struct Meeting {
    /// Which rank of which world.
    pub place: Rank,
    /// `host:port` at which rank 0 listens.
    pub address: String,
    /// All that must be the same on all ranks.
    pub settings: Value,
    /// How long to wait for what.
    pub limits: Limits,
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Until all ranks have come.
    pub rendezvous: Duration,
    /// For a sign of life, of which there is one a second.
    pub silence: Duration,
    /// For a rank that lives but lets the others wait in an exchange; zero: for ever.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rendezvous: Duration::from_mins(5),
            silence: Duration::from_secs(15),
            stall: Duration::from_mins(10),
        }
    }
}

/// Meets the other ranks.
pub(super) fn meet(meeting: &Meeting) -> Result<(Ring, Watch), Error> {
    let deadline = Instant::now() + meeting.limits.rendezvous;
    if meeting.place.rank == 0 { host(meeting, deadline) } else { come(meeting, deadline) }
}

/// One who has come.
struct Guest {
    stream: TcpStream,
    /// Where it awaits its ring link.
    link: SocketAddr,
}

fn host(meeting: &Meeting, deadline: Instant) -> Result<(Ring, Watch), Error> {
    let listener = listen(meeting)?;
    let mut guests = BTreeMap::new();
    if let Err(error) = receive_all(meeting, &listener, &mut guests, deadline) {
        let refused = match &error {
            Error::Rank { rank, problem } => (*rank, problem.clone()),
            other => (0, other.to_string()),
        };
        for guest in guests.values_mut() {
            let (rank, problem) = refused.clone();
            say(&mut guest.stream, &Greeting::Refused { rank, problem }).ok();
        }
        return Err(error);
    }
    let token = RandomState::new().build_hasher().finish();
    let links: Vec<SocketAddr> = guests.values().map(|guest| guest.link).collect();
    for (rank, guest) in &mut guests {
        let welcome = Greeting::Welcome { token, next: links.get(*rank as usize).copied() };
        // If it is gone, the watch finds out.
        say(&mut guest.stream, &welcome).ok();
    }
    let peers = guests.into_iter().map(|(rank, guest)| (rank, guest.stream)).collect();
    close_ring(meeting, peers, &listener, links[0], token)
}

/// Binds the address; where it is a name, all interfaces, as names may stand for others outside.
fn listen(meeting: &Meeting) -> Result<TcpListener, Error> {
    let address = &meeting.address;
    let problem = |cause: IoError| {
        let advice = match cause.kind() {
            ErrorKind::AddrInUse => {
                "; another program has the port (torchrun's own store has MASTER_PORT): give all ranks --rendezvous with another one"
            }
            ErrorKind::AddrNotAvailable => {
                "; rank 0 must run on the machine that --rendezvous names"
            }
            _ => "",
        };
        let problem = format!("rank 0 cannot listen: {cause}{advice}");
        Error::Rendezvous { address: address.clone(), problem }
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
    let listener = bound.map_err(problem)?;
    listener.set_nonblocking(true).map_err(problem)?;
    Ok(listener)
}

/// Takes greetings until all ranks are there.
fn receive_all(
    meeting: &Meeting,
    listener: &TcpListener,
    guests: &mut BTreeMap<u32, Guest>,
    deadline: Instant,
) -> Result<(), Error> {
    let world = meeting.place.world;
    while guests.len() + 1 < world as usize {
        if Instant::now() > deadline {
            let missing: Vec<String> =
                (1..world).filter(|r| !guests.contains_key(r)).map(|r| r.to_string()).collect();
            let seconds = meeting.limits.rendezvous.as_secs();
            let problem = format!(
                "of {world} ranks, these did not come within {seconds} s: {}; see their logs, or raise --rendezvous-timeout",
                missing.join(", ")
            );
            return Err(Error::Rendezvous { address: meeting.address.clone(), problem });
        }
        let Ok((mut stream, from)) = listener.accept() else {
            std::thread::sleep(PAUSE);
            continue;
        };
        // Whoever says something else is not one of ours.
        let Ok(Greeting::Hello { rank, world: theirs, port, settings }) =
            hear(&mut stream, GREETING)
        else {
            continue;
        };
        guests.retain(|_, guest| alive(&guest.stream));
        let problem = if theirs != world {
            Some(format!("it was started for a world of {theirs}, rank 0 for one of {world}"))
        } else if !(1..world).contains(&rank) || guests.contains_key(&rank) {
            Some(format!("two processes say that they are rank {rank}; give each its own --rank"))
        } else {
            difference("", &settings, &meeting.settings)
        };
        if let Some(problem) = problem {
            let problem = format!("refused at the rendezvous: {problem}");
            say(&mut stream, &Greeting::Refused { rank, problem: problem.clone() }).ok();
            return Err(Error::Rank { rank, problem });
        }
        guests.insert(rank, Guest { stream, link: SocketAddr::new(from.ip(), port) });
    }
    Ok(())
}

/// The first setting that differs, in words.
fn difference(name: &str, theirs: &Value, ours: &Value) -> Option<String> {
    if let (Value::Object(theirs), Value::Object(ours)) = (theirs, ours) {
        let names = ours.keys().chain(theirs.keys());
        let of =
            |map: &serde_json::Map<String, Value>, key| map.get(key).cloned().unwrap_or_default();
        return names.into_iter().find_map(|key| {
            let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            difference(&name, &of(theirs, key), &of(ours, key))
        });
    }
    let differ = || {
        format!(
            "its {name} is {theirs}, rank 0's is {ours}; start all ranks with the same settings"
        )
    };
    (theirs != ours).then(differ)
}

fn come(meeting: &Meeting, deadline: Instant) -> Result<(Ring, Watch), Error> {
    let Rank { rank, world } = meeting.place;
    let unmet = |problem: String| {
        let address = meeting.address.clone();
        Error::Rendezvous { address, problem }
    };
    let mut stream = connect(meeting, deadline)?;
    let here = stream.local_addr().map_err(|e| unmet(e.to_string()))?;
    let listener = TcpListener::bind((here.ip(), 0)).map_err(|e| unmet(e.to_string()))?;
    listener.set_nonblocking(true).map_err(|e| unmet(e.to_string()))?;
    let port = listener.local_addr().map_err(|e| unmet(e.to_string()))?.port();
    let hello = Greeting::Hello { rank, world, port, settings: meeting.settings.clone() };
    let left = deadline.saturating_duration_since(Instant::now()) + GREETING;
    let answer = say(&mut stream, &hello).and_then(|()| hear(&mut stream, left));
    match answer {
        Ok(Greeting::Welcome { token, next }) => {
            let first = stream.peer_addr().map_err(|e| unmet(e.to_string()))?;
            close_ring(meeting, vec![(0, stream)], &listener, next.unwrap_or(first), token)
        }
        Ok(Greeting::Refused { rank, problem }) => Err(Error::Rank { rank, problem }),
        Ok(_) => Err(unmet("who listens there is not rank 0".to_owned())),
        Err(error) => Err(unmet(format!(
            "rank 0 did not welcome this rank ({error}): it ended, not all ranks came, or another program listens there"
        ))),
    }
}

/// Connects to rank 0, which may be started later.
fn connect(meeting: &Meeting, deadline: Instant) -> Result<TcpStream, Error> {
    let address = &meeting.address;
    loop {
        let reached = address.to_socket_addrs().and_then(|addresses| {
            let none = Err(IoError::new(ErrorKind::NotFound, "the name has no address"));
            addresses.fold(none, |reached, address| {
                reached.or_else(|_| TcpStream::connect_timeout(&address, Duration::from_secs(5)))
            })
        });
        match reached {
            // A port that nobody listens on can be connected to itself.
            Ok(stream) if stream.local_addr().ok() != stream.peer_addr().ok() => return Ok(stream),
            Ok(itself) => drop(itself),
            Err(error) if Instant::now() > deadline => {
                let seconds = meeting.limits.rendezvous.as_secs();
                let problem = format!(
                    "rank 0 was not there within {seconds} s ({error}); see its log, or raise --rendezvous-timeout"
                );
                return Err(Error::Rendezvous { address: address.clone(), problem });
            }
            Err(_) => std::thread::sleep(4 * PAUSE),
        }
    }
}

/// Watches over those who are connected, links to the next rank and takes the link of the one before.
fn close_ring(
    meeting: &Meeting,
    peers: Vec<(u32, TcpStream)>,
    listener: &TcpListener,
    next: SocketAddr,
    token: u64,
) -> Result<(Ring, Watch), Error> {
    let Rank { rank, world } = meeting.place;
    let failed = |rank: u32, problem: String| Error::Rank { rank, problem };
    let watch = Watch::new(rank, peers, meeting.limits).map_err(|e| failed(rank, e.to_string()))?;
    let linked = || -> Result<Ring, Error> {
        let (after, before) = ((rank + 1) % world, (rank + world - 1) % world);
        let link = TcpStream::connect_timeout(&next, JOINING).and_then(|mut stream| {
            say(&mut stream, &Greeting::Join { token, rank })?;
            Ok(stream)
        });
        let link = link.map_err(|error| {
            failed(after, format!("rank {rank} cannot reach it at {next} ({error}); each rank must reach the next, not rank 0 alone"))
        })?;
        let from = joined(listener, before, token, &watch)?;
        let ring = link.try_clone().and_then(|to| Ok([to, from.try_clone()?]));
        watch.guard(ring.map_err(|error| failed(rank, error.to_string()))?);
        Ring::processes(link, from).map_err(|error| failed(rank, error.to_string()))
    };
    match linked() {
        Ok(ring) => Ok((ring, watch)),
        Err(error) => {
            watch.fail(&error.to_string());
            Err(watch.failure().unwrap_or(error))
        }
    }
}

/// The link of the rank before.
fn joined(
    listener: &TcpListener,
    before: u32,
    token: u64,
    watch: &Watch,
) -> Result<TcpStream, Error> {
    let deadline = Instant::now() + JOINING;
    while Instant::now() < deadline {
        if let Some(failure) = watch.failure() {
            return Err(failure);
        }
        let Ok((mut stream, _)) = listener.accept() else {
            std::thread::sleep(PAUSE);
            continue;
        };
        match hear(&mut stream, GREETING) {
            Ok(Greeting::Join { token: theirs, rank }) if theirs == token && rank == before => {
                let waits = stream.set_read_timeout(None);
                return waits
                    .map(|()| stream)
                    .map_err(|error| Error::Rank { rank: before, problem: error.to_string() });
            }
            _ => {}
        }
    }
    let problem = format!("it did not join the ring within {} s", JOINING.as_secs());
    Err(Error::Rank { rank: before, problem })
}

/// Whether the other side has not hung up.
fn alive(stream: &TcpStream) -> bool {
    let peeked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
    let waits = |error: &IoError| error.kind() == ErrorKind::WouldBlock;
    let alive = peeked.as_ref().is_err_and(waits) || peeked.is_ok_and(|count| count > 0);
    stream.set_nonblocking(false).is_ok() && alive
}
