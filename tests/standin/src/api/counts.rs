//! What a thread has called so far, for tests: it is not a part of CUDA.

use std::cell::Cell;

/// Calls that a thread made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Count {
    /// Calls that wait for the GPU: of a stream, an event or a context, and copies that are not asynchronous.
    Waits,
    /// Kernels and other work put on streams, one by one.
    Launches,
    GraphLaunches,
    /// Allocations of memory, on the device or pinned.
    Allocations,
}

thread_local! {
    static COUNTS: [Cell<u64>; 4] = const { [const { Cell::new(0) }; 4] };
    /// Whether the thread's captures are refused, as by a driver that does not support a captured call.
    static REFUSED: Cell<bool> = const { Cell::new(false) };
    /// Whether the thread's plans of cuDNN's graph API are refused, as by a version without a suitable engine.
    static REFUSED_PLANS: Cell<bool> = const { Cell::new(false) };
}

pub(crate) fn count(what: Count) {
    COUNTS.with(|counts| counts[what as usize].set(counts[what as usize].get() + 1));
}

pub(crate) fn refuses_captures() -> bool {
    REFUSED.get()
}

pub(crate) fn refuses_plans() -> bool {
    REFUSED_PLANS.get()
}

/// The number of waits, launches, launches of graphs or allocations of this thread, by index. Anything else is 0.
#[unsafe(no_mangle)]
extern "C" fn forebayStandinCount(index: u32) -> u64 {
    COUNTS.with(|counts| counts.get(index as usize).map_or(0, Cell::get))
}

/// Refuses the captures that this thread begins, or no longer.
#[unsafe(no_mangle)]
extern "C" fn forebayStandinRefuseCaptures(refuse: bool) {
    REFUSED.set(refuse);
}

/// Refuses the plans of cuDNN's graph API that this thread makes, or no longer.
#[unsafe(no_mangle)]
extern "C" fn forebayStandinRefusePlans(refuse: bool) {
    REFUSED_PLANS.set(refuse);
}
