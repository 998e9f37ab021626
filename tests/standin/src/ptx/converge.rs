//! Warp-level operations, at which lanes of a warp wait for each other.

use super::block::{Blocks, Status};
use super::code::WarpOp;
use super::thread_fault::ThreadFault;
use super::warp::{LaneInput, result};
use crate::engine::{Fault, FaultKind};

impl Blocks<'_> {
    /// Completes the operation of one group of lanes that all wait for each other.
    pub(super) fn converge(&mut self, first: usize, count: usize) -> Result<bool, Fault> {
        let lanes = |of: &dyn Fn(usize) -> bool| {
            (0..count).filter(|lane| of(first + lane)).fold(0_u32, |all, lane| all | 1 << lane)
        };
        let live = lanes(&|index| self.threads[index].status != Status::Done);
        let mut active = None;
        for lane in 0..count {
            let index = first + lane;
            let Status::Converge(op) = self.threads[index].status else { continue };
            let site = self.site(index);
            let here = lanes(&|other| self.waits_at(other, op, site));
            let Some(what) = self.what(index, op) else { continue };
            if matches!(what, WarpOp::ActiveMask) {
                active.get_or_insert((here, op));
                continue;
            }
            let mask = self.mask(index, op);
            if mask >> lane & 1 == 0 {
                let what = format!("lane {lane} is not in its own mask {mask:#x}");
                let fault = ThreadFault::new(FaultKind::LaunchFailed, what);
                return Err(self.fault(index, self.line(index), fault));
            }
            let group = mask & live;
            let agree = lanes(&|other| {
                let at_sync = matches!(what, WarpOp::Sync) && self.syncs(other);
                (at_sync || self.waits_at(other, op, site)) && self.mask_of(other) == Some(mask)
            });
            if group & !agree == 0 {
                self.resolve(first, group)
                    .map_err(|fault| self.fault(index, self.line(index), fault))?;
                return Ok(true);
            }
        }
        let ready =
            lanes(&|index| matches!(self.threads[index].status, Status::Ready | Status::Fresh));
        match active {
            // The largest group that can be active together: all lanes that will arrive.
            Some((here, _)) if ready == 0 => {
                self.resolve(first, here).map_err(|fault| self.fault(first, None, fault))?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn waits_at(&self, index: usize, op: u32, site: Option<(usize, usize)>) -> bool {
        self.threads[index].status == Status::Converge(op) && self.site(index) == site
    }

    fn what(&self, index: usize, op: u32) -> Option<WarpOp> {
        let (code, _) = self.site(index)?;
        self.program.codes[code].convergences.get(op as usize).map(|op| op.what)
    }

    fn syncs(&self, index: usize) -> bool {
        match self.threads[index].status {
            Status::Converge(op) => matches!(self.what(index, op), Some(WarpOp::Sync)),
            _ => false,
        }
    }

    pub(super) fn mask_of(&self, index: usize) -> Option<u32> {
        match self.threads[index].status {
            Status::Converge(op) => Some(self.mask(index, op)),
            _ => None,
        }
    }

    fn mask(&self, index: usize, op: u32) -> u32 {
        let thread = self.threads[index].thread.as_ref();
        let found = self.site(index).zip(thread).map(|((code, _), thread)| {
            let op = self.program.codes[code].convergences[op as usize];
            thread.get(op.mask) & 0xffff_ffff
        });
        u32::try_from(found.unwrap_or(0)).unwrap_or(0)
    }

    /// Computes the result of each lane of `group`, all of which wait.
    fn resolve(&mut self, first: usize, group: u32) -> Result<(), ThreadFault> {
        let codes = &self.program.codes;
        let lanes = || (0..32_usize).filter(|lane| group >> lane & 1 == 1);
        let mut given = [LaneInput::default(); 32];
        for lane in lanes() {
            let slot = &self.threads[first + lane];
            if let (Status::Converge(op), Some(thread)) = (slot.status, &slot.thread) {
                let op = codes[thread.frame().code].convergences[op as usize];
                let get = |slot| thread.get(slot);
                given[lane] =
                    LaneInput { value: get(op.value), lane: get(op.lane), clamp: get(op.clamp) };
            }
        }
        for lane in lanes() {
            let slot = &mut self.threads[first + lane];
            if let (Status::Converge(op), Some(thread)) = (slot.status, &mut slot.thread) {
                let op = codes[thread.frame().code].convergences[op as usize];
                let (value, flag) = result(&op, group, &given, u32::try_from(lane).unwrap_or(0))?;
                if matches!(op.what, WarpOp::Sync) {
                    self.spaces.shared.warp_barrier(u32::try_from(first / 32).unwrap_or(0));
                } else {
                    thread.set(op.to, value);
                    thread.set(op.flag, flag);
                }
                thread.advance();
                slot.status = Status::Ready;
            }
        }
        Ok(())
    }
}
