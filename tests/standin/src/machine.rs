//! The state of the driver behind one lock: contexts, memory, streams, events, modules.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::code::{Answer, Code};
use crate::config::{Config, Schedule};
use crate::engine::{Fault, Module};
use crate::memory::{Access, Space};
use crate::queues::Queues;
use crate::report::log;
use crate::signal;
use crate::table::Handle;

/// The action of a queued operation. The nodes of a graph run theirs at each launch.
pub(crate) type Work = Arc<dyn Fn(&mut Machine) -> Result<(), Fault> + Send + Sync>;

/// The state of the process, created by `cuInit`.
static MACHINE: Mutex<Option<State>> = Mutex::new(None);
/// Notified when an external event has arrived that queued work may wait for.
static CHANGED: Condvar = Condvar::new();

thread_local! {
    /// The context bound to this thread.
    pub(crate) static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
    /// Whether this thread is inside a call of the stand-in.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// The state, locked by this thread. Only [`Machine::yield_lock`] releases the lock for a while.
#[derive(Debug)]
pub(crate) struct Machine(Option<MutexGuard<'static, Option<State>>>);

pub(crate) struct State {
    pub(crate) config: Config,
    pub(crate) space: Space,
    /// The primary context of each device.
    pub(crate) contexts: Vec<Context>,
    pub(crate) queues: Queues<Work>,
    pub(crate) events: BTreeMap<Handle, Event>,
    pub(crate) modules: BTreeMap<Handle, Loaded>,
    pub(crate) functions: BTreeMap<Handle, Function>,
    /// The per-thread streams, by thread and context.
    pub(crate) per_thread: BTreeMap<(i32, usize), Handle>,
    /// Captures in progress, by stream.
    pub(crate) captures: BTreeMap<Handle, Capture>,
    pub(crate) graphs: BTreeMap<Handle, Graph>,
    /// The random state of the seeded schedule.
    pub(crate) random: u64,
    next_handle: Handle,
}

/// A primary context. Its index is that of its device.
#[derive(Debug, Default)]
pub(crate) struct Context {
    pub(crate) retained: usize,
    pub(crate) flags: u32,
    /// The error that every call returns after a fault.
    pub(crate) broken: Option<Code>,
}

#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) context: usize,
    pub(crate) timed: bool,
    /// The operation that completes the event. `None` until it is recorded.
    pub(crate) recorded: Option<u64>,
    /// The time of completion.
    pub(crate) at: Option<Instant>,
    /// The captured stream in which it was recorded last.
    pub(crate) captured: Option<Handle>,
}

/// A captured call.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) what: String,
    pub(crate) work: Work,
    /// The pinned memory that a copy uses.
    pub(crate) touches: Option<(u64, u64, Access)>,
}

/// The nodes of a graph, in the order of the calls.
pub(crate) type Nodes = Arc<Vec<Node>>;

/// Whose calls a capture restricts: `CUstreamCaptureMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Global,
    ThreadLocal,
    Relaxed,
}

impl Mode {
    pub(crate) fn new(number: u32) -> Answer<Self> {
        let modes = [Self::Global, Self::ThreadLocal, Self::Relaxed];
        modes.get(number as usize).copied().ok_or(Code::INVALID_VALUE)
    }
}

/// A capture in progress.
pub(crate) struct Capture {
    pub(crate) mode: Mode,
    /// The thread that began it, which must end it unless the mode is relaxed.
    pub(crate) thread: i32,
    pub(crate) nodes: Vec<Node>,
    pub(crate) is_valid: bool,
}

/// A graph, as captured or instantiated.
pub(crate) struct Graph {
    pub(crate) context: usize,
    pub(crate) nodes: Nodes,
    pub(crate) is_executable: bool,
}

pub(crate) struct Loaded {
    pub(crate) context: usize,
    pub(crate) module: Box<dyn Module>,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("context", &self.context).finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) module: Handle,
    pub(crate) name: String,
    pub(crate) kernel: crate::engine::Kernel,
    /// The maximum dynamic shared memory of a launch.
    pub(crate) max_dynamic: u32,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("queues", &self.queues).finish_non_exhaustive()
    }
}

impl State {
    fn start() -> Answer<Self> {
        let config = Config::from_env().map_err(|what| {
            log(&what);
            Code::INVALID_VALUE
        })?;
        let devices = config.devices;
        if devices == 0 {
            return Err(Code::NO_DEVICE);
        }
        let space = Space::new(devices, config.memory).map_err(|error| {
            log(&format!("cannot reserve address space: {error}"));
            Code::OUT_OF_MEMORY
        })?;
        signal::install(judge_host_access);
        Ok(Self {
            queues: Queues::new(devices),
            per_thread: BTreeMap::new(),
            random: if let Schedule::Seeded(seed) = config.schedule { seed } else { 0 },
            contexts: (0..devices).map(|_| Context::default()).collect(),
            config,
            space,
            events: BTreeMap::new(),
            modules: BTreeMap::new(),
            functions: BTreeMap::new(),
            captures: BTreeMap::new(),
            graphs: BTreeMap::new(),
            next_handle: 0x10000,
        })
    }

    pub(crate) fn new_handle(&mut self) -> Handle {
        self.next_handle += 0x10;
        self.next_handle
    }

    /// The context bound to this thread, if it is usable.
    pub(crate) fn current(&self) -> Answer<usize> {
        let context = CURRENT.get().ok_or(Code::INVALID_CONTEXT)?;
        self.check_usable(context)?;
        Ok(context)
    }

    /// Returns the error of a context that is not retained, or that a fault has broken.
    pub(crate) fn check_usable(&self, context: usize) -> Answer {
        match self.contexts[context] {
            Context { retained: 0, .. } => Err(Code::INVALID_CONTEXT),
            Context { broken: Some(code), .. } => Err(code),
            _ => Ok(()),
        }
    }
}

impl Machine {
    /// Locks the state. `None` before `cuInit`.
    fn lock() -> Option<Self> {
        let guard = lock();
        guard.is_some().then_some(Self(Some(guard)))
    }

    /// Releases the lock for other threads until something has changed, or for a moment. Anything that was looked up before may
    /// have been removed.
    pub(crate) fn yield_lock(&mut self) {
        if let Some(guard) = self.0.take() {
            let moment = Duration::from_millis(50);
            let waited = CHANGED.wait_timeout(guard, moment);
            self.0 = Some(waited.unwrap_or_else(PoisonError::into_inner).0);
        }
    }
}

impl Deref for Machine {
    type Target = State;

    fn deref(&self) -> &State {
        self.0
            .as_ref()
            .and_then(|guard| guard.as_ref())
            .expect("the state is locked and never removed")
    }
}

impl DerefMut for Machine {
    fn deref_mut(&mut self) -> &mut State {
        self.0
            .as_mut()
            .and_then(|guard| guard.as_mut())
            .expect("the state is locked and never removed")
    }
}

fn lock() -> MutexGuard<'static, Option<State>> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `cuInit`. Further calls do nothing.
pub(crate) fn start() -> u32 {
    let started = once(|| {
        let mut machine = lock();
        if machine.is_none() {
            *machine = Some(State::start()?);
        }
        Ok::<(), Code>(())
    });
    started.map_or_else(|code| code.0, |()| 0)
}

/// Runs the body of a driver function with the machine locked, and returns a `CUresult`.
pub(crate) fn call(body: impl FnOnce(&mut Machine) -> Answer) -> u32 {
    inside(body).map_or_else(|code| code.0, |()| 0)
}

/// As [`call`], for the other libraries, which have their own error codes.
pub(crate) fn inside<T, E: From<Code>>(
    body: impl FnOnce(&mut Machine) -> Result<T, E>,
) -> Result<T, E> {
    once(|| {
        let mut machine = Machine::lock().ok_or(Code::NOT_INITIALIZED)?;
        machine.run_some();
        body(&mut machine)
    })
}

/// Runs in a thread of the stand-in that received an external event, and wakes the waiting threads.
pub(crate) fn on_external(body: impl FnOnce(&mut Machine)) {
    INSIDE.set(true);
    if let Some(mut machine) = Machine::lock() {
        body(&mut machine);
        CHANGED.notify_all();
    }
    INSIDE.set(false);
}

/// Runs in the signal handler after a fault of host code. `None` if the fault is inside the stand-in or before `cuInit`, or if
/// the address was never allocated.
fn judge_host_access(address: u64, writes: bool) -> Option<Result<(), String>> {
    if INSIDE.get() {
        return None;
    }
    let mut state = lock();
    let space = &mut state.as_mut()?.space;
    space.holds(address).then(|| space.host_touched(address, writes))
}

fn once<T, E: From<Code>>(body: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    // A host function that a stream runs must not call CUDA.
    if INSIDE.replace(true) {
        log("a host function of a stream called CUDA, which CUDA does not allow");
        return Err(Code::NOT_PERMITTED.into());
    }
    let answer = body();
    INSIDE.set(false);
    answer
}
