//! The communicator of a rank: its connection to the hub, and the thread that receives from it.

use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use super::collective::Collective;
use super::hub::{TICK, address};
use super::wire::{ToHub, from_hub, to_hub};
use super::{Answer, Status, tell, wrong};
use crate::engine::Fault;
use crate::machine::{Machine, inside};
use crate::memory::Operand;
use crate::table::{Handle, Table};

/// The communicators of this process.
pub(super) static COMMS: Table<Arc<Comm>> = Table::new();

#[derive(Debug)]
pub(super) struct Comm {
    /// The name of the hub's socket, which is the same for all ranks of a communicator.
    pub(super) name: String,
    pub(super) rank: usize,
    pub(super) ranks: usize,
    pub(super) context: usize,
    pub(super) timeout: Duration,
    /// Whether the loss of another rank is not reported.
    pub(super) silent: bool,
    hub: Mutex<UnixStream>,
    inner: Mutex<Inner>,
    /// Notified when `inner.joined` has changed.
    pub(super) joined: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) joined: Option<Answer>,
    /// The number of the next collective.
    next: u64,
    /// The thread that made the last call outside a group.
    caller: Option<ThreadId>,
    /// A collective that other ranks have reached before it was called here.
    pub(super) wanted: Option<u64>,
    /// Collectives that were called and have not finished.
    pub(super) running: BTreeMap<u64, Running>,
    pub(super) results: BTreeMap<u64, Vec<u8>>,
    /// The last operation that was enqueued.
    last: Option<u64>,
    /// The result of `ncclCommGetAsyncError`.
    pub(super) error: Option<Status>,
    pub(super) closed: bool,
    /// Whether a rank has left in the regular way.
    pub(super) others_left: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Running {
    /// The operation that sends the input to the hub.
    pub(super) give: u64,
    /// The number of the external event of the result.
    pub(super) expected: u64,
}

/// A checked call with its buffers.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) collective: Collective,
    /// `None` if the rank sends nothing.
    pub(super) input: Option<Operand>,
    pub(super) output: Operand,
    pub(super) stream: Handle,
}

impl Comm {
    /// Connects to a hub. [`Comm::wait`] waits for the other ranks.
    pub(super) fn connect(
        name: String,
        [rank, ranks]: [usize; 2],
        context: usize,
        gpu: String,
        (timeout, silent): (Duration, bool),
    ) -> Answer<Arc<Self>> {
        let connect = || -> io::Result<(UnixStream, UnixStream)> {
            let mut stream = UnixStream::connect_addr(&address(&name)?)?;
            to_hub(&mut stream, &ToHub::Hello { rank, ranks, gpu })?;
            Ok((stream.try_clone()?, stream))
        };
        let (hub, mut stream) = match connect() {
            Ok(streams) => streams,
            Err(error) => {
                return wrong(
                    Status::SYSTEM,
                    format!("rank {rank}: cannot connect to the hub of this id: {error}"),
                );
            }
        };
        let comm = Arc::new(Self {
            name,
            rank,
            ranks,
            context,
            timeout,
            silent,
            hub: Mutex::new(hub),
            inner: Mutex::default(),
            joined: Condvar::new(),
        });
        let listener = Arc::clone(&comm);
        let listen = move || {
            while let Ok(message) = from_hub(&mut stream) {
                listener.heard(message);
            }
            listener.hub_is_gone();
        };
        let thread = thread::Builder::new().name(format!("nccl rank {rank}")).spawn(listen);
        thread.map_or_else(|error| wrong(Status::SYSTEM, error.to_string()), |_| Ok(comm))
    }

    /// Waits until all ranks have connected.
    pub(super) fn wait(&self) -> Answer {
        let mut inner = self.lock();
        let mut waited = Duration::ZERO;
        loop {
            if let Some(joined) = inner.joined {
                return joined;
            }
            if waited >= self.timeout * 10 {
                let (ranks, seconds) = (self.ranks, waited.as_secs());
                return wrong(
                    Status::SYSTEM,
                    format!(
                        "rank {}: not all of {ranks} ranks connected within {seconds} s",
                        self.rank
                    ),
                );
            }
            let turn = self.joined.wait_timeout(inner, TICK);
            let (lock, turn) = turn.unwrap_or_else(PoisonError::into_inner);
            inner = lock;
            if turn.timed_out() {
                waited += TICK;
            }
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends to the hub. An error is ignored here, because the listener notices that the hub is gone.
    fn log(&self, message: &ToHub) {
        let mut hub = self.hub.lock().unwrap_or_else(PoisonError::into_inner);
        drop(to_hub(&mut hub, message));
    }

    pub(super) fn error(&self) -> Option<Status> {
        self.lock().error
    }

    /// The thread that made the last call outside a group, if that call has not finished.
    pub(super) fn waits_in(&self) -> Option<ThreadId> {
        let inner = self.lock();
        inner.caller.filter(|_| !inner.running.is_empty())
    }

    /// Enqueues a collective. `ungrouped` is true if it is not part of a group.
    pub(super) fn queue(
        self: &Arc<Self>,
        machine: &mut Machine,
        call: Call,
        ungrouped: bool,
    ) -> Answer {
        let Call { collective, input, output, stream } = call;
        machine.check_usable(self.context)?;
        let (round, after) = {
            let mut inner = self.lock();
            if let Some(error) = inner.error {
                return Err(error);
            }
            inner.next += 1;
            inner.caller = ungrouped.then(|| thread::current().id());
            (inner.next - 1, inner.last.into_iter().collect())
        };
        let what = format!("NCCL rank {}, {collective}", self.rank);
        let (comm, given) = (Arc::clone(self), output.clone());
        let give = move |machine: &mut Machine| {
            comm.give(machine, round, collective, input.as_ref(), &given)
        };
        // Registered before the input is sent: if sending breaks the context, all expected events are removed.
        let expected = machine.queues.expect(self.context);
        let give = machine.queue_after(stream, what.clone(), after, give);
        self.lock().running.insert(round, Running { give, expected });
        let comm = Arc::clone(self);
        let take = move |machine: &mut Machine| comm.take(machine, round, &output);
        let take = machine.queue_after(stream, what, vec![expected], take);
        let wanted = {
            let mut inner = self.lock();
            inner.last = Some(take);
            inner.wanted == Some(round)
        };
        if wanted {
            machine.run_toward(give);
        }
        Ok(())
    }

    fn give(
        &self,
        machine: &Machine,
        round: u64,
        call: Collective,
        input: Option<&Operand>,
        output: &Operand,
    ) -> Result<(), Fault> {
        if self.lock().closed {
            return Ok(());
        }
        let data = match input {
            Some(input) => {
                self.apart(call, input, output)?;
                machine.space.input(input)?.to_vec()
            }
            None => Vec::new(),
        };
        self.log(&ToHub::Part { round, call, data });
        Ok(())
    }

    /// Checks that the buffers do not overlap, unless they are in-place as NCCL defines it.
    fn apart(&self, call: Collective, input: &Operand, output: &Operand) -> Result<(), Fault> {
        let share = (call.count * call.element.bytes() * self.rank) as u64;
        let in_place = input.address == output.address && input.bytes == output.bytes
            || input.address == output.address + share && input.bytes < output.bytes
            || output.address == input.address + share && output.bytes < input.bytes;
        if in_place { Ok(()) } else { output.apart_from(&[input]) }
    }

    fn take(&self, machine: &mut Machine, round: u64, output: &Operand) -> Result<(), Fault> {
        let result = {
            let mut inner = self.lock();
            inner.running.remove(&round);
            inner.results.remove(&round)
        };
        match result {
            _ if output.bytes == 0 => Ok(()),
            Some(data) => {
                machine.space.output(output)?.copy_from_slice(&data);
                Ok(())
            }
            // The collective was aborted.
            None => machine.space.spoil(output),
        }
    }

    /// Waits until the queued operations have run.
    pub(super) fn finish(&self) -> Answer {
        inside(|machine| {
            let last = self.lock().last;
            if let Some(last) = last {
                machine.run_until(last);
            }
            Ok(machine.check_usable(self.context)?)
        })
    }

    /// Leaves the communicator. Collectives in flight will have no result.
    pub(super) fn close(&self) -> Answer {
        inside(|machine| {
            let running = {
                let mut inner = self.lock();
                inner.closed = true;
                inner.results.clear();
                inner.running.clone()
            };
            if !running.is_empty() && machine.check_usable(self.context).is_ok() {
                tell(&format!(
                    "rank {}: aborted with {} collectives in flight",
                    self.rank,
                    running.len()
                ));
            }
            for running in running.values() {
                machine.arrived(running.expected);
            }
            Ok::<(), Status>(())
        })?;
        self.log(&ToHub::Bye);
        let hub = self.hub.lock().unwrap_or_else(PoisonError::into_inner);
        hub.shutdown(Shutdown::Both).or(Ok(()))
    }
}
