//! Groups: the calls of a thread that are enqueued when the group ends.

use std::cell::RefCell;
use std::sync::Arc;
use std::thread;

use super::comm::{COMMS, Call, Comm};
use super::{Answer, Status, code, wrong};
use crate::machine::inside;

#[derive(Default)]
struct Group {
    depth: usize,
    calls: Vec<(Arc<Comm>, Call)>,
    joining: Vec<Arc<Comm>>,
}

thread_local! {
    static GROUP: RefCell<Group> = RefCell::default();
}

/// Enqueues a call, now or at the end of the group.
pub(super) fn call(comm: &Arc<Comm>, call: Call) -> Answer {
    let grouped = GROUP.with_borrow_mut(|group| {
        if group.depth == 0 {
            return Some(call);
        }
        group.calls.push((Arc::clone(comm), call));
        None
    });
    let Some(call) = grouped else { return Ok(()) };
    let me = thread::current().id();
    let twin = |other: &Arc<Comm>| {
        other.name == comm.name && other.rank != comm.rank && other.waits_in() == Some(me)
    };
    if let Some(other) = COMMS.all().iter().find(|other| twin(other)) {
        let (rank, other) = (comm.rank, other.rank);
        let what = format!(
            "one thread calls for ranks {other} and {rank} without a group, and may wait forever"
        );
        return wrong(Status::INVALID_USAGE, what);
    }
    inside(|machine| comm.queue(machine, call, true))
}

/// Waits until a new communicator is complete, now or at the end of the group.
pub(super) fn join(comm: &Arc<Comm>) -> Answer {
    let grouped = GROUP.with_borrow_mut(|group| {
        let grouped = group.depth > 0;
        if grouped {
            group.joining.push(Arc::clone(comm));
        }
        grouped
    });
    if grouped { Ok(()) } else { comm.wait() }
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn ncclGroupStart() -> u32 {
    GROUP.with_borrow_mut(|group| group.depth += 1);
    0
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn ncclGroupEnd() -> u32 {
    let ended = GROUP.with_borrow_mut(|group| {
        group.depth = group.depth.checked_sub(1)?;
        Some(if group.depth == 0 { std::mem::take(group) } else { Group::default() })
    });
    let Some(Group { calls, joining, .. }) = ended else {
        return code(wrong(Status::INVALID_USAGE, "ncclGroupEnd without ncclGroupStart"));
    };
    code(joining.iter().try_for_each(|comm| comm.wait()).and_then(|()| {
        inside(|machine| {
            calls.into_iter().try_for_each(|(comm, call)| comm.queue(machine, call, false))
        })
    }))
}
