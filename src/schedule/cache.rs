//! Cache of finished results: bounded in bytes, first in, first out.
//!
//! Jobs that share results read them in the same order, one behind the other. So a result that was
//! just used by one job is no more likely to be used again than one that was not, and recency says
//! nothing: evicting in the order of insertion keeps what the jobs behind have not reached yet.

use std::collections::{BTreeMap, VecDeque};

/// Finished results by key.
#[derive(Debug)]
pub(super) struct ReadyCache<K, R> {
    max_bytes: usize,
    bytes: usize,
    entries: BTreeMap<K, Cached<R>>,
    /// Keys in the order of insertion.
    order: VecDeque<K>,
}

#[derive(Debug)]
struct Cached<R> {
    result: R,
    bytes: usize,
}

impl<K: Copy + Ord, R: Clone> ReadyCache<K, R> {
    /// A cache of at most `max_bytes`; with 0 it stays empty.
    pub(super) const fn new(max_bytes: usize) -> Self {
        Self { max_bytes, bytes: 0, entries: BTreeMap::new(), order: VecDeque::new() }
    }

    /// Bytes of all results in the cache.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn get(&self, key: &K) -> Option<R> {
        self.entries.get(key).map(|cached| cached.result.clone())
    }

    /// Inserts a result of `bytes`, and evicts the oldest ones to make room. A result that is larger
    /// than the cache is not inserted.
    pub(super) fn insert(&mut self, key: K, result: &R, bytes: usize) {
        if bytes > self.max_bytes || self.entries.contains_key(&key) {
            return;
        }
        while self.bytes + bytes > self.max_bytes {
            self.remove_at(0);
        }
        self.bytes += bytes;
        self.order.push_back(key);
        self.entries.insert(key, Cached { result: result.clone(), bytes });
    }

    /// Evicts the oldest result that is idle, which frees its memory at once, or else the oldest;
    /// returns false if the cache is empty.
    pub(super) fn evict_one(&mut self, is_idle: impl Fn(&R) -> bool) -> bool {
        if self.order.is_empty() {
            return false;
        }
        let idle = self.order.iter().position(|key| is_idle(&self.entries[key].result));
        self.remove_at(idle.unwrap_or(0));
        true
    }

    fn remove_at(&mut self, index: usize) {
        let key = self.order.remove(index).expect("an index into the order");
        let cached = self.entries.remove(&key).expect("each key of the order has an entry");
        self.bytes -= cached.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(cache: &ReadyCache<u32, &str>) -> Vec<u32> {
        cache.order.iter().copied().collect()
    }

    #[test]
    fn the_oldest_results_make_room_for_new_ones() {
        let mut cache = ReadyCache::new(10);
        cache.insert(3, &"three", 4);
        cache.insert(1, &"one", 4);
        assert_eq!((cache.get(&3), cache.bytes()), (Some("three"), 8));
        // That 3 was used last does not matter.
        cache.insert(2, &"two", 5);
        assert_eq!((keys(&cache), cache.get(&3), cache.bytes()), (vec![1, 2], None, 9));
        cache.insert(4, &"four", 10);
        assert_eq!((keys(&cache), cache.bytes()), (vec![4], 10));
    }

    #[test]
    fn a_result_that_is_larger_than_the_cache_is_not_kept() {
        let mut cache = ReadyCache::new(10);
        cache.insert(1, &"one", 10);
        cache.insert(2, &"two", 11);
        assert_eq!(keys(&cache), [1]);
        let mut off = ReadyCache::new(0);
        off.insert(1, &"one", 1);
        assert_eq!((off.get(&1), off.bytes()), (None, 0));
    }

    #[test]
    fn a_result_is_inserted_once() {
        let mut cache = ReadyCache::new(10);
        cache.insert(1, &"one", 4);
        cache.insert(1, &"one", 4);
        assert_eq!((keys(&cache), cache.bytes()), (vec![1], 4));
    }

    #[test]
    fn idle_results_are_evicted_before_those_in_use() {
        let mut cache = ReadyCache::new(10);
        for (key, result) in [(1, "busy"), (2, "idle"), (3, "busy"), (4, "idle")] {
            cache.insert(key, &result, 2);
        }
        let evict = |cache: &mut ReadyCache<u32, &str>| cache.evict_one(|result| *result == "idle");
        for left in [vec![1, 3, 4], vec![1, 3], vec![3], vec![]] {
            assert!(evict(&mut cache));
            assert_eq!(keys(&cache), left);
        }
        assert!(!evict(&mut cache));
        assert_eq!(cache.bytes(), 0);
    }
}
