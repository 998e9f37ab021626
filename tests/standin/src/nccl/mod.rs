//! NCCL: collectives of ranks that are threads of a process, processes of a machine, or both.
//!
//! The functions are those for communicators (`GetUniqueId`, `CommInitRank`, `CommInitRankConfig`, `CommInitAll`, `CommFinalize`, `CommDestroy`, `CommAbort`,
//! `CommCount`, `CommCuDevice`, `CommUserRank`, `CommGetAsyncError`), groups, `AllReduce`, `Broadcast`, `AllGather`, `ReduceScatter`, and texts.
//! Signatures and numbers follow cudarc's bindings of NCCL 2.30.
//!
//! ```text
//! id                the name of a socket on which a thread of the process that created the id listens: the hub
//! collective        two operations on the stream of the rank: one reads the input and sends it to the hub, the other waits
//!                   for the result and writes the output; the driver's schedule continues in between
//! hub               on the first input, asks the other ranks for theirs, so that they run what they have queued; when it has
//!                   all inputs, checks that all ranks made the same call, combines in the order of ranks, and sends the results
//! ```
//!
//! The rules of NCCL, from its user guide ("Stream Semantics", "Group Calls", "In-place Operations", "Data Pointers", "Error handling
//! and communicator abort") and, for the average, from its source; they were not checked against a GPU:
//! - A call returns when the collective is enqueued on its stream. The collectives of a communicator run in the order of the calls,
//!   on any streams.
//! - Without a group, a thread that serves several ranks may wait forever. Here that is `ncclInvalidUsage`.
//! - Sums are rounded to the type of the buffer after each addition, as in a ring. An average first multiplies each input by 1/n,
//!   both rounded to that type. NCCL's order of ranks depends on the topology and the element; here it is 0, 1, 2 and so on.
//! - Two ranks of a communicator on the same GPU are an error. GPUs are distinguished by `NCCL_HOSTID`, and by their position in
//!   `CUDA_VISIBLE_DEVICES` if it is set.
//! - A rank that is lost, or leaves before a collective that others have called, shows at once in `ncclCommGetAsyncError` of the others,
//!   unless their GPUs are connected directly (`FOREBAY_STANDIN_NCCL_SILENT`). Their streams hang until they call `ncclCommAbort`,
//!   on another thread than the one that waits. After `FOREBAY_STANDIN_NCCL_TIMEOUT` seconds (60) the stand-in reports that they
//!   would hang forever, and breaks their contexts.
//! - After an abort, the outputs of collectives in flight are undefined, so they lose their contents.
//!
//! Where NCCL would hang or corrupt buffers, all ranks get an error: their contexts break, and a message gives the reason. This
//! happens when a rank calls a collective with another kind, type, size or root than the others, and when a rank does not call one
//! within the timeout.
//! Ranks have ten times as long to connect to a new communicator.
//!
//! Not supported: `Reduce`, `Send` and `Recv`, splitting, own operators, sums of integers and f64, non-blocking communicators.

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
use crate::report::log;

/// A `ncclResult_t` other than success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Status(u32);

type Answer<T = ()> = Result<T, Status>;

/// The result of `ncclGetLastError`. It is never freed, because callers keep the pointer.
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

/// Prints an error and stores it for `ncclGetLastError`.
fn tell(what: &str) {
    log(&format!("NCCL: {what}"));
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
