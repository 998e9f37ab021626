//! A rank's communicator: its line to the hub, and the thread that listens to it.

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
use crate::machine::{Handle, Machine, inside};
use crate::memory::Operand;

#[derive(Debug)]
pub(super) struct Comm {
    /// Of the hub's socket: the same for all ranks of a communicator.
    pub(super) name: String,
    pub(super) rank: usize,
    pub(super) ranks: usize,
    pub(super) context: usize,
    pub(super) timeout: Duration,
    hub: Mutex<UnixStream>,
    inner: Mutex<Inner>,
    /// `inner.joined` changed.
    pub(super) joined: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) joined: Option<Answer>,
    /// Number of the next collective.
    next: u64,
    /// The thread that called the last one, outside of a group.
    caller: Option<ThreadId>,
    /// A collective that the others came to before it was called here.
    pub(super) wanted: Option<u64>,
    /// Collectives that are called and not over.
    pub(super) running: BTreeMap<u64, Running>,
    pub(super) results: BTreeMap<u64, Vec<u8>>,
    /// The last operation queued.
    last: Option<u64>,
    /// What `ncclCommGetAsyncError` answers.
    pub(super) error: Option<Status>,
    pub(super) closed: bool,
    /// Some rank left without being lost.
    pub(super) others_left: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Running {
    /// The operation that gives the input to the hub.
    pub(super) give: u64,
    /// The number under which the queues expect the result.
    pub(super) expected: u64,
}

/// A call with its buffers, checked.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) collective: Collective,
    /// None if the rank gives nothing.
    pub(super) input: Option<Operand>,
    pub(super) output: Operand,
    pub(super) stream: Handle,
}

impl Comm {
    /// Comes to a hub. Whether all others come as well is for `wait` to say.
    pub(super) fn connect(
        name: String,
        [rank, ranks]: [usize; 2],
        context: usize,
        gpu: String,
        timeout: Duration,
    ) -> Answer<Arc<Self>> {
        let connect = || -> io::Result<(UnixStream, UnixStream)> {
            let mut stream = UnixStream::connect_addr(&address(&name)?)?;
            to_hub(&mut stream, &ToHub::Hello { rank, ranks, gpu })?;
            Ok((stream.try_clone()?, stream))
        };
        let (hub, mut stream) = match connect() {
            Ok(streams) => streams,
            Err(error) => {
                return wrong(Status::SYSTEM, format!("rank {rank}: no hub of this id: {error}"));
            }
        };
        let comm = Arc::new(Self {
            name,
            rank,
            ranks,
            context,
            timeout,
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

    /// Until all ranks are there.
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
                    format!("rank {}: not all of {ranks} ranks came in {seconds} s", self.rank),
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

    /// To a hub that is gone nothing can be said; the listener notices.
    fn say(&self, message: &ToHub) {
        let mut hub = self.hub.lock().unwrap_or_else(PoisonError::into_inner);
        drop(to_hub(&mut hub, message));
    }

    pub(super) fn error(&self) -> Option<Status> {
        self.lock().error
    }

    /// The thread that called last outside of a group, if that call is not over.
    pub(super) fn waits_in(&self) -> Option<ThreadId> {
        let inner = self.lock();
        inner.caller.filter(|_| !inner.running.is_empty())
    }

    /// Queues a collective. `alone` if it is not part of a group.
    pub(super) fn queue(
        self: &Arc<Self>,
        machine: &mut Machine,
        call: Call,
        alone: bool,
    ) -> Answer {
        let Call { collective, input, output, stream } = call;
        machine.sound(self.context)?;
        let (round, after) = {
            let mut inner = self.lock();
            if let Some(error) = inner.error {
                return Err(error);
            }
            inner.next += 1;
            inner.caller = alone.then(|| thread::current().id());
            (inner.next - 1, inner.last.into_iter().collect())
        };
        let what = format!("NCCL rank {}, {collective}", self.rank);
        let (comm, given) = (Arc::clone(self), output.clone());
        let give = move |machine: &mut Machine| {
            comm.give(machine, round, collective, input.as_ref(), &given)
        };
        // Before the input is given: if that breaks the context, nothing is expected any more.
        let expected = machine.queues.expect(self.context);
        let give = machine.queue_after(stream, what.clone(), after, Box::new(give));
        self.lock().running.insert(round, Running { give, expected });
        let comm = Arc::clone(self);
        let take = move |machine: &mut Machine| comm.take(machine, round, &output);
        let take = machine.queue_after(stream, what, vec![expected], Box::new(take));
        let wanted = {
            let mut inner = self.lock();
            inner.last = Some(take);
            inner.wanted == Some(round)
        };
        if wanted {
            machine.run_towards(give);
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
        self.say(&ToHub::Part { round, call, data });
        Ok(())
    }

    /// Buffers are apart, or at the places that are called in-place.
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
            // It was aborted.
            None => machine.space.spoil(output),
        }
    }

    /// Waits until what is queued ran.
    pub(super) fn finish(&self) -> Answer {
        inside(|machine| {
            let last = self.lock().last;
            if let Some(last) = last {
                machine.run_until(last);
            }
            Ok(machine.sound(self.context)?)
        })
    }

    /// Leaves. What is in flight will have no result.
    pub(super) fn close(&self) -> Answer {
        inside(|machine| {
            let running = {
                let mut inner = self.lock();
                inner.closed = true;
                inner.results.clear();
                inner.running.clone()
            };
            if !running.is_empty() && machine.sound(self.context).is_ok() {
                tell(&format!(
                    "rank {}: aborted with {} collectives in flight",
                    self.rank,
                    running.len()
                ));
            }
            for running in running.values() {
                machine.came(running.expected);
            }
            Ok::<(), Status>(())
        })?;
        self.say(&ToHub::Bye);
        let hub = self.hub.lock().unwrap_or_else(PoisonError::into_inner);
        hub.shutdown(Shutdown::Both).or(Ok(()))
    }
}
