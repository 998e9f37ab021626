//! Barriers, at which threads of a block wait for each other.

use super::block::{Blocks, Status};
use super::code::{Barrier, Vote};

impl Blocks<'_> {
    /// The barrier at which a thread waits, and its number.
    pub(super) fn barrier(&self, index: usize) -> Option<(Barrier, usize)> {
        let slot = &self.threads[index];
        let (Status::Barrier(barrier), Some(thread)) = (slot.status, &slot.thread) else {
            return None;
        };
        let barrier = self.program.codes[thread.frame().code].barriers[barrier as usize];
        Some((barrier, usize::try_from(thread.get(barrier.id) & 15).unwrap_or(0)))
    }

    /// Releases all complete barriers. Returns whether there was one.
    pub(super) fn release_barriers(&mut self) -> bool {
        let mut released = false;
        let mut waiting = [const { Vec::new() }; 16];
        for index in 0..self.threads.len() {
            if let Some((_, id)) = self.barrier(index) {
                waiting[id].push(index);
            }
        }
        for (id, waiting) in waiting.iter().enumerate() {
            let Some(&first) = waiting.first() else { continue };
            let Some((barrier, _)) = self.barrier(first) else { continue };
            let complete = if let Some(count) = barrier.count {
                let thread = self.threads[first].thread.as_ref();
                let expected = thread.map_or(0, |thread| thread.get(count) & 0xffff_ffff);
                waiting.len() as u64 + self.arrived[id] >= expected
            } else {
                // All threads, including those that have returned, must be at the same instruction: a barrier in a
                // branch is not the one after it. GPUs since Volta tolerate some of that; CUDA's manual does not allow it.
                let site = self.site(first);
                waiting.len() == self.threads.len()
                    && waiting.iter().all(|&index| self.site(index) == site)
            };
            if complete {
                self.release(waiting);
                self.arrived[id] = 0;
                released = true;
            }
        }
        released
    }

    fn release(&mut self, waiting: &[usize]) {
        self.spaces.shared.block_barrier();
        let votes = waiting.iter().filter_map(|&index| {
            let (barrier, _) = self.barrier(index)?;
            let (test, _, _) = barrier.vote?;
            Some(self.threads[index].thread.as_ref()?.get(test) & 1)
        });
        let votes: Vec<u64> = votes.collect();
        let sum: u64 = votes.iter().sum();
        for &index in waiting {
            let barrier = self.barrier(index);
            let slot = &mut self.threads[index];
            slot.status = Status::Ready;
            slot.turns = 0;
            let (Some(thread), Some((barrier, _))) = (&mut slot.thread, barrier) else { continue };
            if let Some((_, what, to)) = barrier.vote {
                let value = match what {
                    Vote::Count => sum,
                    Vote::And => u64::from(sum == votes.len() as u64),
                    Vote::Or => u64::from(sum > 0),
                };
                thread.set(to, value);
            }
            thread.advance();
        }
    }
}
