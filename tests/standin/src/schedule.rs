//! The order in which queued work runs.
//!
//! What it claims about CUDA (driver API: "Stream synchronization behavior", cuStreamWaitEvent, cuEventRecord): work of one stream
//! runs in its order; work of two streams in any order, unless an event or the NULL stream orders it. The NULL stream waits for
//! all blocking streams of its context and they for it. Nothing says when queued work runs before something waits for it.
//! So every order that respects this is CUDA's, and a right program gives one result in all of them.

use crate::code::{Answer, Code};
use crate::config::Schedule;
use crate::engine::Fault;
use crate::machine::{CURRENT, Handle, Machine};
use crate::memory::Access;
use crate::queues::{Stream, Work, null_of};
use crate::report::say;

/// `CU_STREAM_LEGACY` and `CU_STREAM_PER_THREAD`.
const LEGACY: Handle = 1;
const PER_THREAD: Handle = 2;

impl Machine {
    /// The stream a caller means, its context sound. The NULL stream is that of the thread's context, so there must be one.
    pub(crate) fn resolve(&mut self, handle: Handle) -> Answer<Handle> {
        let stream = match handle {
            0 | LEGACY => null_of(self.current()?),
            PER_THREAD => self.per_thread_stream()?,
            other => other,
        };
        let context = self.queues.find(stream).ok_or(Code::INVALID_HANDLE)?.context;
        self.sound(context)?;
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

    /// Queues work on a stream.
    pub(crate) fn queue(&mut self, stream: Handle, what: impl Into<String>, work: Work) -> u64 {
        self.queue_after(stream, what, Vec::new(), work)
    }

    /// Queues work that also waits for work of other streams, or for something from outside.
    pub(crate) fn queue_after(
        &mut self,
        stream: Handle,
        what: impl Into<String>,
        after: Vec<u64>,
        work: Work,
    ) -> u64 {
        let op = self.queues.push(stream, what.into(), after, work);
        self.queued(op)
    }

    /// Queues work that uses pinned memory of the host: from where, how many bytes, and what it does to them.
    pub(crate) fn queue_touching(
        &mut self,
        stream: Handle,
        what: impl Into<String>,
        (start, len, access): (u64, u64, Access),
        work: Work,
    ) -> u64 {
        let op = self.queues.push(stream, what.into(), Vec::new(), work);
        self.space.take_off(op, start, len, access);
        self.queued(op)
    }

    /// Lets a stream wait for an operation of another one.
    pub(crate) fn wait_for(&mut self, stream: Handle, op: u64) {
        self.queue_after(stream, "wait", vec![op], Box::new(|_| Ok(())));
    }

    fn queued(&mut self, op: u64) -> u64 {
        if self.config.schedule == Schedule::Eager {
            self.run_towards(op);
        }
        op
    }

    /// Runs all that is queued on a stream.
    pub(crate) fn finish(&mut self, stream: Handle) -> Answer {
        let context = self.queues.stream(stream).context;
        if let Some(last) = self.queues.last_of(stream) {
            self.run_until(last);
        }
        self.sound(context)
    }

    /// Runs what `op` needs, and itself. While that waits for something from outside, other threads may use the machine.
    pub(crate) fn run_until(&mut self, op: u64) {
        while !self.run_towards(op) {
            self.let_others();
        }
    }

    /// Runs what `op` needs, and itself, as far as nothing from outside is missing. Whether it is over.
    pub(crate) fn run_towards(&mut self, op: u64) -> bool {
        while !self.queues.is_done(op) {
            let next = match self.config.schedule {
                Schedule::Seeded(_) => self.any_ready(),
                Schedule::Lazy | Schedule::Eager => self.queues.next_towards(op),
            };
            let Some(stream) = next else { return false };
            self.run_first(stream);
        }
        true
    }

    /// A caller asks whether `op` is over: one operation that it needs may run meanwhile, so that polling ends.
    pub(crate) fn poll(&mut self, op: u64) -> Answer {
        if self.queues.is_done(op) {
            return Ok(());
        }
        if let Some(stream) = self.queues.next_towards(op) {
            self.run_first(stream);
        }
        Err(Code::NOT_READY)
    }

    /// What operations waited for came from outside. Under the eager schedule they run now.
    pub(crate) fn came(&mut self, number: u64) {
        self.queues.came(number);
        while self.config.schedule == Schedule::Eager
            && let Some(stream) = self.any_ready()
        {
            self.run_first(stream);
        }
    }

    /// With a seed, some work may run at any call.
    pub(crate) fn run_some(&mut self) {
        if let Schedule::Seeded(_) = self.config.schedule {
            for _ in 0..self.draw(3) {
                if let Some(stream) = self.any_ready() {
                    self.run_first(stream);
                }
            }
        }
    }

    /// Runs everything of a context.
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

    /// splitmix64: which of several things comes first.
    fn draw(&mut self, below: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.random;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((x ^ (x >> 31)) % below as u64).expect("it is below a usize")
    }

    fn run_first(&mut self, stream: Handle) {
        let context = self.queues.stream(stream).context;
        let Some(op) = self.queues.pop(stream) else { return };
        // Work runs in its stream's context, whatever the thread has bound.
        let before = CURRENT.replace(Some(context));
        let result = match self.contexts[context].broken {
            None => (op.work)(self),
            Some(_) => Ok(()),
        };
        CURRENT.set(before);
        self.queues.over(op.id);
        self.space.land(op.id);
        if let Err(fault) = result {
            self.break_context(context, &op.what, &fault);
        }
    }

    /// After a fault nothing works any more in a context.
    pub(crate) fn break_context(&mut self, context: usize, what: &str, fault: &Fault) {
        say(&format!("{what}: {fault}"));
        self.contexts[context].broken = Some(fault.kind.into());
        self.queues.expect_nothing(context);
        // What is still queued is lost, but it must let go of what it holds.
        self.drain(context);
    }
}
