//! NCCL: collectives of ranks that are threads of a process, processes of a machine, or both.
//!
//! Which functions: communicators (`GetUniqueId`, `CommInitRank`, `CommInitRankConfig`, `CommInitAll`, `CommFinalize`, `CommDestroy`, `CommAbort`,
//! `CommCount`, `CommCuDevice`, `CommUserRank`, `CommGetAsyncError`), groups, `AllReduce`, `Broadcast`, `AllGather`, `ReduceScatter`, texts.
//! Signatures and numbers follow cudarc's bindings of NCCL 2.30.
//!
//! ```text
//! id                the name of a socket, on which a thread of the process that made the id listens: the hub
//! collective        two operations on the rank's stream: one reads the input and gives it to the hub, the other waits
//!                   for the result and writes the output; in between it is the driver's schedule that goes on
//! hub               when a rank gave, tells the others that it is waited for, so that they give what they have queued; when all gave,
//!                   checks that they called the same, combines in the order of ranks, answers all
//! ```
//!
//! What it claims about NCCL, and from where (its user guide: "Stream Semantics", "Group Calls", "In-place Operations", "Data Pointers",
//! "Error handling and communicator abort"; its source for the average; nothing was checked against a GPU):
//! - A call returns when the collective is queued on its stream. Collectives of a communicator run in the order of the calls, on whatever streams.
//! - Without a group a thread that serves several ranks may wait for ever; here that is `ncclInvalidUsage`.
//! - Sums round after each addition to the buffer's type, as a ring does, and an average multiplies each input by 1/n first, both
//!   rounded to that type. NCCL's order of ranks depends on the topology and the element; here it is 0, 1, 2 and so on.
//! - Two ranks of a communicator on one GPU are refused. GPUs differ by `NCCL_HOSTID`, and by their place in `CUDA_VISIBLE_DEVICES` if it is set.
//! - A lost rank shows in `ncclCommGetAsyncError` of the others at once, while their streams hang until they abort.
//! - After an abort nothing is known of the outputs of what was in flight, so they lose their contents.
//!
//! Where NCCL would hang, or mix up the buffers, all ranks get an error: their contexts break, with a line that says why. So it is when a
//! rank calls another collective, type, size or root than the others; when it leaves before one; and when one does not come in
//! `FOREBAY_STANDIN_NCCL_TIMEOUT` seconds (10), which also ends the wait for a lost rank. Ranks have ten times as long to come to a
//! new communicator.
//!
//! Not here: `Reduce`, `Send` and `Recv`, splitting, own operators, sums of integers and f64, non-blocking communicators.

mod api;
mod collective;
mod comm;
mod group;
mod hub;
mod id;
mod listen;
mod wire;

use std::ffi::CString;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::code::Code;
use crate::report::say;

/// A `ncclResult_t` other than success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Status(u32);

type Answer<T = ()> = Result<T, Status>;

/// What `ncclGetLastError` answers. Never freed, since callers keep the pointer.
static LAST: AtomicPtr<std::ffi::c_char> = AtomicPtr::new(null_mut());

impl Status {
    const UNHANDLED_CUDA: Self = Self(1);
    const SYSTEM: Self = Self(2);
    const INVALID_ARGUMENT: Self = Self(4);
    const INVALID_USAGE: Self = Self(5);
    const REMOTE: Self = Self(6);

    fn text(self) -> &'static str {
        match self.0 {
            0 => "no error\0",
            1 => "unhandled cuda error\0",
            2 => "unhandled system error\0",
            4 => "invalid argument\0",
            5 => "invalid usage\0",
            6 => "remote process exited or there was a network error\0",
            _ => "unknown result code\0",
        }
    }
}

impl From<Code> for Status {
    fn from(_: Code) -> Self {
        Self::UNHANDLED_CUDA
    }
}

/// Says what is wrong, here and in `ncclGetLastError`.
fn tell(what: &str) {
    say(&format!("NCCL: {what}"));
    remember(what);
}

fn remember(what: &str) {
    LAST.store(CString::new(what).unwrap_or_default().into_raw(), Ordering::Release);
}

fn wrong<T>(status: Status, what: impl AsRef<str>) -> Answer<T> {
    tell(what.as_ref());
    Err(status)
}

fn code(answer: Answer) -> u32 {
    answer.map_or_else(|status| status.0, |()| 0)
}
