//! The hub of a communicator: a thread of the process that created its id.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::collective::Collective;
use super::wire::{ToHub, ToRank, from_rank, to_rank};

/// Time is counted in ticks, so that no time passes while the process is stopped.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// What a collective does after a rank is gone.
pub(super) const FOREVER: &str = "; on a GPU, streams would wait for it forever, because no rank that is left called ncclCommAbort";

/// The address of an abstract socket, which has no file.
pub(super) fn address(name: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(name)
}

/// Starts a hub, which accepts ranks.
pub(super) fn open(name: &str, timeout: Duration) -> io::Result<()> {
    let listener = UnixListener::bind_addr(&address(name)?)?;
    let serve = move || {
        if let Ok(Some(ranks)) = gather(&listener) {
            drop(listener);
            serve(ranks, timeout);
        }
    };
    thread::Builder::new().name("nccl hub".to_owned()).spawn(serve)?;
    Ok(())
}

/// Waits until all ranks have connected. `None` if they do not match.
fn gather(listener: &UnixListener) -> io::Result<Option<Vec<UnixStream>>> {
    let mut seats: Vec<Option<(UnixStream, String)>> = Vec::new();
    loop {
        let (mut stream, _) = listener.accept()?;
        let Ok(ToHub::Hello { rank, ranks, gpu }) = from_rank(&mut stream) else { continue };
        if seats.is_empty() {
            seats.resize_with(ranks, || None);
        }
        let twin = seats.iter().position(|seat| seat.as_ref().is_some_and(|seat| seat.1 == gpu));
        let wrong = if ranks != seats.len() || rank >= ranks {
            Some(format!("rank {rank} expects {ranks} ranks, others expect {}", seats.len()))
        } else if seats[rank].is_some() {
            Some(format!("rank {rank} connected twice"))
        } else {
            twin.map(|twin| format!("duplicate GPU: ranks {twin} and {rank} both use {gpu}"))
        };
        if let Some(wrong) = wrong {
            let here = seats.iter_mut().flatten().map(|seat| &mut seat.0);
            // A rank that cannot be reached is gone.
            here.chain([&mut stream])
                .for_each(|rank| drop(to_rank(rank, &ToRank::Refused(wrong.clone()))));
            return Ok(None);
        }
        seats[rank] = Some((stream, gpu));
        if seats.iter().all(Option::is_some) {
            return Ok(Some(seats.into_iter().flatten().map(|seat| seat.0).collect()));
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Here,
    Left,
    Lost,
}

struct Hub {
    ranks: Vec<(UnixStream, Presence)>,
    timeout: Duration,
    round: u64,
    /// The call of the round's first rank, and that rank.
    call: Option<(usize, Collective)>,
    parts: Vec<Option<Vec<u8>>>,
    waited: Duration,
    failed: Option<String>,
}

fn serve(streams: Vec<UnixStream>, timeout: Duration) {
    // Each rank has at most an input, a goodbye and an end in the queue, because it sends no input before it has the last result.
    let (sender, events) = mpsc::sync_channel(3 * streams.len());
    for (rank, stream) in streams.iter().enumerate() {
        let (sender, Ok(mut stream)) = (sender.clone(), stream.try_clone()) else { return };
        let listen = move || {
            while let Ok(message) = from_rank(&mut stream) {
                if sender.send((rank, Some(message))).is_err() {
                    return;
                }
            }
            // The hub has ended before its listeners.
            drop(sender.send((rank, None)));
        };
        if thread::Builder::new().name("nccl hub".to_owned()).spawn(listen).is_err() {
            return;
        }
    }
    let ranks: Vec<_> = streams.into_iter().map(|stream| (stream, Presence::Here)).collect();
    let parts = vec![None; ranks.len()];
    let waited = Duration::ZERO;
    let mut hub = Hub { ranks, timeout, round: 0, call: None, parts, waited, failed: None };
    hub.tell_all(&ToRank::Ready);
    while hub.ranks.iter().any(|(_, presence)| *presence == Presence::Here) {
        match events.recv_timeout(TICK) {
            Ok((rank, Some(ToHub::Part { round, call, data }))) => {
                hub.part(rank, round, call, data);
            }
            Ok((rank, Some(ToHub::Bye))) => hub.left(rank),
            Ok((rank, Some(ToHub::Hello { .. }) | None)) => hub.gone(rank),
            Err(RecvTimeoutError::Timeout) => hub.tick(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Hub {
    /// Sends to all ranks. A rank that cannot be reached is gone, which its listener reports.
    fn tell(&mut self, rank: usize, message: &ToRank) {
        if self.ranks[rank].1 == Presence::Here {
            drop(to_rank(&mut self.ranks[rank].0, message));
        }
    }

    fn tell_all(&mut self, message: &ToRank) {
        (0..self.ranks.len()).for_each(|rank| self.tell(rank, message));
    }

    fn part(&mut self, rank: usize, round: u64, call: Collective, data: Vec<u8>) {
        if let Some(what) = self.failed.clone() {
            return self.tell(rank, &ToRank::Failed(what));
        }
        let (first, wanted) = *self.call.get_or_insert((rank, call));
        if round != self.round || call != wanted {
            return self.fail(&format!(
                "collective {} of the communicator: rank {first} calls {wanted}, rank {rank} calls {call}",
                self.round
            ));
        }
        let is_first = self.parts.iter().all(Option::is_none);
        self.parts[rank] = Some(data);
        if let Some(left) = self.ranks.iter().position(|(_, presence)| *presence == Presence::Left)
        {
            self.tell(rank, &ToRank::Lost(self.missing(left)));
        }
        if is_first {
            for other in (0..self.ranks.len()).filter(|other| *other != rank) {
                self.tell(other, &ToRank::Want { round });
            }
        }
        if self.parts.iter().all(Option::is_some) {
            let parts: Vec<_> = self.parts.iter_mut().filter_map(Option::take).collect();
            (self.call, self.waited) = (None, Duration::ZERO);
            self.round += 1;
            for (rank, data) in call.combine(&parts).into_iter().enumerate() {
                self.tell(rank, &ToRank::Result { round, data });
            }
        }
    }

    fn missing(&self, rank: usize) -> String {
        let (first, call) =
            self.call.map_or((0, String::new()), |(first, call)| (first, call.to_string()));
        format!(
            "rank {rank} left before collective {}, {call}, which rank {first} called",
            self.round
        )
    }

    fn left(&mut self, rank: usize) {
        self.ranks[rank].1 = Presence::Left;
        if self.call.is_some() && self.parts[rank].is_none() {
            self.tell_all(&ToRank::Lost(self.missing(rank)));
        }
        self.tell_all(&ToRank::Left);
    }

    fn gone(&mut self, rank: usize) {
        if self.ranks[rank].1 == Presence::Here {
            self.ranks[rank].1 = Presence::Lost;
            self.tell_all(&ToRank::Lost(format!("rank {rank} was lost")));
        }
    }

    fn tick(&mut self) {
        let Some((first, call)) = self.call.filter(|_| self.failed.is_none()) else { return };
        self.waited += TICK;
        if self.waited >= self.timeout {
            let missing = self.parts.iter().enumerate().filter(|(_, part)| part.is_none());
            let missing: Vec<usize> = missing.map(|(rank, _)| rank).collect();
            let (round, waited) = (self.round, self.waited.as_secs_f32());
            let gone = missing.iter().any(|rank| self.ranks[*rank].1 != Presence::Here);
            let forever = if gone { FOREVER } else { "" };
            self.fail(&format!(
                "ranks {missing:?} did not call collective {round} within {waited} s: {call}, called by rank {first}{forever}"
            ));
        }
    }

    fn fail(&mut self, what: &str) {
        self.tell_all(&ToRank::Failed(what.to_owned()));
        self.failed = Some(what.to_owned());
        self.call = None;
    }
}
