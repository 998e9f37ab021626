//! The line of callers that wait for memory.
//!
//! Callers are served in order. A later one that fits passes those before it that do not, so that small
//! microbatches go on while a large one waits for several buffers to return. But each caller ages by the
//! bytes that pass it: once they are as many as it waits for, nobody passes it any more, and what
//! returns is left to it. So a caller of any size gets its memory, after at most twice its share.

use std::collections::VecDeque;

/// Callers in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Line {
    waiting: VecDeque<Caller>,
    last_place: u64,
}

#[derive(Debug)]
struct Caller {
    place: u64,
    bytes: usize,
    /// Bytes that later callers took meanwhile.
    passed: usize,
}

impl Line {
    /// Puts a caller of `bytes` at the end; returns its place.
    pub(super) fn join(&mut self, bytes: usize) -> u64 {
        self.last_place += 1;
        self.waiting.push_back(Caller { place: self.last_place, bytes, passed: 0 });
        self.last_place
    }

    /// Removes a caller.
    pub(super) fn leave(&mut self, place: u64) {
        self.waiting.retain(|caller| caller.place != place);
    }

    /// Number of callers.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether a caller has nobody before it.
    pub(super) fn is_first(&self, place: u64) -> bool {
        self.waiting.front().is_some_and(|caller| caller.place == place)
    }

    /// Whether a caller may take `bytes` of the `room` that there is. `None` is a new caller.
    pub(super) fn may_take(&self, place: Option<u64>, bytes: usize, room: usize) -> bool {
        let lets_pass =
            |caller: &Caller| room < caller.bytes && caller.passed + bytes <= caller.bytes;
        bytes <= room && self.before(place).all(lets_pass)
    }

    /// Notes that a caller took `bytes`.
    pub(super) fn took(&mut self, place: Option<u64>, bytes: usize) {
        let before = self.before(place).count();
        self.waiting.iter_mut().take(before).for_each(|caller| caller.passed += bytes);
    }

    fn before(&self, place: Option<u64>) -> impl Iterator<Item = &Caller> {
        self.waiting.iter().take_while(move |caller| Some(caller.place) != place)
    }
}
