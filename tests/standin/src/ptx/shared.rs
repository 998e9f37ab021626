//! The shared memory of a block, which records the last writer and the last reader of each byte, and when.
//!
//! Time counts barriers. Two accesses of different threads race if one is a write and no barrier is between them. A missing
//! barrier is therefore found in any order in which threads run.

use super::thread_fault::ThreadFault;
use crate::engine::FaultKind;

/// A time and a thread (or several), packed: 20 bits of time, a flag, 11 bits of thread. 0 means never.
type Stamp = u32;

const FREELY: Stamp = 1 << 11;
const WHO: Stamp = FREELY - 1;
/// Several threads of warp w are `WARP + w`. Threads of several warps are `MANY`.
const WARP: Stamp = 1024;
const MANY: Stamp = WHO;
const LAST_TICK: u32 = (1 << 20) - 1;
/// Marks a byte that belongs to no variable.
const GAP: Stamp = Stamp::MAX;

#[derive(Clone, Copy, Default)]
struct Byte {
    value: u8,
    write: Stamp,
    read: Stamp,
}

#[derive(Default)]
pub(super) struct Shared {
    bytes: Vec<Byte>,
    tick: u32,
    block_sync: u32,
    warp_sync: [u32; 32],
}

/// The thread of an access, and whether other threads may access concurrently (volatile, atomic).
#[derive(Clone, Copy)]
pub(super) struct Access {
    pub(super) thread: u32,
    pub(super) freely: bool,
}

impl Shared {
    /// Resets the memory for a new block, with its static variables (start, size) and dynamic memory.
    pub(super) fn reset(&mut self, variables: &[(u64, u64)], dynamic: (u64, u64)) {
        let end = variables.iter().chain([&dynamic]).map(|v| v.0 + v.1).max().unwrap_or(0);
        self.bytes.clear();
        self.bytes.resize(to_usize(end), Byte { write: GAP, ..Byte::default() });
        for &(start, size) in variables.iter().chain([&dynamic]) {
            self.bytes[to_usize(start)..to_usize(start + size)].fill(Byte::default());
        }
        (self.tick, self.block_sync, self.warp_sync) = (1, 0, [0; 32]);
    }

    /// All threads of the block have passed a barrier.
    pub(super) fn block_barrier(&mut self) {
        self.tick = (self.tick + 1).min(LAST_TICK);
        self.block_sync = self.tick;
    }

    /// Lanes of a warp have converged.
    pub(super) fn warp_barrier(&mut self, warp: u32) {
        self.tick = (self.tick + 1).min(LAST_TICK);
        self.warp_sync[warp as usize % 32] = self.tick;
    }

    pub(super) fn read(
        &mut self,
        at: u64,
        into: &mut [u8],
        access: Access,
    ) -> Result<(), ThreadFault> {
        let range = self.range(at, into.len())?;
        for (index, to) in range.zip(into) {
            let byte = self.bytes[index];
            if byte.write == 0 {
                let what = format!(
                    "read of shared memory never written, byte {index} (a missing barrier?)"
                );
                return Err(ThreadFault::new(FaultKind::OnlyHere, what));
            }
            let both_freely = access.freely && byte.write & FREELY > 0;
            if !both_freely && !self.ordered(byte.write, access.thread) {
                return Err(race(index, "written", byte.write, "reads"));
            }
            *to = byte.value;
            self.bytes[index].read = self.joined(byte.read, access);
        }
        Ok(())
    }

    pub(super) fn write(
        &mut self,
        at: u64,
        from: &[u8],
        access: Access,
    ) -> Result<(), ThreadFault> {
        let range = self.range(at, from.len())?;
        for (index, &value) in range.zip(from) {
            let byte = self.bytes[index];
            let freely = |stamp: Stamp| access.freely && stamp & FREELY > 0;
            if byte.read != 0 && !freely(byte.read) && !self.ordered(byte.read, access.thread) {
                return Err(race(index, "read", byte.read, "writes"));
            }
            let clashes = byte.write != 0 && !freely(byte.write) && byte.value != value;
            if clashes && !self.ordered(byte.write, access.thread) {
                return Err(race(index, "written", byte.write, "writes something else"));
            }
            let write = self.stamp(access.thread, access.freely);
            self.bytes[index] = Byte { value, write, read: byte.read };
        }
        Ok(())
    }

    /// The range of bytes, if it exists and all of it is in variables.
    fn range(&self, at: u64, length: usize) -> Result<std::ops::Range<usize>, ThreadFault> {
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        let range = start..start.saturating_add(length);
        let what = match self.bytes.get(range.clone()) {
            None => {
                format!("{length} bytes at {at:#x} of {} bytes of shared memory", self.bytes.len())
            }
            Some(bytes) if bytes.iter().any(|byte| byte.write == GAP) => {
                format!("{length} bytes at {at:#x} of shared memory, beyond a variable's end")
            }
            Some(_) => return Ok(range),
        };
        Err(ThreadFault::new(FaultKind::IllegalAddress, what))
    }

    fn stamp(&self, who: u32, freely: bool) -> Stamp {
        self.tick << 12 | if freely { FREELY } else { 0 } | who
    }

    /// Whether the stamped access happened before the current one of `thread`.
    fn ordered(&self, stamp: Stamp, thread: u32) -> bool {
        let (tick, who) = (stamp >> 12, stamp & WHO);
        let warp = match who {
            MANY => None,
            WARP..MANY => Some(who - WARP),
            _ => Some(who / 32),
        };
        let in_warp = warp == Some(thread / 32) && tick < self.warp_sync[thread as usize / 32 % 32];
        // After the last tick, races cannot be detected.
        who == thread || tick < self.block_sync || in_warp || self.tick == LAST_TICK
    }

    /// The stamp with one more reader.
    fn joined(&self, earlier: Stamp, access: Access) -> Stamp {
        let thread = access.thread;
        if earlier == 0 || self.ordered(earlier, thread) {
            return self.stamp(thread, access.freely);
        }
        let freely = access.freely && earlier & FREELY > 0;
        let who = earlier & WHO;
        let same_warp = who == WARP + thread / 32 || (who < WARP && who / 32 == thread / 32);
        self.stamp(if same_warp { WARP + thread / 32 } else { MANY }, freely)
    }
}

fn race(index: usize, done: &str, stamp: Stamp, does: &str) -> ThreadFault {
    let who = match stamp & WHO {
        MANY => "threads of several warps".to_owned(),
        who @ WARP..MANY => format!("threads of warp {}", who - WARP),
        who => format!("thread {who} of the block"),
    };
    let what = format!(
        "shared memory race: byte {index} was {done} by {who}, and this one {does} with no barrier between"
    );
    ThreadFault::new(FaultKind::OnlyHere, what)
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
