//! A communicator of NCCL with a thread that watches it.
//!
//! When a rank is lost, the collectives of the others never end on the GPU, and neither does anything that waits for
//! them: a stream, an event, the release of memory. Only an abort ends them. A thread that waits cannot abort, so another one
//! asks NCCL and the process group ten times a second whether a rank is lost. If one is, it aborts. Then all waits end, with
//! undefined values, and [`Communicator::check`] returns the reason.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use forebay::gpu::{DeviceError, Gpu, Lane};

use super::nccl::{Comm, Nccl};
use crate::Error;

/// Interval at which the state is asked for.
const TICK: Duration = Duration::from_millis(100);

/// The longest wait for work in flight, and for NCCL, when the communicator is closed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Returns the failure of a rank, once it is known.
pub(super) type Failure = Box<dyn Fn() -> Option<Error> + Send>;

pub(super) struct Communicator {
    shared: Arc<Shared>,
    device: u32,
}

struct Shared {
    nccl: Nccl,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
enum State {
    Open(Comm),
    /// To be closed by the thread.
    Closing(Comm, Close),
    /// The thread closes it.
    Ending,
    Closed,
    /// Aborted, for this reason.
    Aborted(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Close {
    Destroy,
    Abort,
}

impl Communicator {
    /// Takes a communicator and starts to watch it.
    pub(super) fn watch(
        nccl: Nccl,
        comm: Comm,
        gpu: &Gpu,
        failure: Failure,
    ) -> Result<Self, DeviceError> {
        let (state, changed) = (Mutex::new(State::Open(comm)), Condvar::new());
        let shared = Arc::new(Shared { nccl, state, changed });
        let (watched, gpu, device) = (Arc::clone(&shared), gpu.clone(), gpu.number());
        let run = move || {
            // If this fails, then so do the calls on other threads, which return the reason.
            gpu.bind().ok();
            watched.run(&failure);
        };
        let thread = std::thread::Builder::new().name("nccl watch".to_owned()).spawn(run);
        match thread {
            Ok(_detached) => Ok(Self { shared, device }),
            Err(error) => {
                shared.abort("not watched");
                let (call, status) = ("starting the thread that watches NCCL", error.to_string());
                Err(DeviceError::Driver { device, call, status })
            }
        }
    }

    /// Calls NCCL.
    ///
    /// The lock is held during the call, because an abort must not free what a call uses. A call does not wait for collectives.
    /// The first one connects to the other ranks, and fails if one of them is gone.
    pub(super) fn call(
        &self,
        call: impl FnOnce(&Nccl, &Comm) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        match &*self.shared.lock() {
            State::Open(comm) => call(&self.shared.nccl, comm),
            State::Aborted(reason) => Err(self.lost(reason)),
            State::Closing(..) | State::Ending | State::Closed => {
                Err(self.lost("the communicator is closed"))
            }
        }
    }

    /// Returns an error if a rank was lost. What has been waited for is undefined then.
    pub(super) fn check(&self) -> Result<(), DeviceError> {
        match &*self.shared.lock() {
            State::Aborted(reason) => Err(self.lost(reason)),
            State::Open(_) | State::Closing(..) | State::Ending | State::Closed => Ok(()),
        }
    }

    fn lost(&self, reason: &str) -> DeviceError {
        let call = "exchanging with the GPUs of the other ranks";
        DeviceError::Driver { device: self.device, call, status: reason.to_owned() }
    }

    /// Closes the communicator. Its work in flight, on this lane, has a while to end, and is aborted then.
    pub(super) fn close(&self, lane: &Lane) {
        let deadline = Instant::now() + PATIENCE;
        let close = loop {
            let is_open = matches!(*self.shared.lock(), State::Open(_));
            match lane.is_idle() {
                Ok(true) => break Close::Destroy,
                Ok(false) if is_open && Instant::now() < deadline => {}
                Ok(false) | Err(_) => break Close::Abort,
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let mut state = self.shared.lock();
        *state = match std::mem::replace(&mut *state, State::Ending) {
            State::Open(comm) => State::Closing(comm, close),
            other => other,
        };
        self.shared.changed.notify_all();
        // NCCL may wait for other ranks when it closes, and they may be gone.
        let closing = |state: &mut State| matches!(state, State::Closing(..) | State::Ending);
        drop(self.shared.changed.wait_timeout_while(state, PATIENCE, closing));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The watching thread.
    fn run(&self, failure: &Failure) {
        let mut state = self.lock();
        loop {
            let lost = match &*state {
                State::Open(comm) => self.nccl.async_error(comm),
                State::Closing(..) => {
                    drop(state);
                    return self.finish();
                }
                State::Aborted(_) | State::Ending | State::Closed => return,
            };
            let failed = || failure().map(|error| error.to_string());
            if let Some(reason) = lost.or_else(failed) {
                drop(state);
                return self.abort(&reason);
            }
            let waited = self.changed.wait_timeout(state, TICK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Closes without the lock, because NCCL may wait for other ranks.
    fn finish(&self) {
        let mut state = self.lock();
        let State::Closing(comm, close) = std::mem::replace(&mut *state, State::Ending) else {
            return;
        };
        drop(state);
        match close {
            Close::Destroy => self.nccl.destroy(comm),
            Close::Abort => self.nccl.abort(comm),
        }
        *self.lock() = State::Closed;
        self.changed.notify_all();
    }

    fn abort(&self, reason: &str) {
        let mut state = self.lock();
        // Under the lock, so that a thread that waited for the work then finds the reason.
        match std::mem::replace(&mut *state, State::Aborted(reason.to_owned())) {
            State::Open(comm) | State::Closing(comm, _) => self.nccl.abort(comm),
            other => *state = other,
        }
        self.changed.notify_all();
    }
}

impl std::fmt::Debug for Communicator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Communicator({:?})", self.shared.lock())
    }
}
