//! Microbatches that are ready, kept for whoever asks for the same: bounded in bytes, the one that was
//! made first goes first. Jobs of one name read forward, so what one of them has had is of no more
//! use than what none has had: that it was asked for lately says nothing.
//!
//! Their buffers are the ring's. Whoever waits for a buffer goes before them: see
//! [`Cache::relieve`].

use std::collections::{BTreeMap, VecDeque};

use super::Microbatch;
use super::works::Key;

/// Ready microbatches.
#[derive(Debug, Default)]
pub(super) struct Cache {
    limit: usize,
    bytes: usize,
    ready: BTreeMap<Key, Microbatch>,
    /// As they were made.
    order: VecDeque<Key>,
}

impl Cache {
    /// Keeps at most so many bytes; with 0 nothing.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// A microbatch, if it is there.
    pub(super) fn get(&self, key: &Key) -> Option<Microbatch> {
        self.ready.get(key).cloned()
    }

    /// Keeps a microbatch, in the place of those made before.
    pub(super) fn insert(&mut self, key: Key, microbatch: &Microbatch) {
        let bytes = microbatch.payload.buffer_bytes();
        if bytes > self.limit || self.ready.contains_key(&key) {
            return;
        }
        while self.bytes + bytes > self.limit {
            self.remove(0);
        }
        self.bytes += bytes;
        self.order.push_back(key);
        self.ready.insert(key, microbatch.clone());
    }

    /// Gives a buffer back to its ring, for somebody waits for one; false if there is none left. One
    /// that is still being sent goes back when it has been, so others go first.
    pub(super) fn relieve(&mut self) -> bool {
        let resting = self.order.iter().position(|key| self.ready[key].payload.is_alone());
        let any = !self.order.is_empty();
        if any {
            self.remove(resting.unwrap_or(0));
        }
        any
    }

    fn remove(&mut self, place: usize) {
        let key = self.order.remove(place).expect("a place in the order");
        let microbatch = self.ready.remove(&key).expect("what is in the order is ready");
        self.bytes -= microbatch.payload.buffer_bytes();
    }
}
