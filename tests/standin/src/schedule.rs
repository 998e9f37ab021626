//! Streams and the order in which their work runs.
//!
//! What it claims about CUDA (driver API, "Stream synchronization behavior", cuStreamWaitEvent, cuEventRecord): work of one stream
//! runs in its order; work of two streams in any order, unless an event or the NULL stream orders it. The NULL stream waits for
//! all blocking streams of its context and they for it. Nothing says when queued work runs before something waits for it.
//! So every order that respects this is CUDA's, and a right program gives one result in all of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use crate::code::{Answer, Code};
use crate::config::Schedule;
use crate::engine::Fault;
use crate::machine::{CURRENT, Handle, Machine};
use crate::memory::Access;
use crate::report::say;

/// What an operation does when its turn comes.
pub(crate) type Work = Box<dyn FnOnce(&mut Machine) -> Result<(), Fault> + Send>;

struct Op {
    id: u64,
    /// Operations of other streams that must be over.
    after: Vec<u64>,
    /// For reports: "kernel mix", "copy to host".
    what: String,
    work: Work,
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} after {:?}", self.id, self.what, self.after)
    }
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) context: usize,
    /// `CU_STREAM_NON_BLOCKING`: does not order itself with the NULL stream.
    pub(crate) flags: u32,
    pub(crate) priority: i32,
    queue: VecDeque<Op>,
    /// The last operation queued.
    last: Option<u64>,
    /// `cuStreamDestroy` was called; what is queued still runs.
    destroyed: bool,
}

#[derive(Debug)]
pub(crate) struct Queues {
    streams: BTreeMap<Handle, Stream>,
    schedule: Schedule,
    random: u64,
    next_op: u64,
    /// Operations that are not over, and the stream of each.
    pending: BTreeMap<u64, Handle>,
    /// The per-thread streams: thread and context.
    per_thread: BTreeMap<(u64, usize), Handle>,
}

/// `CU_STREAM_LEGACY` and `CU_STREAM_PER_THREAD`.
const LEGACY: Handle = 1;
const PER_THREAD: Handle = 2;
const NON_BLOCKING: u32 = 1;

impl Queues {
    pub(crate) fn new(contexts: usize, schedule: Schedule) -> Self {
        let seed = if let Schedule::Seeded(seed) = schedule { seed } else { 0 };
        // The NULL stream of a context is known by a handle that no caller has.
        let nulls = (0..contexts).map(|context| (null_of(context), Stream::new(context, 0, 0)));
        Self {
            streams: nulls.collect(),
            schedule,
            random: seed,
            next_op: 0,
            pending: BTreeMap::new(),
            per_thread: BTreeMap::new(),
        }
    }

    pub(crate) fn is_done(&self, op: u64) -> bool {
        !self.pending.contains_key(&op)
    }

    /// Of a stream that exists.
    pub(crate) fn stream(&self, stream: Handle) -> &Stream {
        &self.streams[&stream]
    }

    /// The last operation that is queued on a stream, if any is left.
    pub(crate) fn last_of(&self, stream: Handle) -> Option<u64> {
        self.streams[&stream].last.filter(|last| !self.is_done(*last))
    }

    /// splitmix64: which of several things comes first.
    fn draw(&mut self, below: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.random;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((x ^ (x >> 31)) % below as u64).expect("it is below a usize")
    }

    fn push(&mut self, stream: Handle, what: String, mut after: Vec<u64>, work: Work) -> u64 {
        self.next_op += 1;
        let id = self.next_op;
        let (context, flags) = (self.streams[&stream].context, self.streams[&stream].flags);
        if stream == null_of(context) {
            let blocking = self
                .streams
                .values()
                .filter(|other| other.context == context && other.flags & NON_BLOCKING == 0);
            after.extend(blocking.filter_map(|other| other.last));
        } else if flags & NON_BLOCKING == 0 {
            after.extend(self.streams[&null_of(context)].last);
        }
        after.retain(|op| self.pending.contains_key(op));
        let found = self.streams.get_mut(&stream).expect("resolved");
        found.queue.push_back(Op { id, after, what, work });
        found.last = Some(id);
        self.pending.insert(id, stream);
        id
    }

    /// Whether the first operation of a stream could run now.
    fn is_ready(&self, stream: &Stream) -> bool {
        stream.queue.front().is_some_and(|op| op.after.iter().all(|other| self.is_done(*other)))
    }

    /// The stream whose first operation must run next for `op` to get its turn.
    fn next_towards(&self, op: u64) -> Handle {
        let mut stream = self.pending[&op];
        while let Some(first) = self.streams[&stream].queue.front()
            && let Some(other) = first.after.iter().find(|other| !self.is_done(**other))
        {
            stream = self.pending[other];
        }
        stream
    }

    fn any_ready(&mut self) -> Option<Handle> {
        let ready: Vec<Handle> = self
            .streams
            .iter()
            .filter(|(_, stream)| self.is_ready(stream))
            .map(|(handle, _)| *handle)
            .collect();
        if ready.is_empty() { None } else { Some(ready[self.draw(ready.len())]) }
    }
}

impl Stream {
    fn new(context: usize, flags: u32, priority: i32) -> Self {
        Self { context, flags, priority, queue: VecDeque::new(), last: None, destroyed: false }
    }
}

fn null_of(context: usize) -> Handle {
    0x1000 + context * 0x10
}

impl Machine {
    /// The stream a caller means, its context sound. The NULL stream is that of the thread's context, so there must be one.
    pub(crate) fn resolve(&mut self, handle: Handle) -> Answer<Handle> {
        let stream = match handle {
            0 | LEGACY => null_of(self.current()?),
            PER_THREAD => self.per_thread_stream()?,
            other => other,
        };
        let found = self.queues.streams.get(&stream).filter(|found| !found.destroyed);
        let context = found.ok_or(Code::INVALID_HANDLE)?.context;
        self.sound(context)?;
        Ok(stream)
    }

    fn per_thread_stream(&mut self) -> Answer<Handle> {
        let context = self.current()?;
        // SAFETY: gettid has no preconditions.
        let thread = u64::from(unsafe { libc::gettid() }.unsigned_abs());
        if let Some(stream) = self.queues.per_thread.get(&(thread, context)) {
            return Ok(*stream);
        }
        let stream = self.new_stream(context, 0, 0);
        self.queues.per_thread.insert((thread, context), stream);
        Ok(stream)
    }

    pub(crate) fn new_stream(&mut self, context: usize, flags: u32, priority: i32) -> Handle {
        let handle = self.new_handle();
        self.queues.streams.insert(handle, Stream::new(context, flags, priority));
        handle
    }

    /// The stream takes no more work; what is queued still runs.
    pub(crate) fn destroy_stream(&mut self, stream: Handle) {
        if self.queues.last_of(stream).is_none() {
            self.queues.streams.remove(&stream);
        } else if let Some(found) = self.queues.streams.get_mut(&stream) {
            found.destroyed = true;
        }
    }

    /// Queues work on a stream.
    pub(crate) fn queue(&mut self, stream: Handle, what: impl Into<String>, work: Work) -> u64 {
        let op = self.queues.push(stream, what.into(), Vec::new(), work);
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
        let op = self.queues.push(stream, "wait".to_owned(), vec![op], Box::new(|_| Ok(())));
        self.queued(op);
    }

    fn queued(&mut self, op: u64) -> u64 {
        if self.queues.schedule == Schedule::Eager {
            self.run_until(op);
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

    /// Runs what `op` needs, and itself.
    pub(crate) fn run_until(&mut self, op: u64) {
        while !self.queues.is_done(op) {
            let stream = match self.queues.schedule {
                Schedule::Seeded(_) => self.queues.any_ready(),
                Schedule::Lazy | Schedule::Eager => Some(self.queues.next_towards(op)),
            };
            self.run_first(stream.expect("streams wait for earlier work only"));
        }
    }

    /// A caller asks whether `op` is over: one operation that it needs may run meanwhile, so that polling ends.
    pub(crate) fn poll(&mut self, op: u64) -> Answer {
        if self.queues.is_done(op) {
            return Ok(());
        }
        self.run_first(self.queues.next_towards(op));
        Err(Code::NOT_READY)
    }

    /// With a seed, some work may run at any call.
    pub(crate) fn run_some(&mut self) {
        if let Schedule::Seeded(_) = self.queues.schedule {
            for _ in 0..self.queues.draw(3) {
                if let Some(stream) = self.queues.any_ready() {
                    self.run_first(stream);
                }
            }
        }
    }

    /// Runs everything of a context.
    pub(crate) fn drain(&mut self, context: usize) {
        let streams: BTreeSet<Handle> = self
            .queues
            .streams
            .iter()
            .filter(|(_, stream)| stream.context == context)
            .map(|(handle, _)| *handle)
            .collect();
        for stream in streams {
            while let Some(last) = self.queues.streams.get(&stream).and_then(|found| found.last)
                && !self.queues.is_done(last)
            {
                self.run_until(last);
            }
        }
    }

    fn run_first(&mut self, stream: Handle) {
        let Some(found) = self.queues.streams.get_mut(&stream) else { return };
        let Some(op) = found.queue.pop_front() else { return };
        let (context, over) = (found.context, found.destroyed && found.queue.is_empty());
        // Work runs in its stream's context, whatever the thread has bound.
        let before = CURRENT.replace(Some(context));
        let result = match self.contexts[context].broken {
            None => (op.work)(self),
            Some(_) => Ok(()),
        };
        CURRENT.set(before);
        self.queues.pending.remove(&op.id);
        self.space.land(op.id);
        if over {
            self.queues.streams.remove(&stream);
        }
        if let Err(fault) = result {
            say(&format!("{}: {fault}", op.what));
            self.contexts[context].broken = Some(fault.kind.into());
            // What is still queued is lost, but it must let go of what it holds.
            self.drain(context);
        }
    }
}
