//! Who watches that all processes are there. Each has a connection to rank 0, on which both sides say
//! each second that they live; rank 0 hears of a lost rank and tells the others, so that all name the
//! same one, wherever they wait: in an exchange, for data, or at work.
//!
//! Time is counted in ticks of this thread, so a machine that was suspended blames nobody.

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::peer::{ALIVE, FAILED, FINISHED, Peer, REASON};
use super::rendezvous::Limits;
use crate::Error;

/// How often connections are looked at.
const TICK: Duration = Duration::from_millis(100);

/// Ticks between two signs of life.
const BEAT: u64 = 10;

/// How long a broken link waits to hear whose fault it is.
const VERDICT: Duration = Duration::from_secs(3);

type Tell = Box<dyn FnOnce(Error) + Send>;

/// The watching thread, from outside.
pub(super) struct Watch {
    shared: Arc<Shared>,
    /// None when it has finished.
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Exchanges that this rank has begun.
    calls: AtomicU64,
    finished: AtomicBool,
    known: Mutex<Known>,
    changed: Condvar,
}

#[derive(Default)]
struct Known {
    /// The first rank that was lost or failed, and why.
    failure: Option<(u32, String)>,
    /// Why this rank fails, to be told.
    own: Option<String>,
    tell: Option<Tell>,
    /// Closed at a failure, so that nobody waits on them.
    ring: Vec<TcpStream>,
}

/// What the thread knows.
struct Watcher {
    shared: Arc<Shared>,
    rank: u32,
    peers: Vec<Peer>,
    limits: Limits,
    /// Ticks in which no rank began an exchange though some wait for others.
    stalled: u64,
    before: Vec<u64>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Watch {
    /// Begins to watch connections to these ranks.
    pub(super) fn new(
        rank: u32,
        peers: Vec<(u32, TcpStream)>,
        limits: Limits,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let peers = peers.into_iter().map(|(rank, stream)| Peer::new(rank, stream));
        let peers = peers.collect::<std::io::Result<Vec<Peer>>>()?;
        let watcher = Watcher {
            shared: Arc::clone(&shared),
            rank,
            peers,
            limits,
            stalled: 0,
            before: Vec::new(),
        };
        let thread = std::thread::Builder::new().name("ranks-watch".to_owned());
        Ok(Self { shared, thread: Some(thread.spawn(move || watcher.run())?) })
    }

    /// Closes these too when a rank is lost.
    pub(super) fn guard(&self, ring: [TcpStream; 2]) {
        let mut known = self.shared.lock();
        known.ring.extend(ring);
        if known.failure.is_some() {
            close(&known.ring);
        }
    }

    pub(super) fn begun(&self, calls: u64) {
        self.shared.calls.store(calls, Ordering::Relaxed);
    }

    pub(super) fn on_failure(&self, tell: Tell) {
        let mut known = self.shared.lock();
        if let Some(failure) = known.failure() {
            drop(known);
            tell(failure);
        } else {
            known.tell = Some(tell);
        }
    }

    /// The failure that is known.
    pub(super) fn failure(&self) -> Option<Error> {
        self.shared.lock().failure()
    }

    /// The failure that is known, or becomes known soon.
    pub(super) fn verdict(&self) -> Option<Error> {
        let unknown = |known: &mut Known| known.failure.is_none();
        let waited = self.shared.changed.wait_timeout_while(self.shared.lock(), VERDICT, unknown);
        waited.unwrap_or_else(PoisonError::into_inner).0.failure()
    }

    /// Tells the others why this rank fails, unless another did before.
    pub(super) fn fail(&self, problem: &str) {
        let mut known = self.shared.lock();
        known.own = Some(problem.chars().take(REASON / 4).collect());
        known.tell = None;
        drop(known);
        self.verdict();
    }

    /// Tells the others that this rank has finished.
    pub(super) fn finish(mut self) {
        self.shared.finished.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// A rank that goes without having finished has failed.
impl Drop for Watch {
    fn drop(&mut self) {
        let mut known = self.shared.lock();
        if self.thread.is_some() && known.own.is_none() {
            known.own = Some("it ended before the training".to_owned());
            known.tell = None;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn failure(&self) -> Option<Error> {
        let (rank, problem) = self.failure.clone()?;
        Some(Error::Rank { rank, problem })
    }
}

fn close(streams: &[TcpStream]) {
    for stream in streams {
        stream.shutdown(Shutdown::Both).ok();
    }
}

impl Watcher {
    fn run(mut self) {
        for tick in 0_u64.. {
            if self.shared.finished.load(Ordering::Acquire) {
                return self.say(FINISHED, self.rank, 0, &[]);
            }
            let own = self.shared.lock().own.take();
            let failure = own
                .map(|problem| (self.rank, problem))
                .or_else(|| self.listen())
                .or_else(|| self.stalled());
            if let Some((rank, problem)) = failure {
                return self.raise(rank, problem);
            }
            if tick.is_multiple_of(BEAT) {
                let calls = self.shared.calls.load(Ordering::Relaxed);
                self.say(ALIVE, self.rank, calls, &[]);
            }
            std::thread::sleep(TICK);
        }
    }

    /// Makes a failure known, to the other processes first.
    fn raise(&self, rank: u32, problem: String) {
        self.say(FAILED, rank, problem.len() as u64, problem.as_bytes());
        let mut known = self.shared.lock();
        known.failure = Some((rank, problem));
        close(&known.ring);
        let (tell, failure) = (known.tell.take(), known.failure());
        drop(known);
        self.shared.changed.notify_all();
        if let (Some(tell), Some(failure)) = (tell, failure) {
            tell(failure);
        }
    }

    fn say(&self, kind: u8, rank: u32, number: u64, text: &[u8]) {
        for peer in &self.peers {
            peer.say(kind, rank, number, text);
        }
    }

    /// Takes what came; gives the first rank that failed or was lost.
    fn listen(&mut self) -> Option<(u32, String)> {
        let most = ticks(self.limits.silence);
        let heard = |peer: &mut Peer| {
            let lost = peer.hear();
            lost.or_else(|| peer.silence(most, self.limits.silence))
        };
        self.peers.iter_mut().filter(|peer| !peer.finished).find_map(heard)
    }

    /// Rank 0 names the rank that others wait for in an exchange, when nothing has moved for long.
    fn stalled(&mut self) -> Option<(u32, String)> {
        let most = ticks(self.limits.stall);
        if self.rank > 0 || most == 0 || self.peers.iter().any(|peer| peer.finished) {
            return None;
        }
        let mut calls = vec![self.shared.calls.load(Ordering::Relaxed)];
        calls.extend(self.peers.iter().map(|peer| peer.calls));
        let (least, greatest) = (calls.iter().min()?, calls.iter().max()?);
        self.stalled = if least == greatest || calls != self.before { 0 } else { self.stalled + 1 };
        let stalled = self.stalled > most;
        let behind = calls.iter().position(|calls| calls == least)?;
        let failure = stalled.then(|| {
            let rank = if behind == 0 { 0 } else { self.peers[behind - 1].rank };
            let seconds = self.limits.stall.as_secs();
            let problem = format!(
                "it lives, but has let the others wait in exchange {greatest} for {seconds} s; \
                 see its log, or raise --stall-timeout"
            );
            (rank, problem)
        });
        self.before = calls;
        failure
    }
}

fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_millis() / TICK.as_millis()).unwrap_or(u64::MAX)
}
