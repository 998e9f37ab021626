//! Streams as queues of operations, and the dependencies between operations. `schedule` decides which operation runs when.
//!
//! Operations may also depend on events from outside the process, as those of NCCL do.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use crate::table::Handle;

/// `CU_STREAM_NON_BLOCKING`: the stream is not ordered with the NULL stream.
const NON_BLOCKING: u32 = 1;

/// An operation, whose action is a `W`: the queues order actions and do not run them.
pub(crate) struct Op<W> {
    pub(crate) id: u64,
    /// Operations of other streams that must finish first.
    after: Vec<u64>,
    /// A description for messages: "kernel mix", "copy of 8 bytes to the host".
    pub(crate) what: String,
    pub(crate) work: W,
}

impl<W> fmt::Debug for Op<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} after {:?}", self.id, self.what, self.after)
    }
}

pub(crate) struct Stream<W> {
    pub(crate) context: usize,
    pub(crate) flags: u32,
    pub(crate) priority: i32,
    queue: VecDeque<Op<W>>,
    /// The last operation that was enqueued.
    last: Option<u64>,
    /// `cuStreamDestroy` was called. Operations in the queue still run.
    destroyed: bool,
}

impl<W> Stream<W> {
    pub(crate) fn new(context: usize, flags: u32, priority: i32) -> Self {
        Self { context, flags, priority, queue: VecDeque::new(), last: None, destroyed: false }
    }
}

pub(crate) struct Queues<W> {
    streams: BTreeMap<Handle, Stream<W>>,
    last_op: u64,
    /// Unfinished operations, and the stream of each.
    pending: BTreeMap<u64, Handle>,
    /// External events that have not arrived, and the context that waits for each. They are numbered like operations.
    external: BTreeMap<u64, usize>,
}

impl<W> fmt::Debug for Queues<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.streams.values().flat_map(|stream| &stream.queue)).finish()
    }
}

/// The internal handle of the NULL stream of a context.
pub(crate) fn null_of(context: usize) -> Handle {
    0x1000 + context * 0x10
}

impl<W> Queues<W> {
    pub(crate) fn new(contexts: usize) -> Self {
        let nulls = (0..contexts).map(|context| (null_of(context), Stream::new(context, 0, 0)));
        Self {
            streams: nulls.collect(),
            last_op: 0,
            pending: BTreeMap::new(),
            external: BTreeMap::new(),
        }
    }

    pub(crate) fn insert(&mut self, handle: Handle, stream: Stream<W>) {
        self.streams.insert(handle, stream);
    }

    /// A stream that was not destroyed.
    pub(crate) fn find(&self, stream: Handle) -> Option<&Stream<W>> {
        self.streams.get(&stream).filter(|found| !found.destroyed)
    }

    /// A stream that is known to exist.
    pub(crate) fn stream(&self, stream: Handle) -> &Stream<W> {
        &self.streams[&stream]
    }

    pub(crate) fn of_context(&self, context: usize) -> Vec<Handle> {
        let all = self.streams.iter();
        all.filter(|(_, stream)| stream.context == context).map(|(handle, _)| *handle).collect()
    }

    pub(crate) fn is_done(&self, op: u64) -> bool {
        !self.pending.contains_key(&op) && !self.external.contains_key(&op)
    }

    /// Registers an external event: operations can wait for its number until [`Queues::arrived`] is called.
    pub(crate) fn expect(&mut self, context: usize) -> u64 {
        self.last_op += 1;
        self.external.insert(self.last_op, context);
        self.last_op
    }

    pub(crate) fn arrived(&mut self, number: u64) {
        self.external.remove(&number);
    }

    /// Removes all external events of a context.
    pub(crate) fn expect_nothing(&mut self, context: usize) {
        self.external.retain(|_, of| *of != context);
    }

    /// The last unfinished operation of a stream, if it has one.
    pub(crate) fn last_of(&self, stream: Handle) -> Option<u64> {
        self.streams.get(&stream)?.last.filter(|last| !self.is_done(*last))
    }

    /// Enqueues an operation that waits for `after`, for the operations before it in its stream, and by the rule of the NULL stream.
    pub(crate) fn push(
        &mut self,
        stream: Handle,
        what: String,
        mut after: Vec<u64>,
        work: W,
    ) -> u64 {
        self.last_op += 1;
        let id = self.last_op;
        let found = self.stream(stream);
        let (context, null) = (found.context, null_of(found.context));
        if stream == null {
            let others = self.streams.values().filter(|other| other.context == context);
            let blocking = others.filter(|other| other.flags & NON_BLOCKING == 0);
            after.extend(blocking.filter_map(|other| other.last));
        } else if found.flags & NON_BLOCKING == 0 {
            after.extend(self.stream(null).last);
        }
        after.retain(|op| !self.is_done(*op));
        if let Some(found) = self.streams.get_mut(&stream) {
            found.queue.push_back(Op { id, after, what, work });
            found.last = Some(id);
            self.pending.insert(id, stream);
        }
        id
    }

    /// Removes the first operation of a stream. It is finished once [`Queues::finished`] is called.
    pub(crate) fn pop(&mut self, stream: Handle) -> Option<Op<W>> {
        self.streams.get_mut(&stream)?.queue.pop_front()
    }

    pub(crate) fn finished(&mut self, op: u64) {
        if let Some(stream) = self.pending.remove(&op) {
            self.remove_if_done(stream);
        }
    }

    /// Destroys a stream. Operations in its queue still run.
    pub(crate) fn destroy(&mut self, stream: Handle) {
        if let Some(found) = self.streams.get_mut(&stream) {
            found.destroyed = true;
        }
        self.remove_if_done(stream);
    }

    fn remove_if_done(&mut self, stream: Handle) {
        if self.find(stream).is_none() && self.last_of(stream).is_none() {
            self.streams.remove(&stream);
        }
    }

    /// The stream whose first operation must run next on the way to `op`. `None` if that depends on an external event.
    pub(crate) fn next_toward(&self, op: u64) -> Option<Handle> {
        let mut stream = *self.pending.get(&op)?;
        while let Some(first) = self.stream(stream).queue.front()
            && let Some(other) = first.after.iter().find(|other| !self.is_done(**other))
        {
            stream = *self.pending.get(other)?;
        }
        Some(stream)
    }

    /// The streams whose first operation can run now.
    pub(crate) fn ready(&self) -> Vec<Handle> {
        let could = |stream: &Stream<W>| {
            stream.queue.front().is_some_and(|op| op.after.iter().all(|other| self.is_done(*other)))
        };
        let streams = self.streams.iter().filter(|(_, stream)| could(stream));
        streams.map(|(handle, _)| *handle).collect()
    }
}
