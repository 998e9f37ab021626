//! Descriptions of deadlocks: which thread waits for which.

use super::block::{Blocks, Status, line};
use super::thread_fault::ThreadFault;
use crate::engine::{Fault, FaultKind};

impl Blocks<'_> {
    pub(super) fn line(&self, index: usize) -> Option<u32> {
        line(&self.program.codes, self.threads[index].thread.as_ref()?)
    }

    /// Describes where a thread is.
    fn whereabouts(&self, index: usize) -> String {
        let what = match self.threads[index].status {
            Status::Done => "has ended",
            Status::Barrier(_) => "waits at a barrier",
            Status::Converge(_) => "waits for lanes of its warp",
            Status::Fresh | Status::Ready => "runs",
        };
        let line = self.line(index).map_or_else(String::new, |line| format!(" in line {line}"));
        format!("thread {index} of the block {what}{line}")
    }

    /// The fault of a block in which some threads wait at a barrier that others never reach.
    pub(super) fn divergence(&self) -> Fault {
        let at_barrier = (0..self.threads.len()).find(|&index| self.barrier(index).is_some());
        let Some(first) = at_barrier else {
            return Fault::new(FaultKind::LaunchFailed, "no thread of the block can continue");
        };
        let site = self.site(first);
        let all = 0..self.threads.len();
        let here = all.clone().filter(|&index| self.site(index) == site).count();
        let elsewhere = all
            .clone()
            .find(|&index| self.threads[index].status != Status::Done && self.site(index) != site);
        let ended = all.filter(|&index| self.threads[index].status == Status::Done).count();
        let what = match elsewhere {
            Some(other) => format!(
                "divergent barriers: {here} threads wait here, but {}",
                self.whereabouts(other)
            ),
            None => format!("divergent barrier: {here} threads wait here, {ended} have ended"),
        };
        self.fault(first, self.line(first), ThreadFault::new(FaultKind::LaunchFailed, what))
    }

    /// The fault of a lane that waits for lanes that cannot arrive.
    pub(super) fn absent_lane(&self, first: usize, index: usize) -> Fault {
        let mask = self.mask_of(index).unwrap_or(0);
        let site = self.site(index);
        let absent = (0..32).map(|lane| first + lane).find(|&other| {
            other < self.threads.len()
                && mask >> (other - first) & 1 == 1
                && self.threads[other].status != Status::Done
                && (self.site(other) != site || self.mask_of(other) != Some(mask))
        });
        let other =
            absent.map_or_else(String::new, |other| format!(": {}", self.whereabouts(other)));
        let what =
            format!("a lane waits for lanes {mask:#010x} of its warp, which do not arrive{other}");
        self.fault(index, self.line(index), ThreadFault::new(FaultKind::LaunchFailed, what))
    }
}
