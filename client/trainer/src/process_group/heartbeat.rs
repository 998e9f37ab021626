//! Failure detection between processes.
//!
//! Every process has a connection to rank 0, on which both sides send a heartbeat each second. Rank 0
//! notices a lost rank and reports it to all others, so that all ranks name the same one, wherever they
//! wait: in an exchange, for data, or in a computation.
//!
//! ```text
//!            rank 1
//!              |
//!   rank 2 - rank 0 - rank 3      heartbeat: alive, n operations started
//!                                 failed:    rank r was lost or failed, and why
//!                                 finished:  a disconnect is expected from now on
//!                                 stop:      a rank was asked to stop, and so are all
//! ```
//!
//! A rank is lost when its connection closes before it has finished, or when it is silent for longer
//! than the heartbeat timeout. It is stalled when its heartbeats arrive, but all ranks that have started
//! operation n wait for it to start operation n, for longer than the stall timeout.
//!
//! Timeouts are counted in ticks of this thread. A machine that was suspended does not tick, so it does
//! not report others as lost when it wakes up.

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use forebay_types::settings::TimeSpan;

use super::connection::{Connection, FAILED, FINISHED, HEARTBEAT, MAX_REASON, STOP};
use super::stop::StopRequest;
use super::timeouts::Timeouts;
use crate::Error;

/// Interval at which connections are polled.
const TICK: Duration = Duration::from_millis(100);

/// Ticks between two heartbeats.
const TICKS_PER_HEARTBEAT: u64 = 10;

type Notify = Box<dyn FnOnce(Error) + Send>;

/// A handle to the thread that monitors the connections.
pub(super) struct Heartbeat {
    shared: Arc<Shared>,
    /// `None` after [`Heartbeat::finish`].
    thread: Option<JoinHandle<()>>,
    /// Time after which a failed rank is known at the latest: the heartbeat timeout.
    failure_wait: Duration,
}

#[derive(Default)]
struct Shared {
    /// Collective operations that this rank has started.
    operations: AtomicU64,
    finished: AtomicBool,
    stop: StopRequest,
    status: Mutex<Status>,
    changed: Condvar,
}

#[derive(Default)]
struct Status {
    /// The first rank that was lost or failed, and why.
    failure: Option<(u32, String)>,
    /// The reason why this rank fails, to be reported to the others.
    own_failure: Option<String>,
    notify: Option<Notify>,
    /// Links of the ring. They are closed on failure, which unblocks a thread that reads or writes them.
    ring: Vec<TcpStream>,
}

/// The state of the monitoring thread.
struct Monitor {
    shared: Arc<Shared>,
    rank: u32,
    connections: Vec<Connection>,
    timeouts: Timeouts,
    /// Ticks since a rank last started an operation, while some ranks wait for others.
    stalled_ticks: u64,
    /// Operations of each rank at the previous tick.
    last_operations: Vec<u64>,
    /// Whether the other ranks were told to stop.
    told_to_stop: bool,
}

impl std::fmt::Debug for Heartbeat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Heartbeat").finish_non_exhaustive()
    }
}

impl Heartbeat {
    /// Starts to monitor connections to these ranks.
    pub(super) fn start(
        rank: u32,
        connections: Vec<(u32, TcpStream)>,
        timeouts: Timeouts,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let connections =
            connections.into_iter().map(|(rank, stream)| Connection::new(rank, stream));
        let connections = connections.collect::<std::io::Result<Vec<Connection>>>()?;
        let monitor = Monitor {
            shared: Arc::clone(&shared),
            rank,
            connections,
            timeouts,
            stalled_ticks: 0,
            last_operations: Vec::new(),
            told_to_stop: false,
        };
        let thread = std::thread::Builder::new().name("heartbeat".to_owned());
        let failure_wait = timeouts.heartbeat;
        Ok(Self { shared, thread: Some(thread.spawn(move || monitor.run())?), failure_wait })
    }

    /// Registers the links of the ring, to be closed when a rank fails.
    pub(super) fn close_on_failure(&self, ring: [TcpStream; 2]) {
        let mut status = self.shared.lock();
        status.ring.extend(ring);
        if status.failure.is_some() {
            close(&status.ring);
        }
    }

    /// The request to stop that reaches all ranks.
    pub(super) fn stop_request(&self) -> StopRequest {
        self.shared.stop.clone()
    }

    pub(super) fn set_operations(&self, operations: u64) {
        self.shared.operations.store(operations, Ordering::Relaxed);
    }

    pub(super) fn on_failure(&self, notify: Notify) {
        let mut status = self.shared.lock();
        if let Some(failure) = status.failure() {
            drop(status);
            notify(failure);
        } else {
            status.notify = Some(notify);
        }
    }

    /// The first failure, if there was one.
    pub(super) fn failure(&self) -> Option<Error> {
        self.shared.lock().failure()
    }

    /// A function that returns the first failure, for a thread that cannot wait for it.
    pub(super) fn watch(&self) -> Box<dyn Fn() -> Option<Error> + Send> {
        let shared = Arc::clone(&self.shared);
        Box::new(move || shared.lock().failure())
    }

    /// Waits for the first failure to be reported, for a rank whose ring link broke.
    pub(super) fn wait_for_failure(&self) -> Option<Error> {
        let unknown = |status: &mut Status| status.failure.is_none();
        let waited =
            self.shared.changed.wait_timeout_while(self.shared.lock(), self.failure_wait, unknown);
        waited.unwrap_or_else(PoisonError::into_inner).0.failure()
    }

    /// Reports to the others why this rank fails, unless another failure was reported before.
    pub(super) fn fail(&self, problem: &str) {
        let mut status = self.shared.lock();
        status.own_failure = Some(problem.chars().take(MAX_REASON / 4).collect());
        status.notify = None;
        drop(status);
        self.wait_for_failure();
    }

    /// Announces to the others that this rank has finished.
    pub(super) fn finish(mut self) {
        self.shared.finished.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Reports a failure if the group was dropped before it finished.
impl Drop for Heartbeat {
    fn drop(&mut self) {
        let mut status = self.shared.lock();
        if self.thread.is_some() && status.own_failure.is_none() {
            status.own_failure = Some("it ended before training was finished".to_owned());
            status.notify = None;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Status {
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

impl Monitor {
    fn run(mut self) {
        for tick in 0_u64.. {
            if self.shared.finished.load(Ordering::Acquire) {
                return self.broadcast(FINISHED, self.rank, 0, &[]);
            }
            let own_failure = self.shared.lock().own_failure.take();
            let failure = own_failure
                .map(|problem| (self.rank, problem))
                .or_else(|| self.poll_connections())
                .or_else(|| self.find_stalled());
            if let Some((rank, problem)) = failure {
                return self.report(rank, problem);
            }
            self.spread_stop();
            if tick.is_multiple_of(TICKS_PER_HEARTBEAT) {
                let operations = self.shared.operations.load(Ordering::Relaxed);
                self.broadcast(HEARTBEAT, self.rank, operations, &[]);
            }
            std::thread::sleep(TICK);
        }
    }

    /// Tells the other ranks once that one was asked to stop. All of them learn of it through rank 0.
    fn spread_stop(&mut self) {
        if self.connections.iter().any(|connection| connection.stops) {
            self.shared.stop.ask();
        }
        if self.shared.stop.is_asked() && !self.told_to_stop {
            self.broadcast(STOP, self.rank, 0, &[]);
            self.told_to_stop = true;
        }
    }

    /// Reports a failure, to the other processes first, so that they learn of it before this one exits.
    fn report(&self, rank: u32, problem: String) {
        self.broadcast(FAILED, rank, problem.len() as u64, problem.as_bytes());
        let mut status = self.shared.lock();
        status.failure = Some((rank, problem));
        close(&status.ring);
        let (notify, failure) = (status.notify.take(), status.failure());
        drop(status);
        self.shared.changed.notify_all();
        if let (Some(notify), Some(failure)) = (notify, failure) {
            notify(failure);
        }
    }

    fn broadcast(&self, kind: u8, rank: u32, number: u64, text: &[u8]) {
        for connection in &self.connections {
            connection.send(kind, rank, number, text);
        }
    }

    /// Receives from all connections. Returns the first rank that failed or was lost.
    fn poll_connections(&mut self) -> Option<(u32, String)> {
        let max_ticks = ticks(self.timeouts.heartbeat);
        let poll = |connection: &mut Connection| {
            let lost = connection.recv();
            lost.or_else(|| connection.tick(max_ticks, self.timeouts.heartbeat))
        };
        self.connections.iter_mut().filter(|connection| !connection.finished).find_map(poll)
    }

    /// On rank 0, returns the rank for which others have waited in an exchange longer than the timeout.
    fn find_stalled(&mut self) -> Option<(u32, String)> {
        let max_ticks = ticks(self.timeouts.stall);
        if self.rank > 0
            || max_ticks == 0
            || self.connections.iter().any(|connection| connection.finished)
        {
            return None;
        }
        let mut operations = vec![self.shared.operations.load(Ordering::Relaxed)];
        operations.extend(self.connections.iter().map(|connection| connection.operations));
        let (min, max) = (operations.iter().min()?, operations.iter().max()?);
        let moving = min == max || operations != self.last_operations;
        self.stalled_ticks = if moving { 0 } else { self.stalled_ticks + 1 };
        let stalled = self.stalled_ticks > max_ticks;
        let behind = operations.iter().position(|operations| operations == min)?;
        let failure = stalled.then(|| {
            let rank = if behind == 0 { 0 } else { self.connections[behind - 1].rank };
            let timeout = TimeSpan(self.timeouts.stall);
            let problem = format!(
                "stalled: it is alive, but the others have waited {timeout} for it in exchange {max}; \
                 see its log, or raise --stall-timeout"
            );
            (rank, problem)
        });
        self.last_operations = operations;
        failure
    }
}

fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_millis() / TICK.as_millis()).unwrap_or(u64::MAX)
}
