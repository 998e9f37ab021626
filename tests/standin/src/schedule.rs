//! The order in which queued work runs.
//!
//! The rules of CUDA (driver API: "Stream synchronization behavior", cuStreamWaitEvent, cuEventRecord): the work of one stream runs
//! in order; the work of two streams runs in any order, unless an event or the NULL stream orders it. The NULL stream waits for all
//! blocking streams of its context, and they wait for it. No rule says when queued work starts before something waits for it.
//! Every order that respects these rules is possible on a GPU, and a correct program has the same result in all of them.

use std::sync::Arc;

use crate::api::counts::{Count, count};
use crate::code::{Answer, Code};
use crate::config::Schedule;
use crate::engine::Fault;
use crate::machine::{CURRENT, Machine, Node, Work};
use crate::memory::Access;
use crate::queues::{Stream, null_of};
use crate::report::log;
use crate::table::Handle;

/// `CU_STREAM_LEGACY` and `CU_STREAM_PER_THREAD`.
const LEGACY: Handle = 1;
const PER_THREAD: Handle = 2;

impl Machine {
    /// The stream of a caller's handle, whose context must be usable. The NULL stream is that of the thread's context.
    pub(crate) fn resolve(&mut self, handle: Handle) -> Answer<Handle> {
        let stream = match handle {
            0 | LEGACY => null_of(self.current()?),
            PER_THREAD => self.per_thread_stream()?,
            other => other,
        };
        let context = self.queues.find(stream).ok_or(Code::INVALID_HANDLE)?.context;
        self.check_usable(context)?;
        Ok(stream)
    }

    fn per_thread_stream(&mut self) -> Answer<Handle> {
        let context = self.current()?;
        // SAFETY: gettid has no preconditions.
        let thread = unsafe { libc::gettid() };
        if let Some(stream) = self.per_thread.get(&(thread, context)) {
            return Ok(*stream);
        }
        let stream = self.new_stream(context, 0, 0);
        self.per_thread.insert((thread, context), stream);
        Ok(stream)
    }

    pub(crate) fn new_stream(&mut self, context: usize, flags: u32, priority: i32) -> Handle {
        let handle = self.new_handle();
        self.queues.insert(handle, Stream::new(context, flags, priority));
        handle
    }

    /// Enqueues work on a stream.
    pub(crate) fn queue(
        &mut self,
        stream: Handle,
        what: impl Into<String>,
        work: impl Fn(&mut Self) -> Result<(), Fault> + Send + Sync + 'static,
    ) -> u64 {
        self.queue_after(stream, what, Vec::new(), work)
    }

    /// Enqueues work that also waits for work of other streams, or for external events.
    pub(crate) fn queue_after(
        &mut self,
        stream: Handle,
        what: impl Into<String>,
        after: Vec<u64>,
        work: impl Fn(&mut Self) -> Result<(), Fault> + Send + Sync + 'static,
    ) -> u64 {
        self.put(stream, what.into(), after, None, Arc::new(work))
    }

    /// Enqueues work that uses pinned host memory: its start, its bytes and how they are accessed.
    pub(crate) fn queue_touching(
        &mut self,
        stream: Handle,
        what: impl Into<String>,
        touches: (u64, u64, Access),
        work: impl Fn(&mut Self) -> Result<(), Fault> + Send + Sync + 'static,
    ) -> u64 {
        self.put(stream, what.into(), Vec::new(), Some(touches), Arc::new(work))
    }

    /// Makes a stream wait for an operation of another one.
    pub(crate) fn wait_for(&mut self, stream: Handle, op: u64) {
        let nothing: Work = Arc::new(|_| Ok(()));
        self.enqueue(stream, "wait".to_owned(), vec![op], None, nothing);
    }

    /// Enqueues work, or records it if the stream is captured. What is recorded has no number.
    fn put(
        &mut self,
        stream: Handle,
        what: String,
        after: Vec<u64>,
        touches: Option<(u64, u64, Access)>,
        work: Work,
    ) -> u64 {
        count(Count::Launches);
        match self.record(stream, Node { what, work, touches }) {
            Some(Node { what, work, touches }) => self.enqueue(stream, what, after, touches, work),
            None => 0,
        }
    }

    pub(crate) fn enqueue(
        &mut self,
        stream: Handle,
        what: String,
        after: Vec<u64>,
        touches: Option<(u64, u64, Access)>,
        work: Work,
    ) -> u64 {
        let op = self.queues.push(stream, what, after, work);
        if let Some((start, len, access)) = touches {
            self.space.copy_queued(op, start, len, access);
        }
        if self.config.schedule == Schedule::Eager {
            self.run_toward(op);
        }
        op
    }

    /// Runs all queued work of a stream.
    pub(crate) fn finish(&mut self, stream: Handle) -> Answer {
        let context = self.queues.stream(stream).context;
        if let Some(last) = self.queues.last_of(stream) {
            self.run_until(last);
        }
        self.check_usable(context)
    }

    /// Runs `op` and its dependencies. While one of them waits for an external event, other threads may use the machine.
    pub(crate) fn run_until(&mut self, op: u64) {
        while !self.run_toward(op) {
            self.yield_lock();
        }
    }

    /// Runs `op` and its dependencies until one waits for an external event. Returns whether `op` has finished.
    pub(crate) fn run_toward(&mut self, op: u64) -> bool {
        while !self.queues.is_done(op) {
            let next = match self.config.schedule {
                Schedule::Seeded(_) => self.any_ready(),
                Schedule::Lazy | Schedule::Eager => self.queues.next_toward(op),
            };
            let Some(stream) = next else { return false };
            self.run_first(stream);
        }
        true
    }

    /// Polls whether `op` has finished. Each poll runs one operation on the way to it, so that polling ends.
    pub(crate) fn poll(&mut self, op: u64) -> Answer {
        if self.queues.is_done(op) {
            return Ok(());
        }
        if let Some(stream) = self.queues.next_toward(op) {
            self.run_first(stream);
        }
        Err(Code::NOT_READY)
    }

    /// An external event has arrived. With the eager schedule, the operations that waited for it run now.
    pub(crate) fn arrived(&mut self, number: u64) {
        self.queues.arrived(number);
        while self.config.schedule == Schedule::Eager
            && let Some(stream) = self.any_ready()
        {
            self.run_first(stream);
        }
    }

    /// With a seed, some work may run during any call.
    pub(crate) fn run_some(&mut self) {
        if let Schedule::Seeded(_) = self.config.schedule {
            for _ in 0..self.draw(3) {
                if let Some(stream) = self.any_ready() {
                    self.run_first(stream);
                }
            }
        }
    }

    /// Runs all work of a context.
    pub(crate) fn drain(&mut self, context: usize) {
        for stream in self.queues.of_context(context) {
            while let Some(last) = self.queues.last_of(stream) {
                self.run_until(last);
            }
        }
    }

    fn any_ready(&mut self) -> Option<Handle> {
        let ready = self.queues.ready();
        if ready.is_empty() { None } else { Some(ready[self.draw(ready.len())]) }
    }

    /// A random number, by splitmix64.
    fn draw(&mut self, below: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.random;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((x ^ (x >> 31)) % below as u64).expect("a number below a usize")
    }

    fn run_first(&mut self, stream: Handle) {
        let context = self.queues.stream(stream).context;
        let Some(op) = self.queues.pop(stream) else { return };
        // Work runs in the context of its stream, not in that of the thread.
        let before = CURRENT.replace(Some(context));
        let result = match self.contexts[context].broken {
            None => (op.work)(self),
            Some(_) => Ok(()),
        };
        CURRENT.set(before);
        self.queues.finished(op.id);
        self.space.copy_finished(op.id);
        if let Err(fault) = result {
            self.break_context(context, &op.what, &fault);
        }
    }

    /// Makes a context unusable after a fault.
    pub(crate) fn break_context(&mut self, context: usize, what: &str, fault: &Fault) {
        log(&format!("{what}: {fault}"));
        self.contexts[context].broken = Some(fault.kind.into());
        self.queues.expect_nothing(context);
        // Queued work is dropped without effect, which releases what it holds.
        self.drain(context);
    }
}
